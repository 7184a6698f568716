#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/spectral/eigenpairs.hpp>

#include "spectral/matrices.hpp"
#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(eigenpairs_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// The eigenvalues of a dense twin by LAPACK, ascending.
at::Tensor lapack(const DenseOperator& a) {
  return std::get<0>(torch::linalg_eigh(host(a.matrix())));
}

/// Whether the vectors are orthonormal and the reported residuals are the true ones.
void check_vectors(const DenseOperator& a, const Eigenpairs& pairs, double tolerance = 1e-10) {
  const int64_t k = static_cast<int64_t>(pairs.values.size());
  BOOST_TEST((pairs.vectors.scalar_type() == a.spec().dtype));
  BOOST_TEST((pairs.vectors.device() == a.spec().device));
  BOOST_TEST(pairs.vectors.sizes() == c10::IntArrayRef({a.rows(), k}));
  BOOST_TEST(pairs.residuals.size() == pairs.values.size());
  const at::Tensor u = host(pairs.vectors);
  BOOST_TEST(close(u.t().matmul(u), torch::eye(k, at::kDouble), {tolerance, tolerance}));
  const at::Tensor residuals = (host(a.matrix()).matmul(u) - u * values_of(pairs)).norm(2, {0});
  const double norm = lapack(a).abs().max().item<double>();
  BOOST_TEST(
      close(torch::tensor(pairs.residuals, at::kDouble), residuals, {1e-2, tolerance * norm}));
}

/// Checks `top` and `bottom` pairs of `matrix` against LAPACK.
EigenpairsResult check_both_ends(const at::Tensor& matrix, int64_t top, int64_t bottom,
                                 double tolerance = 1e-10) {
  const DenseOperator a(matrix);
  const EigenpairsResult result = eigenpairs(a, {.count = top, .count_bottom = bottom});
  BOOST_TEST(result.products == a.products());
  BOOST_TEST((result.termination == Termination::kConverged));
  const at::Tensor exact = lapack(a);
  const double norm = exact.abs().max().item<double>();
  BOOST_TEST(close(values_of(result.top), exact.flip(0).narrow(0, 0, top), {0, tolerance * norm}));
  BOOST_TEST(close(values_of(result.bottom), exact.narrow(0, 0, bottom), {0, tolerance * norm}));
  check_vectors(a, result.top);
  check_vectors(a, result.bottom);
  return result;
}

/// By the dense route and by iteration.
std::vector<Matrix> matrices() {
  std::vector<Matrix> all = analytic_matrices();
  for (const Matrix& matrix : analytic_matrices(300)) all.push_back(matrix);
  return all;
}

at::Tensor bulk(double low, double high, int64_t n) {
  return torch::linspace(low, high, n, at::kDouble);
}

}  // namespace

BOOST_DATA_TEST_CASE(analytic_matrices_to_ten_digits, matrices(), matrix) {
  const DenseOperator a(matrix.matrix);
  const int64_t top = std::min<int64_t>(6, a.rows());
  const int64_t bottom = matrix.crowded_bottom ? 0 : std::min<int64_t>(4, a.rows());
  const EigenpairsResult result = eigenpairs(a, {.count = top, .count_bottom = bottom});
  BOOST_TEST((result.termination == Termination::kConverged));
  BOOST_TEST(result.products == a.products());
  check_values(matrix, result);
  check_pairs(a, result.top);
  check_pairs(a, result.bottom);
}

BOOST_AUTO_TEST_CASE(both_ends_of_the_laplacian) {
  const int64_t n = 400;
  const DenseOperator a(laplacian(n));
  const EigenpairsResult result = eigenpairs(a, {.count = 6, .count_bottom = 4});
  const at::Tensor exact = host(laplacian_eigenvalues(n));
  BOOST_TEST(!result.dense);
  BOOST_TEST((result.termination == Termination::kConverged));
  BOOST_TEST(result.products == a.products());
  BOOST_TEST((values_of(result.top) - exact.flip(0).narrow(0, 0, 6)).abs().max().item<double>() <
             1e-10);
  BOOST_TEST((values_of(result.bottom) - exact.narrow(0, 0, 4)).abs().max().item<double>() < 1e-10);
  check_vectors(a, result.top);
  check_vectors(a, result.bottom);
}

BOOST_AUTO_TEST_CASE(the_dense_route_is_exact_with_multiplicities) {
  const at::Tensor eigenvalues = torch::cat(
      {torch::full({7}, 3.0, at::kDouble), torch::zeros({20}, at::kDouble), bulk(-1, 2, 33)});
  const EigenpairsResult result = check_both_ends(with_eigenvalues(eigenvalues), 10, 60);
  BOOST_TEST(result.dense);
  BOOST_TEST(result.products == 60 + 10 + 60);  // the matrix, then a residual for each pair
}

BOOST_AUTO_TEST_CASE(a_large_share_of_a_large_spectrum_goes_dense) {
  const EigenpairsResult result = check_both_ends(laplacian(300), 76, 0);
  BOOST_TEST(result.dense);
  BOOST_TEST(!check_both_ends(laplacian(300), 75, 0).dense);
}

BOOST_AUTO_TEST_CASE(outliers_and_bulk) {
  check_both_ends(with_eigenvalues(torch::cat({bulk(-0.1, 1, 396), bulk(5, 100, 4)})), 6, 3);
}

BOOST_AUTO_TEST_CASE(copies_of_multiple_eigenvalues_are_found) {
  const auto three = [](double value) { return torch::full({3}, value, at::kDouble); };
  const at::Tensor eigenvalues = torch::cat({three(10), three(7), three(-4), bulk(-1, 1, 391)});
  for (const uint64_t seed : {1, 2, 3}) {
    const EigenpairsResult result = check_both_ends(with_eigenvalues(eigenvalues, seed), 7, 4);
    BOOST_TEST(!result.dense);
  }
}

BOOST_AUTO_TEST_CASE(a_null_space_is_found_with_its_multiplicity) {
  const at::Tensor eigenvalues = torch::cat({torch::zeros({350}, at::kDouble), bulk(0.1, 3, 50)});
  check_both_ends(with_eigenvalues(eigenvalues), 3, 5);
}

BOOST_AUTO_TEST_CASE(the_two_dimensional_laplacian_has_pairs) {
  const at::Tensor one = laplacian(20), identity = torch::eye(20, double_options());
  check_both_ends(torch::kron(one, identity) + torch::kron(identity, one), 8, 8);
}

BOOST_AUTO_TEST_CASE(copies_in_a_cluster_at_the_edge_are_found) {
  // The ring: 2 - 2 cos(2 pi k / n), pairs that lie 2e-4 of the range apart.
  const int64_t n = 400;
  const at::Tensor shift = torch::eye(n, double_options()).roll(1, 0);
  check_both_ends(2 * torch::eye(n, double_options()) - shift - shift.t(), 4, 4);
}

BOOST_AUTO_TEST_CASE(clusters) {
  const at::Tensor eigenvalues =
      torch::cat({1 + 1e-6 * bulk(0, 1, 5), 0.5 + 1e-3 * bulk(0, 1, 5), bulk(0, 0.2, 390)});
  check_both_ends(with_eigenvalues(eigenvalues), 7, 2);
}

BOOST_AUTO_TEST_CASE(spectra_of_one_sign_and_of_any_scale) {
  const at::Tensor matrix = with_eigenvalues(torch::cat({bulk(1, 2, 390), bulk(4, 9, 10)}));
  for (const double scale : {1.0, -1.0, 1e-12, -1e12}) check_both_ends(matrix * scale, 4, 4);
}

BOOST_AUTO_TEST_CASE(a_shift_far_larger_than_the_range) {
  check_both_ends(laplacian(300) + 1e4 * torch::eye(300, double_options()), 3, 3);
}

BOOST_AUTO_TEST_CASE(zero_identity_and_a_single_entry) {
  check_both_ends(torch::zeros({300, 300}, double_options()), 4, 3);
  check_both_ends(torch::eye(300, double_options()), 4, 3);
  check_both_ends(-3 * torch::eye(300, double_options()), 4, 3);
  check_both_ends(torch::full({1, 1}, -2.0, double_options()), 1, 1);
  check_both_ends(torch::zeros({5, 5}, double_options()), 5, 5);
}

BOOST_AUTO_TEST_CASE(the_largest_in_magnitude_from_both_ends) {
  const at::Tensor eigenvalues =
      torch::cat({torch::tensor({-9.0, 7.0, -5.0, 3.0, 3.0}, at::kDouble), bulk(-1, 2, 295)});
  for (const int64_t n : {int64_t{300}, int64_t{60}}) {  // by iteration and dense
    const DenseOperator a(with_eigenvalues(eigenvalues.narrow(0, 0, n)));
    const EigenpairsResult result =
        eigenpairs(a, {.count = 5, .order = EigenvalueOrder::kMagnitude});
    BOOST_TEST(result.dense == (n == 60));
    BOOST_TEST(result.products == a.products());
    BOOST_TEST(close(values_of(result.top), eigenvalues.narrow(0, 0, 5), {1e-10}));
    BOOST_TEST(result.bottom.values.empty());
    check_vectors(a, result.top);
  }
  const DenseOperator negative(-torch::eye(300, double_options()));
  const EigenpairsResult all =
      eigenpairs(negative, {.count = 3, .order = EigenvalueOrder::kMagnitude});
  check_vectors(negative, all.top);
}

BOOST_AUTO_TEST_CASE(float32_operators_are_solved_in_float32) {
  const at::Tensor matrix =
      with_eigenvalues(torch::cat({bulk(-0.5, 1, 395), bulk(3, 8, 5)})).to(at::kFloat);
  const DenseOperator a(matrix);
  const EigenpairsResult result = eigenpairs(a, {.count = 6, .count_bottom = 2});
  BOOST_TEST((result.termination == Termination::kConverged));
  BOOST_TEST(close(values_of(result.top), lapack(a).flip(0).narrow(0, 0, 6), {2e-6}));
  BOOST_TEST(close(values_of(result.bottom), lapack(a).narrow(0, 0, 2), {0, 2e-5}));
  check_vectors(a, result.top, 2e-6);

  const DenseOperator small(matrix.narrow(0, 0, 40).narrow(1, 0, 40).contiguous());
  const EigenpairsResult dense = eigenpairs(small, {.count = 3, .count_bottom = 3});
  BOOST_TEST((dense.termination == Termination::kConverged));
  check_vectors(small, dense.top, 2e-6);
}

BOOST_AUTO_TEST_CASE(a_tolerance_below_the_rounding_of_the_operator_stagnates) {
  const DenseOperator a(
      with_eigenvalues(torch::cat({bulk(0, 1, 395), bulk(3, 8, 5)})).to(at::kFloat));
  const EigenpairsResult result = eigenpairs(a, {.count = 3, .tolerance = 1e-12});
  BOOST_TEST((result.termination == Termination::kStagnated));
  BOOST_TEST(*std::max_element(result.top.residuals.begin(), result.top.residuals.end()) < 1e-4);
}

BOOST_AUTO_TEST_CASE(without_search_and_verification_a_product_makes_a_vector_of_the_basis) {
  const at::Tensor matrix = with_eigenvalues(torch::cat({bulk(-0.5, 1, 395), bulk(3, 8, 5)}));
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    const DenseOperator a(matrix.to(dtype));
    const EigenpairsResult result =
        eigenpairs(a, {.count = 5, .tolerance = 1e-4, .find_copies = false, .verify = false});
    BOOST_TEST((result.termination == Termination::kConverged));
    BOOST_TEST(result.products == a.products());
    BOOST_TEST(result.products <= 22);
    BOOST_TEST(close(values_of(result.top), bulk(3, 8, 5).flip(0), {1e-6}));
    const double norm = 8;
    for (const double residual : result.top.residuals) BOOST_TEST(residual <= 1e-4 * norm);
    check_vectors(a, result.top, dtype == at::kDouble ? 1e-10 : 2e-6);
  }
}

BOOST_AUTO_TEST_CASE(residuals_from_the_recurrence_do_not_claim_more_than_rounding_allows) {
  const DenseOperator a(
      with_eigenvalues(torch::cat({bulk(0, 1, 395), bulk(3, 8, 5)})).to(at::kFloat));
  const EigenpairsResult result = eigenpairs(a, {.count = 3, .tolerance = 1e-12, .verify = false});
  BOOST_TEST((result.termination == Termination::kStagnated));
  for (const double residual : result.top.residuals) {
    BOOST_TEST(residual >= 1e-6 * 7.9);
    BOOST_TEST(residual <= 1e-4);
  }
}

BOOST_AUTO_TEST_CASE(a_search_is_cheap_where_the_next_eigenvalue_stands_apart) {
  const auto a = curvature::diagonal(torch::cat({bulk(0, 1, 9995), bulk(4, 8, 5)}));
  const auto products = [&](bool find_copies) {
    return eigenpairs(a, {.count = 5, .find_copies = find_copies, .verify = false}).products;
  };
  BOOST_TEST(products(true) > products(false));
  BOOST_TEST(products(true) <= products(false) + 14);
  // Copies of the last value found would change nothing.
  const auto one = [&](bool find_copies) {
    return eigenpairs(a, {.count = 1, .find_copies = find_copies, .verify = false}).products;
  };
  BOOST_TEST(one(true) == one(false));
}

BOOST_AUTO_TEST_CASE(a_search_finds_the_copy_whatever_the_seed) {
  // A miss has a probability of 1e-3 at most, by a bound that is far from tight.
  const auto a = curvature::diagonal(
      torch::cat({torch::tensor({6.0, 6.0, 5.0, -6.0, -6.0, -5.5}, at::kDouble), bulk(0, 3, 294)}));
  const at::Tensor top = torch::tensor({6.0, 6.0, 5.0}, at::kDouble);
  const at::Tensor bottom = torch::tensor({-6.0, -6.0, -5.5}, at::kDouble);
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const EigenpairsResult result =
        eigenpairs(a, {.count = 3, .count_bottom = 3, .random = RandomSource(seed)});
    BOOST_TEST(close(values_of(result.top), top, {1e-10}));
    BOOST_TEST(close(values_of(result.bottom), bottom, {1e-10}));
    const EigenpairsResult magnitude = eigenpairs(
        a, {.count = 5, .order = EigenvalueOrder::kMagnitude, .random = RandomSource(seed)});
    BOOST_TEST(close(values_of(magnitude.top).abs(),
                     torch::tensor({6.0, 6.0, 6.0, 6.0, 5.5}, at::kDouble), {1e-10}));
  }
}

BOOST_AUTO_TEST_CASE(a_start_vector_begins_the_krylov_space) {
  const int64_t n = 300;
  const at::Tensor values = torch::arange(1, n + 1, double_options());
  const auto a = curvature::diagonal(values);
  const at::Tensor start = values.cos();
  const auto solve = [&](const at::Tensor& from, uint64_t seed) {
    return eigenpairs(
               a, {.count = 3, .find_copies = false, .start = from, .random = RandomSource(seed)})
        .top;
  };
  BOOST_TEST((solve(start, 1).values == solve(start, 2).values));
  BOOST_TEST((solve(start, 1).values != solve(start.roll(1, 0), 1).values));
  BOOST_TEST(close(values_of(solve(start, 1)), torch::tensor({300.0, 299.0, 298.0}, at::kDouble),
                   {1e-10}));

  // From an eigenvector, and from a vector without any part of the one wanted.
  const at::Tensor unit = torch::eye(n, double_options())[7];
  at::Tensor blind = start.clone();
  blind[n - 1] = 0;
  for (const at::Tensor& from : {unit, blind}) {
    const EigenpairsResult result = eigenpairs(a, {.count = 3, .start = from});
    BOOST_TEST(
        close(values_of(result.top), torch::tensor({300.0, 299.0, 298.0}, at::kDouble), {1e-10}));
  }
  BOOST_CHECK_THROW(solve(start.narrow(0, 1, n - 1), 1), ShapeError);
  BOOST_CHECK_THROW(solve(start.to(at::kFloat), 1), DtypeDeviceError);
  BOOST_CHECK_THROW(solve(torch::zeros_like(start), 1), OptionError);
  BOOST_CHECK_THROW(solve(start / 0.0, 1), NumericalError);
}

BOOST_AUTO_TEST_CASE(a_small_basis_restarts_until_it_converges) {
  const Matrix matrix =
      prescribed("indefinite", torch::cat({bulk(-2, 1, 392), bulk(3, 8, 5), bulk(-9, -5, 3)}));
  for (const int64_t max_basis : {12, 16, 21}) {
    const DenseOperator a(matrix.matrix);
    const EigenpairsResult result =
        eigenpairs(a, {.count = 5, .count_bottom = 3, .max_basis = max_basis});
    BOOST_TEST((result.termination == Termination::kConverged));
    BOOST_TEST(result.products == a.products());
    check_values(matrix, result);
    check_pairs(a, result.top);
    check_pairs(a, result.bottom);
  }
}

BOOST_AUTO_TEST_CASE(not_converging_is_data) {
  const DenseOperator a(laplacian(400));
  const EigenpairsResult result = eigenpairs(a, {.count = 5, .max_restarts = 0});
  BOOST_TEST((result.termination == Termination::kMaxIterations));
  BOOST_TEST(result.top.values.size() == 5u);
  BOOST_TEST(result.products == a.products());
  check_vectors(a, result.top);
  for (size_t i = 0; i < 5; ++i) {
    const double distance = (lapack(a) - result.top.values[i]).abs().min().item<double>();
    BOOST_TEST(distance <= result.top.residuals[i] + 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(same_seed_same_bits_and_another_seed_the_same_values) {
  const DenseOperator a(with_eigenvalues(torch::cat({bulk(0, 1, 395), bulk(3, 8, 5)})));
  const auto solve = [&](uint64_t seed) {
    return eigenpairs(a, {.count = 5, .random = RandomSource(seed)}).top;
  };
  const Eigenpairs first = solve(1), second = solve(1), other = solve(2);
  BOOST_TEST((first.values == second.values));
  BOOST_TEST(first.vectors.equal(second.vectors));
  BOOST_TEST(!first.vectors.equal(other.vectors));
  BOOST_TEST(close(values_of(first), values_of(other), {1e-12}));
}

BOOST_AUTO_TEST_CASE(a_shared_operator_is_taken_as_it_is) {
  const OperatorPtr a = std::make_shared<DenseOperator>(laplacian(30));
  BOOST_TEST((eigenpairs(a, {.count = 2}).top.values == eigenpairs(*a, {.count = 2}).top.values));
  BOOST_CHECK_THROW(eigenpairs(OperatorPtr(), {.count = 2}), OptionError);
}

BOOST_AUTO_TEST_CASE(the_observer_sees_products_and_cancels_by_an_exception) {
  struct Cancelled {};
  for (const int64_t n : {50, 300}) {
    const DenseOperator a(laplacian(n));
    int64_t last = -1;
    const EigenpairsResult result =
        eigenpairs(a, {.count = 3, .observer = [&](const Progress& progress) {
                         BOOST_TEST(progress.done > last);
                         last = progress.done;
                       }});
    BOOST_TEST(last == result.products - 3);  // residuals come last, in one piece
    const auto cancel = [](const Progress&) { throw Cancelled{}; };
    BOOST_CHECK_THROW(eigenpairs(a, {.count = 3, .observer = cancel}), Cancelled);
    BOOST_TEST(at::GradMode::is_enabled());
  }
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const DenseOperator a(laplacian(10));
  BOOST_CHECK_THROW(eigenpairs(a, {.count = 11}), OptionError);
  BOOST_CHECK_THROW(eigenpairs(a, {.count = 0}), OptionError);
  BOOST_CHECK_THROW(eigenpairs(a, {.count = -1}), OptionError);
  BOOST_CHECK_THROW(eigenpairs(a, {.count = 1, .count_bottom = -1}), OptionError);
  BOOST_CHECK_THROW(eigenpairs(a, {.count = 1, .tolerance = 0.0}), OptionError);
  BOOST_CHECK_THROW(eigenpairs(a, {.count = 1, .max_restarts = -1}), OptionError);
  BOOST_CHECK_THROW(eigenpairs(a, {.count = 5, .max_basis = 6}), OptionError);
  BOOST_CHECK_THROW(
      eigenpairs(a, {.count = 1, .count_bottom = 1, .order = EigenvalueOrder::kMagnitude}),
      OptionError);
  BOOST_CHECK_THROW(eigenpairs(DenseOperator(laplacian(10), Symmetry::kGeneral), {.count = 1}),
                    NotSupportedError);
  for (const int64_t n : {10, 300}) {
    at::Tensor broken = laplacian(n);
    broken[3][3] = std::nan("");
    BOOST_CHECK_THROW(eigenpairs(DenseOperator(broken), {.count = 1}), NumericalError);
  }
}

BOOST_AUTO_TEST_CASE(an_empty_operator_is_called_so) {
  const DenseOperator a(torch::zeros({0, 0}, double_options()));
  const auto says_empty = [](const ShapeError& error) {
    return std::string(error.what()).find("the operator is empty") != std::string::npos;
  };
  BOOST_CHECK_EXCEPTION(eigenpairs(a, {.count = 1}), ShapeError, says_empty);
}

BOOST_AUTO_TEST_SUITE_END()
