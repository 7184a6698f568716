#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include "layerwise/reference.hpp"

namespace curvature::testing {

// Models of one layer, what they are by hand, and what must hold for all of them. A test of layer
// rules lists its models and ends with CURVATURE_LAYER_RULE_CASES.

using Layer = std::function<at::Tensor(const TensorList&)>;
using HandLayer = std::function<at::Tensor(Tape&, const TensorList&)>;
using BlocksByHand = std::function<std::map<std::string, BlockIndex>(ParameterIndex&)>;

/// How the layer's output becomes loss terms.
enum class Head {
  kOneTerm,    ///< a fixed nonlinear map of all of it: positions interact
  kPositions,  ///< a term for each position, each seen by its own
  kMixed,      ///< a term for each position, each seen by all
};

inline at::Tensor head(Head kind, const at::Tensor& y) {  // y [N, ...]
  const at::Tensor h = y.tanh();
  if (kind == Head::kOneTerm) return h.flatten(1).matmul(numbers({h[0].numel(), 3}, 900));
  const at::Tensor each = h.flatten(1, -2).matmul(numbers({h.size(-1), 3}, 901));
  if (kind == Head::kPositions) return each;
  return numbers({each.size(1), each.size(1)}, 902).matmul(each);
}

/// `layer` maps the batch to `[N, ...]`, `by_hand` an example to the same without N.
inline LayerCase make_case(std::string name, std::vector<NamedTensor> parameters,
                           const Layer& layer, const HandLayer& by_hand, BlocksByHand blocks,
                           TensorList inputs, Head kind = Head::kOneTerm, bool classifies = false) {
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

inline const BlocksByHand kJoint = [](ParameterIndex& i) {
  return std::map<std::string, BlockIndex>{{"layer", joint(i["weight"], i["bias"])}};
};
inline const BlocksByHand kWeight = [](ParameterIndex& i) {
  return std::map<std::string, BlockIndex>{{"layer", matrix(i["weight"])}};
};
inline const BlocksByHand kWeightTransposed = [](ParameterIndex& i) {
  return std::map<std::string, BlockIndex>{{"layer", matrix(i["weight"].t())}};
};
inline const BlocksByHand kScaleAndShift = [](ParameterIndex& i) {
  return std::map<std::string, BlockIndex>{{"scale", column(i["weight"])},
                                           {"shift", column(i["bias"])}};
};

struct Flavour {
  std::string name;
  KfacOptions options;
};

inline std::vector<Flavour> flavours() {
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

/// The model by hand must be the model.
inline void check_by_hand(const LayerCase& layer_case) {
  const at::NoGradGuard no_grad;
  const at::Tensor output = layer_case.model(layer_case.inputs);
  for (int64_t n = 0; n < output.size(0); ++n) {
    Tape tape;
    TensorList example;
    for (const at::Tensor& input : layer_case.inputs) example.push_back(input[n]);
    BOOST_TEST(close(layer_case.by_hand(tape, example), output[n], {1e-12, 1e-12}));
  }
}

/// K-FAC must be what the rows of the layers make of it, for batches of any size.
inline void check_kfac(const LayerCase& layer_case) {
  for (const Flavour& flavour : flavours()) {
    BOOST_TEST_CONTEXT(flavour.name)
    for (const int64_t batch_size : {4, 3, 100}) {
      const EmpiricalRisk risk = layer_case.risk(batch_size);
      const at::Tensor expected = layer_reference(layer_case, risk, flavour.options).kfac;
      BOOST_TEST(close(materialize(*kfac(risk, flavour.options)), expected));
    }
  }
}

/// The same for EK-FAC.
inline void check_ekfac(const LayerCase& layer_case) {
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

/// Sums instead of means, and weights of examples, must scale the blocks.
inline void check_sum_and_weights(const LayerCase& layer_case) {
  const at::Tensor weights = numbers({layer_case.inputs[0].size(0)}, 50) + 1.5;
  const EmpiricalRisk risk = layer_case.risk(3, {.reduction = Reduction::kSum}, weights);
  const KfacOptions options{.random = RandomSource(6)};
  const LayerReference expected = layer_reference(layer_case, risk, options, weights);
  BOOST_TEST(close(materialize(*kfac(risk, options)), expected.kfac));
  BOOST_TEST(close(materialize(*ekfac(risk, options)), expected.ekfac));
}

}  // namespace curvature::testing

/// What must hold for all models of a test, a function that lists them.
#define CURVATURE_LAYER_RULE_CASES(cases)                                                          \
  const auto each_case = boost::unit_test::data::make(cases());                                    \
  BOOST_DATA_TEST_CASE(the_models_by_hand_are_the_models, each_case, model) {                      \
    check_by_hand(model);                                                                          \
  }                                                                                                \
  BOOST_DATA_TEST_CASE(kfac_is_that_of_the_layers_rows, each_case, model) { check_kfac(model); }   \
  BOOST_DATA_TEST_CASE(ekfac_is_that_of_the_layers_rows, each_case, model) { check_ekfac(model); } \
  BOOST_DATA_TEST_CASE(sum_and_weights_of_examples_scale_the_blocks, each_case, model) {           \
    check_sum_and_weights(model);                                                                  \
  }
