// SINGD as a minimizer: laws, what it sees of batches, what it keeps and what it refuses.
#include <curvature/core/error.hpp>

#include "optim/singd.hpp"
#include "support/optimizer_laws.hpp"
#include "support/problems.hpp"

BOOST_AUTO_TEST_SUITE(singd_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(members_of_the_family_are_minimizers) {
  const auto check = [](SingdOptions options, const MinimizerLaws& laws) {
    options.damping = 1e-2;
    options.fisher = Fisher::kType2;
    options.alpha1 = 0.2;
    options.preconditioner_rate = 0.3;
    check_minimizer_laws([options](const EmpiricalRisk& risk) { return singd(risk, options); },
                         laws);
  };
  check({.learning_rate = 0.3, .momentum = 0.5, .refresh_interval = 2}, {.steps = 200});
  check({.learning_rate = 0.3,
         .momentum = 0,
         .kfac_like = true,
         .refresh_interval = 1,
         .input_structure = small(FactorStructure::kHierarchical),
         .output_structure = small(FactorStructure::kLowerTriangular)},
        {.steps = 300});
  check({.learning_rate = 0.1,
         .momentum = 0.5,
         .refresh_interval = 3,
         .input_structure = small(FactorStructure::kUpperToeplitz),
         .output_structure = small(FactorStructure::kDiagonal),
         .dtype = at::kBFloat16,
         .separate_bias = true},
        {.steps = 600});
}

BOOST_AUTO_TEST_CASE(weights_of_examples_count_them) {
  // An example of weight 2 is two examples; sums over half of the data are half of the mean.
  const auto step = [](const at::Tensor& rows, const at::Tensor& weights, Reduction reduction,
                       double damping) {
    const EmpiricalRisk risk = regression(two_layers(false), {.reduction = reduction});
    const Batch all = risk.data().batch(0);
    const at::Tensor x = all.inputs[0].index_select(0, rows), y = all.targets.index_select(0, rows);
    SingdOptions options = eager(damping);
    options.refresh_interval = 1;
    options.learning_rate = reduction == Reduction::kSum ? 1.0 / 6 : 1;
    const auto minimizer = singd(risk, options);
    minimizer->step(risk.with_data(batch_dataset({{{x}, y, weights}})));
    return parameters_of(risk);
  };
  const at::Tensor rows = at::tensor({0, 4, 7}).to(test_device()),
                   again = at::tensor({0, 4, 4, 7}).to(test_device());
  const at::Tensor weights = at::tensor({1, 2, 1}).to(test_device(), at::kDouble);
  BOOST_TEST(
      close(step(rows, weights, Reduction::kMean, 0.1), step(again, {}, Reduction::kMean, 0.1)));
  BOOST_TEST(
      close(step(rows, weights, Reduction::kSum, 0.1), step(again, {}, Reduction::kSum, 0.1)));
}

BOOST_AUTO_TEST_CASE(workers_add_up_what_they_see) {
  // Two workers with the same examples see what one sees that has them twice.
  const auto steps = [](bool workers, SingdOptions options) {
    const torch::nn::Sequential net(torch::nn::Embedding(4, 3), torch::nn::Tanh(),
                                    torch::nn::Flatten(), torch::nn::Linear(6, 2));
    at::Tensor tokens = at::tensor({0, 1, 2, 3, 3, 1, 2, 2, 0, 3}).view({5, 2}).to(test_device());
    at::Tensor targets = numbers({5, 2}, 2);
    if (!workers) {
      tokens = at::cat({tokens, tokens});
      targets = at::cat({targets, targets});
    }
    const EmpiricalRisk risk(
        Model::from_module(seeded(net, 3)), mean_squared_error(),
        tensor_dataset({tokens}, targets, 5),
        {.reducer = workers ? std::make_shared<HeldTwice>() : std::shared_ptr<HeldTwice>()});
    options.refresh_interval = 1;
    options.learning_rate = 0.1;
    const auto minimizer = singd(risk, options);
    for (int step = 0; step < 3; ++step) minimizer->step(risk);
    return parameters_of(risk);
  };
  for (const Fisher fisher : {Fisher::kEmpirical, Fisher::kForwardOnly}) {
    BOOST_TEST(close(steps(true, eager(0.1, fisher)), steps(false, eager(0.1, fisher))));
  }
}

BOOST_AUTO_TEST_CASE(a_layer_that_a_batch_does_not_use_keeps_its_factors) {
  // An expert for positive first inputs; its part of the output is whole or missing.
  const at::Tensor common = numbers({3, 2}, 5).requires_grad_();
  const at::Tensor expert = numbers({3, 2}, 6).requires_grad_();
  const at::Tensor inputs = numbers({8, 3}, 1).abs() + 0.1, targets = numbers({8, 2}, 2);
  const auto forward = [=](const TensorList& x) {
    const at::Tensor output = x[0].matmul(common);
    const at::Tensor chosen = x[0].select(1, 0).gt(0);
    if (!chosen.any().item<bool>()) return output;
    return output + (x[0] * chosen.unsqueeze(1)).matmul(expert);
  };
  const EmpiricalRisk risk(Model(forward, {{"common", common}, {"expert", expert}}),
                           mean_squared_error(), tensor_dataset({inputs}, targets, 8));
  SingdOptions options = eager();
  options.refresh_interval = 1;
  const auto minimizer = singd(risk, options);
  minimizer->step(risk);
  const auto factors = [&](const std::string& name) {
    return TensorList{factor(*minimizer, name + "/input_0"), factor(*minimizer, name + "/output_0"),
                      factor(*minimizer, name + "/output_direction_0")};
  };
  const TensorList of_common = factors("common"), of_expert = factors("expert");
  minimizer->step(risk.with_data(tensor_dataset({-inputs}, targets, 8)));
  for (size_t i = 0; i < 3; ++i) {
    BOOST_TEST(!at::equal(factors("common")[i], of_common[i]));
    BOOST_TEST(at::equal(factors("expert")[i], of_expert[i]));
  }
}

BOOST_AUTO_TEST_CASE(structures_are_kept_and_counted) {
  for (const FactorStructure kind : kStructures) {
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
      const EmpiricalRisk risk = regression(two_layers(false));
      const auto minimizer = singd(risk, {.refresh_interval = 1,
                                          .input_structure = small(kind),
                                          .output_structure = small(kind),
                                          .dtype = dtype});
      const int64_t bytes = minimizer->state_bytes();
      for (int step = 0; step < 5; ++step) minimizer->step(risk);
      int64_t of_factors = 0, of_momentum = 0;
      for (const auto& [name, tensor] : minimizer->save().tensors) {
        const auto size = static_cast<int64_t>(tensor.nbytes());
        if (name.starts_with("momentum/")) of_momentum += size;
        if (!name.starts_with("factors/")) continue;
        of_factors += size;
        BOOST_TEST(tensor.scalar_type() == dtype);
      }
      // Beside K and its directions K K^T, where K is one matrix in the parameters' dtype.
      const bool one_matrix = kind == FactorStructure::kDense ||
                              kind == FactorStructure::kLowerTriangular ||
                              kind == FactorStructure::kUpperTriangular;
      const bool keeps_outer = one_matrix && dtype == at::kDouble;
      BOOST_TEST(bytes == of_momentum + of_factors + (keeps_outer ? of_factors / 2 : 0));
      const at::Tensor k = factor(*minimizer, "2.weight/input_0");
      if (kind == FactorStructure::kLowerTriangular) BOOST_TEST(at::equal(k, k.tril()));
      if (kind == FactorStructure::kUpperTriangular) BOOST_TEST(at::equal(k, k.triu()));
    }
  }
}

BOOST_AUTO_TEST_CASE(wrong_options_and_states_are_refused) {
  const EmpiricalRisk risk = regression(two_layers(false));
  const auto refused = [&](auto change) {
    SingdOptions options;
    change(options);
    BOOST_CHECK_THROW(singd(risk, options), OptionError);
  };
  refused([](auto& options) { options.learning_rate = -1; });
  refused([](auto& options) { options.momentum = 1; });
  refused([](auto& options) { options.damping = -1; });
  refused([](auto& options) { options.preconditioner_rate = 0; });
  refused([](auto& options) { options.preconditioner_rate = 1; });
  refused([](auto& options) { options.alpha1 = 1; });
  refused([](auto& options) { options.refresh_interval = 0; });
  refused([](auto& options) { options.input_structure.top = 0; });
  refused([](auto& options) { options.output_structure.block_size = 0; });
  refused([](auto& options) { options.dtype = at::kHalf; });
  refused([](auto& options) { options.mc_samples = 0; });

  const auto dense = singd(risk);
  dense->step(risk);
  BOOST_CHECK_THROW(singd(risk, {.dtype = at::kBFloat16})->load(dense->save()), DataError);
  BOOST_CHECK_THROW(
      singd(risk, {.input_structure = small(FactorStructure::kBlockDiagonal)})->load(dense->save()),
      DataError);
  BOOST_CHECK_THROW(singd(risk, {.separate_bias = true})->load(dense->save()), DataError);
}

BOOST_AUTO_TEST_CASE(what_is_out_of_range_is_refused_and_changes_nothing) {
  auto net = seeded(torch::nn::Sequential(torch::nn::Linear(3, 2)), 5);
  net->to(at::kFloat);
  const EmpiricalRisk risk(
      Model::from_module(net), mean_squared_error(),
      tensor_dataset({numbers({9, 3}, 1).to(at::kFloat)}, numbers({9, 2}, 2).to(at::kFloat), 9));
  const auto refused = [&](const SingdOptions& options, int steps) {
    const auto minimizer = singd(risk, options);
    for (int step = 0; step < steps; ++step) minimizer->step(risk);
    const at::Tensor before = parameters_of(risk);
    const Archive state = minimizer->save();
    BOOST_CHECK_EXCEPTION(minimizer->step(risk), NumericalError, [](const Error& error) {
      return std::string(error.what()).find("'0.weight'") != std::string::npos;
    });
    BOOST_TEST(at::equal(parameters_of(risk), before));
    const Archive after = minimizer->save();
    BOOST_TEST(state.tensors.size() == after.tensors.size());
    for (const auto& [name, tensor] : state.tensors) {
      BOOST_TEST(at::equal(tensor, after.tensors.at(name)));
    }
  };
  // More than float32 holds; and without bound a rate that squares K again and again.
  refused({.damping = 1e39}, 0);
  refused({.learning_rate = 0,
           .momentum = 0,
           .damping = 1e12,
           .rate_bound = RateBound::kNone,
           .kfac_like = true,
           .refresh_interval = 1},
          1);
}

BOOST_AUTO_TEST_SUITE_END()
