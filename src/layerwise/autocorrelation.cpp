#include "layerwise/autocorrelation.hpp"

#include <algorithm>
#include <numbers>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "core/matrix_product.hpp"
#include "core/transposition.hpp"

namespace curvature::detail {
namespace {

// Of the model of costs, in multiply-adds of a large matrix product; measured on one thread.
constexpr double kCopy = 50;       // a number moved
constexpr double kThin = 4;        // a multiply-add of a product with a short side
constexpr double kChannels = 1.5;  // one of a product of channels at one frequency

/// The convolution adds up pixels one after the other: more at once lose digits.
constexpr int64_t kMostPixels = 1024;

/// Numbers in the products of channels at several frequencies that are held at once.
constexpr int64_t kMostNumbers = 1 << 21;

/// Pixels and frequencies of one axis. The image is followed by zeros up to the largest distance,
/// so that it does not meet itself from behind; of the first axis half of the frequencies tell all.
struct Axis {
  int64_t pixels, length, frequencies;
};

std::vector<Axis> axes_of(const Shape& shape, const Convolution& convolution) {
  std::vector<Axis> axes;
  for (size_t i = 0; i < convolution.axes(); ++i) {
    const int64_t length = shape[i + 2] + convolution.reach(i);
    axes.push_back({shape[i + 2], length, i == 0 ? length / 2 + 1 : length});
  }
  return axes;
}

Shape half_of_distances(const Convolution& convolution) {
  Shape counts;
  for (size_t i = 0; i < convolution.axes(); ++i) {
    counts.push_back(i == 0 ? convolution.kernel[i] : 2 * convolution.kernel[i] - 1);
  }
  return counts;
}

/// 2 pi f i / length `[frequencies, count]`, reduced to one turn before it is rounded.
at::Tensor angles(int64_t frequencies, const at::Tensor& positions, int64_t length) {
  const at::Tensor turns = at::arange(frequencies, positions.options()).unsqueeze(1) * positions;
  return turns.remainder(length).to(at::kDouble) *
         (2 * std::numbers::pi / static_cast<double>(length));
}

/// The transform along one axis as a matrix on (real and imaginary part, pixel), of which a real
/// image has the first half: rows (frequency, real and imaginary part).
at::Tensor transform_matrix(const Axis& axis, bool is_real, const at::TensorOptions& options) {
  const at::Tensor phase =
      angles(axis.frequencies, at::arange(axis.pixels, at::kLong), axis.length);
  const at::Tensor cosine = phase.cos(), sine = phase.sin();
  const at::Tensor of_real = at::stack({cosine, -sine}, 1),
                   of_imaginary = at::stack({sine, cosine}, 1);
  return (is_real ? of_real : at::cat({of_real, of_imaginary}, 2)).flatten(0, 1).to(options);
}

/// The transform of x as real parts over imaginary ones: `[frequencies, 2 N, C]`.
at::Tensor transform(const at::Tensor& x, const std::vector<Axis>& axes) {
  // A transposition of a matrix is much faster than a permutation of axes.
  at::Tensor z = columns_as_rows(x.flatten(2).flatten(0, 1)).view({1, axes.front().pixels, -1});
  for (size_t i = 0; i < axes.size(); ++i) {
    const at::Tensor matrix = transform_matrix(axes[i], i == 0, x.options());
    z = at::bmm(matrix.unsqueeze(0).expand({z.size(0), matrix.size(0), matrix.size(1)}), z);
    const int64_t next = i + 1 < axes.size() ? axes[i + 1].pixels : x.size(0);
    z = z.view({z.size(0) * axes[i].frequencies, 2 * next, -1});
  }
  return z;
}

/// What real and imaginary part at a frequency contribute to half of the distances: a matrix
/// `[distances, 2, frequencies]` that transforms back.
at::Tensor inverse_transform_matrix(const std::vector<Axis>& axes, const Convolution& convolution,
                                    const at::TensorOptions& options) {
  at::Tensor phase = at::zeros({1, 1}, at::kDouble);
  double size = 1;
  for (size_t i = 0; i < axes.size(); ++i) {
    const int64_t most = convolution.kernel[i] - 1;
    const at::Tensor distances =
        at::arange(i == 0 ? 0 : -most, most + 1, at::kLong) * convolution.dilation[i];
    const at::Tensor own = angles(axes[i].frequencies, distances, axes[i].length).t();
    phase = (phase.unsqueeze(1).unsqueeze(3) + own.unsqueeze(0).unsqueeze(2))
                .flatten(2, 3)
                .flatten(0, 1);
    size *= static_cast<double>(axes[i].length);
  }
  // A frequency of the first axis stands for its opposite as well, unless that is the same.
  at::Tensor weights = at::full({axes.front().frequencies}, 2.0, at::kDouble);
  weights[0] = 1;
  if (axes.front().length % 2 == 0) weights[-1] = 1;
  weights = weights.repeat_interleave(phase.size(1) / weights.size(0)) / size;
  return (at::stack({phase.cos(), -phase.sin()}, 1) * weights).to(options);
}

/// a^T b for each of a batch of matrices, into `result`.
void multiply_each(const at::Tensor& a, const at::Tensor& b, at::Tensor result) {
  if (!is_for_one_dnn(a[0].t(), b[0])) {
    result.copy_(at::bmm(a.transpose(1, 2), b));
    return;
  }
  for (int64_t i = 0; i < a.size(0); ++i) result[i].copy_(by_one_dnn(a[i].t(), b[i]));
}

double cost_by_convolution(const Shape& shape, const Convolution& convolution) {
  const auto channels = static_cast<double>(shape[1]);
  double numbers = static_cast<double>(shape[0]) * channels, distances = 1;
  for (size_t i = 2; i < shape.size(); ++i) numbers *= static_cast<double>(shape[i]);
  for (const int64_t count : half_of_distances(convolution)) {
    distances *= static_cast<double>(count);
  }
  return numbers * (2 * kCopy + distances * channels);
}

double cost_by_fourier(const Shape& shape, const Convolution& convolution) {
  const auto examples = static_cast<double>(shape[0]), channels = static_cast<double>(shape[1]);
  const std::vector<Axis> axes = axes_of(shape, convolution);
  double numbers = examples * channels;
  for (const Axis& axis : axes) numbers *= static_cast<double>(axis.pixels);
  double cost = kCopy * numbers, parts = 1;  // real and imaginary, after the first axis
  for (const Axis& axis : axes) {
    const double made_of_one = 2 * static_cast<double>(axis.frequencies);
    cost += kThin * made_of_one * numbers;
    numbers *= made_of_one / (parts * static_cast<double>(axis.pixels));
    parts = 2;
  }
  double distances = 1;
  for (const int64_t count : half_of_distances(convolution)) {
    distances *= static_cast<double>(count);
  }
  const double frequencies = numbers / (2 * examples * channels);
  return cost +
         frequencies * channels * channels * (4 * kChannels * examples + 2 * kThin * distances);
}

}  // namespace

at::Tensor autocorrelation_by_convolution(const at::Tensor& x, const Convolution& convolution) {
  const size_t axes = convolution.axes();
  const Shape ones(axes, 1), zeros(axes, 0);
  Shape shape = half_of_distances(convolution), padding, below = zeros;
  shape.insert(shape.begin(), {x.size(1), x.size(1)});
  for (size_t i = 0; i < axes; ++i) padding.push_back(i == 0 ? 0 : convolution.reach(i));
  below[0] = convolution.reach(0);
  const at::Tensor weight = at::empty(shape, x.options()), padded = pad(x, zeros, below);
  const int64_t pixels = std::max<int64_t>(1, x.numel() / (x.size(0) * x.size(1)));
  const int64_t examples = std::max<int64_t>(1, kMostPixels / pixels);
  at::Tensor half;
  for (int64_t n = 0; n < x.size(0); n += examples) {
    const int64_t count = std::min(examples, x.size(0) - n);
    const at::Tensor sum = std::get<1>(
        at::convolution_backward(x.narrow(0, n, count), padded.narrow(0, n, count), weight,
                                 at::OptionalIntArrayRef(), ones, padding, convolution.dilation,
                                 /*transposed=*/false, zeros, /*groups=*/1, {false, true, false}));
    half = half.defined() ? half.add_(sum) : sum;
  }
  return half;
}

at::Tensor autocorrelation_by_fourier(const at::Tensor& x, const Convolution& convolution) {
  const int64_t examples = x.size(0), channels = x.size(1);
  const std::vector<Axis> axes = axes_of(x.sizes().vec(), convolution);
  const at::Tensor z = transform(x, axes),
                   inverse = inverse_transform_matrix(axes, convolution, x.options());
  at::Tensor half = at::zeros({inverse.size(0), channels * channels}, x.options());
  const int64_t step = std::max<int64_t>(1, kMostNumbers / (2 * channels * channels));
  for (int64_t begin = 0; begin < z.size(0); begin += step) {
    // With z = a + i b the product conj(z)^T z is (a^T a + b^T b) + i (a^T b - b^T a).
    const at::Tensor part = z.narrow(0, begin, std::min(step, z.size(0) - begin));
    const at::Tensor turned =
        at::cat({part.narrow(1, examples, examples), part.narrow(1, 0, examples).neg()}, 1);
    const at::Tensor products = at::empty({2, part.size(0), channels, channels}, x.options());
    multiply_each(part, part, products[0]);
    multiply_each(part, turned, products[1]);
    half.addmm_(inverse.narrow(2, begin, part.size(0)).flatten(1),
                products.view({2 * part.size(0), channels * channels}));
  }
  Shape shape = half_of_distances(convolution);
  shape.insert(shape.begin(), {channels, channels});
  return columns_as_rows(half).view(shape);
}

at::Tensor autocorrelation(const at::Tensor& x, const Convolution& convolution) {
  const Shape shape = x.sizes().vec();
  return cost_by_fourier(shape, convolution) < cost_by_convolution(shape, convolution)
             ? autocorrelation_by_fourier(x, convolution)
             : autocorrelation_by_convolution(x, convolution);
}

double autocorrelation_cost(const Shape& shape, const Convolution& convolution) {
  return std::min(cost_by_fourier(shape, convolution), cost_by_convolution(shape, convolution));
}

}  // namespace curvature::detail
