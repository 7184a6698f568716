// Every operator against dense automatic differentiation in float64: operator x problem x reduction
// x split of the data x memory budget.
#include <curvature/core/error.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/matrix_free/jacobian.hpp>

#include "support/problems.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(dense_agreement_test)

using namespace curvature;
using namespace curvature::testing;
namespace bdata = boost::unit_test::data;

namespace {

// Sanitizers look at memory, not at numbers: one reduction and one ragged split reach all code.
#ifdef __SANITIZE_ADDRESS__
constexpr Reduction kReductions[] = {Reduction::kMean};
constexpr int64_t kBatchSizes[] = {3};
#else
constexpr Reduction kReductions[] = {Reduction::kMean, Reduction::kSum};
constexpr int64_t kBatchSizes[] = {1, 3, 100};
#endif

using Build = OperatorPtr (*)(const EmpiricalRisk&, const MatrixFreeOptions&);
using Dense = at::Tensor (*)(const Problem&, const EmpiricalRisk&);

struct Kind {
  const char* name;
  Build build;
  Dense dense;
};

const Kind kKinds[] = {
    {"hessian", hessian, dense_hessian},
    {"ggn", ggn, dense_ggn},
    {"empirical_fisher", empirical_fisher, dense_empirical_fisher},
    {"gradient_covariance", gradient_covariance, dense_gradient_covariance},
};

std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name; }

void check(const Kind& kind, const Problem& problem, Reduction reduction) {
  const EmpiricalRisk whole = problem.risk(100, {.reduction = reduction, .weight_decay = 0.3});
  const at::Tensor expected = kind.dense(problem, whole);
  for (const int64_t batch_size : kBatchSizes) {
    const EmpiricalRisk risk =
        problem.risk(batch_size, {.reduction = reduction, .weight_decay = 0.3});
    for (const int64_t budget : {int64_t{0}, int64_t{1} << 30}) {
      BOOST_TEST_CONTEXT("batch size " << batch_size << ", budget " << budget) {
        const OperatorPtr a = kind.build(risk, {.memory_budget = budget});
        BOOST_TEST(close(materialize(*a), expected));
        BOOST_TEST(close(materialize(*a, 3), expected));  // from what is kept, in chunks
        BOOST_TEST(close(a->apply_adjoint(expected), expected.mm(expected)));
      }
    }
  }
  for (const bool by_layer : {false, true}) {
    const MatrixFreeOptions options{.blocks = by_layer ? Blocks::kLayer : Blocks::kParameter};
    BOOST_TEST(close(materialize(*kind.build(
                         problem.risk(3, {.reduction = reduction, .weight_decay = 0.3}), options)),
                     keep_blocks(expected, whole.space(), by_layer)));
  }
}

}  // namespace

BOOST_DATA_TEST_CASE(operators_equal_their_dense_twins,
                     bdata::make(kKinds) * bdata::make(problems()), kind, problem) {
  for (const Reduction reduction : kReductions) check(kind, problem, reduction);
}

BOOST_DATA_TEST_CASE(the_jacobian_and_its_adjoint_equal_the_dense_one, bdata::make(problems()),
                     problem) {
  const EmpiricalRisk risk = problem.risk(3);
  const at::Tensor expected = dense_jacobian(problem, risk);
  const OperatorPtr j = jacobian(risk);

  BOOST_TEST(close(materialize(*j), expected));
  BOOST_TEST(close(j->apply_adjoint(at::eye(expected.size(0), expected.options())), expected.t()));
  BOOST_TEST(close(materialize(*ntk(risk)), expected.mm(expected.t())));
  BOOST_TEST((ntk(risk)->spec().symmetry >= Symmetry::kPositiveSemidefinite));
}

BOOST_DATA_TEST_CASE(diagonals_equal_those_of_the_dense_twins, bdata::make(problems()), problem) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
    const EmpiricalRisk risk = problem.risk(3, {.reduction = reduction, .weight_decay = 0.3});
    BOOST_TEST(close(*ggn_diagonal(risk)->diagonal(), dense_ggn(problem, risk).diagonal()));
    BOOST_TEST(close(*hessian_diagonal(risk)->diagonal(), dense_hessian(problem, risk).diagonal()));
  }
}

BOOST_DATA_TEST_CASE(example_gradients_equal_those_of_one_example_at_a_time,
                     bdata::make(problems()), problem) {
  const EmpiricalRisk risk = problem.risk(3);
  const at::Tensor expected = dense_example_gradients(problem, risk);
  const auto flat = [&](int64_t first, int64_t count) {
    TensorList parts = per_example_gradients(risk, first, count);
    for (at::Tensor& part : parts) part = part.reshape({count, -1});
    return at::cat(parts, 1);
  };

  BOOST_TEST(close(flat(0, problem.num_examples()), expected));
  BOOST_TEST(close(flat(2, 2), expected.narrow(0, 2, 2)));
  BOOST_CHECK_THROW(flat(0, problem.num_examples() + 1), OptionError);
}

BOOST_DATA_TEST_CASE(loss_and_gradient_equal_the_reference, bdata::make(problems()), problem) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
    const at::Tensor loss =
        problem.reference(problem.model(problem.inputs), problem.targets, reduction);
    for (const int64_t batch_size : {1, 3, 100}) {
      const EmpiricalRisk risk = problem.risk(batch_size, {.reduction = reduction});
      TensorList expected = torch::autograd::grad({loss}, risk.parameters(), {}, true, false, true);
      const TensorList gradient = risk.gradient();

      BOOST_TEST(risk.loss() == loss.item<double>(), boost::test_tools::tolerance(1e-12));
      for (size_t i = 0; i < gradient.size(); ++i) {
        if (!expected[i].defined()) expected[i] = at::zeros_like(gradient[i]);
        BOOST_TEST(close(gradient[i], expected[i]));
      }
    }
  }
}

BOOST_DATA_TEST_CASE(a_subset_in_another_order_is_a_principal_submatrix, bdata::make(kKinds),
                     kind) {
  const Problem& problem = problems().front();
  const EmpiricalRisk all = problem.risk(3);
  const EmpiricalRisk some = problem.risk(3, {.parameters = {"2.*", "0.weight"}});
  std::vector<int64_t> rows;
  for (const SpaceEntry& entry : some.space().entries()) {
    const SpaceEntry& original = all.space().entries()[*all.space().find(entry.name)];
    for (int64_t i = 0; i < original.size; ++i) rows.push_back(original.offset + i);
  }
  const at::Tensor index = at::tensor(rows).to(test_device());

  BOOST_TEST(some.space().entries()[0].name == "2.weight");
  BOOST_TEST(some.space().entries()[2].name == "0.weight");
  const at::Tensor expected =
      kind.dense(problem, all).index_select(0, index).index_select(1, index);
  BOOST_TEST(close(materialize(*kind.build(some, {})), expected));
  BOOST_TEST(
      close(materialize(*kind.build(all.with_parameters({"2.*", "0.weight"}), {})), expected));
}

BOOST_AUTO_TEST_SUITE_END()
