#include "layerwise/window_moment.hpp"

#include <algorithm>

#include <ATen/ops/zeros.h>

#include "layerwise/autocorrelation.hpp"
#include "layerwise/gram.hpp"

namespace curvature::detail {
namespace {

// Of the model of costs, in multiply-adds of a large matrix product; measured on one thread.
constexpr double kCall = 3e5;   // an operation more
constexpr double kCopy = 50;    // a number moved
constexpr double kGather = 85;  // a number put into its window
constexpr double kHalf = 0.6;   // a product of which half is wanted, against all of it

/// Convolutions of fewer channels are slow.
constexpr int64_t kFewestChannels = 16;

struct Range {
  int64_t begin, end;
  int64_t size() const { return std::max<int64_t>(0, end - begin); }
};

/// A box of output pixels, and the entries of the kernel that see the image from there.
struct Box {
  std::vector<Range> outputs, kernel;
};

/// The arithmetic of one image: axis by axis, entry k reads pixel o + k d - p for output pixel o.
class Geometry {
 public:
  Geometry(const Shape& shape, const Convolution& convolution)
      : convolution_(convolution), size_(shape.begin() + 2, shape.end()) {}

  size_t axes() const { return convolution_.axes(); }
  int64_t kernel(size_t axis) const { return convolution_.kernel[axis]; }
  int64_t reach(size_t axis) const { return convolution_.reach(axis); }

  Range outputs(size_t axis) const {
    return {0, size_[axis] + convolution_.padding_begin[axis] + convolution_.padding_end[axis] -
                   reach(axis)};
  }
  /// Output pixels that would see the image, had the output no border.
  Range touching(size_t axis) const {
    const int64_t padding = convolution_.padding_begin[axis];
    return {padding - reach(axis), size_[axis] + padding};
  }
  /// The part of the kernel that sees the image from output pixel `o`.
  Range seeing(size_t axis, int64_t o) const {
    const int64_t first = o - convolution_.padding_begin[axis], d = convolution_.dilation[axis];
    const int64_t begin = first < 0 ? (-first + d - 1) / d : 0;
    const int64_t end = (size_[axis] - 1 - first) / d + 1;
    return {begin, std::min(end, kernel(axis))};
  }

  /// All touching output pixels that are none, in boxes one pixel thick: outside on one axis,
  /// inside on those before, anywhere on those after.
  std::vector<Box> border() const {
    std::vector<Box> boxes;
    for (size_t axis = 0; axis < axes(); ++axis) {
      for (int64_t o = touching(axis).begin; o < touching(axis).end; ++o) {
        if (outputs(axis).begin <= o && o < outputs(axis).end) continue;
        Box box;
        for (size_t other = 0; other < axes(); ++other) {
          const Range inside = {std::max(outputs(other).begin, touching(other).begin),
                                std::min(outputs(other).end, touching(other).end)};
          box.outputs.push_back(other < axis ? inside : touching(other));
          box.kernel.push_back({0, kernel(other)});
        }
        box.outputs[axis] = {o, o + 1};
        box.kernel[axis] = seeing(axis, o);
        const auto is_empty = [](const Range& range) { return range.size() == 0; };
        if (std::none_of(box.outputs.begin(), box.outputs.end(), is_empty) &&
            std::none_of(box.kernel.begin(), box.kernel.end(), is_empty)) {
          boxes.push_back(std::move(box));
        }
      }
    }
    return boxes;
  }

  /// The windows of a box as rows `[N, pixels, C * kernel]`.
  at::Tensor windows_of(const Box& box, const at::Tensor& pixels) const {
    Convolution part = convolution_;
    Shape begin, end;
    for (size_t axis = 0; axis < axes(); ++axis) {
      const int64_t d = part.dilation[axis], padding = convolution_.padding_begin[axis];
      const auto& [outputs, kernel] = std::pair(box.outputs[axis], box.kernel[axis]);
      part.kernel[axis] = kernel.size();
      begin.push_back(padding - outputs.begin - kernel.begin * d);
      end.push_back(outputs.end - 1 + (kernel.end - 1) * d - padding - (size_[axis] - 1));
    }
    return window_rows(windows(pad(pixels, begin, end), part), {pixels.size(0)});
  }

 private:
  const Convolution& convolution_;
  Shape size_;
};

/// Where two entries of a kernel find their distance in an autocorrelation.
struct Distance {
  bool is_swapped;  ///< it is that of the channels the other way round
  int64_t index;
};

/// The distances k2 - k of all entries k and k2, `[K, K]`.
std::vector<Distance> distances_of(const Geometry& geometry) {
  // First as if those of both signs were there on the first axis too.
  std::vector<int64_t> found = {0};
  int64_t size = 1, all = 1;
  for (size_t axis = 0; axis < geometry.axes(); ++axis) {
    const int64_t kernel = geometry.kernel(axis);
    std::vector<int64_t> next;
    for (int64_t k = 0; k < size * kernel; ++k) {
      for (int64_t k2 = 0; k2 < size * kernel; ++k2) {
        const int64_t before = found[static_cast<size_t>(k / kernel * size + k2 / kernel)];
        next.push_back(before * (2 * kernel - 1) + k2 % kernel - k % kernel + kernel - 1);
      }
    }
    found = std::move(next);
    size *= kernel;
    all *= 2 * kernel - 1;
  }
  const int64_t first = all / (2 * geometry.kernel(0) - 1) * (geometry.kernel(0) - 1);
  std::vector<Distance> distances;
  for (const int64_t at : found) {
    const bool is_swapped = at < first;
    distances.push_back({is_swapped, (is_swapped ? all - 1 - at : at) - first});
  }
  return distances;
}

/// Adds the autocorrelation at distance k2 - k to the entries (c, k; c2, k2) of the blocks c2 <= c.
template <class Scalar>
void add_toeplitz(const at::Tensor& correlation, const Geometry& geometry, at::Tensor& second) {
  const std::vector<Distance> distances = distances_of(geometry);
  const int64_t channels = correlation.size(0), kernel = second.size(0) / channels;
  const int64_t size = correlation.numel() / (channels * channels);
  const Scalar* from = correlation.const_data_ptr<Scalar>();
  Scalar* const to = second.mutable_data_ptr<Scalar>();
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t k = 0; k < kernel; ++k) {
      Scalar* row = to + (c * kernel + k) * second.stride(0);
      const Distance* const distance = distances.data() + k * kernel;
      for (int64_t c2 = 0; c2 <= c; ++c2) {
        const Scalar* const of_pair = from + (c * channels + c2) * size;
        const Scalar* const of_swapped = from + (c2 * channels + c) * size;
        for (int64_t k2 = 0; k2 < kernel; ++k2) {
          const auto [is_swapped, index] = distance[k2];
          *row++ += (is_swapped ? of_swapped : of_pair)[index];
        }
      }
    }
  }
}

/// The lower triangle of `second` less the products of the windows of a box.
void subtract(const Box& box, const Geometry& geometry, const at::Tensor& pixels,
              at::Tensor& second) {
  const at::Tensor rows = geometry.windows_of(box, pixels);
  at::Tensor product = at::zeros({rows.size(2), rows.size(2)}, rows.options());
  add_gram(product, rows);
  const int64_t channels = pixels.size(1);
  Shape all = {channels}, part = {channels};
  for (size_t axis = 0; axis < geometry.axes(); ++axis) {
    all.push_back(geometry.kernel(axis));
    part.push_back(box.kernel[axis].size());
  }
  const auto twice = [](Shape shape) {
    shape.insert(shape.end(), shape.begin(), shape.end());
    return shape;
  };
  at::Tensor entries = second.view(twice(all));
  const int64_t half = static_cast<int64_t>(all.size());
  for (size_t axis = 0; axis < geometry.axes(); ++axis) {
    const Range& kernel = box.kernel[axis];
    for (const int64_t at :
         {static_cast<int64_t>(axis) + 1, static_cast<int64_t>(axis) + 1 + half}) {
      entries = entries.narrow(at, kernel.begin, kernel.size());
    }
  }
  entries.sub_(product.view(twice(part)));
}

/// The sum of all windows `[C * kernel]`.
at::Tensor sum_of_windows(const at::Tensor& pixels, const Convolution& convolution) {
  const at::Tensor padded =
      pad(pixels.sum(0, true), convolution.padding_begin, convolution.padding_end);
  const auto axes = static_cast<int64_t>(convolution.axes());
  return windows(padded, convolution).flatten(-axes).sum(-1).flatten();
}

InputMoment add_moment(const WindowedImage& image, at::Tensor& second) {
  const at::Tensor pixels = image.pixels();
  const Geometry geometry(image.shape, image.convolution);
  const at::Tensor correlation = autocorrelation(pixels, image.convolution);
  if (second.scalar_type() == at::kFloat) {
    add_toeplitz<float>(correlation, geometry, second);
  } else {
    add_toeplitz<double>(correlation, geometry, second);
  }
  for (const Box& box : geometry.border()) subtract(box, geometry, pixels, second);
  double count = static_cast<double>(pixels.size(0));
  for (size_t axis = 0; axis < geometry.axes(); ++axis) {
    count *= static_cast<double>(geometry.outputs(axis).size());
  }
  return {sum_of_windows(pixels, image.convolution), count};
}

double cost_of_product(double rows, double columns, bool is_gathered) {
  return rows * columns * ((is_gathered ? kGather : kCopy) + kHalf * columns);
}

bool is_cheaper(const WindowedImage& image) {
  const Geometry geometry(image.shape, image.convolution);
  const auto examples = static_cast<double>(image.shape[0]),
             channels = static_cast<double>(image.shape[1]);
  double rows = examples, kernel = 1;
  for (size_t axis = 0; axis < geometry.axes(); ++axis) {
    rows *= static_cast<double>(geometry.outputs(axis).size());
    kernel *= static_cast<double>(geometry.kernel(axis));
  }
  const double columns = channels * kernel;
  double cost =
      autocorrelation_cost(image.shape, image.convolution) + kCopy * columns * columns + kCall;
  for (const Box& box : geometry.border()) {
    double box_rows = examples, box_columns = channels;
    for (size_t axis = 0; axis < geometry.axes(); ++axis) {
      box_rows *= static_cast<double>(box.outputs[axis].size());
      box_columns *= static_cast<double>(box.kernel[axis].size());
    }
    cost += cost_of_product(box_rows, box_columns, true) + kCopy * box_columns * box_columns +
            3 * kCall;
  }
  return cost < cost_of_product(rows, columns, kernel > 1);
}

}  // namespace

void use_window_moment(const WindowedImage& image, LayerPart& part) {
  part.moment_is_cheaper = image.shape[1] >= kFewestChannels && is_cheaper(image);
  part.add_moment = [image](at::Tensor& second) { return add_moment(image, second); };
}

}  // namespace curvature::detail
