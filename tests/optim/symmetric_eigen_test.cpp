#include "optim/symmetric_eigen.hpp"

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/core/error.hpp>

#include "support/tensor_close.hpp"

namespace curvature::testing {

BOOST_AUTO_TEST_SUITE(symmetric_eigen_test)

namespace {

using optim::EigenSolver;
using optim::SymmetricEigen;

optim::ParameterView view_with(std::vector<std::string>& warnings) {
  return {.name = "fc.weight",
          .shape = {3, 3},
          .modes = {optim::ModeKind::kDense, optim::ModeKind::kDense},
          .options = at::kFloat,
          .warn = [&warnings](const std::string& text) { warnings.push_back(text); }};
}

SymmetricEigen failing(const at::Tensor&) { TORCH_CHECK(false, "did not converge"); }

}  // namespace

BOOST_AUTO_TEST_CASE(eigenvalues_descend) {
  std::vector<std::string> warnings;
  EigenSolver solve(view_with(warnings));
  const at::Tensor a = at::tensor({2.0, 5.0, -1.0}).diag();
  const auto eigen = solve(a, 0);
  BOOST_REQUIRE(eigen.has_value());
  BOOST_TEST(close(eigen->values, at::tensor({5.0, 2.0, -1.0})));
  BOOST_TEST(close(eigen->vectors.matmul(eigen->values.diag()).matmul(eigen->vectors.t()), a));
}

BOOST_AUTO_TEST_CASE(a_failure_in_float32_is_tried_again_in_float64) {
  std::vector<std::string> warnings;
  EigenSolver solve(view_with(warnings), [](const at::Tensor& a) {
    TORCH_CHECK(a.scalar_type() == at::kDouble, "did not converge");
    const auto [values, vectors] = at::linalg_eigh(a);
    return SymmetricEigen{values.flip(0), vectors.flip(1)};
  });
  const auto eigen = solve(at::eye(3, at::kFloat), 0);
  BOOST_REQUIRE(eigen.has_value());
  BOOST_TEST(eigen->vectors.scalar_type() == at::kFloat);
  BOOST_TEST(warnings.empty());
}

BOOST_AUTO_TEST_CASE(three_failures_in_a_row_keep_the_basis_and_the_fourth_is_an_error) {
  std::vector<std::string> warnings;
  EigenSolver solve(view_with(warnings), failing);
  for (int i = 0; i < 3; ++i) BOOST_TEST(!solve(at::eye(3, at::kFloat), 1).has_value());
  BOOST_TEST(warnings.size() == 3U);
  BOOST_TEST(warnings.front().find("'fc.weight'") != std::string::npos);
  BOOST_TEST(warnings.front().find("axis 1") != std::string::npos);
  BOOST_CHECK_THROW(solve(at::eye(3, at::kFloat), 1), NumericalError);
}

BOOST_AUTO_TEST_CASE(a_factor_that_is_not_finite_is_an_error_by_name) {
  std::vector<std::string> warnings;
  EigenSolver solve(view_with(warnings));
  BOOST_CHECK_EXCEPTION(solve(at::full({3, 3}, NAN), 1), NumericalError,
                        [](const NumericalError& error) {
                          return std::string(error.what()).find("'fc.weight'") != std::string::npos;
                        });
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace curvature::testing
