#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

/// The transforms of `winograd.hpp` between images and tiles.
namespace curvature::detail {

/// `[channels, tiles]` for each place of a tile of (m + 2) x (m + 2), row by row.
using TilePointers = std::vector<float*>;

class TileGrid;

/// Tiles that are worked on at a time: rows of tiles of some images. The tiles are in the order
/// (row, column, image), so that loops over columns and images are one, long also for small images.
struct TileBlock {
  int64_t first_image, num_images, first_row, num_rows;

  [[nodiscard]] int64_t num_tiles(const TileGrid& grid) const;
};

/// How outputs of a convolution of `input` `[N, C, H, W]` with kernels of 3 x 3 are covered by
/// tiles of m x m, where m is 2 or 4: what costs less, or else 2, which rounds less.
class TileGrid {
 public:
  TileGrid(at::IntArrayRef input, int64_t out_channels, at::IntArrayRef padding);

  [[nodiscard]] int64_t height() const { return height_; }
  [[nodiscard]] int64_t width() const { return width_; }
  [[nodiscard]] int64_t side() const { return side_; }  ///< m
  [[nodiscard]] int64_t places() const { return (side_ + 2) * (side_ + 2); }
  [[nodiscard]] int64_t rows() const { return at::divup(height_, side_); }
  [[nodiscard]] int64_t columns() const { return at::divup(width_, side_); }
  [[nodiscard]] const std::array<int64_t, 2>& padding() const { return padding_; }

  [[nodiscard]] std::vector<TileBlock> blocks() const;
  [[nodiscard]] int64_t most_tiles() const;  ///< in one of the blocks
  /// Whether there is a block for each thread: then threads take blocks, and places of one
  /// otherwise.
  [[nodiscard]] bool threads_take_blocks() const;
  /// Whether there are so many channels and tiles, and so few outputs beyond the image, that this
  /// is faster than oneDNN's convolution, which has 9 multiplications for each output.
  [[nodiscard]] bool pays() const;

 private:
  /// Multiplications of an image for each pair of channels, and what transforms of images and of
  /// filters take in such. Fitted to times with 32 to 512 channels and 1 to 128 images of 2 x 2 to
  /// 112 x 112, on a processor with AVX-512, where `pays` refuses what is slower by more than a
  /// tenth.
  [[nodiscard]] double cost() const;
  /// So few that the matrices of tiles take a megabyte, and stay near the core, but not fewer than
  /// there are channels, which would spend the time on fetching filters. Measured with 64 to 512.
  [[nodiscard]] int64_t tiles_at_once() const;
  [[nodiscard]] int64_t images_at_once() const;
  [[nodiscard]] int64_t rows_at_once() const;
  [[nodiscard]] int64_t num_blocks() const;

  int64_t num_images_, in_channels_, out_channels_, height_, width_;
  std::array<int64_t, 2> padding_;
  int64_t side_ = 2;
};

/// G x G `[(m + 2)^2, 9]`, double: from a kernel, row by row, to the factors of its tiles.
at::Tensor filter_transform(const TileGrid& grid);
/// B^T x B for the tiles of a block: inputs `[N, C, H, W]` to matrices `[C, tiles]`.
void transform_inputs(const at::Tensor& inputs, const TileGrid& grid, const TileBlock& block,
                      const TilePointers& tiles);
/// A^T M A + bias: matrices `[O, tiles]` to the block's part of outputs `[N, O, height, width]`.
void transform_outputs(const TilePointers& tiles, const TileGrid& grid, const TileBlock& block,
                       const std::optional<at::Tensor>& bias, const at::Tensor& outputs);
/// A g A^T, the adjoint: gradients `[N, O, height, width]` to matrices `[O, tiles]`.
void transform_output_gradients(const at::Tensor& gradients, const TileGrid& grid,
                                const TileBlock& block, const TilePointers& tiles);

}  // namespace curvature::detail
