#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <curvature/solvers/conjugate_gradient.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "solvers/lockstep.hpp"
#include "spectral/eigen_support.hpp"

namespace curvature {
namespace {

using detail::column_norms;

/// The chosen columns of a matrix.
at::Tensor columns(const at::Tensor& x, const std::vector<int64_t>& which) {
  return x.index_select(1, at::tensor(which, at::kLong).to(x.device()));
}

/// `unit_of` each column.
at::Tensor units_of(const at::Tensor& b) {
  std::vector<double> units;
  for (int64_t k = 0; k < b.size(1); ++k) {
    units.push_back(detail::unit_of(b.select(1, k).contiguous()));
  }
  return at::tensor(units, at::kDouble).to(b.options());
}

/// W = Q zeta with Q^T M Q = I.
struct Basis {
  at::Tensor q;     // [n, r]
  at::Tensor mq;    // M Q [n, r]
  at::Tensor zeta;  // [r, k], float64
};

/// Of R^T M R, or of its diagonal.
void check_definite(const at::Tensor& values) {
  CURVATURE_CHECK(values.numel() == 0 || values.min().item<double>() >= 0, NumericalError,
                  "block_conjugate_gradient: the preconditioner is not positive definite; expected "
                  "R^T M R without negative eigenvalues, got {}",
                  values.min().item<double>());
}

/// Orthonormalises W `[n, k]` in the inner product of M, given Z = M W, by the eigenvectors of its
/// Gram matrix; directions that are dependent to working precision are dropped. Two passes: the
/// first one leaves the square root of the precision. Stathopoulos, Wu, SIAM J. Sci. Comput. 23(6),
/// 2002.
Basis orthonormalize(const at::Tensor& w, const at::Tensor& z) {
  const double precision = w.scalar_type() == at::kDouble ? 1e-14 : 1e-6;
  Basis basis{w, z, {}};
  for (int pass = 0; pass < 2; ++pass) {
    const at::Tensor gram = basis.q.t().matmul(basis.mq).to(at::kDouble);
    check_definite(gram.diagonal());
    // Scaled to a unit diagonal, so that columns of any length count alike.
    const at::Tensor lengths = gram.diagonal().clamp_min(0).sqrt();
    const at::Tensor scale = lengths.reciprocal().masked_fill(lengths.eq(0), 0);
    const auto [values, vectors] =
        at::linalg_eigh(scale.unsqueeze(1) * ((gram + gram.t()) / 2) * scale);
    check_definite(values + 1e-3);  // rounding
    const double largest = values.numel() == 0 ? 0 : values.max().item<double>();
    const at::Tensor kept = values.gt(precision * largest).nonzero().squeeze(1);
    const at::Tensor root = values.index_select(0, kept).sqrt();
    const at::Tensor v = vectors.index_select(1, kept);
    const at::Tensor transform = (scale.unsqueeze(1) * v / root).to(w.scalar_type());
    const at::Tensor zeta = root.unsqueeze(1) * v.t() * lengths;
    basis = {basis.q.matmul(transform), basis.mq.matmul(transform),
             pass == 0 ? zeta : zeta.matmul(basis.zeta)};
  }
  return basis;
}

/// The common iteration of the columns that have not converged.
class BlockIteration {
 public:
  BlockIteration(const LinearOperator& a, const LinearOperator* m, const at::Tensor& residual)
      : a_(a), m_(m), basis_(orthonormalize(residual, precondition(residual))) {
    coefficients_ = basis_.zeta;
    directions_ = basis_.mq;
  }

  int64_t width() const { return directions_.size(1); }
  const at::Tensor& negative_direction() const { return negative_; }

  /// One product of each direction. The step of the active columns, or the reason why there is
  /// none.
  std::optional<Termination> step(at::Tensor& update) {
    const at::Tensor product = a_.apply(directions_);
    const at::Tensor h = directions_.t().matmul(product).to(at::kDouble);
    if (!detail::is_finite(h)) return Termination::kNonFinite;
    const auto [values, vectors] = at::linalg_eigh((h + h.t()) / 2);
    if (values[0].item<double>() <= 0) {
      negative_ = directions_.matmul(vectors.select(1, 0).to(directions_.scalar_type()));
      return Termination::kNegativeCurvature;
    }
    const at::Tensor xi = (vectors / values).matmul(vectors.t());
    update = directions_.matmul(to_vectors(xi.matmul(coefficients_)));
    const at::Tensor w = basis_.q - product.matmul(to_vectors(xi));
    basis_ = orthonormalize(w, precondition(w));
    coefficients_ = basis_.zeta.matmul(coefficients_);
    directions_ = basis_.mq + directions_.matmul(to_vectors(basis_.zeta.t()));
    return std::nullopt;
  }

  at::Tensor residual() const { return basis_.q.matmul(to_vectors(coefficients_)); }

  /// Goes on with these columns only: with the part U of the basis that their residuals span.
  /// Directions stay conjugate to the last ones, since S' = S U.
  void keep(const std::vector<int64_t>& which) {
    coefficients_ = columns(coefficients_, which);
    const auto [u, sizes, v] = at::linalg_svd(coefficients_, /*full_matrices=*/false);
    const at::Tensor kept = sizes.gt(1e-14 * sizes.max().item<double>()).nonzero().squeeze(1);
    const at::Tensor part = u.index_select(1, kept);
    coefficients_ = part.t().matmul(coefficients_);
    basis_.q = basis_.q.matmul(to_vectors(part));
    directions_ = directions_.matmul(to_vectors(part));
  }

 private:
  at::Tensor precondition(const at::Tensor& x) const { return m_ == nullptr ? x : m_->apply(x); }
  at::Tensor to_vectors(const at::Tensor& small) const { return small.to(basis_.q.scalar_type()); }

  const LinearOperator& a_;
  const LinearOperator* m_;
  Basis basis_;
  at::Tensor coefficients_;  // [r, k] of the residuals in the basis, float64
  at::Tensor directions_;    // [n, r]
  at::Tensor negative_;
};

/// Rounds of block iterations, each from true residuals.
class BlockSolve {
 public:
  BlockSolve(const LinearOperator& a, const at::Tensor& b, const at::Tensor& start,
             const IterationOptions& options)
      : a_(a),
        options_(options),
        units_(units_of(b)),
        b_(b / units_),
        x_(start.defined() ? start / units_ : at::zeros({a.cols(), b.size(1)}, b.options())),
        b_norms_(column_norms(b_)),
        ends_(b_norms_.size()),
        residuals_(b_norms_.size()) {}

  Solution run(bool started) {
    std::vector<int64_t> active;
    for (int64_t k = 0; k < b_.size(1); ++k) active.push_back(k);
    for (bool first = true; !active.empty(); first = false) {
      const at::Tensor residual = true_residual(active, started || !first);
      judge(residual, active, first);
      std::vector<int64_t> rest, positions;
      for (size_t i = 0; i < active.size(); ++i) {
        if (ends_[static_cast<size_t>(active[i])]) continue;
        rest.push_back(active[i]);
        positions.push_back(static_cast<int64_t>(i));
      }
      active = rest;
      if (!active.empty()) iterate(columns(residual, positions), active);
    }
    return finish();
  }

 private:
  double tolerance(int64_t k) const {
    return std::max(options_.relative_residual * b_norms_[static_cast<size_t>(k)],
                    options_.absolute_residual / unit(k));
  }

  double unit(int64_t k) const { return units_[k].item<double>(); }

  at::Tensor true_residual(const std::vector<int64_t>& active, bool started) {
    const at::Tensor b = columns(b_, active);
    if (!started) return b;
    report_.products += b.size(1);
    return b - a_.apply(columns(x_, active));
  }

  void judge(const at::Tensor& residual, const std::vector<int64_t>& active, bool first) {
    const std::vector<double> norms = column_norms(residual);
    for (size_t i = 0; i < active.size(); ++i) {
      const auto k = static_cast<size_t>(active[i]);
      const double before = std::exchange(residuals_[k], norms[i]);
      if (b_norms_[k] == 0) {
        x_.select(1, active[i]).zero_();
        residuals_[k] = 0;
      }
      if (residuals_[k] <= tolerance(active[i])) {
        ends_[k] = Termination::kConverged;
      } else if (!std::isfinite(norms[i])) {
        ends_[k] = Termination::kNonFinite;
      } else if (broken_) {
        ends_[k] = broken_;
      } else if (!first && norms[i] > before / 2) {
        ends_[k] = Termination::kStagnated;
      } else if (report_.iterations >= options_.max_iterations) {
        ends_[k] = Termination::kMaxIterations;
      }
    }
  }

  /// Until every column of `active` believes to have converged, or the iteration breaks.
  void iterate(const at::Tensor& residual, std::vector<int64_t> active) {
    BlockIteration iteration(a_, options_.preconditioner.get(), residual);
    while (!active.empty() && iteration.width() > 0) {
      if (report_.iterations >= options_.max_iterations) return;
      report_.products += iteration.width();
      at::Tensor update;
      broken_ = iteration.step(update);
      if (broken_) {
        report_.negative_direction = iteration.negative_direction();
        return;
      }
      x_.index_add_(1, at::tensor(active, at::kLong).to(x_.device()), update);
      ++report_.iterations;
      drop_converged(iteration, active);
      if (options_.observer) {
        options_.observer(
            {"Block conjugate gradients", report_.iterations, options_.max_iterations});
      }
    }
  }

  void drop_converged(BlockIteration& iteration, std::vector<int64_t>& active) {
    const std::vector<double> norms = column_norms(iteration.residual());
    std::vector<int64_t> rest, positions;
    double largest = 0;
    for (size_t i = 0; i < active.size(); ++i) {
      largest = std::max(largest, norms[i] / b_norms_[static_cast<size_t>(active[i])]);
      if (norms[i] <= 0.9 * tolerance(active[i])) continue;
      rest.push_back(active[i]);
      positions.push_back(static_cast<int64_t>(i));
    }
    report_.history.push_back(largest);
    if (rest.size() < active.size() && !rest.empty()) iteration.keep(positions);
    active = rest;
  }

  Solution finish() {
    x_.mul_(units_);
    for (size_t k = 0; k < ends_.size(); ++k) {
      if (!detail::is_finite(x_.select(1, static_cast<int64_t>(k)))) {
        ends_[k] = Termination::kNonFinite;
      }
      report_.terminations.push_back(*ends_[k]);
      report_.termination = detail::worse(report_.termination, *ends_[k]);
      report_.residuals.push_back(residuals_[k] * unit(static_cast<int64_t>(k)));
      report_.relative_residuals.push_back(b_norms_[k] == 0 ? 0 : residuals_[k] / b_norms_[k]);
    }
    at::Tensor& d = report_.negative_direction;
    if (d.defined()) {
      d = d / d.norm();
      report_.negative_curvature = d.dot(a_.apply(d)).item<double>();
      ++report_.products;
    }
    return {x_, std::move(report_)};
  }

  const LinearOperator& a_;
  const IterationOptions& options_;
  at::Tensor units_;  // of the numbers of each column
  at::Tensor b_, x_;  // in these units
  std::vector<double> b_norms_;
  std::vector<std::optional<Termination>> ends_;
  std::vector<double> residuals_;
  std::optional<Termination> broken_;
  SolveReport report_;
};

class BlockConjugateGradient final : public Solver {
 public:
  explicit BlockConjugateGradient(IterationOptions options) : options_(std::move(options)) {
    detail::check_iteration_options(options_, "block_conjugate_gradient");
  }

  SolverPtr adjoint() const override {
    return block_conjugate_gradient(detail::adjoint_options(options_));
  }

 protected:
  Solution solve_impl(const LinearOperator& a, const at::Tensor& b,
                      const at::Tensor& start) const override {
    detail::check_symmetric(a, "block_conjugate_gradient");
    detail::check_preconditioner(a, options_.preconditioner, "block_conjugate_gradient");
    return BlockSolve(a, b, start, options_).run(start.defined());
  }

 private:
  IterationOptions options_;
};

}  // namespace

SolverPtr block_conjugate_gradient(const IterationOptions& options) {
  return std::make_shared<BlockConjugateGradient>(options);
}

}  // namespace curvature
