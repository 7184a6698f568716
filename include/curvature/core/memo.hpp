#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace curvature {

/// Values that are computed once, by key. May be asked from several threads, which may then compute
/// a value twice; all get the one that was stored first.
class Memo {
 public:
  /// The value of `key`, computed by `make()` when there is none; always of the same type T for a
  /// key. Passes through what `make` throws, and stores nothing then.
  template <class T, class Make>
  std::shared_ptr<const T> get(const std::string& key, const Make& make) {
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = values_.find(key); found != values_.end()) {
        return std::static_pointer_cast<const T>(found->second);
      }
    }
    std::shared_ptr<const void> made = std::make_shared<const T>(make());
    const std::lock_guard lock(mutex_);
    return std::static_pointer_cast<const T>(values_.emplace(key, std::move(made)).first->second);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const void>> values_;
};

}  // namespace curvature
