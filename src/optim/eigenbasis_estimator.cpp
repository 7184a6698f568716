#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/diag_embed.h>
#include <ATen/ops/div.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/operators/eigen_decomposed.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"
#include "core/matrix_product.hpp"
#include "core/qr.hpp"
#include "layerwise/gram.hpp"
#include "optim/axis_order.hpp"
#include "optim/eigenbasis_estimator.hpp"
#include "optim/kl_averages.hpp"
#include "optim/mode_algebra.hpp"
#include "optim/mode_operator.hpp"

namespace curvature::optim {
namespace {

double sum(const at::Tensor& x) { return x.sum(at::kDouble).item<double>(); }
double mean(const at::Tensor& x) { return x.mean(at::kDouble).item<double>(); }

/// Whether the entries off the diagonal of a symmetric matrix, given by its lower triangle, are
/// small against all of it.
bool is_nearly_diagonal(const at::Tensor& lower, double tolerance) {
  const double below = at::linalg_vector_norm(lower.tril(-1)).item<double>();
  const double diagonal = at::linalg_vector_norm(lower.diagonal()).item<double>();
  const double off = std::sqrt(2.0) * below;
  return off <= tolerance * std::hypot(off, diagonal);
}

/// P^T U with the rows of U in an order, beside the same triangle. U is the transpose of what is
/// contiguous.
curvature::detail::QrFactors with_rows(const curvature::detail::QrFactors& factors,
                                       const at::Tensor& order) {
  const at::Tensor columns = factors.orthogonal.t();
  return {.orthogonal = columns.index_select(1, order).t(), .triangle = factors.triangle};
}

/// One Newton-Schulz step: rounding of many products leaves a basis slightly skew.
at::Tensor orthogonalized(const at::Tensor& basis) {
  const at::Tensor gram = curvature::detail::matrix_product(basis.t(), basis);
  return basis * 1.5 - curvature::detail::matrix_product(basis, gram) * 0.5;
}

}  // namespace

EigenbasisEstimator::EigenbasisEstimator(const ParameterView& view,
                                         const EigenbasisSettings& settings)
    : view_(view), settings_(settings), solve_(view) {
  for (const ModeKind kind : view.modes) modes_.push_back({.kind = kind});
}

at::Tensor EigenbasisEstimator::to_basis(const at::Tensor& x) const {
  at::Tensor rotated = x;
  for (size_t i = 0; i < modes_.size(); ++i) {
    if (modes_[i].basis.defined()) rotated = mode_product(rotated, modes_[i].basis.t(), i);
  }
  return rotated;
}

at::Tensor EigenbasisEstimator::to_parameter(const at::Tensor& x) const {
  at::Tensor result = x;
  for (size_t i = 0; i < modes_.size(); ++i) {
    if (modes_[i].basis.defined()) result = mode_product(result, modes_[i].basis, i);
  }
  return result;
}

at::Tensor EigenbasisEstimator::eigenvalue_powers(size_t mode, double power) const {
  const at::Tensor& eigenvalues = modes_[mode].eigenvalues;
  const double floor = settings_.relative_floor.value_or(default_floor(eigenvalues.scalar_type()));
  return at::pow(eigenvalues.clamp_min(floor * mean(eigenvalues)), power);
}

std::vector<at::Tensor> EigenbasisEstimator::all_eigenvalue_powers(double power) const {
  std::vector<at::Tensor> powers;
  for (size_t i = 0; i < modes_.size(); ++i) powers.push_back(eigenvalue_powers(i, power));
  return powers;
}

double EigenbasisEstimator::decay() const {
  return decay_at(settings_.factor_beta, settings_.debias, t_);
}

at::Tensor EigenbasisEstimator::step(const at::Tensor& gradient, Momentum& momentum) {
  const bool starts = started_ == 0;
  if (starts && !start(gradient)) return {};
  if (starts && settings_.first_gradient == FirstGradient::kBasisOnly) return {};
  t_ += 1;
  // A divergence is fitted from the second gradient on: the first one only set the scale.
  const bool fits = !(starts && fits_divergence());
  at::Tensor rotated = to_basis(gradient);
  if (settings_.order == UpdateOrder::kUpdateFirst) {
    if (fits) update_factors(rotated);
    if (fits)
      refresh([&](const auto& change) {
        momentum.transform(change);
        rotated = change(rotated);
      });
  }
  update_corrections(rotated);
  const at::Tensor direction = to_parameter(precondition(momentum(rotated)));
  if (settings_.order == UpdateOrder::kPreconditionFirst && fits) {
    update_factors(rotated);
    refresh([&](const auto& change) { momentum.transform(change); });
  }
  return direction;
}

bool EigenbasisEstimator::start(const at::Tensor& gradient) {
  if (fits_divergence()) {
    const double scale = mean(gradient * gradient);
    const bool sets_scale = !settings_.initial_eigenvalue;
    if (scale == 0 || (sets_scale && scale < smallest_mean_square(gradient.scalar_type()))) {
      return false;
    }
    start_factors(std::pow(scale, 1 / static_cast<double>(modes_.size())));
  }
  started_ = 1;
  if (settings_.first_gradient == FirstGradient::kUse) return true;
  for (size_t i = 0; i < modes_.size(); ++i) {
    Mode& mode = modes_[i];
    if (mode.kind != ModeKind::kDense) continue;
    const double size = static_cast<double>(gradient.numel() / gradient.size(i));
    mode.factor =
        mode_gram(gradient, i) * (1 - settings_.factor_beta) / (fits_divergence() ? size : 1.0);
    if (const auto eigen = solve_(mode.factor, i)) {
      mode.basis = eigen->vectors.contiguous();
      mode.factor = at::diag_embed(eigen->values);
    }
  }
  return true;
}

/// S_i = s I, or what the options say, along the identity.
void EigenbasisEstimator::start_factors(double scale) {
  const double s = settings_.initial_eigenvalue.value_or(scale);
  for (size_t i = 0; i < modes_.size(); ++i) {
    const int64_t d = view_.shape[i];
    Mode& mode = modes_[i];
    mode.eigenvalues = at::full({d}, mode.kind == ModeKind::kIdentity ? 1.0 : s, view_.options);
    if (mode.kind == ModeKind::kDense) mode.factor = at::eye(d, view_.options) * s;
  }
}

void EigenbasisEstimator::update_factors(const at::Tensor& rotated) {
  if (fits_divergence()) {
    fit_divergence(rotated);
  } else {
    add_second_moments(rotated);
  }
}

/// S_i <- b S_i + (1 - b) P_(i) P_(i)^T.
void EigenbasisEstimator::add_second_moments(const at::Tensor& rotated) {
  const double b = decay();
  const at::Tensor rows = rotated * std::sqrt(1 - b);
  for (size_t i = 0; i < modes_.size(); ++i) {
    Mode& mode = modes_[i];
    if (mode.kind != ModeKind::kDense) continue;
    const int64_t d = view_.shape[i];
    if (!mode.factor.defined()) mode.factor = at::zeros({d, d}, view_.options);
    add_mode_gram(mode.factor, rows, i, b);
  }
}

/// The moving averages that lead to the minimum of the divergence. With N = P o prod l^((q-1)/2),
/// unfold_i(P x_{j != i} l_j^((q-1)/2)) is N x_i l_i^((1-q)/2): one whitened tensor serves all
/// axes.
void EigenbasisEstimator::fit_divergence(const at::Tensor& rotated) {
  const double q = *settings_.divergence, b = decay();
  at::Tensor whitened = rotated;
  double all_traces = 1, all_inverse_traces = 1;  // of S_j^q and S_j^(q-1)
  std::vector<double> traces, inverse_traces;
  for (size_t i = 0; i < modes_.size(); ++i) {
    whitened = whitened * along_mode(eigenvalue_powers(i, (q - 1) / 2), i, modes_.size());
    traces.push_back(sum(eigenvalue_powers(i, q)));
    inverse_traces.push_back(sum(eigenvalue_powers(i, q - 1)));
    all_traces *= traces.back();
    all_inverse_traces *= inverse_traces.back();
  }
  const at::Tensor squares = whitened * whitened;

  std::vector<at::Tensor> renewed(modes_.size());
  std::vector<double> shifts(modes_.size());
  double log_means = 0, num_free = 0;
  for (size_t i = 0; i < modes_.size(); ++i) {
    if (modes_[i].kind == ModeKind::kIdentity) continue;
    const double norm = all_traces / traces[i];
    shifts[i] = settings_.damping * (all_inverse_traces / inverse_traces[i]) / norm;
    const at::Tensor sample =
        sum_other_modes(squares, i) * eigenvalue_powers(i, 1 - q) / norm + shifts[i];
    renewed[i] = modes_[i].eigenvalues * b + sample * (1 - b);
    log_means += std::log(mean(renewed[i]));
    num_free += 1;
  }
  const double target = num_free > 0 ? std::exp(log_means / num_free) : 1;

  for (size_t i = 0; i < modes_.size(); ++i) {
    Mode& mode = modes_[i];
    if (mode.kind == ModeKind::kIdentity) continue;
    const double balance = settings_.balance ? target / mean(renewed[i]) : 1;
    if (mode.kind == ModeKind::kDense) {
      const double weight = (1 - b) * balance / (all_traces / traces[i]);
      const at::Tensor rows =
          whitened *
          along_mode(eigenvalue_powers(i, (1 - q) / 2) * std::sqrt(weight), i, modes_.size());
      add_mode_gram(mode.factor, rows, i, b * balance);
      if (settings_.eigenvalues == Eigenvalues::kFactor) {
        mode.factor.diagonal().add_((1 - b) * balance * shifts[i]);
      }
    }
    mode.eigenvalues = renewed[i] * balance;
  }
}

void EigenbasisEstimator::update_corrections(const at::Tensor& rotated) {
  if (settings_.eigenvalues != Eigenvalues::kCorrected) return;
  if (!corrections_.defined()) corrections_ = at::zeros_like(rotated);
  corrections_.mul_(settings_.beta2).addcmul_(rotated, rotated, 1 - settings_.beta2);
}

void EigenbasisEstimator::refresh(const Follower& follower) {
  if (!refresh_is_due(settings_.refresh, t_, view_.index)) return;
  for (size_t i = 0; i < modes_.size(); ++i) {
    Mode& mode = modes_[i];
    if (mode.kind != ModeKind::kDense) continue;
    if (mode.basis.defined() && settings_.refresh.tolerance > 0 &&
        is_nearly_diagonal(mode.factor, settings_.refresh.tolerance)) {
      continue;
    }
    curvature::detail::mirror_lower(mode.factor);
    const at::Tensor rotation = rotation_of(i);
    if (rotation.defined()) rotate(i, rotation, follower);
  }
}

/// The rotation R from the basis of an axis to its next one; the factor follows.
at::Tensor EigenbasisEstimator::rotation_of(size_t i) {
  Mode& mode = modes_[i];
  const bool exact = settings_.eigenvalues == Eigenvalues::kFactor;
  const bool first = settings_.sorts && !mode.basis.defined();
  if (first || settings_.basis_method == BasisMethod::kEigh) {
    const auto eigen = solve_(mode.factor, i);
    if (!eigen) return {};
    mode.factor = at::diag_embed(eigen->values);
    if (exact) mode.eigenvalues = eigen->values;
    return eigen->vectors;
  }
  const at::Tensor order = settings_.sorts ? sort_columns(i) : at::Tensor();
  // The orthogonal factor of S Q = Q (Q^T S Q) is Q times that of Q^T S Q. With an order P of the
  // axis, S P = U R gives P^T S P = (P^T U) R: U rotates, and the factor becomes R P^T U. S is
  // symmetric, and its columns are contiguous as rows.
  const at::Tensor columns = order.defined() ? mode.factor.index_select(0, order) : mode.factor;
  const curvature::detail::QrFactors factors = curvature::detail::qr(columns.t());
  mode.factor =
      curvature::detail::symmetric_product(order.defined() ? with_rows(factors, order) : factors);
  if (exact) mode.eigenvalues = mode.factor.diagonal().clone();
  return factors.orthogonal;
}

/// The order of a descending diagonal: column j of what follows is number order[j]. Eigenvalues
/// follow, and corrections unless they are rotated with the axis.
at::Tensor EigenbasisEstimator::sort_columns(size_t i) {
  Mode& mode = modes_[i];
  const at::Tensor order =
      at::argsort(mode.factor.diagonal(), /*stable=*/true, /*dim=*/0, /*descending=*/true);
  if (mode.eigenvalues.defined()) mode.eigenvalues = mode.eigenvalues.index_select(0, order);
  if (corrections_.defined() && settings_.transport == Transport::kKeep) {
    corrections_ = select_along_mode(corrections_, order, i);
  }
  return order;
}

void EigenbasisEstimator::rotate(size_t i, const at::Tensor& rotation, const Follower& follower) {
  Mode& mode = modes_[i];
  // Contiguous, as it is after loading: rounding depends on the layout.
  mode.basis = mode.basis.defined() ? curvature::detail::matrix_product(mode.basis, rotation)
                                    : rotation.contiguous();
  constexpr int64_t kBetweenCorrections = 64;
  mode.rotations += 1;
  if (mode.rotations % kBetweenCorrections == 0) mode.basis = orthogonalized(mode.basis);
  follower([&](const at::Tensor& x) { return mode_product(x, rotation.t(), i); });
  if (corrections_.defined() && settings_.transport == Transport::kMix) {
    corrections_ = mode_product(corrections_, (rotation * rotation).t(), i);
  }
}

/// f m / (c^p + epsilon), with as few passes as there are: both sums divided by f.
at::Tensor EigenbasisEstimator::precondition(const ScaledTensor& rotated) const {
  const double p = settings_.exponent;
  at::Tensor root;
  double scale = 1 / rotated.factor;
  if (settings_.eigenvalues == Eigenvalues::kCorrected) {
    root = p == 0.5 ? corrections_.sqrt() : at::pow(corrections_, p);
    if (settings_.bias_correction) {
      scale *= std::pow(1 - std::pow(settings_.beta2, static_cast<double>(t_)), -p);
    }
  } else {
    root = outer_product(all_eigenvalue_powers(p));
  }
  root.mul_(scale).add_(settings_.epsilon / rotated.factor);
  return at::div_out(root, rotated.tensor, root);
}

OperatorPtr EigenbasisEstimator::snapshot() const {
  CURVATURE_CHECK(t_ > 0, NotSupportedError, "snapshot: '{}' has seen no gradient yet", view_.name);
  std::vector<at::Tensor> bases;
  for (size_t i = 0; i < modes_.size(); ++i) {
    bases.push_back(at_least_single(
        modes_[i].basis.defined() ? modes_[i].basis : at::eye(view_.shape[i], view_.options)));
  }
  at::Tensor eigenvalues;
  if (settings_.eigenvalues == Eigenvalues::kCorrected) {
    eigenvalues = settings_.bias_correction
                      ? corrections_ / (1 - std::pow(settings_.beta2, static_cast<double>(t_)))
                      : corrections_.clone();
  } else {
    eigenvalues = outer_product(all_eigenvalue_powers(1));
  }
  return eigen_decomposed(kronecker(in_parameter_order(view_, bases)),
                          in_parameter_order(view_, at_least_single(eigenvalues)).flatten());
}

void EigenbasisEstimator::visit(StateVisitor& visitor) {
  for (size_t i = 0; i < modes_.size(); ++i) {
    const auto name = [&](const char* field) { return fmt::format("{}.{}", field, i); };
    visitor.tensor(name("basis"), modes_[i].basis);
    visitor.tensor(name("factor"), modes_[i].factor);
    visitor.tensor(name("eigenvalues"), modes_[i].eigenvalues);
    visitor.count(name("rotations"), modes_[i].rotations);
  }
  visitor.tensor("corrections", corrections_);
  visitor.count("steps", t_);
  visitor.count("started", started_);
  solve_.visit(visitor);
}

int64_t EigenbasisEstimator::state_bytes() const {
  int64_t numbers = settings_.eigenvalues == Eigenvalues::kCorrected ? view_.size() : 0;
  for (size_t i = 0; i < modes_.size(); ++i) {
    const int64_t d = view_.shape[i];
    if (modes_[i].kind == ModeKind::kDense) numbers += 2 * d * d;
    if (fits_divergence()) numbers += d;
  }
  return numbers * static_cast<int64_t>(view_.options.dtype().itemsize());
}

}  // namespace curvature::optim
