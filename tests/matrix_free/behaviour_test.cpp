// What holds for every matrix-free operator besides its numbers.
#include <atomic>
#include <cmath>
#include <set>
#include <thread>

#include <curvature/core/error.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/matrix_free/jacobian.hpp>

#include "support/operator_laws.hpp"
#include "support/problems.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(behaviour_test)

using namespace curvature;
using namespace curvature::testing;
namespace bdata = boost::unit_test::data;

namespace {

struct Kind {
  const char* name;
  OperatorPtr (*build)(const EmpiricalRisk&, const MatrixFreeOptions&);
};

const Kind kKinds[] = {
    {"hessian", hessian},
    {"ggn", ggn},
    {"ggn_mc",
     [](const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
       return ggn_mc(risk, {.samples = 2, .random = RandomSource(3)}, options);
     }},
    {"empirical_fisher", empirical_fisher},
    {"gradient_covariance", gradient_covariance},
    {"jacobian", jacobian},
    {"ntk", ntk},
};

/// Those that are sums over the workers' examples.
const std::vector<Kind> kSums(kKinds, kKinds + 5);

std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name; }

/// A risk that nobody else shares, so that its parameters may be changed.
struct OwnNet {
  torch::nn::Sequential net{torch::nn::Linear(2, 3), torch::nn::Tanh(), torch::nn::Linear(3, 2)};
  EmpiricalRisk risk;

  explicit OwnNet(int64_t num_batches = 2) : risk(make(num_batches)) {}

 private:
  EmpiricalRisk make(int64_t num_batches) {
    const at::NoGradGuard no_grad;
    net->to(at::kDouble);
    uint64_t seed = 1;
    for (at::Tensor& p : net->parameters()) {
      p.copy_(RandomSource(seed++).normal(0, p.numel()).view(p.sizes()));
    }
    return EmpiricalRisk(
        Model::from_module(net), cross_entropy(),
        tensor_dataset({RandomSource(9).normal(0, 6, 2)}, at::tensor({0, 1, 0, 0, 1, 1}, at::kLong),
                       6 / num_batches));
  }
};

/// Two workers in two threads that add up what they hold.
class TwoWorkers final : public Reducer {
 public:
  void sum(TensorList& contributions) const override {
    std::unique_lock lock(mutex_);
    const int64_t round = round_;
    if (waiting_.empty()) {
      for (const at::Tensor& tensor : contributions) waiting_.push_back(tensor.clone());
      condition_.wait(lock, [&] { return round_ != round; });
      contributions = result_;
    } else {
      for (size_t i = 0; i < contributions.size(); ++i) contributions[i].add_(waiting_[i]);
      result_.clear();
      for (const at::Tensor& tensor : contributions) result_.push_back(tensor.clone());
      waiting_.clear();
      ++round_;
      condition_.notify_one();
    }
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable condition_;
  mutable TensorList waiting_, result_;
  mutable int64_t round_ = 0;
};

}  // namespace

BOOST_DATA_TEST_CASE(laws_of_operators_hold, bdata::make(kKinds), kind) {
  const OwnNet own;
  const OperatorPtr a = kind.build(own.risk, {});
  check_operator_laws(*a, materialize(*kind.build(own.risk, {.memory_budget = 0})));
}

BOOST_DATA_TEST_CASE(products_after_a_change_of_the_parameters_are_refused, bdata::make(kKinds),
                     kind) {
  OwnNet own;
  const OperatorPtr a = kind.build(own.risk, {});
  const at::Tensor v = at::ones({a->cols()}, at::kDouble);
  a->apply(v);
  {
    const at::NoGradGuard no_grad;
    own.net->parameters().front().add_(1);
  }

  BOOST_CHECK_THROW(a->apply(v), StaleOperatorError);
  BOOST_CHECK_NO_THROW(kind.build(own.risk, {})->apply(v));
}

BOOST_DATA_TEST_CASE(nothing_is_left_behind, bdata::make(kKinds), kind) {
  OwnNet own;
  at::manual_seed(3);
  const at::Tensor expected = at::rand({4});
  at::manual_seed(3);
  const OperatorPtr a = kind.build(own.risk, {});
  const at::Tensor product = a->apply(at::ones({a->cols()}, at::kDouble));
  const OperatorPtr cancelled = kind.build(
      own.risk, {.observer = [](const Progress&) { throw std::runtime_error("cancelled"); }});
  BOOST_CHECK_THROW(cancelled->apply(at::ones({a->cols()}, at::kDouble)), std::runtime_error);

  BOOST_TEST(!product.requires_grad());
  BOOST_TEST(at::rand({4}).equal(expected));
  for (const at::Tensor& parameter : own.net->parameters()) {
    BOOST_TEST(!parameter.grad().defined());
    BOOST_TEST(parameter.requires_grad());
  }
  BOOST_TEST(own.net->is_training());
  BOOST_TEST(at::GradMode::is_enabled());
  BOOST_TEST(at::globalContext().userEnabledFlashSDP());
}

BOOST_DATA_TEST_CASE(products_work_without_gradients_and_in_inference_mode, bdata::make(kKinds),
                     kind) {
  const OwnNet own;
  const at::Tensor v = at::ones({kind.build(own.risk, {})->cols()}, at::kDouble);
  const at::Tensor expected = kind.build(own.risk, {})->apply(v);
  {
    const at::NoGradGuard no_grad;
    BOOST_TEST(close(kind.build(own.risk, {})->apply(v), expected));
  }
  const DatasetPtr data =
      tensor_dataset({at::ones({2, 2}, at::kDouble)}, at::zeros({2}, at::kLong), 2);
  const c10::InferenceMode inference;
  BOOST_TEST(close(kind.build(own.risk, {})->apply(v.clone()), expected));
  BOOST_TEST(close(kind.build(own.risk.with_parameters({"*"}), {})->apply(v.clone()), expected));
  BOOST_CHECK_NO_THROW(EmpiricalRisk(own.risk.model(), cross_entropy(), data).gradient());
}

BOOST_DATA_TEST_CASE(the_observer_sees_every_batch, bdata::make(kKinds), kind) {
  const OwnNet own(3);
  int64_t calls = 0, last = 0, total = 0;
  const OperatorPtr a = kind.build(own.risk, {.observer = [&](const Progress& progress) {
                                     ++calls;
                                     last = progress.done;
                                     total = progress.total;
                                   }});
  a->apply(at::ones({a->cols()}, at::kDouble));

  BOOST_TEST(calls >= 3);
  BOOST_TEST(last == total);
}

BOOST_AUTO_TEST_CASE(a_batch_is_linearised_once_while_the_budget_lasts) {
  OwnNet own;
  std::atomic<int> runs = 0;
  auto net = own.net;
  std::vector<NamedTensor> parameters;
  for (const auto& item : net->named_parameters()) parameters.push_back({item.key(), item.value()});
  const Model model(
      [net, &runs](const TensorList& x) mutable {
        ++runs;
        return net->forward(x[0]);
      },
      parameters);
  const EmpiricalRisk risk(model, cross_entropy(),
                           tensor_dataset({RandomSource(9).normal(0, 6, 2)},
                                          at::tensor({0, 1, 0, 0, 1, 1}, at::kLong), 2));
  const at::Tensor v = at::ones({risk.space().size(), 2}, at::kDouble);
  const auto runs_of_three_products = [&](int64_t budget) {
    const OperatorPtr a = ggn(risk, {.memory_budget = budget});
    runs = 0;
    for (int i = 0; i < 3; ++i) a->apply(v);
    return runs.load();
  };

  BOOST_TEST(runs_of_three_products(0) == 9);
  BOOST_TEST(runs_of_three_products(int64_t{1} << 30) == 3);
  // Each batch that fits saves two of the nine.
  std::set<int> runs_by_budget;
  for (int64_t budget = 0; budget < 20000; budget += 200) {
    runs_by_budget.insert(runs_of_three_products(budget));
  }
  const std::set<int> expected = {3, 5, 7, 9};
  BOOST_TEST(runs_by_budget == expected, boost::test_tools::per_element());
}

BOOST_DATA_TEST_CASE(two_workers_with_half_the_data_each_agree_with_one, bdata::make(kSums), kind) {
  const Problem& problem = problems().front();
  const int64_t half = 3;
  const at::Tensor expected = materialize(*kind.build(problem.risk(3, {.weight_decay = 0.5}), {}));
  const auto reducer = std::make_shared<TwoWorkers>();
  at::Tensor results[2];
  const auto work = [&](int rank) {
    const int64_t first = rank == 0 ? 0 : half;
    const EmpiricalRisk risk(
        problem.model, problem.loss,
        tensor_dataset(
            {rank == 0 ? problem.inputs[0].slice(0, 0, half) : problem.inputs[0].slice(0, half)},
            rank == 0 ? problem.targets.slice(0, 0, half) : problem.targets.slice(0, half), 2),
        {.weight_decay = 0.5, .reducer = reducer, .first_example = first});
    results[rank] = materialize(*kind.build(risk, {}));
  };
  std::thread other(work, 1);
  work(0);
  other.join();

  BOOST_TEST(close(results[0], expected));
  BOOST_TEST(close(results[1], expected));
}

// The mean over S seeds of an estimate with independent errors lies within 4 of its own standard
// errors in the Euclidean norm; with S = 400 the distance is close to 1 (a chi over hundreds of
// entries), so that 4 is never reached by chance.
BOOST_AUTO_TEST_CASE(the_mean_of_the_monte_carlo_ggn_is_the_ggn) {
  for (const Problem& problem : problems()) {
    BOOST_TEST_CONTEXT(problem.name) {
      const EmpiricalRisk risk = problem.risk(3);
      const at::Tensor v = RandomSource(5).normal(0, risk.space().size()).to(test_device());
      const at::Tensor expected = ggn(risk)->apply(v);
      TensorList draws;
      for (uint64_t seed = 0; seed < 400; ++seed) {
        draws.push_back(
            ggn_mc(risk, {.random = RandomSource(seed)}, {.memory_budget = 0})->apply(v));
      }
      const at::Tensor all = at::stack(draws);
      const double standard_error = std::sqrt(all.var(0).sum().item<double>() / 400);
      const double error = (all.mean(0) - expected).norm().item<double>();
      BOOST_TEST((standard_error > 0 && error <= 4 * standard_error));
    }
  }
}

BOOST_AUTO_TEST_CASE(monte_carlo_draws_do_not_depend_on_the_batch_size) {
  for (const Problem& problem : problems()) {
    const MonteCarloOptions draws{.samples = 3, .random = RandomSource(8)};
    BOOST_TEST(close(materialize(*ggn_mc(problem.risk(2), draws)),
                     materialize(*ggn_mc(problem.risk(100), draws))));
    BOOST_TEST(close(*ggn_mc_diagonal(problem.risk(2), draws)->diagonal(),
                     *ggn_mc_diagonal(problem.risk(100), draws)->diagonal()));
  }
}

BOOST_AUTO_TEST_CASE(the_monte_carlo_diagonal_is_that_of_the_operator_for_one_term_per_example) {
  const EmpiricalRisk risk = problems().front().risk(3);
  const MonteCarloOptions draws{.samples = 4, .random = RandomSource(1)};

  BOOST_TEST(close(*ggn_mc_diagonal(risk, draws)->diagonal(),
                   materialize(*ggn_mc(risk, draws)).diagonal()));
  BOOST_CHECK_THROW(ggn_mc(risk, {.samples = 0}), OptionError);
  BOOST_CHECK_THROW(ggn_mc_diagonal(risk, {.samples = 0}), OptionError);
}

BOOST_AUTO_TEST_CASE(float32_agrees_with_float64_to_its_precision) {
  torch::nn::Sequential net(torch::nn::Linear(3, 8), torch::nn::GELU(), torch::nn::Linear(8, 3));
  const at::Tensor x = RandomSource(1).normal(0, 9, 3);
  const at::Tensor y = at::tensor({0, 1, 2, 0, 1, 2, 0, 1, 2}, at::kLong);
  const auto dense = [&](at::ScalarType dtype, const Kind& kind) {
    net->to(dtype);
    return materialize(*kind.build(EmpiricalRisk(Model::from_module(net), cross_entropy(),
                                                 tensor_dataset({x.to(dtype)}, y, 4)),
                                   {}));
  };
  for (const Kind& kind : kKinds) {
    if (std::string(kind.name) == "ggn_mc") continue;  // its labels may flip with rounding
    BOOST_TEST_CONTEXT(kind.name) {
      const at::Tensor single = dense(at::kFloat, kind);
      BOOST_TEST(close(single.to(at::kDouble), dense(at::kDouble, kind), {1e-5, 0}));
    }
  }
}

BOOST_DATA_TEST_CASE(parameters_seen_as_complex_numbers_may_lie_anywhere, bdata::make(kKinds),
                     kind) {
  // One number before the pairs, so that they begin at an odd place of a vector.
  const at::Tensor a = at::ones({1}, at::kDouble).requires_grad_();
  const at::Tensor w = RandomSource(3).normal(0, 6).view({3, 2}).requires_grad_();
  const auto risk_of = [&](const Model::Function& function) {
    return EmpiricalRisk(
        Model(function, {{"a", a}, {"w", w}}), mean_squared_error(),
        tensor_dataset({RandomSource(1).normal(0, 4, 3)}, at::zeros({4, 3}, at::kDouble), 2));
  };
  const EmpiricalRisk complex = risk_of([=](const TensorList& x) {
    return at::real(x[0] * a * at::view_as_complex(w) * at::view_as_complex(w));
  });
  const EmpiricalRisk real = risk_of([=](const TensorList& x) {
    return x[0] * a * (w.select(1, 0).square() - w.select(1, 1).square());
  });
  BOOST_TEST(
      close(materialize(*kind.build(complex, {})), materialize(*kind.build(real, {})), {1e-10}));
}

BOOST_DATA_TEST_CASE(sparse_gradients_of_embeddings_are_gradients, bdata::make(kKinds), kind) {
  const at::Tensor w = RandomSource(3).normal(0, 12).view({6, 2}).requires_grad_();
  const at::Tensor v = RandomSource(4).normal(0, 6).view({2, 3}).requires_grad_();
  const auto risk_of = [&](bool sparse) {
    const Model model(
        [=](const TensorList& x) {
          return at::embedding(w, x[0], /*padding_idx=*/-1, /*scale_grad_by_freq=*/false, sparse)
              .tanh()
              .matmul(v);
        },
        {{"w", w}, {"v", v}});
    return EmpiricalRisk(model, cross_entropy(),
                         tensor_dataset({at::tensor({0, 5, 2, 2, 1}, at::kLong)},
                                        at::tensor({0, 1, 2, 1, 0}, at::kLong), 3));
  };
  BOOST_TEST(close(materialize(*kind.build(risk_of(true), {})),
                   materialize(*kind.build(risk_of(false), {}))));
  BOOST_TEST(close(risk_of(true).gradient()[0], risk_of(false).gradient()[0]));
}

BOOST_AUTO_TEST_CASE(a_parameter_that_is_frozen_later_is_named) {
  OwnNet own;
  const OperatorPtr kept = ggn(own.risk);
  own.net->parameters()[2].set_requires_grad(false);
  const auto names_it = [](const ModelError& error) {
    return std::string(error.what()).find("'2.weight' was frozen") != std::string::npos;
  };
  for (const Kind& kind : kKinds) {
    BOOST_CHECK_EXCEPTION(materialize(*kind.build(own.risk, {})), ModelError, names_it);
  }
  BOOST_CHECK_EXCEPTION(materialize(*kept), ModelError, names_it);
  BOOST_CHECK_EXCEPTION(ggn_diagonal(own.risk), ModelError, names_it);
  BOOST_CHECK_EXCEPTION(per_example_gradients(own.risk, 0, 2), ModelError, names_it);
  BOOST_CHECK_EXCEPTION(own.risk.gradient(), ModelError, names_it);
}

BOOST_AUTO_TEST_CASE(a_float32_lstm_has_the_curvature_of_the_float64_one) {
  torch::nn::LSTM lstm(torch::nn::LSTMOptions(2, 3).batch_first(true));
  const at::Tensor x = RandomSource(1).normal(0, 4, 10).view({4, 5, 2});
  const auto dense = [&](at::ScalarType dtype, const Kind& kind) {
    lstm->to(dtype);
    std::vector<NamedTensor> parameters;
    for (const auto& item : lstm->named_parameters())
      parameters.push_back({item.key(), item.value()});
    const Model model(
        [lstm](const TensorList& in) mutable { return std::get<0>(lstm(in[0])).select(1, -1); },
        parameters);
    return materialize(
        *kind.build(EmpiricalRisk(model, mean_squared_error(),
                                  tensor_dataset({x.to(dtype)}, at::zeros({4, 3}, dtype), 4)),
                    {}));
  };
  for (const Kind& kind : {kKinds[0], kKinds[1]}) {
    const at::Tensor single = dense(at::kFloat, kind);
    BOOST_TEST(close(single.to(at::kDouble), dense(at::kDouble, kind), {1e-4, 0}));
  }
}

BOOST_AUTO_TEST_SUITE_END()
