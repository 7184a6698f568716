#include "core/winograd.hpp"

#include <algorithm>
#include <array>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "core/matrix_product.hpp"
#include "core/threads.hpp"
#include "core/winograd_tiles.hpp"

namespace curvature::detail {
namespace {

/// One matrix for each place in a tile.
using Matrices = std::vector<at::Tensor>;

/// G w G^T `[O, C]` place by place.
Matrices transformed(const at::Tensor& weight, const at::Tensor& transform) {
  const at::Tensor all = transform.to(weight.options()).mm(weight.reshape({-1, 9}).t());
  Matrices matrices;
  for (const at::Tensor& place : all.unbind()) {
    matrices.push_back(place.view({weight.size(0), weight.size(1)}));
  }
  return matrices;
}

/// `[channels, tiles]` place by place. Places begin an odd number of cache lines apart, since what
/// is written for one tile would otherwise meet in one set of the cache.
class TileMatrices {
 public:
  TileMatrices(int64_t channels, const TileGrid& grid, const at::TensorOptions& options)
      : channels_(channels),
        apart_((channels * grid.most_tiles() / kLine | 1) * kLine + 2 * kLine),
        memory_(at::empty({grid.places(), apart_}, options)) {}

  [[nodiscard]] TilePointers pointers() const {
    TilePointers pointers;
    for (int64_t place = 0; place < memory_.size(0); ++place) {
      pointers.push_back(memory_.mutable_data_ptr<float>() + place * apart_);
    }
    return pointers;
  }
  [[nodiscard]] at::Tensor matrix(int64_t place, int64_t tiles) const {
    return memory_[place].narrow(0, 0, channels_ * tiles).view({channels_, tiles});
  }

 private:
  static constexpr int64_t kLine = 16;
  int64_t channels_, apart_;
  at::Tensor memory_;
};

/// One for each thread if there are blocks for all, and `numbers` for each part are not too many;
/// otherwise one, of which threads share the channels and places.
int64_t num_parts(const TileGrid& grid, int64_t numbers = 0) {
  constexpr int64_t kMost = 1 << 26;
  return grid.threads_take_blocks() && num_threads() * numbers <= kMost ? num_threads() : 1;
}

/// `f(place)` for all places of a tile, which are independent of each other.
template <class F>
void for_places(const TileGrid& grid, const F& f) {
  by_threads(grid.places(), [&](int64_t first, int64_t end) {
    for (int64_t place = first; place < end; ++place) f(place);
  });
}

/// `f(part, blocks)` for parts of a grid's blocks.
template <class F>
void for_parts(const TileGrid& grid, int64_t parts, const F& f) {
  const std::vector<TileBlock> blocks = grid.blocks();
  const auto count = static_cast<int64_t>(blocks.size());
  const auto work = [&](int64_t first, int64_t end) {
    for (int64_t part = first; part < end; ++part) {
      f(part, at::ArrayRef<TileBlock>(blocks.data() + part * count / parts,
                                      blocks.data() + (part + 1) * count / parts));
    }
  };
  parts > 1 ? by_threads(parts, work) : work(0, 1);
}

/// sum over terms of (filters of the term) (tiles of its input), turned into a block of outputs.
void convolve_block(const std::vector<at::Tensor>& inputs, const std::vector<Matrices>& filters,
                    const std::optional<at::Tensor>& bias, const TileGrid& grid,
                    const TileBlock& block, const TileMatrices& tiles, const at::Tensor& output) {
  Matrices products(grid.places());
  for (size_t term = 0; term < inputs.size(); ++term) {
    transform_inputs(inputs[term], grid, block, tiles.pointers());
    for_places(grid, [&](int64_t place) {
      const at::Tensor matrix = tiles.matrix(place, block.num_tiles(grid));
      if (term == 0) {
        products[place] = matrix_product(filters[term][place], matrix);
      } else {
        add_matrix_product(products[place], filters[term][place], matrix);
      }
    });
  }
  TilePointers pointers;
  for (const at::Tensor& product : products) {
    pointers.push_back(product.mutable_data_ptr<float>());
  }
  transform_outputs(pointers, grid, block, bias, output);
}

at::Tensor convolve(const std::vector<at::Tensor>& inputs, const std::vector<Matrices>& filters,
                    const std::optional<at::Tensor>& bias, const TileGrid& grid) {
  const at::Tensor& input = inputs.front();
  const int64_t out_channels = filters.front().front().size(0);
  at::Tensor output =
      at::empty({input.size(0), out_channels, grid.height(), grid.width()}, input.options());
  for_parts(grid, num_parts(grid), [&](int64_t, at::ArrayRef<TileBlock> blocks) {
    const TileMatrices tiles(input.size(1), grid, input.options());
    for (const TileBlock& block : blocks) {
      convolve_block(inputs, filters, bias, grid, block, tiles, output);
    }
  });
  return output;
}

}  // namespace

bool is_for_winograd(const at::Tensor& input, const at::Tensor& weight,
                     const std::optional<at::Tensor>& bias, const ConvolutionShape& shape) {
  const auto all = [](at::IntArrayRef values, auto holds) {
    return (values.size() == 1 || values.size() == 2) &&
           std::all_of(values.begin(), values.end(), holds);
  };
  const auto is_plain = [](const at::Tensor& x, int64_t dim) {
    return x.is_cpu() && x.layout() == at::kStrided && x.scalar_type() == at::kFloat &&
           x.dim() == dim && x.is_contiguous() && x.numel() > 0;
  };
  const auto is_bias = [&](const at::Tensor& x) {
    return is_plain(x, 1) && x.size(0) == weight.size(0);
  };
  const auto is_one = [](int64_t value) { return value == 1; };
  return !shape.transposed && shape.groups == 1 && is_plain(input, 4) && is_plain(weight, 4) &&
         (!bias || !bias->defined() || is_bias(*bias)) && weight.size(2) == 3 &&
         weight.size(3) == 3 && input.size(1) == weight.size(1) && all(shape.stride, is_one) &&
         all(shape.dilation, is_one) &&
         all(shape.padding, [](int64_t value) { return 0 <= value && value <= 2; }) &&
         TileGrid(input.sizes(), weight.size(0), shape.padding).pays();
}

std::array<int64_t, 4> winograd_output_shape(const at::Tensor& input, const at::Tensor& weight,
                                             at::IntArrayRef padding) {
  const TileGrid grid(input.sizes(), weight.size(0), padding);
  return {input.size(0), weight.size(0), grid.height(), grid.width()};
}

at::Tensor winograd_convolution(const std::vector<ConvolutionTerm>& terms,
                                const std::optional<at::Tensor>& bias, at::IntArrayRef padding) {
  const at::NoGradGuard no_grad;
  const TileGrid grid(terms.front().input.sizes(), terms.front().weight.size(0), padding);
  const at::Tensor transform = filter_transform(grid);
  std::vector<at::Tensor> inputs;
  std::vector<Matrices> matrices;
  for (const auto& [input, weight] : terms) {
    inputs.push_back(input);
    matrices.push_back(transformed(weight, transform));
  }
  return convolve(inputs, matrices, bias, grid);
}

at::Tensor winograd_input_gradient(const at::Tensor& output_gradient, const at::Tensor& weight,
                                   at::IntArrayRef padding) {
  const at::NoGradGuard no_grad;
  // A convolution with the kernels turned around, from outputs to inputs.
  const std::array<int64_t, 2> rest = {2 - padding.front(), 2 - padding.back()};
  const TileGrid grid(output_gradient.sizes(), weight.size(1), rest);
  Matrices turned = transformed(weight, filter_transform(grid).flip(1));
  for (at::Tensor& matrix : turned) matrix = matrix.t();
  return convolve({output_gradient}, {turned}, std::nullopt, grid);
}

at::Tensor winograd_weight_gradient(const at::Tensor& output_gradient, const at::Tensor& input,
                                    at::IntArrayRef padding) {
  const at::NoGradGuard no_grad;
  const int64_t out_channels = output_gradient.size(1), channels = input.size(1);
  const TileGrid grid(input.sizes(), out_channels, padding);
  const int64_t parts = num_parts(grid, grid.places() * out_channels * channels);
  const at::Tensor sums =
      at::empty({parts, grid.places(), out_channels, channels}, output_gradient.options());
  for_parts(grid, parts, [&](int64_t part, at::ArrayRef<TileBlock> blocks) {
    const TileMatrices inputs(channels, grid, input.options());
    const TileMatrices gradients(out_channels, grid, input.options());
    double beta = 0;
    for (const TileBlock& block : blocks) {
      transform_inputs(input, grid, block, inputs.pointers());
      transform_output_gradients(output_gradient, grid, block, gradients.pointers());
      const int64_t tiles = block.num_tiles(grid);
      for_places(grid, [&](int64_t place) {
        at::Tensor sum = sums[part][place];
        add_matrix_product(sum, gradients.matrix(place, tiles), inputs.matrix(place, tiles).t(),
                           beta);
      });
      beta = 1;
    }
  });
  // G^T [.] G of every pair of channels.
  const at::Tensor transform = filter_transform(grid).to(input.options());
  const at::Tensor sum = sums.size(0) == 1 ? sums[0] : sums.sum(0);
  return transform.t()
      .mm(sum.view({grid.places(), -1}))
      .t()
      .reshape({out_channels, channels, 3, 3});
}

}  // namespace curvature::detail
