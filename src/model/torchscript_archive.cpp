#include "model/torchscript_archive.hpp"

#include <algorithm>
#include <set>
#include <vector>

#include <torch/csrc/jit/api/module.h>

#include "core/check.hpp"
#include "io/zip_archive.hpp"

namespace curvature::detail {

TorchscriptArchive::TorchscriptArchive(const std::string& path) {
  const ZipArchive archive(path);
  name_ = archive.name();
  std::vector<char> buffer(1 << 20);
  for (size_t entry = 0; entry < archive.entries().size(); ++entry) {
    const std::unique_ptr<ByteSource> source = archive.open(entry);
    ++sizes_[source->remaining()];
    while (source->remaining() > 0) {
      source->read(buffer.data(), std::min<uint64_t>(source->remaining(), buffer.size()));
    }
    source->expect_end();
  }
}

void TorchscriptArchive::check(const torch::jit::Module& module) const {
  std::map<uint64_t, int64_t> left = sizes_;
  std::set<const c10::StorageImpl*> seen;
  for (const auto& [name, value] : module.named_attributes()) {
    if (!value.isTensor() || !value.toTensor().has_storage()) continue;
    const c10::Storage& storage = value.toTensor().storage();
    const uint64_t bytes = storage.nbytes();
    if (bytes == 0 || !seen.insert(storage.unsafeGetStorageImpl()).second) continue;
    CURVATURE_CHECK(left[bytes]-- > 0, FileError,
                    "{}: damaged: '{}' has no record of its size; expected {} bytes", name_, name,
                    bytes);
  }
}

}  // namespace curvature::detail
