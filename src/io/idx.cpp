#include <array>
#include <memory>

#include <curvature/io/idx.hpp>

#include "core/check.hpp"
#include "io/byte_source.hpp"
#include "io/tensor_bytes.hpp"

namespace curvature {
namespace {

using detail::ByteSource;

/// The file itself, or what it holds if it is compressed.
std::unique_ptr<ByteSource> open(const std::filesystem::path& path) {
  auto file = std::make_unique<detail::FileSource>(path);
  std::array<unsigned char, 2> start = {};
  CURVATURE_CHECK(file->size() >= start.size(), FileError,
                  "{}: {}; expected an idx file, got {} bytes", file->name(),
                  file->size() == 0 ? "is empty" : "truncated", file->size());
  file->read(start.data(), start.size());
  if (start[0] == 0x1f && start[1] == 0x8b) return detail::open_gzip(path);
  file->seek(0);
  return file;
}

at::ScalarType dtype_of(const ByteSource& source, unsigned char code) {
  switch (code) {
    case 0x08:
      return at::kByte;
    case 0x09:
      return at::kChar;
    case 0x0b:
      return at::kShort;
    case 0x0c:
      return at::kInt;
    case 0x0d:
      return at::kFloat;
    case 0x0e:
      return at::kDouble;
    default:
      throw FileError(fmt::format("{}: unknown idx element type {:#04x}", source.name(), code));
  }
}

}  // namespace

at::Tensor read_idx(const std::filesystem::path& path) {
  const std::unique_ptr<ByteSource> source = open(path);
  std::array<unsigned char, 4> word;
  source->read(word.data(), word.size());
  CURVATURE_CHECK(word[0] == 0 && word[1] == 0, FileError,
                  "{}: not an idx file; it does not begin with two zero bytes", source->name());
  const at::ScalarType dtype = dtype_of(*source, word[2]);
  Shape shape(word[3]);
  for (int64_t& extent : shape) {
    source->read(word.data(), word.size());
    extent = (int64_t{word[0]} << 24) | (word[1] << 16) | (word[2] << 8) | word[3];
  }
  const at::Tensor tensor =
      detail::read_tensor(*source, shape, dtype, /*swap_bytes=*/c10::elementSize(dtype) > 1);
  source->expect_end();
  return tensor;
}

}  // namespace curvature
