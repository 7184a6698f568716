#include "io/tensor_bytes.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include <ATen/ops/empty.h>

#include "core/check.hpp"

namespace curvature::detail {
namespace {

// Files are little-endian unless they say otherwise; bytes are read as they lie.
static_assert(std::endian::native == std::endian::little, "big-endian machines are not supported");

template <typename Word, typename Swap>
void swap_words(const at::Tensor& tensor, Swap swap) {
  auto* words = static_cast<Word*>(tensor.data_ptr());
  std::transform(words, words + tensor.numel(), words, swap);
}

void swap_bytes_in_place(const at::Tensor& tensor) {
  switch (tensor.element_size()) {
    case 2:
      return swap_words<uint16_t>(tensor, [](uint16_t word) { return __builtin_bswap16(word); });
    case 4:
      return swap_words<uint32_t>(tensor, [](uint32_t word) { return __builtin_bswap32(word); });
    case 8:
      return swap_words<uint64_t>(tensor, [](uint64_t word) { return __builtin_bswap64(word); });
    default:
      return;  // single bytes
  }
}

at::Tensor allocate(std::string_view who, const Shape& shape, at::ScalarType dtype) {
  try {
    return at::empty(shape, at::TensorOptions().dtype(dtype));
  } catch (const c10::Error&) {
    throw FileError(fmt::format("{}: shape {} does not fit in memory", who, to_string(shape)));
  }
}

bool is_storable(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
    case at::kFloat:
    case at::kHalf:
    case at::kBFloat16:
    case at::kLong:
    case at::kInt:
    case at::kShort:
    case at::kChar:
    case at::kByte:
    case at::kBool:
      return true;
    default:
      return false;
  }
}

}  // namespace

int64_t checked_num_bytes(std::string_view who, const Shape& shape, at::ScalarType dtype) {
  constexpr size_t kMostAxes = 64;  // as many as NumPy has
  CURVATURE_CHECK(shape.size() <= kMostAxes, FileError, "{}: {} axes; expected at most {}", who,
                  shape.size(), kMostAxes);
  int64_t padded = static_cast<int64_t>(c10::elementSize(dtype));
  bool fits = true;
  bool empty = false;
  for (const int64_t extent : shape) {
    CURVATURE_CHECK(extent >= 0, FileError, "{}: shape {} has a negative extent", who,
                    to_string(shape));
    empty = empty || extent == 0;
    fits = fits && !__builtin_mul_overflow(padded, std::max<int64_t>(extent, 1), &padded);
  }
  CURVATURE_CHECK(fits, FileError, "{}: shape {} is too large for any memory", who,
                  to_string(shape));
  return empty ? 0 : padded;
}

Shape row_major_strides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

at::Tensor read_tensor(ByteSource& source, const Shape& shape, at::ScalarType dtype,
                       bool swap_bytes) {
  const int64_t num_bytes = checked_num_bytes(source.name(), shape, dtype);
  CURVATURE_CHECK(static_cast<uint64_t>(num_bytes) <= source.remaining(), FileError,
                  "{}: truncated; expected {} bytes for shape {}, got {}", source.name(), num_bytes,
                  to_string(shape), source.remaining());
  const at::Tensor tensor = allocate(source.name(), shape, dtype);
  source.read(tensor.data_ptr(), static_cast<uint64_t>(num_bytes));
  if (swap_bytes) swap_bytes_in_place(tensor);
  check_booleans(source.name(), tensor);
  return tensor;
}

void check_booleans(std::string_view who, const at::Tensor& tensor) {
  if (tensor.scalar_type() != at::kBool || tensor.numel() == 0) return;
  // A C++ bool with another value would be undefined behaviour wherever it is used.
  const auto* bytes = static_cast<const unsigned char*>(tensor.storage().data());
  const size_t size = tensor.storage().nbytes();
  CURVATURE_CHECK(std::all_of(bytes, bytes + size, [](unsigned char b) { return b <= 1; }),
                  FileError, "{}: damaged; a boolean is neither 0 nor 1", who);
}

at::Tensor as_written(std::string_view who, const at::Tensor& tensor) {
  CURVATURE_CHECK(tensor.defined(), OptionError, "{}: the tensor is undefined", who);
  CURVATURE_CHECK(tensor.layout() == at::kStrided && !tensor.is_quantized(), NotSupportedError,
                  "{}: expected a dense tensor, got a sparse or quantized one", who);
  CURVATURE_CHECK(is_storable(tensor.scalar_type()), DtypeDeviceError,
                  "{}: dtype {} cannot be written; expected a real number, integer or boolean type",
                  who, c10::toString(tensor.scalar_type()));
  return tensor.detach().resolve_neg().cpu().contiguous();
}

}  // namespace curvature::detail
