#include <cstdint>
#include <cstring>
#include <filesystem>
#include <zlib.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include <curvature/core/space.hpp>
#include <curvature/io/idx.hpp>

#include "cli/demo_data.hpp"
#include "core/check.hpp"

// The files of src/cli/data, as they are, between two symbols each.
#define CURVATURE_EMBED(name, file)                         \
  __asm__(                                                  \
      ".section .rodata\n"                                  \
      ".global curvature_" #name "_begin\ncurvature_" #name \
      "_begin:\n"                                           \
      ".incbin \"" CURVATURE_CLI_DATA "/" file              \
      "\"\n"                                                \
      ".global curvature_" #name "_end\ncurvature_" #name   \
      "_end:\n.byte 0\n"                                    \
      ".previous\n");                                       \
  extern "C" const unsigned char curvature_##name##_begin[], curvature_##name##_end[]

CURVATURE_EMBED(digit_images, "digits-images-idx3-ubyte.gz");
CURVATURE_EMBED(digit_labels, "digits-labels-idx1-ubyte.gz");

namespace curvature::cli {
namespace {

/// The elements of an embedded idx file of bytes, `shape` being known.
at::Tensor inflate_idx(const unsigned char* begin, const unsigned char* end, const Shape& shape) {
  const size_t header = 4 + 4 * shape.size();
  const at::Tensor tensor = at::empty(shape, at::kByte);
  std::string bytes(header + static_cast<size_t>(tensor.numel()), '\0');
  z_stream stream = {};
  constexpr int kGzip = 16 + MAX_WBITS;
  int status = inflateInit2(&stream, kGzip);
  if (status == Z_OK) {
    stream.next_in = const_cast<unsigned char*>(begin);
    stream.avail_in = static_cast<unsigned>(end - begin);
    stream.next_out = reinterpret_cast<unsigned char*>(bytes.data());
    stream.avail_out = static_cast<unsigned>(bytes.size());
    status = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
  }
  CURVATURE_CHECK(status == Z_STREAM_END && stream.avail_out == 0, FileError,
                  "demo: the built-in digits are damaged; build the tool anew");
  std::memcpy(tensor.mutable_data_ptr(), bytes.data() + header, bytes.size() - header);
  return tensor;
}

/// float32 `[N, 1, H, W]` from bytes `[N, H, W]`.
at::Tensor to_images(const at::Tensor& bytes) { return bytes.to(at::kFloat).unsqueeze(1); }

void standardise(DemoData& data) {
  const double mean = data.train_images.mean(at::kDouble).item<double>();
  const double deviation = data.train_images.to(at::kDouble).std().item<double>();
  for (at::Tensor* images : {&data.train_images, &data.test_images}) {
    images->sub_(mean).div_(deviation);
  }
}

}  // namespace

DemoData load_fashion_mnist() {
  const std::filesystem::path folder = "/usr/share/datasets/fashion-mnist";
  CURVATURE_CHECK(std::filesystem::is_directory(folder), FileError,
                  "demo: Fashion-MNIST is not installed; expected {}; install the Debian package "
                  "dataset-fashion-mnist, or use the built-in digits by --digits",
                  folder.string());
  DemoData data{.name = "Fashion-MNIST",
                .train_images = to_images(read_idx(folder / "train-images-idx3-ubyte.gz")),
                .train_labels = read_idx(folder / "train-labels-idx1-ubyte.gz").to(at::kLong),
                .test_images = to_images(read_idx(folder / "t10k-images-idx3-ubyte.gz")),
                .test_labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz").to(at::kLong)};
  standardise(data);
  return data;
}

DemoData load_digits() {
  constexpr int64_t kNumImages = 1797;
  const at::Tensor images = to_images(
      inflate_idx(curvature_digit_images_begin, curvature_digit_images_end, {kNumImages, 8, 8}));
  const at::Tensor labels =
      inflate_idx(curvature_digit_labels_begin, curvature_digit_labels_end, {kNumImages})
          .to(at::kLong);
  const at::Tensor is_test = at::arange(kNumImages).remainder(5).eq(0);
  const at::Tensor test = is_test.nonzero().squeeze(1);
  const at::Tensor train = is_test.logical_not().nonzero().squeeze(1);
  DemoData data{.name = "Digits",
                .train_images = images.index_select(0, train),
                .train_labels = labels.index_select(0, train),
                .test_images = images.index_select(0, test),
                .test_labels = labels.index_select(0, test)};
  standardise(data);
  return data;
}

}  // namespace curvature::cli
