#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/spectral/block_lanczos.hpp>

#include "spectral/matrices.hpp"
#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(block_lanczos_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

struct Case {
  Matrix matrix;
  int64_t block_size;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.matrix.name << ", blocks of " << c.block_size;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Matrix& matrix : analytic_matrices()) {
    for (const int64_t block_size : {1, 4}) all.push_back({matrix, block_size});
  }
  return all;
}

}  // namespace

BOOST_DATA_TEST_CASE(both_ends_agree_with_closed_forms_and_lapack, cases(), c) {
  const DenseOperator a(c.matrix.matrix);
  const int64_t n = a.rows();
  const int64_t top = std::min<int64_t>(6, n), bottom = std::min<int64_t>(4, n);
  BlockLanczosOptions options{.count = top, .count_bottom = bottom, .block_size = c.block_size};
  if (c.matrix.crowded_bottom) options.max_basis = n;
  const BlockLanczosResult result = block_lanczos_eigenpairs(a, options);
  BOOST_TEST((result.termination == Termination::kConverged));
  BOOST_TEST(!result.dense);
  BOOST_TEST(result.products == a.products());
  BOOST_TEST(int64_t(result.top.values.size()) == top);
  BOOST_TEST(int64_t(result.bottom.values.size()) == bottom);
  check_values(c.matrix, result);
  check_pairs(a, result.top);
  check_pairs(a, result.bottom);
}

BOOST_AUTO_TEST_CASE(one_end_alone_and_the_largest_in_magnitude) {
  for (const Matrix& matrix : analytic_matrices()) {
    const DenseOperator a(matrix.matrix);
    const int64_t count = std::min<int64_t>(5, a.rows());
    const double norm = matrix.eigenvalues.abs().max().item<double>();
    BOOST_TEST_CONTEXT(matrix.name) {
      const EigenpairsResult top = block_lanczos_eigenpairs(a, {.count = count, .block_size = 2});
      check_values(matrix, top);
      BOOST_TEST(top.bottom.values.empty());
      BOOST_TEST(top.bottom.vectors.sizes() == c10::IntArrayRef({a.rows(), 0}));

      const EigenpairsResult magnitude = block_lanczos_eigenpairs(
          a, {.count = count, .order = EigenvalueOrder::kMagnitude, .block_size = 2});
      const at::Tensor expected =
          std::get<0>(matrix.eigenvalues.abs().sort(0, true)).narrow(0, 0, count);
      BOOST_TEST(close(values_of(magnitude.top).abs(), expected, {0, 1e-10 * norm}));
      check_pairs(a, magnitude.top);
      if (matrix.crowded_bottom) continue;
      const EigenpairsResult bottom =
          block_lanczos_eigenpairs(a, {.count = 0, .count_bottom = count, .block_size = 2});
      check_values(matrix, bottom);
      BOOST_TEST(bottom.top.values.empty());
    }
  }
}

BOOST_AUTO_TEST_CASE(all_pairs_and_never_more_than_there_are) {
  for (const int64_t block_size : {1, 3, 4, 7, 40}) {
    const Matrix matrix = block_laplacian(5, 5);
    const DenseOperator a(matrix.matrix);
    const BlockLanczosResult result =
        block_lanczos_eigenpairs(a, {.count = 25, .count_bottom = 25, .block_size = block_size});
    BOOST_TEST((result.termination == Termination::kConverged));
    BOOST_TEST(result.num_restarts == 0);
    BOOST_TEST(result.products == 25 + 50);  // the basis, then the residuals
    check_values(matrix, result);
    check_pairs(a, result.top);
    check_pairs(a, result.bottom);
  }
}

BOOST_AUTO_TEST_CASE(copies_beyond_the_block_are_found_for_every_seed) {
  const auto copies = [](double value, int64_t count) {
    return torch::full({count}, value, at::kDouble);
  };
  const Matrix matrix = prescribed(
      "copies", torch::cat({copies(10, 9), copies(7, 3), copies(-4, 6), linspace(-1, 1, 282)}));
  const DenseOperator a(matrix.matrix);
  for (const uint64_t seed : {1, 2, 3, 4, 5}) {
    for (const int64_t block_size : {1, 2, 4}) {
      const BlockLanczosResult result = block_lanczos_eigenpairs(
          a,
          {.count = 13, .count_bottom = 7, .block_size = block_size, .random = RandomSource(seed)});
      BOOST_TEST((result.termination == Termination::kConverged));
      check_values(matrix, result);
      check_pairs(a, result.top);
    }
  }
}

BOOST_AUTO_TEST_CASE(copies_up_to_the_block_cost_no_search) {
  const Matrix matrix =
      prescribed("copies", torch::cat({torch::full({3}, 10.0, at::kDouble), linspace(0, 1, 297)}));
  const DenseOperator a(matrix.matrix);
  const BlockLanczosResult result = block_lanczos_eigenpairs(a, {.count = 3, .block_size = 4});
  check_values(matrix, result);
  BOOST_TEST(result.num_restarts == 0);
  BOOST_TEST(result.products < 50);
}

BOOST_AUTO_TEST_CASE(a_step_reads_the_basis_two_and_a_half_times_at_most) {
  for (const int64_t block_size : {1, 4}) {
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
      const DenseOperator a(laplacian(1000).to(dtype));
      const BlockLanczosResult result = block_lanczos_eigenpairs(
          a, {.count = 4, .block_size = block_size, .max_basis = 300, .max_restarts = 2});
      BOOST_TEST(result.num_steps >= 300 / block_size);
      BOOST_TEST(result.basis_passes >= 2 * result.num_steps);
      BOOST_TEST(double(result.basis_passes) <= 2.5 * double(result.num_steps));
      check_pairs(a, result.top, dtype == at::kDouble ? 1e-12 : 1e-5);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_million_dimensions_in_float32) {
  const int64_t n = 1000000;
  const auto options = at::TensorOptions().dtype(at::kFloat).device(test_device());
  at::Tensor eigenvalues = torch::linspace(-0.1, 1, n, options).pow(3);
  eigenvalues.narrow(0, 500, 6).copy_(torch::linspace(5, 50, 6, options));
  const BlockLanczosResult result =
      block_lanczos_eigenpairs(curvature::diagonal(eigenvalues), {.count = 6, .max_basis = 40});
  BOOST_TEST((result.termination == Termination::kConverged));
  BOOST_TEST(close(values_of(result.top), linspace(5, 50, 6).flip(0), {1e-6}));
  BOOST_TEST(double(result.basis_passes) <= 2.5 * double(result.num_steps));
  const at::Tensor u = host(result.top.vectors);
  BOOST_TEST(close(u.t().mm(u), torch::eye(6, at::kDouble), {1e-5, 1e-5}));
}

BOOST_AUTO_TEST_CASE(float32_operators_are_solved_in_float32) {
  const Matrix matrix =
      prescribed("outliers", torch::cat({linspace(-0.5, 1, 395), linspace(3, 8, 5)}));
  const DenseOperator a(matrix.matrix.to(at::kFloat));
  const BlockLanczosResult result = block_lanczos_eigenpairs(a, {.count = 6, .count_bottom = 2});
  BOOST_TEST((result.termination == Termination::kConverged));
  BOOST_TEST(result.products == a.products());
  check_values(matrix, result, 2e-6);
  check_pairs(a, result.top, 1e-5);
  const BlockLanczosResult exact =
      block_lanczos_eigenpairs(a, {.count = 3, .tolerance = 1e-12, .max_restarts = 50});
  BOOST_TEST((exact.termination != Termination::kConverged));
  BOOST_TEST(*std::max_element(exact.top.residuals.begin(), exact.top.residuals.end()) < 1e-4);
}

BOOST_AUTO_TEST_CASE(spectra_of_any_scale_and_shift) {
  const at::Tensor matrix = with_eigenvalues(torch::cat({linspace(1, 2, 290), linspace(4, 9, 10)}));
  for (const double scale : {1.0, -1.0, 1e-30, -1e30}) {
    const DenseOperator a(matrix * scale);
    const BlockLanczosResult result = block_lanczos_eigenpairs(a, {.count = 4, .count_bottom = 4});
    BOOST_TEST((result.termination == Termination::kConverged));
    check_values(by_lapack("scaled", a.matrix()), result);
  }
  const DenseOperator far(laplacian(200) + 1e4 * torch::eye(200, double_options()));
  check_values(by_lapack("shifted", far.matrix()), block_lanczos_eigenpairs(far, {.count = 3}));
}

BOOST_AUTO_TEST_CASE(not_converging_is_data) {
  const DenseOperator a(laplacian(400));
  const BlockLanczosResult result = block_lanczos_eigenpairs(a, {.count = 5, .max_restarts = 0});
  BOOST_TEST((result.termination == Termination::kMaxIterations));
  BOOST_TEST(result.num_restarts == 0);
  BOOST_TEST(result.products == a.products());
  check_pairs(a, result.top);
  for (size_t i = 0; i < 5; ++i) {
    const double distance = (lapack(a.matrix()) - result.top.values[i]).abs().min().item<double>();
    BOOST_TEST(distance <= result.top.residuals[i] + 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(same_seed_same_bits_and_another_seed_the_same_values) {
  const DenseOperator a(with_eigenvalues(torch::cat({linspace(0, 1, 195), linspace(3, 8, 5)})));
  const auto solve = [&](uint64_t seed) {
    return block_lanczos_eigenpairs(a, {.count = 5, .random = RandomSource(seed)}).top;
  };
  const Eigenpairs first = solve(1), second = solve(1), other = solve(2);
  BOOST_TEST((first.values == second.values));
  BOOST_TEST(first.vectors.equal(second.vectors));
  BOOST_TEST(!first.vectors.equal(other.vectors));
  BOOST_TEST(close(values_of(first), values_of(other), {1e-12}));
}

BOOST_AUTO_TEST_CASE(the_observer_sees_products_and_cancels_by_an_exception) {
  struct Cancelled {};
  const auto a = std::make_shared<DenseOperator>(laplacian(50));
  int64_t last = 0;
  const BlockLanczosResult result = block_lanczos_eigenpairs(
      OperatorPtr(a), {.count = 3, .observer = [&](const Progress& progress) {
                         BOOST_TEST(progress.done > last);
                         last = progress.done;
                       }});
  BOOST_TEST(last == result.products - 3);  // residuals come last, in one piece
  const auto cancel = [](const Progress&) { throw Cancelled{}; };
  BOOST_CHECK_THROW(block_lanczos_eigenpairs(*a, {.count = 3, .observer = cancel}), Cancelled);
  BOOST_TEST(at::GradMode::is_enabled());
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const DenseOperator a(laplacian(30));
  const std::vector<BlockLanczosOptions> wrong = {
      {.count = 31},
      {.count = 0},
      {.count = -1},
      {.count = 1, .count_bottom = -1},
      {.count = 1, .count_bottom = 1, .order = EigenvalueOrder::kMagnitude},
      {.count = 1, .block_size = 0},
      {.count = 5, .block_size = 4, .max_basis = 12},
      {.count = 1, .tolerance = 0.0},
      {.count = 1, .max_restarts = -1}};
  for (const BlockLanczosOptions& options : wrong) {
    BOOST_CHECK_THROW(block_lanczos_eigenpairs(a, options), OptionError);
  }
  BOOST_CHECK_THROW(block_lanczos_eigenpairs(OperatorPtr(), {.count = 1}), OptionError);
  BOOST_CHECK_THROW(
      block_lanczos_eigenpairs(DenseOperator(laplacian(10), Symmetry::kGeneral), {.count = 1}),
      NotSupportedError);
  at::Tensor broken = laplacian(30);
  broken[3][3] = std::nan("");
  BOOST_CHECK_THROW(block_lanczos_eigenpairs(DenseOperator(broken), {.count = 1}), NumericalError);
}

BOOST_AUTO_TEST_SUITE_END()
