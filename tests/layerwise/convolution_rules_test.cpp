#include <torch/torch.h>

#include "layerwise/rules.hpp"

BOOST_AUTO_TEST_SUITE(convolution_rules_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

struct Window {
  Shape kernel, stride, dilation, begin, end;
};

/// Patches of `[C, ...]` at every output position, `[S, C * kernel]`, entry by entry.
at::Tensor hand_patches(const at::Tensor& x, const Window& window) {
  Shape amounts;
  for (size_t i = window.kernel.size(); i-- > 0;) {
    amounts.push_back(window.begin[i]);
    amounts.push_back(window.end[i]);
  }
  const at::Tensor padded = at::constant_pad_nd(x, amounts).contiguous();
  const size_t axes = window.kernel.size();
  const auto count = [](const Shape& extents) { return c10::multiply_integers(extents); };
  const auto digits = [&](int64_t number, const Shape& extents) {
    Shape result(extents.size());
    for (size_t i = extents.size(); i-- > 0;) {
      result[i] = number % extents[i];
      number /= extents[i];
    }
    return result;
  };
  Shape out;
  for (size_t i = 0; i < axes; ++i) {
    const int64_t extent = window.dilation[i] * (window.kernel[i] - 1) + 1;
    out.push_back((padded.size(static_cast<int64_t>(i) + 1) - extent) / window.stride[i] + 1);
  }
  std::vector<int64_t> positions;
  for (int64_t s = 0; s < count(out); ++s) {
    const Shape at = digits(s, out);
    for (int64_t channel = 0; channel < padded.size(0); ++channel) {
      for (int64_t k = 0; k < count(window.kernel); ++k) {
        const Shape offset = digits(k, window.kernel);
        int64_t position = channel;
        for (size_t i = 0; i < axes; ++i) {
          position = position * padded.size(static_cast<int64_t>(i) + 1) +
                     at[i] * window.stride[i] + offset[i] * window.dilation[i];
        }
        positions.push_back(position);
      }
    }
  }
  return padded.reshape(-1).index_select(0, at::tensor(positions)).view({count(out), -1});
}

/// `[C, ...]` to `[outputs, S]`, each group a layer.
at::Tensor hand_convolution(Tape& tape, const at::Tensor& x, const at::Tensor& w,
                            const at::Tensor& b, const Window& window, int64_t groups) {
  TensorList outputs;
  const TensorList channels = x.chunk(groups), weights = w.chunk(groups);
  for (size_t i = 0; i < channels.size(); ++i) {
    const at::Tensor rows = hand_patches(channels[i], window), kernel = weights[i].flatten(1);
    const std::string name = "group " + std::to_string(i);
    const at::Tensor bias = b.defined() ? b.chunk(groups)[i] : at::Tensor();
    outputs.push_back(tape.linear(name, rows, kernel, bias).t());
  }
  return at::cat(outputs);
}

BlocksByHand group_blocks(int64_t groups, bool has_bias) {
  return [=](ParameterIndex& index) {
    std::map<std::string, BlockIndex> blocks;
    for (int64_t i = 0; i < groups; ++i) {
      const auto part = static_cast<size_t>(i);
      const at::Tensor w = index["weight"].chunk(groups)[part];
      blocks["group " + std::to_string(i)] =
          has_bias ? joint(w, index["bias"].chunk(groups)[part]) : matrix(w);
    }
    return blocks;
  };
}

template <int64_t kAxes>
auto convolution(torch::nn::ConvOptions<kAxes> options, uint64_t seed) {
  if constexpr (kAxes == 1) return seeded(torch::nn::Conv1d(options), seed);
  if constexpr (kAxes == 2) return seeded(torch::nn::Conv2d(options), seed);
  if constexpr (kAxes == 3) return seeded(torch::nn::Conv3d(options), seed);
}

/// Padding that the module does before it convolves is done by hand with `pad_input`.
template <int64_t kAxes>
void add_convolution(std::vector<LayerCase>& all, const std::string& name,
                     torch::nn::ConvOptions<kAxes> options, at::IntArrayRef shape, Window window,
                     Head kind = Head::kOneTerm,
                     const std::function<at::Tensor(const at::Tensor&)>& pad_input = {}) {
  auto module = convolution<kAxes>(options, 20);
  const bool has_bias = options.bias();
  const int64_t groups = options.groups();
  const auto pixels_last = [kind](const at::Tensor& y) {  // [N, C, ...], for terms of positions
    return kind == Head::kOneTerm ? y.flatten(2) : y.flatten(2).transpose(1, 2);
  };
  all.push_back(make_case(
      name, named(module),
      [=](const TensorList& x) mutable { return pixels_last(module->forward(x[0])); },
      [=](Tape& t, const TensorList& x) {
        const at::Tensor padded = pad_input ? pad_input(x[0].unsqueeze(0)).squeeze(0) : x[0];
        const at::Tensor y =
            hand_convolution(t, padded, module->weight, module->bias, window, groups);
        return pixels_last(y.unsqueeze(0)).squeeze(0);
      },
      group_blocks(groups, has_bias), {numbers(shape, 21)}, kind));
}

void add_convolutions(std::vector<LayerCase>& all) {
  using O1 = torch::nn::Conv1dOptions;
  using O2 = torch::nn::Conv2dOptions;
  using O3 = torch::nn::Conv3dOptions;
  namespace F = torch::nn::functional;
  add_convolution<1>(all, "convolution 1-d", O1(2, 3, 3), {4, 2, 6}, {{3}, {1}, {1}, {0}, {0}});
  add_convolution<1>(all, "convolution 1-d, kernel as long as the input", O1(2, 3, 4), {5, 2, 4},
                     {{4}, {1}, {1}, {0}, {0}});
  add_convolution<1>(all, "convolution 1-d, stride, padding, dilation",
                     O1(2, 2, 3).stride(2).padding(2).dilation(2), {4, 2, 7},
                     {{3}, {2}, {2}, {2}, {2}});
  add_convolution<1>(all, "convolution 1-d, same padding of an even kernel",
                     O1(2, 2, 4).padding(torch::kSame), {4, 2, 5}, {{4}, {1}, {1}, {1}, {2}});
  add_convolution<1>(all, "convolution 1-d, a term per pixel", O1(2, 3, 2), {4, 2, 4},
                     {{2}, {1}, {1}, {0}, {0}}, Head::kPositions);
  add_convolution<2>(all, "convolution 2-d", O2(2, 3, 3), {4, 2, 5, 4},
                     {{3, 3}, {1, 1}, {1, 1}, {0, 0}, {0, 0}});
  add_convolution<2>(all, "convolution 2-d, without bias", O2(2, 3, {2, 3}).bias(false),
                     {4, 2, 4, 4}, {{2, 3}, {1, 1}, {1, 1}, {0, 0}, {0, 0}});
  add_convolution<2>(all, "convolution 2-d, stride, padding, dilation, all unequal",
                     O2(2, 2, {3, 2}).stride({2, 1}).padding({2, 1}).dilation({1, 2}), {4, 2, 5, 4},
                     {{3, 2}, {2, 1}, {1, 2}, {2, 1}, {2, 1}});
  add_convolution<2>(all, "convolution 2-d, same padding", O2(2, 2, {2, 3}).padding(torch::kSame),
                     {4, 2, 3, 4}, {{2, 3}, {1, 1}, {1, 1}, {0, 1}, {1, 1}});
  add_convolution<2>(all, "convolution 2-d, same padding with dilation",
                     O2(1, 2, {2, 3}).padding(torch::kSame).dilation({3, 2}), {4, 1, 5, 5},
                     {{2, 3}, {1, 1}, {3, 2}, {1, 2}, {2, 2}});
  add_convolution<2>(all, "convolution 2-d, valid padding", O2(2, 2, 2).padding(torch::kValid),
                     {4, 2, 3, 3}, {{2, 2}, {1, 1}, {1, 1}, {0, 0}, {0, 0}});
  add_convolution<2>(all, "convolution 2-d, circular padding",
                     O2(2, 2, 3).padding(1).padding_mode(torch::kCircular), {4, 2, 5, 5},
                     {{3, 3}, {1, 1}, {1, 1}, {0, 0}, {0, 0}}, Head::kOneTerm,
                     [](const at::Tensor& x) {
                       return F::pad(x, F::PadFuncOptions({1, 1, 1, 1}).mode(torch::kCircular));
                     });
  add_convolution<2>(all, "convolution 2-d, reflected padding",
                     O2(2, 2, 3).padding(1).padding_mode(torch::kReflect), {4, 2, 3, 4},
                     {{3, 3}, {1, 1}, {1, 1}, {0, 0}, {0, 0}}, Head::kOneTerm,
                     [](const at::Tensor& x) {
                       return F::pad(x, F::PadFuncOptions({1, 1, 1, 1}).mode(torch::kReflect));
                     });
  add_convolution<2>(all, "convolution 2-d, groups", O2(4, 6, 2).groups(2).padding(1), {5, 4, 3, 3},
                     {{2, 2}, {1, 1}, {1, 1}, {1, 1}, {1, 1}});
  add_convolution<2>(all, "convolution 2-d, depthwise", O2(3, 6, 2).groups(3).stride(2),
                     {5, 3, 4, 4}, {{2, 2}, {2, 2}, {1, 1}, {0, 0}, {0, 0}});
  add_convolution<2>(all, "convolution 2-d, a term per pixel", O2(2, 2, 2), {4, 2, 3, 3},
                     {{2, 2}, {1, 1}, {1, 1}, {0, 0}, {0, 0}}, Head::kPositions);
  add_convolution<3>(all, "convolution 3-d", O3(1, 2, {2, 1, 2}).padding({1, 0, 0}),
                     {4, 1, 3, 2, 3}, {{2, 1, 2}, {1, 1, 1}, {1, 1, 1}, {1, 0, 0}, {1, 0, 0}});
  add_convolution<3>(all, "convolution 3-d, stride, dilation, groups",
                     O3(2, 2, 2).stride({1, 2, 1}).dilation({2, 1, 1}).groups(2), {4, 2, 3, 4, 3},
                     {{2, 2, 2}, {1, 2, 1}, {2, 1, 1}, {0, 0, 0}, {0, 0, 0}});
}

// ---------------------------------------------------------------------------------------------
// Transposed convolutions

/// What each output of a transposed convolution sees of `[C, ...]`, `[S, C * kernel]`, entry by
/// entry: pixel i goes to output i * stride + k * dilation - padding. Here `end` is the padding of
/// the output.
at::Tensor hand_transposed_patches(const at::Tensor& x, const Window& window) {
  const size_t axes = window.kernel.size();
  Shape out;
  for (size_t i = 0; i < axes; ++i) {
    out.push_back((x.size(static_cast<int64_t>(i) + 1) - 1) * window.stride[i] -
                  2 * window.begin[i] + window.dilation[i] * (window.kernel[i] - 1) +
                  window.end[i] + 1);
  }
  const int64_t channels = x.size(0), kernel = c10::multiply_integers(window.kernel);
  const at::Tensor pixels = x.contiguous().view({channels, -1});
  const at::Tensor rows = at::zeros({c10::multiply_integers(out), channels, kernel}, x.options());
  for (int64_t pixel = 0; pixel < pixels.size(1); ++pixel) {
    for (int64_t k = 0; k < kernel; ++k) {
      int64_t row = 0, pixel_digits = pixel, kernel_digits = k, weight = 1;
      bool inside = true;
      for (size_t i = axes; i-- > 0;) {
        const int64_t extent = x.size(static_cast<int64_t>(i) + 1);
        const int64_t j = pixel_digits % extent * window.stride[i] +
                          kernel_digits % window.kernel[i] * window.dilation[i] - window.begin[i];
        inside = inside && 0 <= j && j < out[i];
        row += j * weight;
        weight *= out[i];
        pixel_digits /= extent;
        kernel_digits /= window.kernel[i];
      }
      if (inside) rows.select(2, k)[row] += pixels.select(1, pixel);
    }
  }
  return rows.view({rows.size(0), -1});
}

template <int64_t kAxes>
auto transposed_convolution(torch::nn::ConvTransposeOptions<kAxes> options, uint64_t seed) {
  if constexpr (kAxes == 1) return seeded(torch::nn::ConvTranspose1d(options), seed);
  if constexpr (kAxes == 2) return seeded(torch::nn::ConvTranspose2d(options), seed);
  if constexpr (kAxes == 3) return seeded(torch::nn::ConvTranspose3d(options), seed);
}

void add_transposed(std::vector<LayerCase>& all, const std::string& name, const at::Tensor& weight,
                    const at::Tensor& bias, const Layer& layer, at::IntArrayRef shape,
                    const Window& window, int64_t groups, Head kind) {
  std::vector<NamedTensor> parameters = {{"weight", weight}};
  if (bias.defined()) parameters.push_back({"bias", bias});
  const auto pixels_last = [kind](const at::Tensor& y) {  // [N, C, ...], for terms of positions
    return kind == Head::kOneTerm ? y.flatten(2) : y.flatten(2).transpose(1, 2);
  };
  all.push_back(make_case(
      name, parameters, [=](const TensorList& x) { return pixels_last(layer(x)); },
      [=](Tape& t, const TensorList& x) {
        TensorList outputs;
        for (int64_t i = 0; i < groups; ++i) {
          const auto part = static_cast<size_t>(i);
          const at::Tensor rows = hand_transposed_patches(x[0].chunk(groups)[part], window);
          const at::Tensor kernel = weight.chunk(groups)[part].transpose(0, 1).flatten(1);
          const at::Tensor b = bias.defined() ? bias.chunk(groups)[part] : at::Tensor();
          outputs.push_back(t.linear("group " + std::to_string(i), rows, kernel, b).t());
        }
        return pixels_last(at::cat(outputs).unsqueeze(0)).squeeze(0);
      },
      [groups, has_bias = bias.defined()](ParameterIndex& index) {
        std::map<std::string, BlockIndex> blocks;
        for (int64_t i = 0; i < groups; ++i) {
          const auto part = static_cast<size_t>(i);
          const at::Tensor w = index["weight"].chunk(groups)[part].transpose(0, 1);
          blocks["group " + std::to_string(i)] =
              has_bias ? joint(w, index["bias"].chunk(groups)[part]) : matrix(w);
        }
        return blocks;
      },
      {numbers(shape, 22)}, kind));
}

/// Of a module.
template <int64_t kAxes>
void add_transposed(std::vector<LayerCase>& all, const std::string& name,
                    torch::nn::ConvTransposeOptions<kAxes> options, at::IntArrayRef shape,
                    Head kind = Head::kOneTerm) {
  auto module = transposed_convolution<kAxes>(options, 23);
  const auto values = [](const auto& array) { return at::IntArrayRef(*array).vec(); };
  const Window window{values(options.kernel_size()), values(options.stride()),
                      values(options.dilation()), values(options.padding()),
                      values(options.output_padding())};
  add_transposed(
      all, "transposed convolution " + name, module->weight, module->bias,
      [=](const TensorList& x) mutable { return module->forward(x[0]); }, shape, window,
      options.groups(), kind);
}

/// Kernels as long as the stride are padded: if all entries saw each pixel once, A would have equal
/// eigenvalues and EK-FAC no unique basis.
void add_transposed_convolutions(std::vector<LayerCase>& all) {
  using O1 = torch::nn::ConvTransposeOptions<1>;
  using O2 = torch::nn::ConvTransposeOptions<2>;
  using O3 = torch::nn::ConvTransposeOptions<3>;
  add_transposed<1>(all, "1-d", O1(2, 3, 3), {4, 2, 4});
  add_transposed<1>(all, "1-d, without bias", O1(3, 2, 2).bias(false), {4, 3, 3});
  add_transposed<1>(all, "1-d, stride, padding, output padding",
                    O1(2, 2, 3).stride(2).padding(1).output_padding(1), {4, 2, 4});
  add_transposed<1>(all, "1-d, stride beyond the kernel", O1(2, 2, 2).stride(3).padding(1),
                    {4, 2, 3});
  add_transposed<1>(all, "1-d, padding beyond the kernel",
                    O1(2, 2, 2).stride(3).padding(3).output_padding(2), {4, 2, 4});
  add_transposed<1>(all, "1-d, all but the zeros between pixels is cut off",
                    O1(2, 2, 1).stride(3).padding(1).output_padding(2), {4, 2, 1});
  add_transposed<1>(all, "1-d, a term per pixel", O1(2, 3, 2), {4, 2, 3}, Head::kPositions);
  add_transposed<2>(all, "2-d", O2(2, 3, 3), {4, 2, 3, 2});
  add_transposed<2>(
      all, "2-d, all unequal",
      O2(2, 2, {3, 2}).stride({2, 3}).padding({2, 1}).output_padding({1, 2}).dilation({1, 2}),
      {4, 2, 3, 2});
  add_transposed<2>(all, "2-d, stride and dilation share a factor",
                    O2(1, 2, 2).stride({4, 2}).dilation({2, 4}).padding(1), {4, 1, 2, 3});
  add_transposed<2>(all, "2-d, groups", O2(4, 6, 2).groups(2).padding(1), {5, 4, 3, 3});
  add_transposed<2>(all, "2-d, depthwise", O2(3, 6, 3).groups(3).stride(2).padding(1),
                    {5, 3, 2, 2});
  add_transposed<3>(all, "3-d", O3(1, 2, {2, 1, 2}).padding({1, 0, 0}), {4, 1, 3, 2, 2});
  add_transposed<3>(all, "3-d, stride, output padding, dilation, groups",
                    O3(2, 2, 2)
                        .stride({1, 2, 2})
                        .padding({0, 1, 1})
                        .output_padding({0, 1, 0})
                        .dilation({2, 1, 1})
                        .groups(2),
                    {4, 2, 2, 2, 2});
  // Three pixels wide: with two no output would see both columns of the kernel, each eigenvalue of
  // A would occur twice, and the basis of EK-FAC would not be unique.
  const at::Tensor w = parameter({2, 3, 2, 2}, 24), b = parameter({3}, 25);
  add_transposed(
      all, "transposed convolution, as the general one", w, b,
      [=](const TensorList& x) {
        return at::convolution(x[0], w, b, {2, 1}, {1, 0}, {1, 2}, /*transposed=*/true, {1, 0}, 1);
      },
      {4, 2, 3, 3}, {{2, 2}, {2, 1}, {1, 2}, {1, 0}, {1, 0}}, 1, Head::kOneTerm);
}

std::vector<LayerCase> cases() {
  std::vector<LayerCase> all;
  add_convolutions(all);
  add_transposed_convolutions(all);
  return all;
}

}  // namespace

CURVATURE_LAYER_RULE_CASES(cases)

BOOST_AUTO_TEST_SUITE_END()
