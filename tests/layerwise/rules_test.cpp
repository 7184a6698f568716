#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include "layerwise/reference.hpp"

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_SUITE(rules_test)

namespace {

using Layer = std::function<at::Tensor(const TensorList&)>;
using HandLayer = std::function<at::Tensor(Tape&, const TensorList&)>;
using Blocks = std::function<std::map<std::string, BlockIndex>(ParameterIndex&)>;

/// How the layer's output becomes loss terms.
enum class Head {
  kOneTerm,    ///< a fixed nonlinear map of all of it: positions interact
  kPositions,  ///< a term for each position, each seen by its own
  kMixed,      ///< a term for each position, each seen by all
};

at::Tensor head(Head kind, const at::Tensor& y) {  // y [N, ...]
  const at::Tensor h = y.tanh();
  if (kind == Head::kOneTerm) return h.flatten(1).matmul(numbers({h[0].numel(), 3}, 900));
  const at::Tensor each = h.flatten(1, -2).matmul(numbers({h.size(-1), 3}, 901));
  if (kind == Head::kPositions) return each;
  return numbers({each.size(1), each.size(1)}, 902).matmul(each);
}

/// `layer` maps the batch to `[N, ...]`, `by_hand` an example to the same without N.
LayerCase make_case(std::string name, std::vector<NamedTensor> parameters, const Layer& layer,
                    const HandLayer& by_hand, Blocks blocks, TensorList inputs,
                    Head kind = Head::kOneTerm, bool classifies = false) {
  const Model model([=](const TensorList& x) { return head(kind, layer(x)); }, parameters);
  const at::Tensor output = model(inputs).detach();
  at::Tensor targets = numbers(output.sizes(), 903);
  if (classifies) targets = targets.argmax(-1);
  const auto hand = [=](Tape& tape, const TensorList& x) {
    return head(kind, by_hand(tape, x).unsqueeze(0)).squeeze(0);
  };
  return {std::move(name), model, hand, std::move(blocks), std::move(inputs), targets, classifies};
}

template <class Module>
std::vector<NamedTensor> named(const Module& module) {
  std::vector<NamedTensor> result;
  for (const auto& item : module->named_parameters()) result.push_back({item.key(), item.value()});
  return result;
}

const Blocks kJoint = [](ParameterIndex& i) {
  return std::map<std::string, BlockIndex>{{"layer", joint(i["weight"], i["bias"])}};
};
const Blocks kWeight = [](ParameterIndex& i) {
  return std::map<std::string, BlockIndex>{{"layer", matrix(i["weight"])}};
};
const Blocks kWeightTransposed = [](ParameterIndex& i) {
  return std::map<std::string, BlockIndex>{{"layer", matrix(i["weight"].t())}};
};
const Blocks kScaleAndShift = [](ParameterIndex& i) {
  return std::map<std::string, BlockIndex>{{"scale", column(i["weight"])},
                                           {"shift", column(i["bias"])}};
};

// ---------------------------------------------------------------------------------------------
// Linear layers

void add_linear(std::vector<LayerCase>& all) {
  const at::Tensor w = parameter({2, 3}, 1), b = parameter({2}, 2), v = parameter({3, 2}, 3);
  const std::vector<NamedTensor> both = {{"weight", w}, {"bias", b}};
  const Layer layer = [=](const TensorList& x) { return at::linear(x[0], w, b); };
  const HandLayer hand = [=](Tape& t, const TensorList& x) {
    const at::Tensor y = t.linear("layer", x[0].reshape({-1, 3}), w, b);
    Shape shape = x[0].sizes().vec();
    shape.back() = 2;
    return y.reshape(shape);
  };
  const auto plain = [&](const std::string& name, const Layer& f, at::IntArrayRef shape,
                         Head kind = Head::kOneTerm, bool classifies = false) {
    all.push_back(make_case(name, both, f, hand, kJoint, {numbers(shape, 4)}, kind, classifies));
  };
  plain("linear", layer, {5, 3});
  plain("linear, labels", layer, {5, 3}, Head::kOneTerm, true);
  plain("linear, one leading axis", layer, {4, 3, 3});
  plain("linear, two leading axes", layer, {3, 2, 2, 3});
  plain("linear, a term per position", layer, {4, 3, 3}, Head::kPositions);
  plain("linear, a label per position", layer, {4, 3, 3}, Head::kPositions, true);
  plain("linear, terms interact", layer, {4, 3, 3}, Head::kMixed);
  plain("linear, labels interact", layer, {4, 3, 3}, Head::kMixed, true);
  plain("linear, merged axes",
        [=](const TensorList& x) {
          return at::linear(x[0].reshape({-1, 3}), w, b).view({-1, x[0].size(1), 2});
        },
        {4, 3, 3});
  const Layer sequence_first = [=](const TensorList& x) {
    return at::linear(x[0].transpose(0, 1), w, b).transpose(0, 1);
  };
  plain("linear, sequence first", sequence_first, {4, 3, 3});
  plain("linear, sequence first, as long as a batch", sequence_first, {6, 4, 3});
  plain("linear, sequence first, twice a batch", sequence_first, {6, 8, 3});
  plain("linear, activation in place",
        [=](const TensorList& x) { return at::linear(x[0], w, b).mul_(2).sigmoid_(); }, {4, 3, 3});
  all.back().by_hand = [hand](Tape& t, const TensorList& x) {
    return head(Head::kOneTerm, (2 * hand(t, x)).sigmoid().unsqueeze(0)).squeeze(0);
  };
  plain("addmm", [=](const TensorList& x) { return at::addmm(b, x[0], w.t()); }, {5, 3});
  plain("expanded and permuted weight views",
        [=](const TensorList& x) { return at::linear(x[0], w.t().t(), b); }, {5, 3});

  all.push_back(make_case(
      "linear without bias", {{"weight", w}},
      [=](const TensorList& x) { return at::linear(x[0], w); },
      [=](Tape& t, const TensorList& x) { return t.linear("layer", x[0], w); }, kWeight,
      {numbers({4, 3, 3}, 5)}));
  for (const bool merged : {false, true}) {
    all.push_back(make_case(
        merged ? "mm with W" : "matmul with W", {{"weight", v}},
        [=](const TensorList& x) {
          return merged ? x[0].reshape({-1, 3}).mm(v).view({-1, 2, 2}) : x[0].matmul(v);
        },
        [=](Tape& t, const TensorList& x) { return t.linear("layer", x[0], v.t()); },
        kWeightTransposed, {numbers({4, 2, 3}, 6)}));
  }
  all.push_back(make_case(
      "addmm with W", {{"weight", v}, {"bias", b}},
      [=](const TensorList& x) { return at::addmm(b, x[0], v); },
      [=](Tape& t, const TensorList& x) {
        return t.linear("layer", x[0].unsqueeze(0), v.t(), b).squeeze(0);
      },
      [](ParameterIndex& i) {
        return std::map<std::string, BlockIndex>{{"layer", joint(i["weight"].t(), i["bias"])}};
      },
      {numbers({5, 3}, 7)}));
  all.push_back(make_case(
      "mm with W^T, then plus b", both, [=](const TensorList& x) { return x[0].mm(w.t()) + b; },
      [=](Tape& t, const TensorList& x) {
        return t.linear("layer", x[0].unsqueeze(0), w, b).squeeze(0);
      },
      kJoint, {numbers({5, 3}, 8)}));
  // The product is used a second time, without the bias: one layer with two uses.
  const at::Tensor product_bias = parameter({2}, 31);
  all.push_back(make_case(
      "mm with W^T, then plus b, and a second use of W", {{"weight", w}, {"bias", product_bias}},
      [=](const TensorList& x) {
        return (x[0].mm(w.t()) + product_bias).tanh() + x[0].square().mm(w.t());
      },
      [=](Tape& t, const TensorList& x) {
        const at::Tensor row = x[0].unsqueeze(0), square = row.square();
        const at::Tensor without = at::cat({square, at::zeros({1, 1}, square.options())}, 1);
        return (t.linear("layer", row, w, product_bias).tanh() +
                t.use("layer", without, square.matmul(w.t())))
            .squeeze(0);
      },
      kJoint, {numbers({5, 3}, 32)}));
  auto module = seeded(torch::nn::Linear(3, 2), 22);
  for (const bool sequence : {false, true}) {  // over more axes it is a product and a sum in place
    all.push_back(make_case(
        sequence ? "module over a sequence, then ReLU in place" : "module, then ReLU in place",
        named(module), [=](const TensorList& x) mutable { return module->forward(x[0]).relu_(); },
        [=](Tape& t, const TensorList& x) {
          const at::Tensor rows = sequence ? x[0] : x[0].unsqueeze(0);
          const at::Tensor y = t.linear("layer", rows, module->weight, module->bias).relu();
          return sequence ? y : y.squeeze(0);
        },
        kJoint, {sequence ? numbers({4, 2, 3}, 23) : numbers({6, 3}, 23)}));
  }
  const at::Tensor frozen = numbers({2, 3}, 9);
  all.push_back(make_case(
      "frozen weight", {{"weight", frozen}, {"bias", b}},
      [=](const TensorList& x) { return at::linear(x[0], frozen, b); },
      [=](Tape& t, const TensorList& x) { return t.shift("layer", x[0].matmul(frozen.t()), b); },
      [](ParameterIndex& i) {
        return std::map<std::string, BlockIndex>{{"layer", column(i["bias"])}};
      },
      {numbers({4, 2, 3}, 10)}));
  all.push_back(make_case("unused parameter",
                          {{"weight", w}, {"spare", parameter({2, 2}, 11)}, {"bias", b}}, layer,
                          hand, kJoint, {numbers({4, 2, 3}, 12)}));

  const at::Tensor square = parameter({3, 3}, 13), c = parameter({3}, 14);
  all.push_back(make_case(
      "weight used twice", {{"weight", square}, {"bias", c}},
      [=](const TensorList& x) {
        return at::linear(at::linear(x[0], square, c).tanh(), square, c);
      },
      [=](Tape& t, const TensorList& x) {
        return t.linear("layer", t.linear("layer", x[0], square, c).tanh(), square, c);
      },
      kJoint, {numbers({4, 2, 3}, 15)}));
  all.push_back(make_case(
      "weight used at different lengths", {{"weight", square}, {"bias", c}},
      [=](const TensorList& x) {
        return at::linear(at::linear(x[0], square, c).tanh().sum(1), square, c);
      },
      [=](Tape& t, const TensorList& x) {
        const at::Tensor h = t.linear("layer", x[0], square, c).tanh().sum(0, true);
        return t.linear("layer", h, square, c).squeeze(0);
      },
      kJoint, {numbers({4, 2, 3}, 16)}));
  const at::Tensor one = parameter({1, 1}, 17), shift = parameter({1}, 18);
  all.push_back(make_case(
      "one input and one output", {{"weight", one}, {"bias", shift}},
      [=](const TensorList& x) { return at::linear(x[0], one, shift); },
      [=](Tape& t, const TensorList& x) { return t.linear("layer", x[0], one, shift); }, kJoint,
      {numbers({4, 3, 1}, 19)}));
}

// ---------------------------------------------------------------------------------------------
// Convolutions

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

Blocks group_blocks(int64_t groups, bool has_bias) {
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

// ---------------------------------------------------------------------------------------------
// Embeddings, norms, scale and shift

at::Tensor standardized(const at::Tensor& x, at::IntArrayRef axes) {
  const at::Tensor centred = x - x.mean(axes, true);
  return centred / (centred.square().mean(axes, true) + 1e-5).sqrt();
}

void add_others(std::vector<LayerCase>& all) {
  for (const int64_t padding : {-1, 2}) {
    auto module = seeded(
        padding < 0 ? torch::nn::Embedding(5, 3)
                    : torch::nn::Embedding(torch::nn::EmbeddingOptions(5, 3).padding_idx(padding)),
        30);
    const at::Tensor tokens = ((numbers({6, 4}, 31) + 1) * 2.5).floor().to(at::kLong);
    all.push_back(make_case(
        padding < 0 ? "embedding" : "embedding, padding", named(module),
        [=](const TensorList& x) mutable { return module->forward(x[0]); },
        [=](Tape& t, const TensorList& x) {
          const at::Tensor one_hot = at::one_hot(x[0], 5).to(at::kDouble);
          at::Tensor learning = one_hot.clone();  // the row of padding gets no gradient
          if (padding >= 0) learning.select(1, padding).zero_();
          return t.use("layer", learning, one_hot.matmul(module->weight));
        },
        kWeightTransposed, {tokens}));
  }
  const at::Tensor w = parameter({3}, 32), b = parameter({3}, 33);
  const std::vector<NamedTensor> both = {{"weight", w}, {"bias", b}};
  const HandLayer affine = [=](Tape& t, const TensorList& x) {
    return t.shift("shift", t.scale("scale", standardized(x[0], {-1}), w), b);
  };
  const Layer layer_norm = [=](const TensorList& x) { return at::layer_norm(x[0], {3}, w, b); };
  all.push_back(
      make_case("layer norm", both, layer_norm, affine, kScaleAndShift, {numbers({5, 2, 3}, 34)}));
  all.push_back(make_case("layer norm, a term per position", both, layer_norm, affine,
                          kScaleAndShift, {numbers({5, 2, 3}, 35)}, Head::kPositions));
  all.push_back(make_case("layer norm, sequence first, twice a batch", both,
                          [=](const TensorList& x) {
                            return at::layer_norm(x[0].transpose(0, 1), {3}, w, b).transpose(0, 1);
                          },
                          affine, kScaleAndShift, {numbers({6, 8, 3}, 36)}));
  all.push_back(make_case(
      "layer norm over an example", both,
      [=](const TensorList& x) { return at::layer_norm(x[0], {3}, w, b); },
      [=](Tape& t, const TensorList& x) {
        const at::Tensor row = standardized(x[0], {-1}).unsqueeze(0);
        return t.shift("shift", t.scale("scale", row, w), b).squeeze(0);
      },
      kScaleAndShift, {numbers({5, 3}, 37)}));
  {
    const at::Tensor w2 = parameter({2, 3}, 38), b2 = parameter({2, 3}, 39);
    all.push_back(make_case(
        "layer norm over two axes", {{"weight", w2}, {"bias", b2}},
        [=](const TensorList& x) {
          return at::layer_norm(x[0], {2, 3}, w2, b2);
        },
        [=](Tape& t, const TensorList& x) {
          const at::Tensor rows = standardized(x[0], {-2, -1}).flatten(1);
          return t.shift("shift", t.scale("scale", rows, w2.flatten()), b2.flatten())
              .view(x[0].sizes());
        },
        kScaleAndShift, {numbers({5, 2, 2, 3}, 40)}));
  }
  all.push_back(make_case(
      "RMS norm", {{"weight", w}},
      [=](const TensorList& x) { return at::rms_norm(x[0], {3}, w, 1e-5); },
      [=](Tape& t, const TensorList& x) {
        const at::Tensor root = (x[0].square().mean(-1, true) + 1e-5).sqrt();
        return t.scale("scale", x[0] / root, w);
      },
      [](ParameterIndex& i) {
        return std::map<std::string, BlockIndex>{{"scale", column(i["weight"])}};
      },
      {numbers({5, 2, 3}, 41)}));
  {
    auto module = seeded(torch::nn::GroupNorm(torch::nn::GroupNormOptions(2, 4)), 42);
    all.push_back(make_case(
        "group norm", named(module),
        [=](const TensorList& x) mutable { return module->forward(x[0]); },
        [=](Tape& t, const TensorList& x) {  // [4, 5]
          const at::Tensor rows = standardized(x[0].view({2, -1}), {-1}).view({4, -1}).t();
          return t.shift("shift", t.scale("scale", rows, module->weight), module->bias)
              .t()
              .reshape(x[0].sizes());
        },
        kScaleAndShift, {numbers({5, 4, 2, 2}, 43)}));
  }
  for (const bool flat : {true, false}) {
    auto norm = seeded(torch::nn::BatchNorm1d(3), 44);
    Shape shape = {5, 3};
    if (!flat) shape.push_back(4);
    all.push_back(make_case(
        flat ? "batch norm of rows" : "batch norm of channels", named(norm),
        [=](const TensorList& x) mutable { return norm->forward(x[0]); },
        [=](Tape& t, const TensorList& x) {
          const at::Tensor rows = x[0].view({3, -1}).t();
          const at::Tensor y =
              (rows - norm->running_mean) / (norm->running_var + norm->options.eps()).sqrt();
          return t.shift("shift", t.scale("scale", y, norm->weight), norm->bias)
              .t()
              .reshape(x[0].sizes());
        },
        kScaleAndShift, {numbers(shape, 45)}));
  }
  for (const bool first : {false, true}) {
    all.push_back(make_case(
        first ? "scale times, shift plus" : "times scale, plus shift", both,
        [=](const TensorList& x) { return first ? b + w * x[0] : x[0] * w + b; },
        [=](Tape& t, const TensorList& x) {
          return t.shift("shift", t.scale("scale", x[0], w), b);
        },
        kScaleAndShift, {numbers({5, 2, 3}, 46)}));
  }
}

std::vector<LayerCase> make_cases() {
  std::vector<LayerCase> all;
  add_linear(all);
  add_convolutions(all);
  add_transposed_convolutions(all);
  add_others(all);
  return all;
}

const std::vector<LayerCase>& cases() {
  static const std::vector<LayerCase> all = make_cases();
  return all;
}

struct Flavour {
  std::string name;
  KfacOptions options;
};

std::vector<Flavour> flavours() {
  const RandomSource random(5);
  return {
      {"type-2", {.random = random}},
      {"type-2, reduce",
       {.weight_sharing = WeightSharing::kReduce, .separate_bias = true, .random = random}},
      {"empirical, separate bias",
       {.fisher = Fisher::kEmpirical, .separate_bias = true, .random = random}},
      {"empirical, reduce",
       {.fisher = Fisher::kEmpirical, .weight_sharing = WeightSharing::kReduce, .random = random}},
      {"Monte Carlo", {.fisher = Fisher::kMonteCarlo, .mc_samples = 3, .random = random}},
      {"forward-only", {.fisher = Fisher::kForwardOnly, .random = random}},
      {"forward-only, reduce",
       {.fisher = Fisher::kForwardOnly, .weight_sharing = WeightSharing::kReduce}},
  };
}

const auto each_case = boost::unit_test::data::make(cases());

}  // namespace

BOOST_DATA_TEST_CASE(the_models_by_hand_are_the_models, each_case, layer_case) {
  const at::NoGradGuard no_grad;
  const at::Tensor output = layer_case.model(layer_case.inputs);
  for (int64_t n = 0; n < output.size(0); ++n) {
    Tape tape;
    TensorList example;
    for (const at::Tensor& input : layer_case.inputs) example.push_back(input[n]);
    BOOST_TEST(close(layer_case.by_hand(tape, example), output[n], {1e-12, 1e-12}));
  }
}

BOOST_DATA_TEST_CASE(kfac_is_that_of_the_layers_rows, each_case, layer_case) {
  for (const Flavour& flavour : flavours()) {
    BOOST_TEST_CONTEXT(flavour.name)
    for (const int64_t batch_size : {4, 3, 100}) {
      const EmpiricalRisk risk = layer_case.risk(batch_size);
      const at::Tensor expected = layer_reference(layer_case, risk, flavour.options).kfac;
      BOOST_TEST(close(materialize(*kfac(risk, flavour.options)), expected));
    }
  }
}

BOOST_DATA_TEST_CASE(ekfac_is_that_of_the_layers_rows, each_case, layer_case) {
  for (const Flavour& flavour : flavours()) {
    // With averaged inputs the basis may be blind to directions that gradients have: not unique.
    if (flavour.options.fisher == Fisher::kForwardOnly ||
        flavour.options.weight_sharing == WeightSharing::kReduce) {
      continue;
    }
    BOOST_TEST_CONTEXT(flavour.name)
    for (const int64_t batch_size : {4, 100}) {
      const EmpiricalRisk risk = layer_case.risk(batch_size);
      const at::Tensor expected = layer_reference(layer_case, risk, flavour.options).ekfac;
      BOOST_TEST(close(materialize(*ekfac(risk, flavour.options)), expected));
    }
  }
}

BOOST_DATA_TEST_CASE(sum_and_weights_of_examples_scale_the_blocks, each_case, layer_case) {
  const at::Tensor weights = numbers({layer_case.inputs[0].size(0)}, 50) + 1.5;
  const EmpiricalRisk risk = layer_case.risk(3, {.reduction = Reduction::kSum}, weights);
  const KfacOptions options{.random = RandomSource(6)};
  const LayerReference expected = layer_reference(layer_case, risk, options, weights);
  BOOST_TEST(close(materialize(*kfac(risk, options)), expected.kfac));
  BOOST_TEST(close(materialize(*ekfac(risk, options)), expected.ekfac));
}

BOOST_AUTO_TEST_SUITE_END()
