#pragma once

#include <functional>
#include <optional>
#include <vector>

#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/soap_estimator.hpp>

#include "optim/symmetric_eigen.hpp"

namespace curvature::optim {

/// What SOAP, EShampoo, KL-Shampoo and KL-SOAP have in common, and where they differ.
struct EigenbasisSettings {
  Eigenvalues eigenvalues = Eigenvalues::kCorrected;
  /// q of the divergence by which factors are fitted; empty: plain second moments of each axis.
  std::optional<double> divergence{};
  double beta2 = 0.95;        ///< of corrected eigenvalues
  double factor_beta = 0.95;  ///< of factors and running eigenvalues
  bool debias = false;        ///< of the same
  bool balance = false;       ///< factors get equal mean eigenvalues
  bool sorts = false;         ///< columns are sorted before a QR step
  double epsilon = 1e-8;
  double exponent = 0.5;
  double damping = 0;
  bool bias_correction = true;
  UpdateOrder order = UpdateOrder::kPreconditionFirst;
  BasisMethod basis_method = BasisMethod::kQr;
  Transport transport = Transport::kKeep;
  FirstGradient first_gradient = FirstGradient::kUse;
  std::optional<double> initial_eigenvalue{};
  std::optional<double> relative_floor{};
  RefreshOptions refresh{};
};

/// Kronecker eigenbasis Q_1 (x) ... (x) Q_k with eigenvalues for each axis or for each entry.
///
/// Everything is kept in the coordinates of the basis: the factor of axis i as Q_i^T S_i Q_i, the
/// momentum as its rotation. A step so rotates the gradient once, takes all Gram matrices from the
/// rotated gradient, and rotates one direction back. A refresh finds the rotation R between the old
/// and the new basis from the small and nearly diagonal Q_i^T S_i Q_i, and applies it to all.
class EigenbasisEstimator : public CovarianceEstimator {
 public:
  EigenbasisEstimator(const ParameterView& view, const EigenbasisSettings& settings);

  at::Tensor step(const at::Tensor& gradient, Momentum& momentum) override;
  bool steps_at_start() const override {
    return settings_.first_gradient != FirstGradient::kBasisOnly;
  }
  at::Tensor to_parameter(const at::Tensor& x) const override;
  OperatorPtr snapshot() const override;
  void visit(StateVisitor& visitor) override;
  int64_t state_bytes() const override;

 private:
  struct Mode {
    ModeKind kind = ModeKind::kDense;
    at::Tensor basis = {};        ///< Q; undefined while it is the identity
    at::Tensor factor = {};       ///< Q^T S Q, lower triangle; dense axes only
    at::Tensor eigenvalues = {};  ///< undefined where every entry has its own
    int64_t rotations = 0;        ///< of the basis, for its orthogonality
  };

  /// Sees every change of coordinates, to apply it to what else is in them.
  using Follower = std::function<void(const std::function<at::Tensor(const at::Tensor&)>&)>;

  bool fits_divergence() const { return settings_.divergence.has_value(); }
  at::Tensor to_basis(const at::Tensor& x) const;
  /// Eigenvalues of an axis, held away from 0, to a power.
  at::Tensor eigenvalue_powers(size_t mode, double power) const;
  std::vector<at::Tensor> all_eigenvalue_powers(double power) const;
  double decay() const;

  bool start(const at::Tensor& gradient);
  void start_factors(double scale);
  void update_factors(const at::Tensor& rotated);
  void add_second_moments(const at::Tensor& rotated);
  void fit_divergence(const at::Tensor& rotated);
  void update_corrections(const at::Tensor& rotated);
  /// Renews the bases that are due.
  void refresh(const Follower& follower);
  at::Tensor rotation_of(size_t mode);
  at::Tensor sort_columns(size_t mode);
  void rotate(size_t mode, const at::Tensor& rotation, const Follower& follower);
  at::Tensor precondition(const ScaledTensor& rotated) const;

  ParameterView view_;
  EigenbasisSettings settings_;
  EigenSolver solve_;
  std::vector<Mode> modes_;
  at::Tensor corrections_;  ///< second moment along the basis, entry by entry
  int64_t t_ = 0;
  int64_t started_ = 0;  ///< whether the first gradient made the state
};

}  // namespace curvature::optim
