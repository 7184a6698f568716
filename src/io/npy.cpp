#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <sys/mman.h>

#include <ATen/ops/from_blob.h>

#include <curvature/io/atomic_file.hpp>
#include <curvature/io/npy.hpp>

#include "core/check.hpp"
#include "io/npy_format.hpp"
#include "io/tensor_bytes.hpp"
#include "io/text.hpp"

namespace curvature {
namespace {

using detail::FileSource;

/// A whole file in the address space, copied on write.
class Mapping {
 public:
  explicit Mapping(const FileSource& file)
      : size_(file.size()),
        address_(::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                        file.descriptor(), 0)) {
    CURVATURE_CHECK(address_ != MAP_FAILED, FileError, "{}: cannot be mapped: {}", file.name(),
                    detail::system_message(errno));
  }
  ~Mapping() { ::munmap(address_, size_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  char* data() const noexcept { return static_cast<char*>(address_); }

 private:
  size_t size_;
  void* address_;
};

Shape strides_of(const detail::NpyHeader& header) {
  if (!header.fortran_order) return detail::row_major_strides(header.shape);
  Shape strides = detail::row_major_strides(Shape(header.shape.rbegin(), header.shape.rend()));
  std::reverse(strides.begin(), strides.end());
  return strides;
}

}  // namespace

at::Tensor read_npy(const std::filesystem::path& path) {
  FileSource file(path);
  return detail::read_npy(file);
}

at::Tensor map_npy(const std::filesystem::path& path) {
  FileSource file(path);
  const detail::NpyHeader header = detail::read_npy_header(file);
  const int64_t num_bytes = detail::checked_num_bytes(file.name(), header.shape, header.dtype);
  CURVATURE_CHECK(static_cast<uint64_t>(num_bytes) == file.remaining(), FileError,
                  "{}: expected {} bytes of data for shape {}, got {}", file.name(), num_bytes,
                  detail::to_string(header.shape), file.remaining());
  CURVATURE_CHECK(!header.swap_bytes, FileError,
                  "{}: big-endian data cannot be mapped; use read_npy", file.name());
  CURVATURE_CHECK(file.position() % c10::elementSize(header.dtype) == 0, FileError,
                  "{}: misaligned data cannot be mapped; use read_npy", file.name());
  const auto mapping = std::make_shared<const Mapping>(file);
  const at::Tensor tensor = at::from_blob(
      mapping->data() + file.position(), header.shape, strides_of(header), [mapping](void*) {},
      at::TensorOptions().dtype(header.dtype));
  detail::check_booleans(file.name(), tensor);
  return tensor;
}

void write_npy(const std::filesystem::path& path, const at::Tensor& tensor) {
  const at::Tensor data = detail::as_written("write_npy", tensor);
  const std::string header = detail::npy_header(data);
  write_file_atomically(path, [&](const ByteSink& sink) {
    sink(header.data(), header.size());
    sink(data.const_data_ptr(), data.nbytes());
  });
}

}  // namespace curvature
