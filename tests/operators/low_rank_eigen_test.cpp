#include <limits>
#include <tuple>

#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <curvature/core/error.hpp>
#include <curvature/core/random.hpp>
#include <curvature/operators/eigen_decomposed.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/epsilon.hpp"
#include "operators/definite_inverse.hpp"
#include "operators/low_rank_eigen.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(low_rank_eigen_test)

using namespace curvature;
using namespace curvature::testing;
namespace data = boost::unit_test::data;

namespace {

at::Tensor random_matrix(int64_t rows, int64_t columns, uint64_t seed) {
  return RandomSource(seed).normal(0, rows, columns).to(test_device());
}

/// Orthonormal columns `[n, k]`.
at::Tensor random_basis(int64_t n, int64_t k, uint64_t seed) {
  return std::get<0>(at::linalg_qr(random_matrix(n, k, seed)));
}

/// Eigenvalues from 1 to 10^-decades in random directions, and zeros.
at::Tensor matrix_of_rank(int64_t n, int64_t rank, double decades, at::ScalarType dtype) {
  const at::Tensor q = random_basis(n, rank, 1);
  const at::Tensor values = at::logspace(0, -decades, rank, 10.0, q.options());
  const at::Tensor matrix = (q * values).matmul(q.t());
  return ((matrix + matrix.t()) / 2).to(dtype);
}

double length(const at::Tensor& x) { return x.norm().item<double>(); }

struct Errors {
  double backward;
  double orthogonality;
};

Errors errors_of(const curvature::detail::SymmetricEigen& eigen, const at::Tensor& matrix) {
  const at::Tensor v = eigen.vectors.to(at::kDouble), exact = matrix.to(at::kDouble);
  const at::Tensor product = (v * eigen.values.to(at::kDouble)).matmul(v.t());
  return {length(product - exact), length(v.t().matmul(v) - at::eye(v.size(0), v.options()))};
}

/// Not more than twice the errors of LAPACK, or than ten roundings (it is exact where nothing is to
/// be done).
void check_as_good_as_lapack(const at::Tensor& matrix, int64_t max_rank) {
  const auto dtype = matrix.scalar_type();
  const int64_t n = matrix.size(0);
  const curvature::detail::SymmetricEigen eigen =
      curvature::detail::semidefinite_eigen_in_range(matrix, max_rank, "test");
  BOOST_TEST(eigen.vectors.scalar_type() == dtype);
  BOOST_TEST(eigen.vectors.stride(0) == 1);  // as LAPACK leaves them
  BOOST_TEST((eigen.values.diff() >= 0).all().item<bool>());
  BOOST_TEST(eigen.values.min().item<double>() >= 0);
  const Errors made = errors_of(eigen, matrix);
  const Errors lapack = errors_of(curvature::detail::symmetric_eigen(matrix, "test"), matrix);
  BOOST_TEST(made.backward <=
             2 * lapack.backward + 10 * curvature::detail::epsilon(dtype) * length(matrix));
  BOOST_TEST(made.orthogonality <=
             2 * lapack.orthogonality +
                 4 * curvature::detail::epsilon(dtype) * static_cast<double>(n));
}

const auto kDtypes = data::make({at::kFloat, at::kDouble});

}  // namespace

BOOST_DATA_TEST_CASE(errors_are_those_of_lapack_whatever_the_spectrum,
                     kDtypes* data::make({0.0, 3.0, 6.0, 12.0}), dtype, decades) {
  for (const int64_t rank : {1, 40, 150}) {
    BOOST_TEST_CONTEXT("rank " << rank) {
      check_as_good_as_lapack(matrix_of_rank(300, rank, decades, dtype), rank);
    }
  }
}

BOOST_DATA_TEST_CASE(the_bound_on_the_rank_may_be_generous, kDtypes, dtype) {
  const at::Tensor matrix = matrix_of_rank(300, 20, 2, dtype);
  for (const int64_t bound : {20, 21, 100, 180, 295, 300, 1000}) {
    BOOST_TEST_CONTEXT("bound " << bound) { check_as_good_as_lapack(matrix, bound); }
  }
}

BOOST_DATA_TEST_CASE(any_size_and_scale_will_do, kDtypes, dtype) {
  for (const int64_t n : {1, 2, 9, 100, 257}) {
    for (const double scale : {1e-20, 1.0, 1e20}) {
      BOOST_TEST_CONTEXT(n << " at " << scale) {
        const at::Tensor rows = random_matrix((n + 2) / 3, n, 4).to(dtype);
        check_as_good_as_lapack(scale * rows.t().matmul(rows), rows.size(0));
      }
    }
  }
}

BOOST_DATA_TEST_CASE(zero_and_diagonal_matrices_are_nothing_special, kDtypes, dtype) {
  const at::Tensor zero =
      at::zeros({300, 300}, at::TensorOptions().dtype(dtype).device(test_device()));
  check_as_good_as_lapack(zero, 0);
  check_as_good_as_lapack(zero, 100);
  at::Tensor diagonal = zero.clone();
  diagonal.diagonal().narrow(0, 100, 50).fill_(1);
  diagonal.diagonal()[7] = 3;
  check_as_good_as_lapack(diagonal, 51);
}

BOOST_AUTO_TEST_CASE(what_is_low_goes_by_way_of_the_range) {
  const at::Tensor low = matrix_of_rank(300, 30, 1, at::kFloat);
  const auto same = [](const curvature::detail::SymmetricEigen& a,
                       const curvature::detail::SymmetricEigen& b) {
    return at::equal(a.values, b.values) && at::equal(a.vectors, b.vectors);
  };
  const auto chosen = [&low](int64_t max_rank) {
    return curvature::detail::semidefinite_eigen(low, max_rank, "test");
  };
  BOOST_TEST(same(chosen(30), curvature::detail::semidefinite_eigen_in_range(low, 30, "test")));
  const auto lapack = [](const at::Tensor& matrix) {
    const curvature::detail::SymmetricEigen eigen =
        curvature::detail::symmetric_eigen(matrix, "test");
    return curvature::detail::SymmetricEigen{eigen.values.clamp_min(0), eigen.vectors};
  };
  BOOST_TEST(same(chosen(300), lapack(low)));
  // A bound that is no help: what is left of a matrix tells.
  BOOST_TEST(same(chosen(299), curvature::detail::semidefinite_eigen_in_range(low, 299, "test")));
  const at::Tensor high = matrix_of_rank(300, 290, 1, at::kFloat);
  BOOST_TEST(same(curvature::detail::semidefinite_eigen(high, 290, "test"), lapack(high)));
}

BOOST_DATA_TEST_CASE(eigenvalues_that_rounding_hides_are_not_looked_for, data::make({300, 1200}),
                     n) {
  const at::Tensor matrix = matrix_of_rank(n, n - 10, 24, at::kFloat);
  check_as_good_as_lapack(matrix, n - 10);
  const curvature::detail::SymmetricEigen eigen =
      curvature::detail::semidefinite_eigen(matrix, n - 10, "test");
  BOOST_TEST(eigen.values.eq(0).sum().item<int64_t>() > n / 4);
}

BOOST_AUTO_TEST_CASE(matrices_that_are_not_finite_are_refused) {
  at::Tensor matrix = at::eye(300, at::TensorOptions().device(test_device()));
  matrix[2][3] = std::numeric_limits<float>::quiet_NaN();
  for (const int64_t max_rank : {10, 300}) {
    BOOST_CHECK_THROW(curvature::detail::semidefinite_eigen(matrix, max_rank, "test"),
                      NumericalError);
  }
}

BOOST_DATA_TEST_CASE(inverses_by_blocks_are_as_good_as_those_of_lapack,
                     kDtypes* data::make({0.0, 2.0, 4.0, 6.0}), dtype, decades) {
  const int64_t n = 260;
  const at::Tensor matrix = matrix_of_rank(n, n, decades, dtype);
  const at::Tensor identity = at::eye(n, matrix.options().dtype(at::kDouble));
  const auto residual = [&](const at::Tensor& inverse) {
    return length(matrix.to(at::kDouble).matmul(inverse.to(at::kDouble)) - identity);
  };
  const double lapack = residual(at::cholesky_inverse(std::get<0>(at::linalg_cholesky_ex(matrix))));
  for (const int64_t block : {1, 7, 100, 130, 259, 260, 300}) {
    BOOST_TEST_CONTEXT("block " << block) {
      const auto inverse = curvature::detail::definite_inverse_by_blocks(matrix, block);
      BOOST_REQUIRE(inverse.has_value());
      BOOST_TEST(inverse->scalar_type() == dtype);
      BOOST_TEST(at::equal(*inverse, inverse->t()));
      BOOST_TEST(residual(*inverse) <=
                 4 * lapack + 4 * curvature::detail::epsilon(dtype) * static_cast<double>(n));
    }
  }
}

BOOST_DATA_TEST_CASE(large_inverses_are_inverses, kDtypes, dtype) {
  const at::Tensor matrix = matrix_of_rank(800, 800, 1, dtype);
  const auto inverse = curvature::detail::definite_inverse(matrix);
  BOOST_REQUIRE(inverse.has_value());
  BOOST_TEST(close(inverse->to(at::kDouble), at::linalg_inv(matrix.to(at::kDouble)),
                   {1e3 * curvature::detail::epsilon(dtype)}));
}

BOOST_DATA_TEST_CASE(indefinite_matrices_have_no_definite_inverse, kDtypes, dtype) {
  for (const int64_t where : {0, 300, 799}) {
    at::Tensor matrix = at::eye(800, at::TensorOptions().dtype(dtype).device(test_device()));
    matrix[where][where] = -1;
    BOOST_TEST(!curvature::detail::definite_inverse(matrix).has_value());
    BOOST_TEST(!curvature::detail::definite_inverse_by_blocks(matrix, 64).has_value());
  }
}

BOOST_AUTO_TEST_CASE(products_take_directions_of_one_eigenvalue_together) {
  const at::Tensor q0 = random_basis(24, 24, 1), q1 = random_basis(30, 30, 2);
  const at::Tensor q = at::kron(q0, q1), x = random_matrix(720, 3, 3);
  const auto check = [&](const LinearOperator& a, const at::Tensor& values) {
    BOOST_TEST(close(a.apply(x), (q * values).matmul(q.t()).matmul(x)));
    BOOST_TEST(close(a.apply(TensorList{x}).front(), a.apply(x)));
    BOOST_TEST(close(a.apply_adjoint(x), a.apply(x)));
  };
  for (const auto& [rows, columns, value] :
       {std::tuple(0, 0, 0.), std::tuple(1, 0, 0.), std::tuple(0, 2, 0.), std::tuple(20, 27, 0.),
        std::tuple(24, 5, 0.), std::tuple(3, 30, 0.), std::tuple(24, 30, 0.), std::tuple(5, 4, 2.5),
        std::tuple(20, 9, 2.5), std::tuple(24, 30, 2.5)}) {
    at::Tensor values = random_matrix(24, 30, 6);
    values.narrow(0, 0, rows).fill_(value);
    values.narrow(1, 0, columns).fill_(value);
    const at::Tensor flat = values.reshape({-1});
    BOOST_TEST_CONTEXT(rows << " rows, " << columns << " columns of " << value) {
      const OperatorPtr a = eigen_decomposed(kronecker({q0, q1}), flat);
      check(*a, flat);
      check(*a->function([](const at::Tensor& eigenvalues) { return eigenvalues.exp(); }),
            flat.exp());
    }
  }
  const double infinite = std::numeric_limits<double>::infinity();
  const at::Tensor flat = at::full({720}, infinite, at::kDouble);
  const OperatorPtr unbounded = eigen_decomposed(kronecker({q0, q1}), flat);
  BOOST_TEST(!at::isfinite(unbounded->apply(x)).any().item<bool>());
}

BOOST_AUTO_TEST_SUITE_END()
