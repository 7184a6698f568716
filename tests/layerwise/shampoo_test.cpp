// Shampoo and KL-Shampoo against second moments of gradients by plain automatic differentiation.
#include <curvature/core/error.hpp>
#include <curvature/layerwise/shampoo.hpp>
#include <curvature/operators/algebra.hpp>

#include "support/dense_operator.hpp"
#include "support/operator_laws.hpp"
#include "support/problems.hpp"

BOOST_AUTO_TEST_SUITE(shampoo_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

at::Tensor uniform(at::IntArrayRef shape, uint64_t seed) {
  const at::Tensor unit = RandomSource(seed).uniform(0, c10::multiply_integers(shape));
  return (2 * unit.to(test_device()) - 1).view(shape);
}

/// One over N for `mean`.
double factor(const EmpiricalRisk& risk) {
  return risk.options().reduction == Reduction::kMean ? 1.0 / double(risk.num_examples()) : 1.0;
}

/// Gradients of one parameter as matrices, `[N, rows, columns]`.
at::Tensor matrices(const at::Tensor& gradients, const SpaceEntry& entry) {
  const int64_t rows = entry.shape.empty() ? 1 : entry.shape.front();
  return gradients.narrow(1, entry.offset, entry.size)
      .reshape({gradients.size(0), rows, entry.size / rows});
}

at::Tensor block(const at::Tensor& matrix, const SpaceEntry& entry) {
  return matrix.narrow(0, entry.offset, entry.size).narrow(1, entry.offset, entry.size);
}

at::Tensor second_moment(const at::Tensor& g) { return torch::einsum("nij,nkl->ijkl", {g, g}); }

/// tr_columns and tr_rows of a matrix on rows x columns: multiples of A and B for A x B.
std::pair<at::Tensor, at::Tensor> partial_traces(const at::Tensor& s, int64_t m) {
  const int64_t n = s.size(0) / m;
  const at::Tensor x = s.reshape({m, n, m, n});
  return {torch::einsum("ijkj->ik", {x}), torch::einsum("ijil->jl", {x})};
}

at::Tensor dense_shampoo(const at::Tensor& gradients, const EmpiricalRisk& risk) {
  TensorList blocks;
  for (const SpaceEntry& entry : risk.space().entries()) {
    const at::Tensor g = matrices(gradients, entry);
    const at::Tensor a = torch::einsum("nij,nkj->ik", {g, g});
    const at::Tensor b = torch::einsum("nij,nil->jl", {g, g});
    const double trace = a.trace().item<double>();
    blocks.push_back(torch::kron(a, b) * (trace == 0 ? 0 : factor(risk) / trace));
  }
  return torch::block_diag(blocks);
}

/// -log det(A x B) + ... the other way round: log det S + tr S^-1 M.
double divergence(const at::Tensor& s, const at::Tensor& m) {
  return (s.logdet() + s.inverse().mm(m).trace()).item<double>();
}

/// Checks that `s` is a Kronecker product that satisfies both stationarity equations for the second
/// moment of gradients `g`, scaled by `f`, plus `shift` times the identity; on the ranges, whose
/// dimensions it returns.
std::pair<int64_t, int64_t> check_stationary(const at::Tensor& s, const at::Tensor& g, double f,
                                             double shift = 0) {
  const int64_t m = g.size(1), n = g.size(2);
  const auto [traced_a, b] = partial_traces(s, m);
  const at::Tensor a = traced_a / s.trace();
  BOOST_TEST(close(torch::kron(a, b), s, {1e-10, 0}));
  const at::Tensor eye_m = torch::eye(m, double_options()), eye_n = torch::eye(n, double_options());
  const auto rank = [](const at::Tensor& x) {
    return torch::linalg_matrix_rank(x, 1e-11, /*hermitian=*/true).item<int64_t>();
  };
  const auto pinv = [](const at::Tensor& x) { return torch::linalg_pinv(x, 1e-11, true); };
  const int64_t rank_a = rank(torch::einsum("nij,nkj->ik", {g, g}) + shift * eye_m);
  const int64_t rank_b = rank(torch::einsum("nij,nil->jl", {g, g}) + shift * eye_n);
  BOOST_TEST(rank(a) == rank_a);
  BOOST_TEST(rank(b) == rank_b);
  const at::Tensor from_b =
      f * torch::einsum("nij,jl,nkl->ik", {g, pinv(b), g}) + shift * pinv(b).trace() * eye_m;
  const at::Tensor from_a =
      f * torch::einsum("nij,ik,nkl->jl", {g, pinv(a), g}) + shift * pinv(a).trace() * eye_n;
  BOOST_TEST(close(from_b / rank_b, a, {1e-9, 0}));
  BOOST_TEST(close(from_a / rank_a, b, {1e-9, 0}));
  return {rank_a, rank_b};
}

/// tanh(x W^T + b) V^T + c.
struct Network {
  at::Tensor w = uniform({4, 5}, 1).requires_grad_();
  at::Tensor b = uniform({4}, 2).requires_grad_();
  at::Tensor v = uniform({3, 4}, 3).requires_grad_();
  at::Tensor c = uniform({3}, 4).requires_grad_();

  Problem problem(int64_t examples, bool classifies = false) const {
    const Model model(
        [*this](const TensorList& x) {
          return torch::tanh(x[0].matmul(w.t()) + b).matmul(v.t()) + c;
        },
        {{"w", w}, {"b", b}, {"v", v}, {"c", c}});
    const at::Tensor inputs = uniform({examples, 5}, 5);
    if (classifies) {
      return {"network",
              model,
              cross_entropy(),
              {inputs},
              torch::arange(examples, at::kLong).remainder(3).to(test_device()),
              [](const at::Tensor& output, const at::Tensor& targets, Reduction reduction) {
                const at::Tensor sum = torch::nn::functional::cross_entropy(
                    output, targets,
                    torch::nn::functional::CrossEntropyFuncOptions().reduction(torch::kSum));
                return reduction == Reduction::kMean ? sum / double(targets.size(0)) : sum;
              }};
    }
    return {"network",
            model,
            mean_squared_error(),
            {inputs},
            uniform({examples, 3}, 6),
            [](const at::Tensor& output, const at::Tensor& targets, Reduction reduction) {
              const at::Tensor squares = (output - targets).square();
              return reduction == Reduction::kMean ? squares.mean() : squares.sum();
            }};
  }
};

/// x W^T for inputs `[N, S, n]` at W = 0, summed square loss: the gradient of example n is
/// -2 sum_s t_s x_s^T.
struct Bilinear {
  at::Tensor inputs;   // [N, S, n]
  at::Tensor targets;  // [N, S, m]
  at::Tensor w = at::zeros({targets.size(2), inputs.size(2)}, inputs.options()).requires_grad_();

  EmpiricalRisk risk(RiskOptions options = {.reduction = Reduction::kSum}) const {
    const at::Tensor weight = w;
    const Model model([weight](const TensorList& x) { return x[0].matmul(weight.t()); },
                      {{"w", weight}});
    return EmpiricalRisk(model, mean_squared_error(), tensor_dataset({inputs}, targets, 4),
                         std::move(options));
  }
  at::Tensor gradients() const { return -2 * torch::einsum("nsi,nsj->nij", {targets, inputs}); }
};

Bilinear bilinear(int64_t examples, int64_t positions, int64_t m, int64_t n) {
  return {uniform({examples, positions, n}, 7), uniform({examples, positions, m}, 8)};
}

}  // namespace

BOOST_AUTO_TEST_CASE(shampoo_is_the_trace_scaled_product_of_any_parameter) {
  for (const Problem& problem : problems()) {
    for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
      BOOST_TEST_CONTEXT(problem << ", reduction " << int(reduction)) {
        const EmpiricalRisk risk = problem.risk(3, {.reduction = reduction, .weight_decay = 0.5});
        const at::Tensor gradients = dense_example_gradients(problem, risk);
        const OperatorPtr a = shampoo(risk);
        BOOST_TEST(close(materialize(*a), dense_shampoo(gradients, risk)));
        BOOST_TEST(*a->trace() == factor(risk) * gradients.square().sum().item<double>(),
                   boost::test_tools::tolerance(1e-11));
        // Gradients of vectors have one column: nothing is approximated.
        const at::Tensor moment = gradients.t().mm(gradients) * factor(risk);
        for (const SpaceEntry& entry : risk.space().entries()) {
          if (entry.shape.size() > 1) continue;
          BOOST_TEST(close(block(materialize(*a), entry), block(moment, entry)));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(both_keep_the_laws) {
  const Problem problem = Network().problem(60);
  const EmpiricalRisk risk = problem.risk(16);
  const at::Tensor gradients = dense_example_gradients(problem, risk);
  check_operator_laws(*shampoo(risk), dense_shampoo(gradients, risk));
  const OperatorPtr kl = kl_shampoo(risk);
  check_operator_laws(*kl, materialize(*kl));
  const OperatorPtr damped = shifted(kl, 1e-3);
  BOOST_TEST(close(materialize(*inverse(damped)), materialize(*damped).inverse(), {1e-9, 0}));
}

BOOST_AUTO_TEST_CASE(kl_shampoo_is_stationary_and_better_than_its_neighbours) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
    const Problem problem = Network().problem(60);
    const EmpiricalRisk risk = problem.risk(16, {.reduction = reduction});
    const at::Tensor gradients = dense_example_gradients(problem, risk);
    const at::Tensor kl = materialize(*kl_shampoo(risk)), plain = materialize(*shampoo(risk));
    for (const SpaceEntry& entry : risk.space().entries()) {
      BOOST_TEST_CONTEXT(entry.name) {
        const at::Tensor g = matrices(gradients, entry);
        const at::Tensor s = block(kl, entry);
        const int64_t d = entry.size, m = g.size(1), n = g.size(2);
        const at::Tensor moment = second_moment(g).reshape({d, d}) * factor(risk);
        check_stationary(s, g, factor(risk));
        BOOST_TEST(s.inverse().mm(moment).trace().item<double>() == double(d),
                   boost::test_tools::tolerance(1e-9));
        if (n == 1) {
          BOOST_TEST(close(s, moment, {1e-10, 0}));
          continue;
        }
        const double best = divergence(s, moment);
        BOOST_TEST(best < divergence(block(plain, entry), moment));
        const auto [a, b] = partial_traces(s, m);
        for (uint64_t seed = 0; seed < 10; ++seed) {
          const at::Tensor x = uniform({m, m}, 20 + seed), y = uniform({n, n}, 40 + seed);
          const auto near = [](const at::Tensor& root, const at::Tensor& direction) {
            const at::Tensor step = torch::linalg_matrix_exp(0.01 * (direction + direction.t()));
            return root.mm(step).mm(root.t());
          };
          const at::Tensor neighbour =
              torch::kron(near(torch::linalg_cholesky(a), x), near(torch::linalg_cholesky(b), y)) /
              s.trace();
          BOOST_TEST(best < divergence(neighbour, moment));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_damped_fit_exists_for_any_parameter) {
  constexpr double kDamping = 0.1;
  for (const Problem& problem : problems()) {
    BOOST_TEST_CONTEXT(problem) {
      const EmpiricalRisk risk = problem.risk(3);
      const at::Tensor gradients = dense_example_gradients(problem, risk);
      const at::Tensor kl = materialize(*kl_shampoo(risk, {.damping = kDamping}));
      for (const SpaceEntry& entry : risk.space().entries()) {
        BOOST_TEST_CONTEXT(entry.name) {
          const at::Tensor g = matrices(gradients, entry);
          const at::Tensor s = block(kl, entry);
          const double trace = g.square().sum().item<double>() * factor(risk);
          if (trace == 0) {  // not used by the model
            BOOST_TEST(s.norm().item<double>() == 0);
          } else {
            check_stationary(s, g, factor(risk), kDamping * trace / double(entry.size));
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(directions_without_gradients_do_not_count) {
  // Gradients of the last layer before a softmax sum to zero over the classes.
  const Problem problem = Network().problem(60, /*classifies=*/true);
  const EmpiricalRisk risk = problem.risk(16);
  const at::Tensor gradients = dense_example_gradients(problem, risk);
  const OperatorPtr a = kl_shampoo(risk);
  const at::Tensor kl = materialize(*a);
  const std::vector<std::pair<int64_t, int64_t>> ranks = {{4, 5}, {4, 1}, {2, 4}, {2, 1}};
  for (size_t i = 0; i < ranks.size(); ++i) {
    const SpaceEntry& entry = risk.space().entries()[i];
    BOOST_TEST_CONTEXT(entry.name) {
      const at::Tensor g = matrices(gradients, entry), s = block(kl, entry);
      BOOST_TEST((check_stationary(s, g, factor(risk)) == ranks[i]));
      const at::Tensor moment = second_moment(g).reshape(s.sizes()) * factor(risk);
      BOOST_TEST(torch::linalg_pinv(s, 1e-11, true).mm(moment).trace().item<double>() ==
                     double(ranks[i].first * ranks[i].second),
                 boost::test_tools::tolerance(1e-9));
    }
  }
  const at::Tensor shift = 1e-3 * torch::eye(kl.size(0), double_options());
  BOOST_TEST(close(materialize(*inverse(shifted(a, 1e-3))), (kl + shift).inverse(), {1e-9, 0}));
}

BOOST_AUTO_TEST_CASE(an_exact_kronecker_product_is_recovered) {
  // All pairs of columns of T and X: sum (t x^T)(t x^T)^T = T T^T x X X^T.
  const at::Tensor t = uniform({3, 3}, 9), x = uniform({4, 4}, 10);
  const at::Tensor targets = t.t().repeat_interleave(4, 0).unsqueeze(1);
  const at::Tensor inputs = x.t().repeat({3, 1}).unsqueeze(1);
  const EmpiricalRisk risk = Bilinear{inputs, targets}.risk();
  const at::Tensor exact = 4 * torch::kron(t.mm(t.t()), x.mm(x.t()));
  BOOST_TEST(close(materialize(*shampoo(risk)), exact, {1e-12, 0}));
  BOOST_TEST(close(materialize(*kl_shampoo(risk)), exact, {1e-12, 0}));
}

BOOST_AUTO_TEST_CASE(one_example_is_exact) {
  const Bilinear one = bilinear(1, 1, 3, 4);
  const at::Tensor g = one.gradients().reshape({12, 1});
  BOOST_TEST(close(materialize(*shampoo(one.risk())), g.mm(g.t()), {1e-12, 0}));
  BOOST_TEST(close(materialize(*kl_shampoo(one.risk())), g.mm(g.t()), {1e-12, 0}));
}

BOOST_AUTO_TEST_CASE(fewer_examples_than_dimensions_are_fitted_from_the_identity) {
  // Two generic 3 x 6 gradients: many minimisers.
  const Bilinear few = bilinear(2, 3, 3, 6);
  const at::Tensor kl = materialize(*kl_shampoo(few.risk()));
  check_stationary(kl, few.gradients(), 1);
  // One step from B = I is A = mean G G^T; here it is the last.
  const auto [a, b] = partial_traces(kl, 3);
  const at::Tensor g = few.gradients(), first = torch::einsum("nij,nkj->ik", {g, g});
  BOOST_TEST(close(a / a.trace(), first / first.trace(), {1e-9, 0}));
}

BOOST_AUTO_TEST_CASE(without_a_minimum_the_parameter_is_named) {
  // Two generic 3 x 5 gradients: the divergence has no lower bound.
  const Bilinear few = bilinear(2, 3, 3, 5);
  const auto names_the_parameter = [](const NumericalError& error) {
    const std::string text = error.what();
    BOOST_TEST_MESSAGE(text);
    return text.find("'w [3, 5]'") != std::string::npos &&
           text.find("2 examples may be too few") != std::string::npos;
  };
  for (const int64_t budget : {0, 1 << 20}) {
    BOOST_CHECK_EXCEPTION(kl_shampoo(few.risk(), {.memory_budget = budget}), NumericalError,
                          names_the_parameter);
  }
  // The gradients of one parameter do not stand in the way of Shampoo, nor of a damped fit.
  const at::Tensor g = few.gradients();
  BOOST_TEST(close(materialize(*shampoo(few.risk())), dense_shampoo(g.flatten(1), few.risk())));
  const double shift = 1e-3 * g.square().sum().item<double>() / 15;
  check_stationary(materialize(*kl_shampoo(few.risk(), {.damping = 1e-3})), g, 1, shift);
  // Nor do more examples.
  const Bilinear more = bilinear(5, 3, 3, 5);
  check_stationary(materialize(*kl_shampoo(more.risk())), more.gradients(), 1);
  BOOST_CHECK_EXCEPTION(
      kl_shampoo(more.risk(), {.max_iterations = 2}), NumericalError, [](const Error& error) {
        return std::string(error.what()).find("'w [3, 5]' still change by") != std::string::npos;
      });
}

BOOST_AUTO_TEST_CASE(results_do_not_depend_on_batches_or_memory) {
  for (const int64_t examples :
       {25, 70}) {  // of some parameters 4000 bytes keep a second moment, gradients, nothing
    const Problem problem = Network().problem(examples);
    const at::Tensor expected = materialize(*kl_shampoo(problem.risk(examples)));
    for (const int64_t budget : {0, 4000, 1 << 24}) {
      const OperatorPtr a = kl_shampoo(problem.risk(4), {.memory_budget = budget});
      BOOST_TEST(close(materialize(*a), expected, {1e-9, 0}));
    }
    BOOST_TEST(close(materialize(*shampoo(problem.risk(4))),
                     materialize(*shampoo(problem.risk(examples))), {1e-12, 0}));
  }
}

BOOST_AUTO_TEST_CASE(the_scale_is_that_of_the_second_moment) {
  const Problem problem = Network().problem(40, /*classifies=*/true);
  using Make = std::function<OperatorPtr(const EmpiricalRisk&)>;
  for (const Make& make : {Make([](const EmpiricalRisk& risk) { return shampoo(risk); }),
                           Make([](const EmpiricalRisk& risk) { return kl_shampoo(risk); })}) {
    const at::Tensor sum = materialize(*make(problem.risk(40, {.reduction = Reduction::kSum})));
    BOOST_TEST(close(sum, 40 * materialize(*make(problem.risk(40))), {1e-9, 0}));
    for (const double scale : {1e-12, 1e8}) {
      Problem scaled = problem;
      scaled.loss = cross_entropy({.class_weights = torch::full({3}, scale, double_options())});
      const at::Tensor actual = materialize(*make(scaled.risk(40, {.reduction = Reduction::kSum})));
      BOOST_TEST(close(actual, scale * scale * sum, {1e-9, 0}));
    }
    // A weight of 2 is the example twice.
    at::Tensor weights = torch::ones({40}, double_options());
    weights[7] = 2;
    weights[8] = 0;
    at::Tensor index = torch::arange(40, at::kLong);
    index[8] = 7;
    index = index.to(test_device());
    const auto of = [&](const DatasetPtr& data) {
      return materialize(*make(EmpiricalRisk(problem.model, problem.loss, data)));
    };
    BOOST_TEST(close(of(tensor_dataset(problem.inputs, problem.targets, 16, weights)),
                     of(tensor_dataset({problem.inputs[0].index_select(0, index)},
                                       problem.targets.index_select(0, index), 16)),
                     {1e-9, 0}));
  }
}

BOOST_AUTO_TEST_CASE(single_precision_agrees_with_double) {
  const Problem problem = Network().problem(60, /*classifies=*/true);
  TensorList leaves;
  std::vector<NamedTensor> named;
  for (const NamedTensor& p : problem.model.parameters()) {
    leaves.push_back(p.tensor.detach().to(at::kFloat).requires_grad_());
    named.push_back({p.name, leaves.back()});
  }
  const Model model(
      [leaves](const TensorList& x) {
        return torch::tanh(x[0].matmul(leaves[0].t()) + leaves[1]).matmul(leaves[2].t()) +
               leaves[3];
      },
      named);
  const EmpiricalRisk single(
      model, problem.loss, tensor_dataset({problem.inputs[0].to(at::kFloat)}, problem.targets, 16));
  const EmpiricalRisk risk = problem.risk(16);
  for (const auto& [actual, expected] : {std::pair(shampoo(single), shampoo(risk)),
                                         std::pair(kl_shampoo(single), kl_shampoo(risk))}) {
    BOOST_TEST((actual->spec().dtype == at::kFloat));
    BOOST_TEST(close(materialize(*actual).to(at::kDouble), materialize(*expected), {1e-5, 0}));
  }
}

BOOST_AUTO_TEST_CASE(options_and_sizes_are_checked_and_progress_is_told) {
  const EmpiricalRisk risk = bilinear(20, 1, 3, 4).risk();
  BOOST_CHECK_THROW(kl_shampoo(risk, {.damping = -1}), OptionError);
  BOOST_CHECK_THROW(kl_shampoo(risk, {.max_iterations = 0}), OptionError);
  BOOST_CHECK_THROW(kl_shampoo(risk, {.memory_budget = -1}), OptionError);
  const EmpiricalRisk wide = bilinear(1, 1, 1, 8193).risk();
  BOOST_CHECK_EXCEPTION(shampoo(wide), NotSupportedError, [](const Error& error) {
    return std::string(error.what()).find("'w' is a 1 x 8193 matrix") != std::string::npos;
  });
  std::map<std::string, int64_t> done;
  kl_shampoo(risk, {.observer = [&](const Progress& p) { done[std::string(p.task)] = p.done; }});
  BOOST_TEST(done["Gradients of examples"] == 20);
  BOOST_TEST(done["Kronecker products"] == 1);
  struct Cancelled {};
  BOOST_CHECK_THROW(shampoo(risk, {.observer = [](const Progress&) { throw Cancelled(); }}),
                    Cancelled);
}

BOOST_AUTO_TEST_SUITE_END()
