#include "core/winograd_tiles.hpp"

#include <algorithm>

#include <ATen/Parallel.h>

namespace curvature::detail {
namespace {

constexpr int64_t kChannelsAtOnce = 8;  ///< of a thread, at least

/// Rows of numbers, one for each (column of tiles, image).
template <size_t count>
class Rows {
 public:
  explicit Rows(int64_t length) : length_(length), memory_(count * length) {}
  float* operator[](size_t row) { return memory_.data() + row * length_; }

 private:
  int64_t length_;
  std::vector<float> memory_;
};

/// One row of pixels of several images, whose even and odd pixels go to rows of their own in which
/// images are next to each other: pixel 2 j - shift of image k to even[j num_images + k].
struct PixelRow {
  int64_t num_columns, num_images, apart, width, shift;

  void split(const float* pixels, float* even, float* odd) const {
    gather(pixels, -shift, even);
    gather(pixels, 1 - shift, odd);
  }
  static void merge(const float* even, const float* odd, int64_t num_images, int64_t apart,
                    int64_t width, float bias, float* pixels) {
    for (int64_t image = 0; image < num_images; ++image) {
      float* const row = pixels + image * apart;
      for (int64_t x = 0; x + 1 < width; x += 2) {
        row[x] = even[x / 2 * num_images + image] + bias;
        row[x + 1] = odd[x / 2 * num_images + image] + bias;
      }
      if (width % 2 == 1) row[width - 1] = even[width / 2 * num_images + image] + bias;
    }
  }

 private:
  /// Every other pixel from `x` on, zero beyond the image.
  void gather(const float* pixels, int64_t x, float* gathered) const {
    const int64_t begin = std::min(x < 0 ? (1 - x) / 2 : 0, num_columns);
    const int64_t end = std::clamp((width - x + 1) / 2, begin, num_columns);
    std::fill_n(gathered, begin * num_images, 0.0F);
    for (int64_t image = 0; image < num_images; ++image) {
      const float* const row = pixels + image * apart;
      for (int64_t j = begin; j < end; ++j) gathered[j * num_images + image] = row[x + 2 * j];
    }
    std::fill(gathered + end * num_images, gathered + num_columns * num_images, 0.0F);
  }
};

/// B^T d of four rows: d0 - d2, d1 + d2, d2 - d1, d1 - d3.
void combine_inputs(const std::array<const float*, 4>& d, const std::array<float*, 4>& combined,
                    int64_t length) {
  const float *const d0 = d[0], *const d1 = d[1], *const d2 = d[2], *const d3 = d[3];
  float* __restrict const c0 = combined[0];
  float* __restrict const c1 = combined[1];
  float* __restrict const c2 = combined[2];
  float* __restrict const c3 = combined[3];
  for (int64_t i = 0; i < length; ++i) {
    c0[i] = d0[i] - d2[i];
    c1[i] = d1[i] + d2[i];
    c2[i] = d2[i] - d1[i];
    c3[i] = d1[i] - d3[i];
  }
}

/// A^T m of four rows: m0 + m1 + m2, m1 - m2 - m3.
void combine_outputs(const std::array<const float*, 4>& m, const std::array<float*, 2>& combined,
                     int64_t length) {
  const float *const m0 = m[0], *const m1 = m[1], *const m2 = m[2], *const m3 = m[3];
  float* __restrict const c0 = combined[0];
  float* __restrict const c1 = combined[1];
  for (int64_t i = 0; i < length; ++i) {
    c0[i] = m0[i] + m1[i] + m2[i];
    c1[i] = m1[i] - m2[i] - m3[i];
  }
}

/// A g of two rows: g0, g0 + g1, g0 - g1, -g1.
void combine_gradients(const float* g0, const float* g1, const std::array<float*, 4>& combined,
                       int64_t length) {
  float* __restrict const c0 = combined[0];
  float* __restrict const c1 = combined[1];
  float* __restrict const c2 = combined[2];
  float* __restrict const c3 = combined[3];
  for (int64_t i = 0; i < length; ++i) {
    c0[i] = g0[i];
    c1[i] = g0[i] + g1[i];
    c2[i] = g0[i] - g1[i];
    c3[i] = -g1[i];
  }
}

/// The matrices' entries of one channel and row of tiles, for places of one row of a tile.
std::array<float*, 4> row_of_places(const TilePointers& tiles, int64_t row, int64_t offset) {
  return {tiles[4 * row] + offset, tiles[4 * row + 1] + offset, tiles[4 * row + 2] + offset,
          tiles[4 * row + 3] + offset};
}

std::array<const float*, 4> column_of_places(const TilePointers& tiles, int64_t column,
                                             int64_t offset) {
  return {tiles[column] + offset, tiles[4 + column] + offset, tiles[8 + column] + offset,
          tiles[12 + column] + offset};
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
      padding_{padding.front(), padding.back()} {}

int64_t TileGrid::tiles_at_once() const {
  constexpr int64_t kNumbersOfAPlace = 1 << 14;
  const int64_t channels = std::max(in_channels_, out_channels_);
  return std::max(kNumbersOfAPlace / channels, channels);
}

int64_t TileGrid::images_at_once() const {
  return std::clamp<int64_t>(tiles_at_once() / (rows() * columns()), 1, num_images_);
}

int64_t TileGrid::rows_at_once() const {
  return std::clamp<int64_t>(tiles_at_once() / columns(), 1, rows());
}

int64_t TileGrid::most_tiles() const { return images_at_once() * rows_at_once() * columns(); }

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
  constexpr int64_t kFewestTiles = 128;
  if (height_ <= 0 || width_ <= 0 || num_images_ * rows() * columns() < kFewestTiles) return false;
  // Multiplications for each pair of channels, and transforms, which are as dear at 64 channels.
  const double transforms =
      32.0 / static_cast<double>(in_channels_) + 32.0 / static_cast<double>(out_channels_);
  const auto products = static_cast<double>(kPlaces * rows() * columns());
  return (1 + transforms) * products <= static_cast<double>(9 * height_ * width_);
}

void transform_inputs(const at::Tensor& inputs, const TileGrid& grid, const TileBlock& block,
                      const TilePointers& tiles) {
  const int64_t channels = inputs.size(1), height = inputs.size(2), width = inputs.size(3);
  const int64_t images = block.num_images, length = grid.columns() * images;
  const int64_t with_next = length + images;  // a tile reads its neighbour's first pixels
  const PixelRow pixels = {grid.columns() + 1, images, channels * height * width, width,
                           grid.padding()[1]};
  const float* const first =
      inputs.const_data_ptr<float>() + block.first_image * channels * height * width;
  at::parallel_for(0, channels, kChannelsAtOnce, [&](int64_t begin, int64_t end) {
    Rows<4> even(with_next), odd(with_next), combined_even(with_next), combined_odd(with_next);
    const auto read = [&](const float* plane, int64_t row) {
      const int64_t y = row - grid.padding()[0];
      if (0 <= y && y < height) {
        pixels.split(plane + y * width, even[row % 4], odd[row % 4]);
      } else {
        std::fill_n(even[row % 4], with_next, 0.0F);
        std::fill_n(odd[row % 4], with_next, 0.0F);
      }
    };
    const auto combine = [&](Rows<4>& rows, Rows<4>& combined, int64_t top) {
      combine_inputs({rows[top % 4], rows[(top + 1) % 4], rows[(top + 2) % 4], rows[(top + 3) % 4]},
                     {combined[0], combined[1], combined[2], combined[3]}, with_next);
    };
    for (int64_t channel = begin; channel < end; ++channel) {
      const float* const plane = first + channel * height * width;
      read(plane, 2 * block.first_row);
      read(plane, 2 * block.first_row + 1);
      for (int64_t row = 0; row < block.num_rows; ++row) {
        const int64_t top = 2 * (block.first_row + row);  // two of its four rows are there already
        read(plane, top + 2);
        read(plane, top + 3);
        combine(even, combined_even, top);
        combine(odd, combined_odd, top);
        const int64_t offset = (channel * block.num_rows + row) * length;
        for (int64_t place = 0; place < 4; ++place) {
          const float *const e = combined_even[place], *const o = combined_odd[place];
          combine_inputs({e, o, e + images, o + images}, row_of_places(tiles, place, offset),
                         length);
        }
      }
    }
  });
}

void transform_outputs(const TilePointers& tiles, const TileGrid& grid, const TileBlock& block,
                       const std::optional<at::Tensor>& bias, const at::Tensor& outputs) {
  const int64_t channels = outputs.size(1), height = grid.height(), width = grid.width();
  const int64_t length = grid.columns() * block.num_images, apart = channels * height * width;
  float* const first = outputs.mutable_data_ptr<float>() + block.first_image * apart;
  const float* const biases = bias && bias->defined() ? bias->const_data_ptr<float>() : nullptr;
  at::parallel_for(0, channels, kChannelsAtOnce, [&](int64_t begin, int64_t end) {
    Rows<4> upper(length), lower(length);
    Rows<2> pixels(length);
    const auto write = [&](Rows<4>& sums, int64_t channel, int64_t y) {
      if (y >= height) return;
      combine_outputs({sums[0], sums[1], sums[2], sums[3]}, {pixels[0], pixels[1]}, length);
      PixelRow::merge(pixels[0], pixels[1], block.num_images, apart, width,
                      biases != nullptr ? biases[channel] : 0.0F,
                      first + (channel * height + y) * width);
    };
    for (int64_t channel = begin; channel < end; ++channel) {
      for (int64_t row = 0; row < block.num_rows; ++row) {
        const int64_t offset = (channel * block.num_rows + row) * length;
        for (int64_t place = 0; place < 4; ++place) {
          combine_outputs(column_of_places(tiles, place, offset), {upper[place], lower[place]},
                          length);
        }
        write(upper, channel, 2 * (block.first_row + row));
        write(lower, channel, 2 * (block.first_row + row) + 1);
      }
    }
  });
}

void transform_output_gradients(const at::Tensor& gradients, const TileGrid& grid,
                                const TileBlock& block, const TilePointers& tiles) {
  const int64_t channels = gradients.size(1), height = grid.height(), width = grid.width();
  const int64_t length = grid.columns() * block.num_images;
  const PixelRow pixels = {grid.columns(), block.num_images, channels * height * width, width, 0};
  const float* const first =
      gradients.const_data_ptr<float>() + block.first_image * channels * height * width;
  at::parallel_for(0, channels, kChannelsAtOnce, [&](int64_t begin, int64_t end) {
    Rows<2> upper(length), lower(length);
    Rows<4> even(length), odd(length);
    const auto read = [&](Rows<2>& rows, int64_t channel, int64_t y) {
      if (y < height) {
        pixels.split(first + (channel * height + y) * width, rows[0], rows[1]);
      } else {
        std::fill_n(rows[0], 2 * length, 0.0F);
      }
    };
    for (int64_t channel = begin; channel < end; ++channel) {
      for (int64_t row = 0; row < block.num_rows; ++row) {
        read(upper, channel, 2 * (block.first_row + row));
        read(lower, channel, 2 * (block.first_row + row) + 1);
        combine_gradients(upper[0], lower[0], {even[0], even[1], even[2], even[3]}, length);
        combine_gradients(upper[1], lower[1], {odd[0], odd[1], odd[2], odd[3]}, length);
        const int64_t offset = (channel * block.num_rows + row) * length;
        for (int64_t place = 0; place < 4; ++place) {
          combine_gradients(even[place], odd[place], row_of_places(tiles, place, offset), length);
        }
      }
    }
  });
}

}  // namespace curvature::detail
