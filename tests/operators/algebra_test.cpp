#include <atomic>
#include <string>

#include <curvature/core/error.hpp>
#include <curvature/core/random.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/block_diagonal.hpp>
#include <curvature/operators/decorators.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/eigen_decomposed.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/operators/kronecker.hpp>
#include <curvature/operators/low_rank.hpp>
#include <curvature/operators/permutation.hpp>
#include <curvature/operators/submatrix.hpp>

#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(algebra_test)

using namespace curvature;

namespace {

at::Tensor matrix(uint64_t seed, int64_t m, int64_t n) {
  return RandomSource(seed).normal(0, m * n).reshape({m, n});
}
at::Tensor definite(uint64_t seed, int64_t n) {
  const at::Tensor a = matrix(seed, n, n);
  return a.mm(a.t()) / static_cast<double>(n) + at::eye(n, at::kDouble);
}
at::Tensor symmetric_power(const at::Tensor& a, double exponent) {
  const auto [values, vectors] = at::linalg_eigh(a);
  return (vectors * values.pow(exponent)).mm(vectors.t());
}
OperatorPtr vector_diagonal(std::initializer_list<double> d) {
  return curvature::diagonal(at::tensor(std::vector<double>(d), at::kDouble));
}
OperatorPtr opaque(const at::Tensor& a, Symmetry symmetry = Symmetry::kGeneral) {
  OperatorSpec spec{Space::flat(a.size(1)), Space::flat(a.size(0)), at::kDouble, at::kCPU,
                    symmetry};
  const MatrixMap apply = [a](const at::Tensor& x) { return a.mm(x); };
  return function_operator(spec, apply);
}

template <class Kind>
bool is(const OperatorPtr& a) {
  return std::holds_alternative<Kind>(a->structure());
}

constexpr auto kPd = Symmetry::kPositiveDefinite;

}  // namespace

BOOST_AUTO_TEST_CASE(closed_results_keep_their_structure) {
  const OperatorPtr d = vector_diagonal({1, 2, 3, 4});
  const OperatorPtr i = identity(Space::flat(4));
  const OperatorPtr z = zero(Space::flat(4), Space::flat(4));
  const OperatorPtr m = dense(definite(1, 4), kPd);
  const OperatorPtr u = outer_products(matrix(2, 4, 2), at::ones({2}, at::kDouble));
  const OperatorPtr k = kronecker({definite(3, 2), definite(4, 2)}, kPd);
  const OperatorPtr b = block_diagonal({m, d}, Space::flat(8), Space::flat(8));
  const OperatorPtr f = opaque(definite(5, 4), kPd);

  BOOST_TEST(is<DiagonalStructure>(d + d));
  BOOST_TEST(is<DiagonalStructure>(i - d));
  BOOST_TEST(is<DiagonalStructure>(d * d));
  BOOST_TEST(is<ScaledIdentityStructure>(i + i));
  BOOST_TEST(is<ScaledIdentityStructure>(3 * i));
  BOOST_TEST(is<DenseStructure>(m + d));
  BOOST_TEST(is<DenseStructure>(d * m));
  BOOST_TEST(is<LowRankStructure>(d + u));
  BOOST_TEST(is<LowRankStructure>(shifted(u, 1)));
  BOOST_TEST(is<LowRankStructure>(inverse(d + u)));
  BOOST_TEST(is<KroneckerStructure>(-2 * k));
  BOOST_TEST(is<KroneckerStructure>(k * k));
  BOOST_TEST(is<KroneckerStructure>(inverse(k)));
  BOOST_TEST(is<KroneckerStructure>(pow(k, -0.5)));
  BOOST_TEST(is<EigenStructure>(inverse(shifted(k, 0.1))));
  BOOST_TEST(is<BlockDiagonalStructure>(shifted(b, 1)));
  BOOST_TEST(is<BlockDiagonalStructure>(b * b));
  BOOST_TEST(is<BlockDiagonalStructure>(inverse(b)));
  BOOST_TEST((f + z == f));
  BOOST_TEST((z + f == f));
  BOOST_TEST((i * f == f));
  BOOST_TEST((1 * f == f));
  BOOST_TEST((shifted(f, 0) == f));
  BOOST_TEST((adjoint(f) == f));
  BOOST_TEST(is<ScaledIdentityStructure>(f * z));
  BOOST_TEST(is<ScaledIdentityStructure>(0 * f));
  const OperatorPtr g = opaque(matrix(6, 3, 4));
  BOOST_TEST((adjoint(adjoint(g)) == g));
}

BOOST_AUTO_TEST_CASE(nested_sums_and_products_are_flat) {
  const OperatorPtr f = opaque(definite(1, 3), kPd);
  const OperatorPtr g = opaque(matrix(2, 3, 3));
  const auto sum_of = std::get<SumStructure>((f - 2 * shifted(g + f, 3))->structure());
  BOOST_TEST(sum_of.coefficients == (std::vector<double>{1, -2, -2}),
             boost::test_tools::per_element());
  BOOST_TEST(sum_of.shift == -6);
  const auto product_of = std::get<ProductStructure>(((f * g) * (g * f))->structure());
  BOOST_TEST(product_of.factors.size() == 4u);
}

BOOST_AUTO_TEST_CASE(symmetry_is_propagated_as_far_as_it_follows) {
  const OperatorPtr definite_one = opaque(definite(1, 3), kPd);
  const OperatorPtr semidefinite =
      opaque(at::zeros({3, 3}, at::kDouble), Symmetry::kPositiveSemidefinite);
  const OperatorPtr symmetric = opaque(at::eye(3, at::kDouble) * -1, Symmetry::kSymmetric);
  const OperatorPtr general = opaque(matrix(2, 3, 3));
  const auto symmetry_is = [](const OperatorPtr& a, Symmetry s) { return a->spec().symmetry == s; };

  BOOST_TEST(symmetry_is(definite_one + semidefinite, kPd));
  BOOST_TEST(symmetry_is(shifted(semidefinite, 1), kPd));
  BOOST_TEST(symmetry_is(shifted(definite_one, -1), Symmetry::kSymmetric));
  BOOST_TEST(symmetry_is(definite_one + symmetric, Symmetry::kSymmetric));
  BOOST_TEST(symmetry_is(definite_one + general, Symmetry::kGeneral));
  BOOST_TEST(symmetry_is(2 * definite_one, kPd));
  BOOST_TEST(symmetry_is(-definite_one, Symmetry::kSymmetric));
  BOOST_TEST(symmetry_is(definite_one * symmetric, Symmetry::kGeneral));
  BOOST_TEST(symmetry_is(adjoint(general) * general, Symmetry::kPositiveSemidefinite));
  BOOST_TEST(symmetry_is(general * adjoint(general), Symmetry::kPositiveSemidefinite));
  BOOST_TEST(
      symmetry_is(inverse(outer_products(at::eye(2, at::kDouble), at::ones({2}, at::kDouble)) +
                          zero(Space::flat(2), Space::flat(2)) + identity(Space::flat(2))),
                  kPd));
}

BOOST_AUTO_TEST_CASE(closed_forms_pass_through_composites) {
  const at::Tensor a = definite(1, 2);
  const at::Tensor b = definite(2, 3);
  const OperatorPtr damped = 2 * shifted(kronecker({a, b}, kPd), 0.5);
  const at::Tensor twin = 2 * at::kron(a, b) + at::eye(6, at::kDouble);
  BOOST_TEST(testing::close(damped->diagonal().value(), twin.diagonal()));
  BOOST_TEST(std::abs(damped->trace().value() - twin.trace().item<double>()) < 1e-12);
  BOOST_TEST(std::abs(damped->log_determinant()->log_abs - twin.logdet().item<double>()) < 1e-12);
  BOOST_TEST(std::abs(damped->frobenius_norm().value() - twin.norm().item<double>()) < 1e-12);
  BOOST_TEST(testing::close(materialize(*pow(damped, -0.25)), symmetric_power(twin, -0.25)));
}

BOOST_AUTO_TEST_CASE(powers_are_those_of_the_matrix) {
  const at::Tensor a = definite(1, 3);
  const at::Tensor b = definite(2, 2);
  const at::Tensor whole = at::kron(a, b);
  for (const double exponent : {-2.0, -1.0, -0.5, 0.25, 0.5, 1.0, 3.0}) {
    BOOST_TEST_CONTEXT("exponent " << exponent) {
      const at::Tensor expected = symmetric_power(whole, exponent);
      BOOST_TEST(testing::close(materialize(*pow(dense(whole, kPd), exponent)), expected));
      BOOST_TEST(testing::close(materialize(*pow(kronecker({a, b}, kPd), exponent)), expected));
    }
  }
  BOOST_TEST(is<ScaledIdentityStructure>(pow(dense(a), 0)));
  // Two negative factors have positive products, so a root exists though no factor has one.
  const OperatorPtr positive = kronecker({-a, -b}, Symmetry::kSymmetric);
  BOOST_TEST(testing::close(materialize(*pow(positive, 0.5)), symmetric_power(whole, 0.5)));
  // Integers need no eigenvalues.
  const at::Tensor general = matrix(3, 3, 3);
  BOOST_TEST(testing::close(materialize(*pow(opaque(general), 3)), general.matrix_power(3)));
  BOOST_TEST(testing::close(materialize(*pow(dense(general), -2)), general.matrix_power(-2)));
}

BOOST_AUTO_TEST_CASE(powers_that_do_not_exist_are_refused) {
  BOOST_CHECK_THROW(pow(vector_diagonal({1, -1}), 0.5), NumericalError);
  BOOST_CHECK_THROW(pow(vector_diagonal({1, 0}), -1), NumericalError);
  BOOST_CHECK_THROW(pow(kronecker({-definite(1, 2)}, Symmetry::kSymmetric), 0.5), NumericalError);
  BOOST_CHECK_THROW(pow(dense(definite(1, 2)), 0.5), NotSupportedError);
  BOOST_CHECK_THROW(pow(opaque(definite(1, 2), kPd), 0.5), NotSupportedError);
  BOOST_CHECK_THROW(pow(opaque(definite(1, 2), kPd), -1), NotSupportedError);
  BOOST_CHECK_THROW(pow(identity(Space::flat(1)), std::nan("")), OptionError);
  BOOST_CHECK_THROW(pow(dense(matrix(1, 2, 3)), 2), ShapeError);
}

BOOST_AUTO_TEST_CASE(an_inverse_without_closed_form_names_the_way_out) {
  BOOST_CHECK_EXCEPTION(inverse(opaque(definite(1, 2), kPd)), NotSupportedError,
                        [](const Error& error) {
                          return std::string(error.what()).find("solver") != std::string::npos;
                        });
  BOOST_CHECK_THROW(function(dense(matrix(1, 2, 2)), [](const at::Tensor& l) { return l; }),
                    NotSupportedError);
  BOOST_CHECK_THROW(inverse(dense(matrix(1, 2, 3))), ShapeError);
  BOOST_CHECK_THROW(inverse(zero(Space::flat(2), Space::flat(2))), NumericalError);
  BOOST_CHECK_THROW(inverse(outer_products(matrix(1, 3, 1), at::ones({1}, at::kDouble))),
                    NumericalError);
}

BOOST_AUTO_TEST_CASE(operands_that_do_not_fit_are_refused) {
  const OperatorPtr a = dense(matrix(1, 3, 3));
  const OperatorPtr wide = dense(matrix(1, 3, 4));
  const OperatorPtr shaped = identity(Space({{"w", {1, 3}}}));
  const OperatorPtr single = identity(Space::flat(3), at::kFloat);
  BOOST_CHECK_THROW(a + wide, ShapeError);
  BOOST_CHECK_THROW(a + shaped, ShapeError);
  BOOST_CHECK_THROW(wide * a, ShapeError);
  BOOST_CHECK_THROW(a * shaped, ShapeError);
  BOOST_CHECK_THROW(shifted(wide, 1), ShapeError);
  BOOST_CHECK_THROW(a + single, DtypeDeviceError);
  BOOST_CHECK_THROW(a * single, DtypeDeviceError);
  BOOST_CHECK_THROW(block_diagonal({a, single}), DtypeDeviceError);
  BOOST_CHECK_THROW(scaled(a, std::nan("")), OptionError);
  BOOST_CHECK_THROW(shifted(a, INFINITY), OptionError);
  BOOST_CHECK_THROW(a + nullptr, OptionError);
  BOOST_CHECK_THROW(sum(std::vector<OperatorPtr>{}), OptionError);
  BOOST_CHECK_THROW(product(std::vector<OperatorPtr>{}), OptionError);
}

BOOST_AUTO_TEST_CASE(factories_refuse_what_does_not_fit) {
  const at::Tensor integers = at::ones({2, 2}, at::kLong);
  BOOST_CHECK_THROW(dense(integers), DtypeDeviceError);
  BOOST_CHECK_THROW(dense(at::Tensor()), ShapeError);
  BOOST_CHECK_THROW(dense(matrix(1, 2, 3), Space::flat(2), Space::flat(2)), ShapeError);
  BOOST_CHECK_THROW(dense(matrix(1, 2, 3), Symmetry::kSymmetric), ShapeError);
  BOOST_CHECK_THROW(dense(at::full({2, 2}, NAN, at::kDouble), kPd)->eigenvalues(), NumericalError);
  BOOST_CHECK_THROW(curvature::diagonal(matrix(1, 2, 2)), ShapeError);
  BOOST_CHECK_THROW(curvature::diagonal(TensorList{}), OptionError);
  BOOST_CHECK_THROW(kronecker({}), OptionError);
  BOOST_CHECK_THROW(kronecker({matrix(1, 2, 3)}, kPd), ShapeError);
  BOOST_CHECK_THROW(low_rank_plus_diagonal(at::ones({3}), at::ones({2, 1}), at::ones({1})),
                    ShapeError);
  BOOST_CHECK_THROW(block_diagonal({}), OptionError);
  BOOST_CHECK_THROW(block_diagonal({dense(matrix(1, 2, 2))}, Space::flat(3), Space::flat(2)),
                    ShapeError);
  BOOST_CHECK_THROW(eigen_decomposed(matrix(1, 2, 2), at::ones({3}, at::kDouble)), ShapeError);
  BOOST_CHECK_THROW(permutation({0, 0}), OptionError);
  BOOST_CHECK_THROW(permutation({0, 2}), OptionError);
  BOOST_CHECK_THROW(submatrix(dense(matrix(1, 2, 2)), {2}, {0}), OptionError);
  BOOST_CHECK_THROW(submatrix(dense(matrix(1, 2, 2)), {0, 0}, {0}), OptionError);
  BOOST_CHECK_THROW(submatrix_by_name(identity(Space({{"w", {2}}})), {"b"}, {"w"}), OptionError);
  BOOST_CHECK_THROW(with_spaces(dense(matrix(1, 2, 2)), Space::flat(3), Space::flat(2)),
                    ShapeError);
  BOOST_CHECK_THROW(counting(dense(matrix(1, 2, 2)), nullptr), OptionError);
  BOOST_CHECK_THROW(function_operator({Space::flat(1), Space::flat(1)}, MatrixMap{}), OptionError);
}

BOOST_AUTO_TEST_CASE(what_a_function_returns_is_checked) {
  const OperatorSpec spec{Space::flat(2), Space::flat(2)};
  const MatrixMap short_one = [](const at::Tensor& x) { return x.narrow(0, 0, 1); };
  const MatrixMap single = [](const at::Tensor& x) { return x.to(at::kFloat); };
  const MatrixMap right = [](const at::Tensor& x) { return x * 2; };
  const at::Tensor x = at::ones({2}, at::kDouble);
  BOOST_CHECK_THROW(function_operator(spec, short_one)->apply(x), ShapeError);
  BOOST_CHECK_THROW(function_operator(spec, single)->apply(x), DtypeDeviceError);
  BOOST_CHECK_THROW(function_operator(spec, right)->apply_adjoint(x), NotSupportedError);
  BOOST_TEST(function_operator(spec, right)->apply(x).equal(x * 2));
}

BOOST_AUTO_TEST_CASE(products_are_counted_by_column) {
  const auto counter = std::make_shared<std::atomic<int64_t>>(0);
  const OperatorPtr a = counting(dense(matrix(1, 3, 3)), counter);
  a->apply(at::ones({3}, at::kDouble));
  a->apply_adjoint(at::ones({3, 4}, at::kDouble));
  a->apply(TensorList{at::ones({3, 2}, at::kDouble)});
  BOOST_TEST(counter->load() == 7);
  shifted(2 * a, 1)->apply(at::ones({3}, at::kDouble));
  BOOST_TEST(counter->load() == 8);
  a->trace();
  BOOST_TEST(counter->load() == 8);
}

BOOST_AUTO_TEST_CASE(inverses_of_which_rounding_leaves_nothing_are_refused) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const at::Tensor rows = RandomSource(3).normal(0, 2, 5).to(dtype);
    const OperatorPtr factor = dense(rows.t().mm(rows), Symmetry::kPositiveSemidefinite);
    BOOST_CHECK_THROW(factor->inverse(), NumericalError);
    BOOST_CHECK_THROW(
        kronecker({rows.t().mm(rows), at::eye(2, rows.options())}, Symmetry::kSymmetric)->inverse(),
        NumericalError);
    const at::Tensor scales = at::tensor({1e-25, 1.0, 1e8}, rows.options());
    const OperatorPtr badly_scaled = dense(at::diag(scales));
    BOOST_TEST(at::allclose(materialize(*badly_scaled->inverse()), at::diag(1 / scales)));
  }
}

BOOST_AUTO_TEST_SUITE_END()
