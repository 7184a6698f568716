#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace torch::jit {
struct Module;
}

namespace curvature::detail {

/// What LibTorch does not look at when it loads a TorchScript archive: checksums, and whether the
/// records are as long as the tensors that are made of them, which else are read beyond their end.
class TorchscriptArchive {
 public:
  /// Reads the whole file. @throws FileError if it is not a zip file, or a checksum is wrong
  explicit TorchscriptArchive(const std::string& path);

  /// @throws FileError, with a tensor's name, if no record has the size of its storage
  void check(const torch::jit::Module& module) const;

 private:
  std::string name_;
  std::map<uint64_t, int64_t> sizes_;  ///< of records, and how many have them
};

}  // namespace curvature::detail
