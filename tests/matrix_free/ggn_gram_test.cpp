#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/core/error.hpp>
#include <curvature/matrix_free/ggn.hpp>

#include "support/problems.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(ggn_gram_test)

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(equals_the_dense_quadratic_forms) {
  for (const Problem& problem : problems()) {
    BOOST_TEST_CONTEXT(problem) {
      const EmpiricalRisk risk = problem.risk(3, {.weight_decay = 0.1});
      const at::Tensor v =
          RandomSource(3).normal(0, 3 * risk.space().size()).view({-1, 3}).to(test_device());
      const at::Tensor expected = v.t().mm(dense_ggn(problem, risk)).mm(v).cpu();
      BOOST_TEST(close(ggn_gram(risk, v), expected, {1e-9}));
    }
  }
}

BOOST_AUTO_TEST_CASE(no_columns_and_wrong_ones) {
  const Problem& problem = problems().front();
  const EmpiricalRisk risk = problem.risk(3);
  const at::Tensor v = torch::ones({risk.space().size(), 2}, problem.inputs[0].options());
  BOOST_TEST(ggn_gram(risk, v.narrow(1, 0, 0)).numel() == 0);
  BOOST_CHECK_THROW(ggn_gram(risk, v.select(1, 0)), ShapeError);
  BOOST_CHECK_THROW(ggn_gram(risk, v.narrow(0, 1, 2)), ShapeError);
  BOOST_CHECK_THROW(ggn_gram(risk, v.to(at::kFloat)), DtypeDeviceError);
  BOOST_CHECK_THROW(ggn_gram(risk, v * INFINITY), NumericalError);
}

BOOST_AUTO_TEST_SUITE_END()
