#include "spectral/eigen_support.hpp"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_cholesky.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_eigvalsh.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <curvature/spectral/lanczos.hpp>

#include "core/check.hpp"
#include "core/epsilon.hpp"
#include "core/finite.hpp"
#include "spectral/inner_products.hpp"
#include "spectral/sampling.hpp"

namespace curvature::detail {
namespace {

constexpr int64_t kNormSteps = 8;
/// Smallest eigenvalue, in units of rounding, of a Gram matrix with a diagonal of ones that is
/// factored.
constexpr double kDependence = 100;

}  // namespace

double breakdown_threshold(at::ScalarType dtype) { return dtype == at::kDouble ? 1e-13 : 1e-6; }

void check_dtype(const LinearOperator& a, const char* who) {
  CURVATURE_CHECK(a.spec().dtype == at::kDouble || a.spec().dtype == at::kFloat, NotSupportedError,
                  "{}: expected an operator in float32 or float64, got {} in {}", who, a.describe(),
                  c10::toString(a.spec().dtype));
}

void check_symmetric(const LinearOperator& a, const char* who) {
  CURVATURE_CHECK(a.is_symmetric(), NotSupportedError, "{}: expected a symmetric operator, got {}",
                  who, a.describe());
  check_not_empty(a, who);
  check_dtype(a, who);
}

void check_selection(const LinearOperator& a, const char* who, int64_t count, int64_t count_bottom,
                     EigenvalueOrder order) {
  CURVATURE_CHECK(count >= 0 && count <= a.rows() && count_bottom >= 0 &&
                      count_bottom <= a.rows() && count + count_bottom > 0,
                  OptionError,
                  "{}: expected between 1 and {} pairs, got count {} and count_bottom {}", who,
                  a.rows(), count, count_bottom);
  CURVATURE_CHECK(order == EigenvalueOrder::kAlgebraic || count_bottom == 0, OptionError,
                  "{}: the order by magnitude has no bottom; expected count_bottom 0, got {}", who,
                  count_bottom);
}

void check_tolerance(const std::optional<double>& tolerance, const char* who) {
  CURVATURE_CHECK(!tolerance || *tolerance > 0, OptionError,
                  "{}: tolerance must be positive; got {}", who, *tolerance);
}

void check_iteration(const char* who, const std::optional<double>& tolerance,
                     int64_t max_restarts) {
  check_tolerance(tolerance, who);
  CURVATURE_CHECK(max_restarts >= 0, OptionError, "{}: max_restarts must not be negative; got {}",
                  who, max_restarts);
}

void check_basis(const LinearOperator& a, const char* who, int64_t pairs, int64_t block_size,
                 int64_t max_basis) {
  const int64_t least = std::min(pairs + 2 * block_size, a.rows());
  CURVATURE_CHECK(max_basis >= least, OptionError,
                  "{}: expected max_basis of at least {} for {} pairs and blocks of {}, got {}",
                  who, least, pairs, block_size, max_basis);
}

double tolerance_of(const LinearOperator& a, const std::optional<double>& tolerance) {
  return tolerance.value_or(a.spec().dtype == at::kDouble ? 1e-8 : 1e-5);
}

at::TensorOptions tensor_options(const LinearOperator& a) {
  return at::TensorOptions().dtype(a.spec().dtype).device(a.spec().device);
}

std::vector<double> column_norms(const at::Tensor& matrix) {
  return to_host_vector(at::linalg_vector_norm(matrix, 2, {0}, false, at::kDouble));
}

NormEstimate estimate_norm(const LinearOperator& a, const at::Tensor& start) {
  const LanczosResult run = lanczos(a, start, {.num_steps = kNormSteps, .reorthogonalize = false});
  const std::vector<double> ritz = ritz_pairs(run).values;
  return {std::max(std::abs(ritz.front()), std::abs(ritz.back())), ritz.front(), ritz.back(),
          run.num_steps()};
}

std::vector<double> residual_norms(const LinearOperator& a, const Eigenpairs& pairs) {
  const at::Tensor products = a.apply(pairs.vectors);
  std::vector<double> norms;
  for (size_t i = 0; i < pairs.values.size(); ++i) {
    const auto column = static_cast<int64_t>(i);
    const at::Tensor u = pairs.vectors.select(1, column).to(at::kDouble);
    const at::Tensor residual = products.select(1, column).to(at::kDouble) - pairs.values[i] * u;
    norms.push_back(residual.norm().item<double>());
  }
  return norms;
}

void measure_residuals(const LinearOperator& a, EigenpairsResult& result) {
  for (Eigenpairs* pairs : {&result.top, &result.bottom}) {
    if (pairs->values.empty()) continue;
    pairs->residuals = residual_norms(a, *pairs);
    result.products += pairs->vectors.size(1);
  }
}

Termination judge_residuals(double allowed, const EigenpairsResult& result) {
  for (const Eigenpairs* pairs : {&result.top, &result.bottom}) {
    for (const double residual : pairs->residuals) {
      if (!(residual <= allowed)) return Termination::kStagnated;
    }
  }
  return Termination::kConverged;
}

at::Tensor orthonormal_basis(const at::Tensor& matrix) {
  at::Tensor basis = matrix.t().clone(at::MemoryFormat::Contiguous).t();
  for (int pass = 0; pass < 2; ++pass) {
    const at::Tensor gram = inner_products(basis, basis);
    const at::Tensor scale = gram.diagonal().rsqrt();
    const at::Tensor correlations = gram * scale * scale.unsqueeze(1);
    if (!detail::is_finite(correlations) || at::linalg_eigvalsh(correlations)[0].item<double>() <=
                                                kDependence * epsilon(matrix.scalar_type())) {
      return std::get<0>(at::linalg_qr(matrix));
    }
    const at::Tensor inverse = at::linalg_inv(at::linalg_cholesky(gram));
    combine(basis, inverse.t(), basis);
  }
  return basis;
}

at::Tensor orthonormalize(at::Tensor matrix, const std::vector<at::Tensor>& bases) {
  for (int pass = 0; pass < 2; ++pass) {
    for (const at::Tensor& basis : bases) {
      matrix = matrix - basis.mm(inner_products(basis, matrix).to(basis.options()));
    }
    const at::Tensor gram = inner_products(matrix, matrix);
    // Columns of zeros keep a scale of 1 and fall out below.
    const at::Tensor diagonal = gram.diagonal();
    const at::Tensor scale = diagonal.where(diagonal > 0, 1.0).rsqrt();
    const auto [values, vectors] = at::linalg_eigh(gram * scale * scale.unsqueeze(1));
    const double threshold = 10 * static_cast<double>(std::max<int64_t>(gram.size(0), 1)) *
                             epsilon(matrix.scalar_type());
    const int64_t rank = (values > threshold).sum().item<int64_t>();
    const int64_t first = gram.size(0) - rank;
    const at::Tensor kept = vectors.narrow(1, first, rank) * values.narrow(0, first, rank).rsqrt();
    matrix = matrix.mm((scale.unsqueeze(1) * kept).to(matrix.options()));
  }
  return matrix;
}

}  // namespace curvature::detail
