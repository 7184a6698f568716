#pragma once

#include <functional>
#include <memory>
#include <optional>

#include <curvature/core/random.hpp>
#include <curvature/optim/covariance_estimator.hpp>
#include <curvature/optim/psgd_dense_estimator.hpp>
#include <curvature/optim/psgd_kron_estimator.hpp>
#include <curvature/optim/psgd_lra_estimator.hpp>

namespace curvature::optim {

/// P = Q^T Q on tensors of one shape, and how Q follows pairs (v, h) to the minimum of
/// E[h^T P h + v^T P^-1 v], which is E[h h^T]^-1/2 for white v. Whitening is h = g with v
/// integrated out; Newton's type is h = H v. Li, arXiv 2402.11858.
///
/// Tensors of its state are replaced, never written to, so that a clone shares them.
class PsgdPreconditioner {
 public:
  virtual ~PsgdPreconditioner() = default;

  virtual const Shape& shape() const = 0;  ///< of what it is applied to
  virtual void start(double scale) = 0;    ///< P = scale^2 I
  /// One step of descent, number `number` (from 1), for a pair; an undefined v is integrated out.
  /// @throws NumericalError, with nothing changed
  virtual void move(const at::Tensor& h, const at::Tensor& v, int64_t number) = 0;
  virtual at::Tensor apply(const at::Tensor& x) = 0;  ///< P x, a fresh tensor
  virtual OperatorPtr covariance() const = 0;         ///< P^-2, on plain vectors

  virtual std::unique_ptr<PsgdPreconditioner> clone() const = 0;
  virtual void visit(StateVisitor& visitor) = 0;
  virtual int64_t state_bytes() const = 0;
};

/// How a form of PSGD is used, apart from its Q.
struct PsgdUse {
  std::function<std::unique_ptr<PsgdPreconditioner>(const ParameterView& view)> make;
  int64_t refresh_interval;
  double noise;
  uint64_t seed;
};

/// @throws OptionError
PsgdUse psgd_use(const PsgdKronOptions& options);
PsgdUse psgd_use(const PsgdDenseOptions& options);
PsgdUse psgd_use(const PsgdLraOptions& options);

/// The view as one axis.
ParameterView flattened(const ParameterView& view);
/// mean(h^4)^(-1/8), the scale of Q where h is white; nothing if h = 0.
std::optional<double> psgd_scale(const at::Tensor& h);
/// h + (noise + rounding |h|) z with z from a stream.
at::Tensor with_noise(const at::Tensor& h, double noise, const RandomSource& random,
                      int64_t stream);
/// The running bound of a Lipschitz constant.
double running_bound(double last, double bound, double decay);
/// @throws OptionError for options that all forms have
void check_psgd(const char* who, double preconditioner_rate, double lipschitz_decay, double noise,
                int64_t refresh_interval);

/// Whitens gradients.
EstimatorFactory psgd_estimator(const PsgdUse& use);

}  // namespace curvature::optim
