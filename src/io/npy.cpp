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

std::string type_string(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return "<f2";
    case at::kFloat:
      return "<f4";
    case at::kDouble:
      return "<f8";
    case at::kChar:
      return "|i1";
    case at::kShort:
      return "<i2";
    case at::kInt:
      return "<i4";
    case at::kLong:
      return "<i8";
    case at::kByte:
      return "|u1";
    case at::kBool:
      return "|b1";
    default:
      throw DtypeDeviceError(fmt::format(
          "write_npy: npy has no dtype {}; convert the tensor or write a .safetensors file",
          c10::toString(dtype)));
  }
}

/// Everything before the data, which begins at a multiple of 64 bytes.
std::string npy_header(const at::Tensor& tensor) {
  std::string shape;
  for (const int64_t extent : tensor.sizes()) shape += fmt::format("{}, ", extent);
  // Python's tuples: (3,) and (3, 4)
  if (!shape.empty()) shape.resize(shape.size() - (tensor.dim() == 1 ? 1 : 2));
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}",
                                 type_string(tensor.scalar_type()), shape);
  constexpr size_t kPrefix = 10, kAlignment = 64;
  const size_t unpadded = kPrefix + text.size() + 1;
  text.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  text.push_back('\n');
  std::string header("\x93NUMPY\x01\x00", 8);
  header.push_back(static_cast<char>(text.size() & 0xff));
  header.push_back(static_cast<char>(text.size() >> 8));
  return header + text;
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
  const std::string header = npy_header(data);
  write_file_atomically(path, [&](const ByteSink& sink) {
    sink(header.data(), header.size());
    sink(data.const_data_ptr(), data.nbytes());
  });
}

}  // namespace curvature
