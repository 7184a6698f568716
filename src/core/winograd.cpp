#include "core/winograd.hpp"

#include <algorithm>
#include <array>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/kron.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include "core/matrix_product.hpp"
#include "core/winograd_tiles.hpp"

namespace curvature::detail {
namespace {

/// One matrix for each of the 16 places in a tile.
using Matrices = std::array<at::Tensor, kPlaces>;

/// (G x G) `[16, 9]`: from a kernel, row by row, to the 16 factors of its tiles.
at::Tensor filter_transform(const at::TensorOptions& options) {
  const at::Tensor g = at::tensor({1.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, -0.5, 0.5, 0.0, 0.0, 1.0});
  return at::kron(g.view({4, 3}), g.view({4, 3})).to(options);
}

/// G w G^T `[O, C]` place by place.
Matrices transformed(const at::Tensor& weight, const at::Tensor& transform) {
  const at::Tensor all = transform.mm(weight.reshape({-1, 9}).t());
  Matrices matrices;
  for (int64_t place = 0; place < kPlaces; ++place) {
    matrices[place] = all[place].view({weight.size(0), weight.size(1)});
  }
  return matrices;
}

/// `[channels, tiles]` place by place. Places begin an odd number of cache lines apart, since what
/// is written for one tile would otherwise meet in one set of the cache.
class TileMatrices {
 public:
  TileMatrices(int64_t channels, int64_t most_tiles, const at::TensorOptions& options)
      : channels_(channels),
        apart_((channels * most_tiles / kLine | 1) * kLine + 2 * kLine),
        memory_(at::empty({kPlaces * apart_}, options)) {}

  [[nodiscard]] TilePointers pointers() const {
    TilePointers pointers;
    for (int64_t place = 0; place < kPlaces; ++place) {
      pointers[place] = memory_.mutable_data_ptr<float>() + place * apart_;
    }
    return pointers;
  }
  [[nodiscard]] at::Tensor matrix(int64_t place, int64_t tiles) const {
    return memory_.narrow(0, place * apart_, channels_ * tiles).view({channels_, tiles});
  }

 private:
  static constexpr int64_t kLine = 16;
  int64_t channels_, apart_;
  at::Tensor memory_;
};

/// sum over terms of (filters of the term) (tiles of its input), turned into outputs.
at::Tensor convolve(const std::vector<at::Tensor>& inputs, const std::vector<Matrices>& filters,
                    const std::optional<at::Tensor>& bias, at::IntArrayRef padding) {
  const at::Tensor& input = inputs.front();
  const int64_t out_channels = filters.front()[0].size(0);
  const TileGrid grid(input.sizes(), out_channels, padding);
  at::Tensor output =
      at::empty({input.size(0), out_channels, grid.height(), grid.width()}, input.options());
  const TileMatrices tiles(input.size(1), grid.most_tiles(), input.options());
  for (const TileBlock& block : grid.blocks()) {
    Matrices products;
    for (size_t term = 0; term < inputs.size(); ++term) {
      transform_inputs(inputs[term], grid, block, tiles.pointers());
      for (int64_t place = 0; place < kPlaces; ++place) {
        const at::Tensor matrix = tiles.matrix(place, block.num_tiles(grid));
        if (term == 0) {
          products[place] = matrix_product(filters[term][place], matrix);
        } else {
          add_matrix_product(products[place], filters[term][place], matrix);
        }
      }
    }
    TilePointers pointers;
    for (int64_t place = 0; place < kPlaces; ++place) {
      pointers[place] = products[place].mutable_data_ptr<float>();
    }
    transform_outputs(pointers, grid, block, bias, output);
  }
  return output;
}

}  // namespace

bool is_for_winograd(const at::Tensor& input, const at::Tensor& weight,
                     const std::optional<at::Tensor>& bias, const ConvolutionShape& shape) {
  // Measured without AVX-512. With it oneDNN's convolutions are three times as fast, and
  // transforms, which are passes over memory, pay with more channels only.
  const int64_t fewest_channels = has_avx512() ? 192 : 64;
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
         std::min(weight.size(0), weight.size(1)) >= fewest_channels &&
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
  const at::Tensor transform = filter_transform(terms.front().input.options());
  std::vector<at::Tensor> inputs;
  std::vector<Matrices> matrices;
  for (const auto& [input, weight] : terms) {
    inputs.push_back(input);
    matrices.push_back(transformed(weight, transform));
  }
  return convolve(inputs, matrices, bias, padding);
}

at::Tensor winograd_input_gradient(const at::Tensor& output_gradient, const at::Tensor& weight,
                                   at::IntArrayRef padding) {
  const at::NoGradGuard no_grad;
  // A convolution with the kernels turned around, from outputs to inputs.
  Matrices turned = transformed(weight, filter_transform(weight.options()).flip(1));
  for (at::Tensor& matrix : turned) matrix = matrix.t();
  return convolve({output_gradient}, {turned}, std::nullopt,
                  {2 - padding.front(), 2 - padding.back()});
}

at::Tensor winograd_weight_gradient(const at::Tensor& output_gradient, const at::Tensor& input,
                                    at::IntArrayRef padding) {
  const at::NoGradGuard no_grad;
  const int64_t out_channels = output_gradient.size(1), channels = input.size(1);
  const TileGrid grid(input.sizes(), out_channels, padding);
  const TileMatrices inputs(channels, grid.most_tiles(), input.options());
  const TileMatrices gradients(out_channels, grid.most_tiles(), input.options());
  Matrices sums;
  for (const TileBlock& block : grid.blocks()) {
    transform_inputs(input, grid, block, inputs.pointers());
    transform_output_gradients(output_gradient, grid, block, gradients.pointers());
    const int64_t tiles = block.num_tiles(grid);
    for (int64_t place = 0; place < kPlaces; ++place) {
      const at::Tensor a = gradients.matrix(place, tiles), b = inputs.matrix(place, tiles).t();
      if (sums[place].defined()) {
        add_matrix_product(sums[place], a, b);
      } else {
        sums[place] = matrix_product(a, b);
      }
    }
  }
  // G^T [.] G of every pair of channels.
  const at::Tensor all = at::stack(at::TensorList(sums)).view({kPlaces, -1});
  return all.t().mm(filter_transform(input.options())).view({out_channels, channels, 3, 3});
}

}  // namespace curvature::detail
