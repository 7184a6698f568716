#include <Spectra/SymEigsSolver.h>

#include <curvature/core/error.hpp>
#include <curvature/core/random.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/host_product.hpp>

#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(host_product_test)

using namespace curvature;

BOOST_AUTO_TEST_CASE(products_are_those_of_the_operator) {
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    const at::Tensor matrix = RandomSource(1).normal(0, 12).reshape({3, 4});
    const HostProduct product(dense(matrix.to(testing::test_device(), dtype)));
    const testing::Tolerance tolerance{dtype == at::kDouble ? 1e-14 : 1e-6};
    const at::Tensor x = RandomSource(2).normal(0, 4);
    const at::Tensor y = at::empty({3}, at::kDouble);
    product.perform_op(x.const_data_ptr<double>(), y.mutable_data_ptr<double>());
    BOOST_TEST(testing::close(y, matrix.mv(x), tolerance));

    const at::Tensor z = at::empty({4}, at::kDouble);
    product.perform_adjoint_op(y.const_data_ptr<double>(), z.mutable_data_ptr<double>());
    BOOST_TEST(testing::close(z, matrix.t().mv(y), tolerance));
    BOOST_TEST(product.rows() == 3);
    BOOST_TEST(product.cols() == 4);
    BOOST_TEST(product.num_products() == 2);
  }
}

BOOST_AUTO_TEST_CASE(spectra_finds_the_largest_eigenvalues) {
  const int64_t n = 50;
  const at::Tensor values = at::arange(1, n + 1, at::kDouble);
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    HostProduct product(curvature::diagonal(values.to(testing::test_device(), dtype)));
    Spectra::SymEigsSolver<HostProduct> solver(product, 3, 20);
    solver.init();
    BOOST_TEST(solver.compute(Spectra::SortRule::LargestAlge, 1000, 1e-10) == 3);
    const double tolerance = dtype == at::kDouble ? 1e-8 : 1e-4;
    for (int i = 0; i < 3; ++i) {
      BOOST_TEST(std::abs(solver.eigenvalues()[i] - static_cast<double>(n - i)) < tolerance);
    }
    BOOST_TEST(product.num_products() >= 20);
  }
}

BOOST_AUTO_TEST_CASE(a_null_operator_is_refused) {
  BOOST_CHECK_THROW(HostProduct(nullptr), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
