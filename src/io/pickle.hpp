#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace curvature::detail {

/// A value of a pickle, as data. Calls and classes are recorded by name, nothing is executed.
struct PickleValue {
  enum class Kind {
    kNone,
    kBool,        ///< integer
    kInteger,     ///< integer
    kOther,       ///< a float, bytes, or a long integer; its value is not kept
    kText,        ///< text
    kGlobal,      ///< text: module.name
    kTuple,       ///< items
    kList,        ///< items; also sets
    kDictionary,  ///< items: key, value, key, value, ...
    kCall,        ///< items: callable, arguments, then a state and appended items if there are any
    kPersistent,  ///< items: the identifier (in torch files: a storage)
  };

  Kind kind = Kind::kNone;
  int64_t integer = 0;
  std::string text;
  std::vector<const PickleValue*> items;
};

/// A parsed pickle. It owns its values, which may refer to each other.
class Pickle {
 public:
  /// Parses protocols 2 to 5 as far as torch uses them.
  /// @throws FileError if `bytes` is not one whole pickle
  Pickle(std::string_view who, std::string_view bytes);

  const PickleValue& root() const noexcept { return *root_; }

 private:
  std::vector<std::unique_ptr<PickleValue>> values_;
  const PickleValue* root_ = nullptr;
};

}  // namespace curvature::detail
