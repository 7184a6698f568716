#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/outer.h>

#include <curvature/operators/dense.hpp>
#include <curvature/operators/function_operator.hpp>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "optim/mode_operator.hpp"
#include "optim/psgd_preconditioner.hpp"

namespace curvature::optim {
namespace {

/// What random numbers are for, besides noise.
constexpr uint64_t kStart = 0x10a, kCoin = 0xc01;

using curvature::detail::quick_norm;

/// The inverse of a small matrix; LibTorch has none below float32.
at::Tensor small_inverse(const at::Tensor& m) {
  const bool low = m.scalar_type() != at::kDouble && m.scalar_type() != at::kFloat;
  return low ? at::linalg_inv(m.to(at::kFloat)).to(m.scalar_type()) : at::linalg_inv(m);
}

/// Q = (I + U V^T) diag(d) and products with it, on vectors `[n]` or columns `[n, K]`.
struct LowRankRoot {
  at::Tensor d, u, v;  ///< u and v undefined for rank 0

  bool has_rank() const { return u.defined(); }
  LowRankRoot in_operators_dtype() const {
    if (!has_rank()) return {.d = at_least_single(d), .u = {}, .v = {}};
    return {.d = at_least_single(d), .u = at_least_single(u), .v = at_least_single(v)};
  }
  at::Tensor core() const {
    at::Tensor m = at::mm(v.t(), u);
    m.diagonal().add_(1);
    return m;  // I + V^T U
  }

  static at::Tensor scaled(const at::Tensor& x, const at::Tensor& by) {
    return x.dim() == 2 ? x * by.unsqueeze(1) : x * by;
  }
  /// x + A B^T x
  static at::Tensor plus_product(const at::Tensor& x, const at::Tensor& a, const at::Tensor& b) {
    return x + at::matmul(a, at::matmul(b.t(), x));
  }
  at::Tensor apply(const at::Tensor& x) const {
    const at::Tensor y = scaled(x, d);
    return has_rank() ? plus_product(y, u, v) : y;
  }
  at::Tensor apply_adjoint(const at::Tensor& x) const {
    return scaled(has_rank() ? plus_product(x, v, u) : x, d);
  }
  /// Q^-T x, with the inverse of the core.
  at::Tensor solve_adjoint(const at::Tensor& x, const at::Tensor& inverse) const {
    const at::Tensor y = scaled(x, d.reciprocal());
    return has_rank() ? plus_product(y, at::mm(v, inverse.t()).neg(), u) : y;
  }
  /// Q^-1 x
  at::Tensor solve(const at::Tensor& x, const at::Tensor& inverse) const {
    const at::Tensor y = has_rank() ? plus_product(x, at::mm(u, inverse).neg(), v) : x;
    return scaled(y, d.reciprocal());
  }
};

class LraPreconditioner : public PsgdPreconditioner {
 public:
  LraPreconditioner(const ParameterView& view, const PsgdLraOptions& options)
      : view_(view), options_(options), rank_(std::min(options.rank, view.size())) {}

  const Shape& shape() const override { return view_.shape; }

  void start(double scale) override {
    root_.d = at::full({view_.size()}, scale, view_.options);
    if (rank_ == 0) return;
    const RandomSource random = source().derive(kStart);
    const auto draw = [&](uint64_t stream) {
      const at::Tensor x = random.normal(stream, view_.size() * rank_);
      return (x * (std::sqrt(0.1) / quick_norm(x))).view({view_.size(), rank_}).to(view_.options);
    };
    root_.u = draw(0);
    root_.v = draw(1);
  }

  void move(const at::Tensor& h, const at::Tensor& v, int64_t number) override {
    const LowRankRoot q = balanced(root_);
    const at::Tensor inverse = rank_ > 0 ? small_inverse(q.core()) : at::Tensor();
    const at::Tensor a = q.apply(h);
    const at::Tensor b = v.defined() ? q.solve_adjoint(v, inverse) : at::Tensor();

    const at::Tensor first = q.apply_adjoint(a).mul_(h);
    const at::Tensor second =
        v.defined() ? q.solve(b, inverse).mul_(v) : diagonal_of_inverse(q, inverse);
    const double d_bound =
        running_bound(bounds_.d, (first.abs().max() + second.abs().max()).item<double>(),
                      options_.lipschitz_decay);
    CURVATURE_CHECK(std::isfinite(d_bound), NumericalError,
                    "PSGD: the preconditioned gradient of '{}' is too large for its dtype",
                    view_.name);
    LowRankRoot next = q;
    Bounds bounds = bounds_;
    bounds.d = d_bound;
    next.d = q.d - (first - second).mul_(q.d).mul_(options_.preconditioner_rate / d_bound);
    if (rank_ > 0) turn(q, inverse, a, b, moves_left(number), next, bounds);
    root_ = next;
    bounds_ = bounds;
  }

  at::Tensor apply(const at::Tensor& x) override { return root_.apply_adjoint(root_.apply(x)); }

  /// P^-2 = (Q^-1 Q^-T)^2; as a matrix, with its closed forms, while that is small.
  OperatorPtr covariance() const override {
    constexpr int64_t kSmall = 1024;
    const LowRankRoot root = root_.in_operators_dtype();
    const at::Tensor inverse = rank_ > 0 ? small_inverse(root.core()) : at::Tensor();
    const auto apply = [root, inverse](const at::Tensor& x) {
      const auto once = [&](const at::Tensor& y) {
        return root.solve(root.solve_adjoint(y, inverse), inverse);
      };
      return once(once(x));
    };
    const int64_t n = view_.size();
    if (n <= kSmall) {
      const at::Tensor s = apply(at::eye(n, root.d.options()));
      return dense((s + s.t()).div_(2), Symmetry::kPositiveDefinite);
    }
    return function_operator({.domain = Space::flat(n),
                              .range = Space::flat(n),
                              .dtype = root.d.scalar_type(),
                              .device = root.d.device(),
                              .symmetry = Symmetry::kPositiveDefinite},
                             MatrixMap(apply));
  }

  std::unique_ptr<PsgdPreconditioner> clone() const override {
    return std::make_unique<LraPreconditioner>(*this);
  }

  void visit(StateVisitor& visitor) override {
    visitor.tensor("scale", root_.d);
    visitor.tensor("left", root_.u);
    visitor.tensor("right", root_.v);
    visitor.number("lipschitz_scale", bounds_.d);
    visitor.number("lipschitz_left", bounds_.u);
    visitor.number("lipschitz_right", bounds_.v);
  }

  int64_t state_bytes() const override {
    return (2 * rank_ + 1) * view_.size() * static_cast<int64_t>(view_.options.dtype().itemsize());
  }

 private:
  struct Bounds {
    double d = 0, u = 0, v = 0;
  };

  RandomSource source() const {
    return RandomSource(options_.seed).derive(static_cast<uint64_t>(view_.index));
  }
  /// Taking turns would show each of U and V half of the batches if these come in a fixed order.
  bool moves_left(int64_t number) const {
    return source().derive(kCoin).uniform(static_cast<uint64_t>(number), 1).item<double>() < 0.5;
  }

  /// U K and V K^-1 with a K near I that makes norms equal and draws U^T U and V^T V together.
  static LowRankRoot balanced(const LowRankRoot& q) {
    if (!q.has_rank()) return q;
    constexpr double kRate = 0.1;
    const double u_norm = quick_norm(q.u), v_norm = quick_norm(q.v);
    if (u_norm == 0 || v_norm == 0) return q;
    const double ratio = u_norm / v_norm;
    const at::Tensor e = (at::mm(q.u.t(), q.u) / ratio - at::mm(q.v.t(), q.v) * ratio)
                             .mul_(kRate / (2 * u_norm * v_norm));
    at::Tensor k = at::mm(e, e).div_(2).sub_(e);
    k.diagonal().add_(1);
    k.div_(std::sqrt(ratio));
    return {q.d, at::mm(q.u, k), at::mm(q.v, small_inverse(k))};
  }

  /// diag(Q^-1 Q^-T)
  static at::Tensor diagonal_of_inverse(const LowRankRoot& q, const at::Tensor& inverse) {
    const at::Tensor squares = q.d.pow(-2);
    if (!q.has_rank()) return squares;
    // (I - U M^-1 V^T)(I - V M^-T U^T)
    const at::Tensor w = at::mm(q.u, inverse);
    const at::Tensor inner = at::mm(w, at::mm(q.v.t(), q.v));
    return (inner * w - (w * q.v).mul_(2)).sum(1).add_(1).mul_(squares);
  }

  /// Moves U, or V, along F = a a^T - N with N = b b^T or its mean (Q Q^T)^-1.
  void turn(const LowRankRoot& q, const at::Tensor& inverse, const at::Tensor& a,
            const at::Tensor& b, bool left, LowRankRoot& next, Bounds& bounds) const {
    const at::Tensor& x = left ? q.v : q.u;
    const at::Tensor ax = at::mv(x.t(), a);
    const at::Tensor nx = b.defined() ? at::outer(b, at::mv(x.t(), b))
                                      : q.solve_adjoint(q.solve(x, inverse), inverse);
    // |N X X^T|_F^2 = tr(N X)^T (N X) X^T X
    const double n_norm = std::sqrt(
        std::max(at::mm(nx.t(), nx).mul_(at::mm(x.t(), x)).sum(at::kDouble).item<double>(), 0.0));
    const double bound = quick_norm(a) * quick_norm(at::mv(x, ax)) + n_norm;
    double& running = left ? bounds.u : bounds.v;
    running = running_bound(running, bound, options_.lipschitz_decay);
    CURVATURE_CHECK(std::isfinite(running), NumericalError,
                    "PSGD: the preconditioned gradient of '{}' is too large for its dtype",
                    view_.name);
    if (running == 0) return;
    const at::Tensor f = (at::outer(a, ax) - nx).mul_(options_.preconditioner_rate / running);
    if (left) {
      next.u = q.u - at::mm(f, q.core());
    } else {
      next.v = q.v - LowRankRoot::plus_product(f, q.v, q.u);
    }
  }

  ParameterView view_;  ///< one axis
  PsgdLraOptions options_;
  int64_t rank_;
  LowRankRoot root_;
  Bounds bounds_;
};

}  // namespace

PsgdUse psgd_use(const PsgdLraOptions& options) {
  check_psgd("psgd_lra_estimator", options.preconditioner_rate, options.lipschitz_decay,
             options.noise, options.refresh_interval);
  CURVATURE_CHECK(options.rank >= 0, OptionError, "psgd_lra_estimator: expected rank >= 0, got {}",
                  options.rank);
  return {.make =
              [options](const ParameterView& view) {
                return std::make_unique<LraPreconditioner>(flattened(view), options);
              },
          .refresh_interval = options.refresh_interval,
          .noise = options.noise,
          .seed = options.seed};
}

EstimatorFactory psgd_lra_estimator(const PsgdLraOptions& options) {
  return psgd_estimator(psgd_use(options));
}

}  // namespace curvature::optim
