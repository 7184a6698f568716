#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/core/error.hpp>
#include <curvature/operators/kronecker_sum.hpp>

#include "support/dense_operator.hpp"

// That it is the matrix it should be: operator_cases_test.cpp.
BOOST_AUTO_TEST_SUITE(kronecker_sum_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

at::Tensor eye(int64_t n) { return torch::eye(n, double_options()); }

}  // namespace

BOOST_AUTO_TEST_CASE(factors_that_do_not_fit_are_refused) {
  BOOST_CHECK_THROW(kronecker_sum(eye(2), eye(3), eye(3), eye(2)), ShapeError);
  BOOST_CHECK_THROW(kronecker_sum(eye(2), eye(3), eye(2), eye(3).to(at::kFloat)), DtypeDeviceError);
  BOOST_CHECK_THROW(kronecker_sum(eye(2), eye(3), eye(2), eye(3), 1, Symmetry::kGeneral),
                    OptionError);
}

BOOST_AUTO_TEST_CASE(what_has_no_inverse_says_so) {
  const auto inverse_of = [](const at::Tensor& a, double coefficient, Symmetry symmetry) {
    return kronecker_sum(a, eye(3), eye(2), eye(3), coefficient, symmetry)->inverse();
  };
  BOOST_CHECK_THROW(inverse_of(-eye(2), 1, Symmetry::kSymmetric), NumericalError);
  BOOST_CHECK_THROW(inverse_of(eye(2), -1, Symmetry::kSymmetric), NumericalError);
  BOOST_CHECK_THROW(inverse_of(eye(2), -2, Symmetry::kPositiveDefinite), NumericalError);
  const OperatorPtr negative = inverse_of(eye(2), -2, Symmetry::kSymmetric);
  BOOST_TEST(close(materialize(*negative), -eye(6)));
}

BOOST_AUTO_TEST_SUITE_END()
