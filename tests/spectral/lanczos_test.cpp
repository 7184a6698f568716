#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/core/random.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/spectral/lanczos.hpp>

#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(lanczos_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

at::Tensor random_start(const LinearOperator& a, uint64_t stream = 0) {
  return RandomSource(3).normal(stream, a.rows()).to(a.spec().device, a.spec().dtype);
}

/// T `[m, m]`.
at::Tensor tridiagonal(const LanczosResult& run) {
  const int64_t m = run.num_steps();
  const at::Tensor off_diagonal = torch::tensor(run.betas, at::kDouble).narrow(0, 0, m - 1).diag(1);
  return torch::tensor(run.alphas, at::kDouble).diag() + off_diagonal + off_diagonal.t();
}

at::Tensor host(const at::Tensor& x) { return x.to(at::kCPU, at::kDouble); }

double orthogonality_error(const at::Tensor& rows) {
  const at::Tensor v = host(rows);
  return (v.matmul(v.t()) - torch::eye(v.size(0), at::kDouble)).abs().max().item<double>();
}

/// |A V - V T - beta v e^T| / |A|
double relation_error(const DenseOperator& a, const LanczosResult& run) {
  const at::Tensor matrix = host(a.matrix());
  const at::Tensor v = host(run.basis).t();
  at::Tensor error = matrix.matmul(v) - v.matmul(tridiagonal(run));
  if (run.next.defined()) error.select(1, -1) -= run.betas.back() * host(run.next);
  return (error.norm() / torch::linalg_matrix_norm(matrix, 2)).item<double>();
}

}  // namespace

BOOST_AUTO_TEST_CASE(three_hundred_steps_stay_orthonormal_and_satisfy_the_relation) {
  const DenseOperator a(laplacian(1000));
  const LanczosResult run = lanczos(a, random_start(a), {.num_steps = 300});

  BOOST_TEST(run.num_steps() == 300);
  BOOST_TEST(run.betas.size() == 300u);
  BOOST_TEST(a.products() == 300);
  BOOST_TEST(!run.breakdown);
  BOOST_TEST(orthogonality_error(torch::cat({run.basis, run.next.unsqueeze(0)})) < 1e-12);
  BOOST_TEST(relation_error(a, run) < 1e-13);
  BOOST_TEST(run.basis_passes >= 2 * 300);
  BOOST_TEST(run.basis_passes <= 2.5 * 300);
  BOOST_TEST(std::abs(run.start_norm - random_start(a).norm().item<double>()) < 1e-12);
}

BOOST_AUTO_TEST_CASE(a_million_dimensions_in_float32_take_two_passes_over_the_basis_a_step) {
  // The spectrum of a network: most of it near zero, a few outliers.
  const int64_t n = 1000000;
  const auto options = at::TensorOptions().dtype(at::kFloat).device(test_device());
  at::Tensor eigenvalues = torch::linspace(-0.1, 1, n, options).pow(3);
  eigenvalues.narrow(0, 0, 10).copy_(torch::linspace(2, 50, 10, options));
  const OperatorPtr a = curvature::diagonal(eigenvalues);
  const LanczosResult run = lanczos(*a, random_start(*a), {.num_steps = 40});
  BOOST_TEST(run.num_steps() == 40);
  BOOST_TEST(run.basis_passes >= 2 * 40);
  BOOST_TEST(run.basis_passes <= 2.5 * 40);
  BOOST_TEST(orthogonality_error(run.basis) < 1e-5);
  const LanczosResult no_basis =
      lanczos(*a, random_start(*a), {.num_steps = 3, .reorthogonalize = false});
  BOOST_TEST(no_basis.basis_passes == 0);
}

BOOST_AUTO_TEST_CASE(the_basis_stays_orthonormal_for_spectra_of_many_scales) {
  const at::Tensor exponents = torch::linspace(0, -12, 400, at::kDouble);
  const at::Tensor outliers = torch::cat(
      {torch::linspace(0, 1e-6, 395, at::kDouble), torch::linspace(1, 1e4, 5, at::kDouble)});
  for (const at::Tensor& eigenvalues : {torch::pow(10, exponents), outliers}) {
    const DenseOperator a(with_eigenvalues(eigenvalues));
    const LanczosResult run = lanczos(a, random_start(a), {.num_steps = 300});
    BOOST_TEST(run.num_steps() > 10);
    BOOST_TEST(orthogonality_error(run.basis) < 1e-12);
    BOOST_TEST(run.basis_passes <= 2.5 * double(run.num_steps()));
    BOOST_TEST(relation_error(a, run) < 1e-13);
    const DenseOperator single(a.matrix().to(at::kFloat));
    const LanczosResult in_float = lanczos(single, random_start(single), {.num_steps = 300});
    BOOST_TEST(orthogonality_error(in_float.basis) < 1e-5);
  }
}

BOOST_AUTO_TEST_CASE(ritz_residuals_are_the_true_ones_and_values_lie_inside_the_spectrum) {
  const DenseOperator a(laplacian(300));
  const LanczosResult run = lanczos(a, random_start(a), {.num_steps = 40});
  const RitzPairs ritz = ritz_pairs(run);
  const at::Tensor u = ritz_vectors(run, ritz, 0, 40);
  const at::Tensor values = torch::tensor(ritz.values, double_options());

  BOOST_TEST(
      close(tridiagonal(run).matmul(ritz.coefficients), ritz.coefficients * host(values), {1e-13}));
  BOOST_TEST(close(host((a.matrix().matmul(u) - u * values).norm(2, {0})),
                   torch::tensor(ritz.residuals, at::kDouble), {1e-10, 1e-12}));
  const at::Tensor exact = laplacian_eigenvalues(300);
  BOOST_TEST(ritz.values.front() >= exact[0].item<double>());
  BOOST_TEST(ritz.values.back() <= exact[-1].item<double>());
  for (size_t i = 0; i < ritz.values.size(); ++i) {
    // Some eigenvalue lies within the residual.
    const double distance = (exact - ritz.values[i]).abs().min().item<double>();
    BOOST_TEST(distance <= ritz.residuals[i] + 1e-13);
  }
}

BOOST_AUTO_TEST_CASE(the_largest_ritz_value_meets_the_kaniel_paige_saad_bound) {
  // One eigenvalue at 1.2, others in [0, 1].
  const at::Tensor eigenvalues =
      torch::cat({torch::linspace(0, 1, 199, at::kDouble), torch::tensor({1.2}, at::kDouble)});
  const DenseOperator a(with_eigenvalues(eigenvalues));
  const at::Tensor start = random_start(a);
  const int64_t m = 10;
  const double theta = ritz_pairs(lanczos(a, start, {.num_steps = m})).values.back();

  const at::Tensor top = std::get<1>(torch::linalg_eigh(a.matrix())).select(1, -1);
  const double cosine = (top.dot(start).abs() / start.norm()).item<double>();
  const double gap_ratio = (1.2 - 1.0) / (1.0 - 0.0);
  const double chebyshev = std::cosh((m - 1) * std::acosh(1 + 2 * gap_ratio));
  const double bound = 1.2 * std::pow(std::tan(std::acos(cosine)) / chebyshev, 2);
  BOOST_TEST(1.2 - theta <= bound);
  BOOST_TEST(1.2 - theta >= -1e-14);
  BOOST_TEST(bound < 1e-2);  // the claim says something
}

BOOST_AUTO_TEST_CASE(q_distinct_eigenvalues_break_down_after_q_steps_with_exact_values) {
  const at::Tensor distinct = torch::tensor({-1.5, 0.25, 3.0}, at::kDouble);
  const DenseOperator a(with_eigenvalues(distinct.repeat({70})));
  const LanczosResult run = lanczos(a, random_start(a), {.num_steps = 50});

  BOOST_TEST(run.breakdown);
  BOOST_TEST(run.num_steps() == 3);
  BOOST_TEST(a.products() == 3);
  BOOST_TEST(run.betas.back() == 0);
  BOOST_TEST(!run.next.defined());
  BOOST_TEST(relation_error(a, run) < 1e-13);
  BOOST_TEST(close(torch::tensor(ritz_pairs(run).values, at::kDouble), distinct, {1e-13}));
}

BOOST_AUTO_TEST_CASE(breakdown_does_not_depend_on_the_scale_of_the_operator) {
  const at::Tensor matrix =
      with_eigenvalues(torch::tensor({1.0, 2.0, 4.0}, at::kDouble).repeat({30}));
  for (const double scale : {1e-30, 1e30}) {
    const DenseOperator a(matrix * scale);
    const LanczosResult run = lanczos(a, random_start(a), {.num_steps = 20});
    BOOST_TEST(run.breakdown);
    BOOST_TEST(run.num_steps() == 3);
  }
}

BOOST_AUTO_TEST_CASE(zero_identity_single_entry_and_all_of_the_space) {
  const DenseOperator zero(torch::zeros({5, 5}, double_options()));
  const LanczosResult nothing = lanczos(zero, random_start(zero));
  BOOST_TEST(nothing.num_steps() == 1);
  BOOST_TEST(nothing.alphas[0] == 0);
  BOOST_TEST(nothing.breakdown);

  const DenseOperator identity(torch::eye(5, double_options()));
  const LanczosResult one = lanczos(identity, random_start(identity));
  BOOST_TEST(one.num_steps() == 1);
  BOOST_TEST(std::abs(one.alphas[0] - 1) < 1e-15);

  const DenseOperator number(torch::full({1, 1}, -2.5, double_options()));
  const LanczosResult single = lanczos(number, random_start(number));
  BOOST_TEST(single.breakdown);
  BOOST_TEST(ritz_pairs(single).values.at(0) == -2.5);

  const DenseOperator small(laplacian(12));
  const LanczosResult full = lanczos(small, random_start(small), {.num_steps = 80});
  BOOST_TEST(full.num_steps() == 12);
  BOOST_TEST(full.breakdown);
  BOOST_TEST(close(torch::tensor(ritz_pairs(full).values, at::kDouble),
                   host(laplacian_eigenvalues(12)), {1e-13}));
}

BOOST_AUTO_TEST_CASE(without_reorthogonalisation_an_outlier_comes_in_copies_of_the_right_weight) {
  const at::Tensor eigenvalues = torch::cat(
      {torch::linspace(0, 1, 999, double_options()), torch::tensor({100.0}, double_options())});
  const DenseOperator a(eigenvalues.diag());
  const at::Tensor start = torch::ones({1000}, double_options());

  const auto copies = [&](bool reorthogonalize) {
    const LanczosResult run =
        lanczos(a, start, {.num_steps = 60, .reorthogonalize = reorthogonalize});
    const RitzPairs ritz = ritz_pairs(run);
    int64_t count = 0;
    double weight = 0;
    for (size_t i = 0; i < ritz.values.size(); ++i) {
      if (std::abs(ritz.values[i] - 100) > 1e-6) continue;
      ++count;
      weight += std::pow(ritz.coefficients[0][static_cast<int64_t>(i)].item<double>(), 2);
    }
    BOOST_TEST(std::abs(weight - 1e-3) < 1e-10);
    BOOST_TEST(run.basis.defined() == reorthogonalize);
    return count;
  };
  BOOST_TEST(copies(true) == 1);
  BOOST_TEST(copies(false) > 3);
}

BOOST_AUTO_TEST_CASE(float32_runs_in_float32_and_agrees) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(-1, 3, 400, at::kDouble));
  const DenseOperator exact(matrix);
  const DenseOperator single(matrix.to(at::kFloat));
  const at::Tensor start = random_start(single);
  const LanczosResult run = lanczos(single, start, {.num_steps = 60});
  const LanczosResult reference = lanczos(exact, start.to(at::kDouble), {.num_steps = 60});

  BOOST_TEST((run.basis.scalar_type() == at::kFloat));
  BOOST_TEST(orthogonality_error(run.basis) < 1e-6);
  BOOST_TEST(relation_error(single, run) < 1e-5);
  // Extreme Ritz values are insensitive to rounding, single entries of T are not.
  BOOST_TEST(std::abs(ritz_pairs(run).values.back() - ritz_pairs(reference).values.back()) < 1e-5);
  const LanczosResult broken = lanczos(
      DenseOperator(
          with_eigenvalues(torch::tensor({1.0, 2.0}, at::kDouble).repeat({50})).to(at::kFloat)),
      random_start(single).narrow(0, 0, 100), {.num_steps = 10});
  BOOST_TEST(broken.breakdown);
  BOOST_TEST(broken.num_steps() == 2);
}

BOOST_AUTO_TEST_CASE(an_operator_that_returns_its_operand_is_safe) {
  class Identity final : public FlatOperator {
   public:
    Identity()
        : FlatOperator({.domain = Space::flat(6),
                        .range = Space::flat(6),
                        .device = test_device(),
                        .symmetry = Symmetry::kPositiveDefinite}) {}
    std::string describe() const override { return "I"; }

   protected:
    at::Tensor apply_flat_impl(const at::Tensor& x) const override { return x; }
  };
  const Identity identity;
  const at::Tensor start = random_start(identity);
  const at::Tensor copy = start.clone();
  BOOST_TEST(lanczos(identity, start).num_steps() == 1);
  BOOST_TEST(start.equal(copy));
}

BOOST_AUTO_TEST_CASE(same_start_same_bits_and_the_observer_sees_each_step) {
  const DenseOperator a(laplacian(100));
  std::vector<int64_t> seen;
  const auto watch = [&](const Progress& progress) {
    BOOST_TEST(progress.total == 30);
    seen.push_back(progress.done);
  };
  const LanczosResult first = lanczos(a, random_start(a), {.num_steps = 30, .observer = watch});
  const LanczosResult second = lanczos(a, random_start(a), {.num_steps = 30});
  BOOST_TEST(seen.size() == 30u);
  BOOST_TEST(seen.back() == 30);
  BOOST_TEST((first.alphas == second.alphas && first.betas == second.betas));
  BOOST_TEST(first.basis.equal(second.basis));
}

BOOST_AUTO_TEST_CASE(an_observer_cancels_by_an_exception) {
  struct Cancelled {};
  const DenseOperator a(laplacian(100));
  const auto cancel = [](const Progress& progress) {
    if (progress.done == 5) throw Cancelled{};
  };
  BOOST_CHECK_THROW(lanczos(a, random_start(a), {.num_steps = 30, .observer = cancel}), Cancelled);
  BOOST_TEST(a.products() == 5);
  BOOST_TEST(at::GradMode::is_enabled());
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const DenseOperator a(laplacian(10));
  const at::Tensor start = random_start(a);
  BOOST_CHECK_THROW(lanczos(a, start, {.num_steps = 0}), OptionError);
  BOOST_CHECK_THROW(lanczos(a, torch::zeros_like(start)), OptionError);
  BOOST_CHECK_THROW(lanczos(a, start.narrow(0, 0, 9)), ShapeError);
  BOOST_CHECK_THROW(lanczos(a, start.unsqueeze(1)), ShapeError);
  BOOST_CHECK_THROW(lanczos(a, at::Tensor()), ShapeError);
  BOOST_CHECK_THROW(lanczos(a, start.to(at::kFloat)), DtypeDeviceError);
  BOOST_CHECK_THROW(lanczos(a, start / 0), NumericalError);
  BOOST_CHECK_THROW(lanczos(DenseOperator(laplacian(10), Symmetry::kGeneral), start),
                    NotSupportedError);
  BOOST_CHECK_THROW(
      lanczos(DenseOperator(laplacian(10).to(at::kBFloat16)), start.to(at::kBFloat16)),
      NotSupportedError);
  at::Tensor broken = laplacian(10);
  broken[3][3] = std::nan("");
  BOOST_CHECK_THROW(lanczos(DenseOperator(broken), start), NumericalError);

  const LanczosResult bare = lanczos(a, start, {.num_steps = 4, .reorthogonalize = false});
  BOOST_CHECK_THROW(ritz_vectors(bare, ritz_pairs(bare), 0, 1), OptionError);
  const LanczosResult run = lanczos(a, start, {.num_steps = 4});
  BOOST_CHECK_THROW(ritz_vectors(run, ritz_pairs(run), 2, 3), OptionError);
  BOOST_CHECK_THROW(ritz_pairs(LanczosResult{}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
