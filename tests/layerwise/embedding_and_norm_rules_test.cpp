#include <torch/torch.h>

#include "layerwise/rules.hpp"

BOOST_AUTO_TEST_SUITE(embedding_and_norm_rules_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

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

std::vector<LayerCase> cases() {
  std::vector<LayerCase> all;
  add_others(all);
  return all;
}

}  // namespace

CURVATURE_LAYER_RULE_CASES(cases)

BOOST_AUTO_TEST_SUITE_END()
