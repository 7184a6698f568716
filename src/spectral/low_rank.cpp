#include <curvature/spectral/low_rank.hpp>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/operators/low_rank.hpp>

#include "core/check.hpp"
#include "core/epsilon.hpp"
#include "core/finite.hpp"
#include "spectral/eigen_support.hpp"
#include "spectral/sampling.hpp"

namespace curvature {
namespace {

at::Tensor orthonormal(const at::Tensor& x) { return std::get<0>(at::linalg_qr(x)); }

/// Products of blocks of vectors, counted, reported and checked.
class Multiplier {
 public:
  Multiplier(const LinearOperator& a, int64_t columns_at_once, int64_t total, Observer observer)
      : a_(a), columns_at_once_(columns_at_once), total_(total), observer_(std::move(observer)) {}

  at::Tensor forward(const at::Tensor& x) {
    return multiply(x, [this](const at::Tensor& chunk) { return a_.apply(chunk); });
  }
  at::Tensor adjoint(const at::Tensor& y) {
    return multiply(y, [this](const at::Tensor& chunk) { return a_.apply_adjoint(chunk); });
  }
  int64_t products() const { return products_; }

 private:
  at::Tensor multiply(const at::Tensor& x,
                      const std::function<at::Tensor(const at::Tensor&)>& product) {
    const at::Tensor y =
        detail::multiply_in_chunks(x, columns_at_once_, product, [this](int64_t done) {
          if (observer_) observer_({"Random subspace", products_ + done, total_});
        });
    products_ += x.size(1);
    CURVATURE_CHECK(detail::is_finite(y), NumericalError, "low rank: a product of {} is not finite",
                    a_.describe());
    return y;
  }

  const LinearOperator& a_;
  int64_t columns_at_once_;
  int64_t total_;
  Observer observer_;
  int64_t products_ = 0;
};

void check_counts(const char* who, int64_t rank, int64_t oversampling, int64_t power_iterations,
                  int64_t columns_at_once) {
  CURVATURE_CHECK(rank > 0 && oversampling >= 0 && power_iterations >= 0 && columns_at_once > 0,
                  OptionError,
                  "{}: expected a positive rank and columns_at_once and counts of at least 0, got "
                  "rank {}, columns_at_once {}, oversampling {}, power_iterations {}",
                  who, rank, columns_at_once, oversampling, power_iterations);
}

at::Tensor random_vectors(const LinearOperator& a, const RandomSource& random, int64_t count) {
  return draw_probes(random, Probe::kGaussian, a.cols(), 0, count,
                     at::TensorOptions().dtype(a.spec().dtype).device(a.spec().device));
}

/// |A u - l u| from A U.
std::vector<double> residual_norms(const at::Tensor& product, const at::Tensor& vectors,
                                   const at::Tensor& values) {
  return detail::column_norms(product - vectors * values.to(vectors.options()));
}

EigenpairsResult to_result(Eigenpairs pairs, const Multiplier& multiplier) {
  return {.top = std::move(pairs), .products = multiplier.products()};
}

/// B `[n, r]` with B B^T = Y (O^T Y)^+ Y^T; `gram` is O^T Y, float64.
at::Tensor nystrom_factor(const LinearOperator& a, const at::Tensor& y, const at::Tensor& gram) {
  const auto [factor, failed] = at::linalg_cholesky_ex(gram, /*upper=*/true);
  if (failed.item<int64_t>() == 0) {
    return at::linalg_solve_triangular(factor.to(y.options()), y, /*upper=*/true, /*left=*/false);
  }
  // A lower rank than test vectors: its pseudo-inverse will do.
  const auto [values, vectors] = at::linalg_eigh(gram);
  const double largest = values.abs().max().item<double>();
  const double precision = y.scalar_type() == at::kDouble ? 1e-14 : 1e-6;
  CURVATURE_CHECK(values.min().item<double>() >= -1e3 * precision * largest, NumericalError,
                  "nystrom: {} is not positive semidefinite; it has an eigenvalue of at most {}",
                  a.describe(), values.min().item<double>());
  const at::Tensor kept = values.gt(precision * largest).nonzero().squeeze(1);
  if (kept.numel() == 0) return at::zeros_like(y);
  const at::Tensor scale = values.index_select(0, kept).rsqrt();
  return y.matmul((vectors.index_select(1, kept) * scale).to(y.options()));
}

/// Left singular vectors and singular values of a tall matrix.
std::pair<at::Tensor, at::Tensor> left_singular(const at::Tensor& b) {
  const auto [q, r] = at::linalg_qr(b);
  const auto [u, s, v] = at::linalg_svd(r.to(at::kDouble), /*full_matrices=*/false);
  return {q.matmul(u.to(q.scalar_type())), s};
}

}  // namespace

SingularTriplets randomized_svd(OperatorRef a, const RandomizedOptions& options) {
  check_counts("randomized_svd", options.rank, options.oversampling, options.power_iterations,
               options.columns_at_once);
  detail::check_not_empty(*a, "randomized_svd");
  const at::NoGradGuard no_grad;
  const int64_t smaller = std::min(a->rows(), a->cols());
  const int64_t rank = std::min(options.rank, smaller);
  const int64_t width = std::min(rank + options.oversampling, smaller);
  Multiplier multiplier(*a, options.columns_at_once,
                        (2 * options.power_iterations + 2) * width + rank, options.observer);
  at::Tensor q = orthonormal(multiplier.forward(random_vectors(*a, options.random, width)));
  for (int64_t i = 0; i < options.power_iterations; ++i) {
    q = orthonormal(multiplier.forward(orthonormal(multiplier.adjoint(q))));
  }
  // A^T Q = V S W^T, so that A ~ (Q W) S V^T.
  const auto [v, r] = at::linalg_qr(multiplier.adjoint(q));
  const auto [x, s, wt] = at::linalg_svd(r.to(at::kDouble), /*full_matrices=*/false);

  SingularTriplets triplets;
  triplets.right = v.matmul(x.narrow(1, 0, rank).to(v.scalar_type()));
  triplets.left = q.matmul(wt.narrow(0, 0, rank).t().to(q.scalar_type()));
  const at::Tensor values = s.narrow(0, 0, rank);
  triplets.values = detail::to_host_vector(values);
  triplets.residuals = residual_norms(multiplier.forward(triplets.right), triplets.left, values);
  triplets.products = multiplier.products();
  return triplets;
}

EigenpairsResult subspace_iteration(OperatorRef a, const RandomizedOptions& options) {
  check_counts("subspace_iteration", options.rank, options.oversampling, options.power_iterations,
               options.columns_at_once);
  detail::check_symmetric(*a, "subspace_iteration");
  const at::NoGradGuard no_grad;
  const int64_t rank = std::min(options.rank, a->rows());
  const int64_t width = std::min(rank + options.oversampling, a->rows());
  Multiplier multiplier(*a, options.columns_at_once, (options.power_iterations + 2) * width,
                        options.observer);
  at::Tensor product = multiplier.forward(random_vectors(*a, options.random, width));
  at::Tensor q;
  for (int64_t i = 0; i <= options.power_iterations; ++i) {
    q = orthonormal(product);
    product = multiplier.forward(q);
  }
  const at::Tensor projected = q.t().matmul(product).to(at::kDouble);
  const auto [all_values, all_vectors] = at::linalg_eigh((projected + projected.t()) / 2);
  const at::Tensor order =
      all_values.abs().argsort(/*stable=*/true, /*dim=*/0, /*descending=*/true).narrow(0, 0, rank);
  const at::Tensor values = all_values.index_select(0, order);
  const at::Tensor rotation = all_vectors.index_select(1, order).to(q.scalar_type());

  Eigenpairs pairs{
      .values = detail::to_host_vector(values), .vectors = q.matmul(rotation), .residuals = {}};
  pairs.residuals = residual_norms(product.matmul(rotation), pairs.vectors, values);
  return to_result(std::move(pairs), multiplier);
}

EigenpairsResult nystrom(OperatorRef a, const NystromOptions& options) {
  check_counts("nystrom", options.rank, options.oversampling, 0, options.columns_at_once);
  detail::check_symmetric(*a, "nystrom");
  const at::NoGradGuard no_grad;
  const int64_t rank = std::min(options.rank, a->rows());
  const int64_t width = std::min(rank + options.oversampling, a->rows());
  Multiplier multiplier(*a, options.columns_at_once, width + (options.residuals ? rank : 0),
                        options.observer);
  const at::Tensor omega = orthonormal(random_vectors(*a, options.random, width));
  at::Tensor y = multiplier.forward(omega);
  const double unit = detail::epsilon(a->spec().dtype);
  const double shift = unit * std::sqrt(static_cast<double>(a->rows())) * y.norm().item<double>();
  y = y.add(omega, shift);
  const at::Tensor gram = omega.t().matmul(y).to(at::kDouble);
  const auto [u, s] = left_singular(nystrom_factor(*a, y, (gram + gram.t()) / 2));

  const int64_t count = std::min(rank, s.size(0));
  const at::Tensor values = (s.narrow(0, 0, count).square() - shift).clamp_min(0);
  Eigenpairs pairs{.values = detail::to_host_vector(values),
                   .vectors = u.narrow(1, 0, count).contiguous(),
                   .residuals = {}};
  if (options.residuals) {
    pairs.residuals = residual_norms(multiplier.forward(pairs.vectors), pairs.vectors, values);
  }
  return to_result(std::move(pairs), multiplier);
}

OperatorPtr low_rank_operator(const Eigenpairs& pairs, Space space) {
  const at::Tensor d = at::zeros({pairs.vectors.size(0)}, pairs.vectors.options());
  return low_rank_plus_diagonal(
      d, pairs.vectors, at::tensor(pairs.values, at::kDouble).to(d.options()), std::move(space));
}

OperatorPtr low_rank_operator(const Eigenpairs& pairs, const at::Tensor& d, Space space) {
  const at::Tensor values = at::tensor(pairs.values, at::kDouble).to(pairs.vectors.options());
  CURVATURE_CHECK(d.defined() && d.dim() == 1 && d.size(0) == pairs.vectors.size(0), ShapeError,
                  "low_rank_operator: expected a diagonal [{}], got {}", pairs.vectors.size(0),
                  d.defined() ? detail::to_string(d.sizes()) : "an undefined tensor");
  const at::Tensor explained = pairs.vectors.square().matmul(values);
  return low_rank_plus_diagonal((d - explained).clamp_min(0), pairs.vectors, values,
                                std::move(space));
}

OperatorPtr nystrom_preconditioner(const Eigenpairs& pairs, double shift, Space space) {
  CURVATURE_CHECK(!pairs.values.empty(), OptionError,
                  "nystrom_preconditioner: there are no eigenpairs");
  const double smallest = *std::min_element(pairs.values.begin(), pairs.values.end());
  CURVATURE_CHECK(smallest + shift > 0, OptionError,
                  "nystrom_preconditioner: expected a shift above {}, got {}", -smallest, shift);
  const at::Tensor values = at::tensor(pairs.values, at::kDouble);
  const at::Tensor factors = (smallest + shift) / (values + shift) - 1;
  return low_rank_plus_diagonal(at::ones({pairs.vectors.size(0)}, pairs.vectors.options()),
                                pairs.vectors, factors.to(pairs.vectors.options()),
                                std::move(space), Symmetry::kPositiveDefinite);
}

}  // namespace curvature
