#include "core/winograd_tiles.hpp"

#include <algorithm>
#include <type_traits>

#include <ATen/Parallel.h>
#include <ATen/ops/kron.h>
#include <ATen/ops/tensor.h>

#include "core/avx2.hpp"
#include "core/threads.hpp"
#include "core/winograd_filtering.hpp"

namespace curvature::detail {
namespace {

/// Images of one channel in memory, `[height, width]` that begin `apart` numbers apart.
template <class Number>
struct Planes {
  Number* first;
  int64_t apart, height, width;
};

/// Rows of numbers that lie next to each other.
class Rows {
 public:
  Rows(int64_t count, int64_t length) : length_(length), memory_(count * length) {}
  C10_ALWAYS_INLINE float* operator[](int64_t row) { return memory_.data() + row * length_; }

 private:
  int64_t length_;
  std::vector<float> memory_;
};

/// Pixels of one channel of a block's images, every m-th of a line next to each other: that of
/// image k in line y and column m j + r is number j images + k of row(y, r).
template <int64_t m>
class Pixels {
 public:
  Pixels(int64_t lines, int64_t columns, int64_t images)
      : lines_(lines), images_(images), rows_(lines * m, columns * images), line_(columns * m) {}

  C10_ALWAYS_INLINE float* row(int64_t y, int64_t r) { return rows_[y * m + r]; }

  /// From line `top` and column `-shift` of images on, with zeros beyond them.
  C10_ALWAYS_INLINE void read(const Planes<const float>& planes, int64_t top, int64_t shift) {
    const auto split = [](float& pixel, float& number) { number = pixel; };
    for (int64_t image = 0; image < images_; ++image) {
      for (int64_t y = 0; y < lines_; ++y) {
        std::fill(line_.begin(), line_.end(), 0.0F);
        if (0 <= top + y && top + y < planes.height) {
          std::copy_n(planes.first + image * planes.apart + (top + y) * planes.width, planes.width,
                      line_.begin() + shift);
        }
        for_line(y, image, split);
      }
    }
  }
  /// To images from line `top` on, plus `bias`.
  C10_ALWAYS_INLINE void write(const Planes<float>& planes, int64_t top, float bias) {
    const auto merge = [](float& pixel, float& number) { pixel = number; };
    for (int64_t image = 0; image < images_; ++image) {
      for (int64_t y = 0; y < std::min(lines_, planes.height - top); ++y) {
        for_line(y, image, merge);
        float* const written = planes.first + image * planes.apart + (top + y) * planes.width;
        for (int64_t x = 0; x < planes.width; ++x) written[x] = line_[x] + bias;
      }
    }
  }

 private:
  /// `f(pixel of line_, its number in rows)` for every pixel.
  template <class F>
  C10_ALWAYS_INLINE void for_line(int64_t y, int64_t image, F f) {
    if (images_ == 1) {
      for_columns(y, 0, std::integral_constant<int64_t, 1>(), f);
    } else {
      for_columns(y, image, images_, f);
    }
  }
  template <class Images, class F>
  C10_ALWAYS_INLINE void for_columns(int64_t y, int64_t image, Images images, F f) {
    std::array<float*, m> rows;
    for (int64_t r = 0; r < m; ++r) rows[r] = row(y, r) + image;
    float* const line = line_.data();
    const int64_t columns = static_cast<int64_t>(line_.size()) / m;
#pragma GCC ivdep  // line and rows do not overlap
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t r = 0; r < m; ++r) f(line[m * j + r], rows[r][j * images]);
    }
  }

  int64_t lines_, images_;
  Rows rows_;
  std::vector<float> line_;
};

/// Where numbers of `count` rows are, `at(i)` for row i.
template <int64_t count, class F>
C10_ALWAYS_INLINE std::array<float*, count> places(F at) {
  std::array<float*, count> all;
  for (int64_t i = 0; i < count; ++i) all[i] = at(i);
  return all;
}

/// `combine` of the numbers of rows `from` at one position, to rows `to`, for every position.
template <size_t n, size_t k, class F>
C10_ALWAYS_INLINE void combine_rows(const std::array<float*, n>& from,
                                    const std::array<float*, k>& to, int64_t length, F combine) {
#pragma GCC ivdep  // what is written does not overlap what is read
  for (int64_t i = 0; i < length; ++i) {
    Numbers<n> numbers;
    for (size_t j = 0; j < n; ++j) numbers[j] = from[j][i];
    const Numbers<k> combined = combine(numbers);
    for (size_t j = 0; j < k; ++j) to[j][i] = combined[j];
  }
}

/// `f(first, end)` for parts of the channels, divided among threads where the work, `numbers` of
/// each channel, is worth it.
template <class F>
void by_channels(int64_t channels, int64_t numbers, const F& f) {
  constexpr int64_t kGrain = 1 << 13;
  at::parallel_for(0, channels, kGrain / numbers + 1, f);
}

/// `transform` of every tile of `images` `[N, C, height, width]` along one axis and the other: a
/// tile reads n x n pixels, n being m or m + 2, and the first of them begin `shift` before an
/// image.
template <int64_t m, size_t n, class F>
void images_to_tiles(const at::Tensor& images, std::array<int64_t, 2> shift, const TileGrid& grid,
                     const TileBlock& block, const TilePointers& tiles, F transform) {
  constexpr int64_t kSide = m + 2, kReach = n - m;  // into the tiles below and beside
  const int64_t channels = images.size(1), height = images.size(2), width = images.size(3);
  const int64_t length = grid.columns() * block.num_images;
  const int64_t all_columns = grid.columns() + (kReach > 0 ? 1 : 0);
  const int64_t plane = height * width;
  const float* const first = images.const_data_ptr<float>() + block.first_image * channels * plane;
  by_channels(channels, block.num_rows * length * grid.places(), [&](int64_t begin, int64_t end) {
    Pixels<m> pixels(m * block.num_rows + kReach, all_columns, block.num_images);
    Rows combined(kSide * m, all_columns * block.num_images);
    with_avx2([&]() __attribute__((always_inline)) {
      for (int64_t channel = begin; channel < end; ++channel) {
        pixels.read({first + channel * plane, channels * plane, height, width},
                    m * block.first_row - shift[0], shift[1]);
        for (int64_t row = 0; row < block.num_rows; ++row) {
          for (int64_t r = 0; r < m; ++r) {
            combine_rows(places<n>([&](int64_t i) { return pixels.row(m * row + i, r); }),
                         places<kSide>([&](int64_t i) { return combined[i * m + r]; }),
                         all_columns * block.num_images, transform);
          }
          const int64_t offset = (channel * block.num_rows + row) * length;
          for (int64_t i = 0; i < kSide; ++i) {
            combine_rows(places<n>([&](int64_t j) {
                           return combined[i * m + j % m] + j / m * block.num_images;
                         }),
                         places<kSide>([&](int64_t j) { return tiles[i * kSide + j] + offset; }),
                         length, transform);
          }
        }
      }
    });
  });
}

template <int64_t m>
void tiles_to_outputs(const TilePointers& tiles, const TileGrid& grid, const TileBlock& block,
                      const std::optional<at::Tensor>& bias, const at::Tensor& outputs) {
  constexpr int64_t kSide = m + 2;
  const int64_t channels = outputs.size(1), plane = grid.height() * grid.width();
  const int64_t length = grid.columns() * block.num_images;
  float* const first = outputs.mutable_data_ptr<float>() + block.first_image * channels * plane;
  const float* const biases = bias && bias->defined() ? bias->const_data_ptr<float>() : nullptr;
  const auto transform = [](const Numbers<kSide>& p) { return Filtering<m>::outputs(p); };
  by_channels(channels, block.num_rows * length * grid.places(), [&](int64_t begin, int64_t end) {
    Pixels<m> pixels(m * block.num_rows, grid.columns(), block.num_images);
    Rows combined(m * kSide, length);
    with_avx2([&]() __attribute__((always_inline)) {
      for (int64_t channel = begin; channel < end; ++channel) {
        for (int64_t row = 0; row < block.num_rows; ++row) {
          const int64_t offset = (channel * block.num_rows + row) * length;
          for (int64_t j = 0; j < kSide; ++j) {
            combine_rows(places<kSide>([&](int64_t i) { return tiles[i * kSide + j] + offset; }),
                         places<m>([&](int64_t i) { return combined[i * kSide + j]; }), length,
                         transform);
          }
          for (int64_t i = 0; i < m; ++i) {
            combine_rows(places<kSide>([&](int64_t j) { return combined[i * kSide + j]; }),
                         places<m>([&](int64_t r) { return pixels.row(m * row + i, r); }), length,
                         transform);
          }
        }
        pixels.write({first + channel * plane, channels * plane, grid.height(), grid.width()},
                     m * block.first_row, biases != nullptr ? biases[channel] : 0.0F);
      }
    });
  });
}

/// `f` with m as a constant.
template <class F>
auto with_side(const TileGrid& grid, F f) {
  return grid.side() == 2 ? f(std::integral_constant<int64_t, 2>())
                          : f(std::integral_constant<int64_t, 4>());
}

}  // namespace

int64_t TileBlock::num_tiles(const TileGrid& grid) const {
  return num_rows * grid.columns() * num_images;
}

TileGrid::TileGrid(at::IntArrayRef input, int64_t out_channels, at::IntArrayRef padding)
    : num_images_(input[0]),
      in_channels_(input[1]),
      out_channels_(out_channels),
      height_(input[2] + 2 * padding.front() - 2),
      width_(input[3] + 2 * padding.back() - 2),
      padding_{padding.front(), padding.back()} {
  if (height_ <= 0 || width_ <= 0) return;  // no outputs, nothing to compare
  const double of_small = cost();
  side_ = 4;
  if (cost() >= of_small) side_ = 2;
}

double TileGrid::cost() const {
  const auto of = [](int64_t number) { return static_cast<double>(number); };
  // Transforms pass over memory, slowest where the images of a block have few tiles each.
  const double tiles = of(rows() * columns());
  const double transforms =
      18 * (1 / of(in_channels_) + 1 / of(out_channels_)) * (1 + 2 / tiles) * tiles;
  const double filters = of(std::max(in_channels_, out_channels_)) / 8 / of(num_images_);
  // Threads that wait while others take the last of what is divided among them.
  const int64_t parts = threads_take_blocks() ? num_blocks() : places();
  const double waiting = of(at::divup(parts, num_threads()) * num_threads()) / of(parts);
  return waiting * of(places()) * (tiles + transforms + filters);
}

int64_t TileGrid::tiles_at_once() const {
  constexpr int64_t kNumbers = 1 << 18;
  const int64_t channels = std::max(in_channels_, out_channels_);
  return std::max(kNumbers / (places() * channels), channels);
}

int64_t TileGrid::images_at_once() const {
  return std::clamp<int64_t>(tiles_at_once() / (rows() * columns()), 1, num_images_);
}

int64_t TileGrid::rows_at_once() const {
  return std::clamp<int64_t>(tiles_at_once() / columns(), 1, rows());
}

int64_t TileGrid::most_tiles() const { return images_at_once() * rows_at_once() * columns(); }

int64_t TileGrid::num_blocks() const {
  return at::divup(num_images_, images_at_once()) * at::divup(rows(), rows_at_once());
}

bool TileGrid::threads_take_blocks() const { return num_blocks() >= num_threads(); }

std::vector<TileBlock> TileGrid::blocks() const {
  std::vector<TileBlock> blocks;
  for (int64_t image = 0; image < num_images_; image += images_at_once()) {
    for (int64_t row = 0; row < rows(); row += rows_at_once()) {
      blocks.push_back({image, std::min(images_at_once(), num_images_ - image), row,
                        std::min(rows_at_once(), rows() - row)});
    }
  }
  return blocks;
}

bool TileGrid::pays() const {
  constexpr double kSpeed = 0.57;  // of products of matrices, by that of oneDNN's convolutions
  return height_ > 0 && width_ > 0 && cost() <= kSpeed * static_cast<double>(9 * height_ * width_);
}

at::Tensor filter_transform(const TileGrid& grid) {
  return with_side(grid, [](auto m) {
    const at::Tensor g = at::tensor(Filtering<m>::kFilter, at::kDouble).view({m + 2, 3});
    return at::kron(g, g);
  });
}

void transform_inputs(const at::Tensor& inputs, const TileGrid& grid, const TileBlock& block,
                      const TilePointers& tiles) {
  with_side(grid, [&](auto side) {
    constexpr int64_t m = side;
    images_to_tiles<m, m + 2>(inputs, grid.padding(), grid, block, tiles,
                              [](const Numbers<m + 2>& d) { return Filtering<m>::inputs(d); });
  });
}

void transform_outputs(const TilePointers& tiles, const TileGrid& grid, const TileBlock& block,
                       const std::optional<at::Tensor>& bias, const at::Tensor& outputs) {
  with_side(grid, [&](auto m) { tiles_to_outputs<m>(tiles, grid, block, bias, outputs); });
}

void transform_output_gradients(const at::Tensor& gradients, const TileGrid& grid,
                                const TileBlock& block, const TilePointers& tiles) {
  with_side(grid, [&](auto side) {
    constexpr int64_t m = side;
    images_to_tiles<m, m>(gradients, {0, 0}, grid, block, tiles,
                          [](const Numbers<m>& g) { return Filtering<m>::gradients(g); });
  });
}

}  // namespace curvature::detail
