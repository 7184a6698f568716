#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

/// The transforms of `winograd.hpp` between images and tiles.
namespace curvature::detail {

constexpr int64_t kPlaces = 16;  ///< in a tile of 4 x 4, row by row

/// `[channels, tiles]` for each place.
using TilePointers = std::array<float*, kPlaces>;

class TileGrid;

/// Tiles that are worked on at a time: rows of tiles of some images. The tiles are in the order
/// (row, column, image), so that loops over columns and images are one, long also for small images.
struct TileBlock {
  int64_t first_image, num_images, first_row, num_rows;

  [[nodiscard]] int64_t num_tiles(const TileGrid& grid) const;
};

/// How outputs of a convolution of `input` `[N, C, H, W]` with kernels of 3 x 3 are covered by
/// tiles of 2 x 2.
class TileGrid {
 public:
  TileGrid(at::IntArrayRef input, int64_t out_channels, at::IntArrayRef padding);

  [[nodiscard]] int64_t height() const { return height_; }
  [[nodiscard]] int64_t width() const { return width_; }
  [[nodiscard]] int64_t rows() const { return (height_ + 1) / 2; }
  [[nodiscard]] int64_t columns() const { return (width_ + 1) / 2; }
  [[nodiscard]] at::IntArrayRef padding() const { return padding_; }

  [[nodiscard]] std::vector<TileBlock> blocks() const;
  [[nodiscard]] int64_t most_tiles() const;  ///< in one of the blocks
  /// Whether there are so many tiles, and so few of their outputs beyond the image, that products
  /// of matrices are faster than a convolution.
  [[nodiscard]] bool pays() const;

 private:
  /// So few that 16 matrices of tiles take a megabyte, and stay near the core, but not fewer than
  /// there are channels, which would spend the time on fetching filters. Measured with 64 to 512.
  [[nodiscard]] int64_t tiles_at_once() const;
  [[nodiscard]] int64_t images_at_once() const;
  [[nodiscard]] int64_t rows_at_once() const;

  int64_t num_images_, in_channels_, out_channels_, height_, width_;
  std::array<int64_t, 2> padding_;
};

/// B^T x B for the tiles of a block: inputs `[N, C, H, W]` to matrices `[C, tiles]`.
void transform_inputs(const at::Tensor& inputs, const TileGrid& grid, const TileBlock& block,
                      const TilePointers& tiles);
/// A^T m A + bias: matrices `[O, tiles]` to the block's part of outputs `[N, O, height, width]`.
void transform_outputs(const TilePointers& tiles, const TileGrid& grid, const TileBlock& block,
                       const std::optional<at::Tensor>& bias, const at::Tensor& outputs);
/// A g A^T, the adjoint: gradients `[N, O, height, width]` to matrices `[O, tiles]`.
void transform_output_gradients(const at::Tensor& gradients, const TileGrid& grid,
                                const TileBlock& block, const TilePointers& tiles);

}  // namespace curvature::detail
