#pragma once

#include <cstdint>
#include <optional>

#include <c10/core/ScalarType.h>

#include <curvature/optim/covariance_estimator.hpp>

namespace curvature::optim {

/// The norm in which a step is the steepest.
enum class DescentNorm {
  kSpectral,   ///< largest singular value: U is the polar factor of M (matrices only)
  kMax,        ///< largest entry: U = sign(M)
  kFrobenius,  ///< U = M / |M|_F
};

/// How polar factors are computed: coefficients (a, b, c) of X <- a X + (b X X^T + c (X X^T)^2) X.
enum class PolarMethod {
  kMuon,          ///< Jordan et al.: the same in each step, singular values end in 0.7..1.2
  kQuintic,       ///< tuned step by step; five steps take 0.01..1 to 0.98..1.03
  kPolarExpress,  ///< Amsel et al., arXiv 2505.16932; eight steps take 1e-3..1 to 1 within 1e-3
  kCubic,         ///< (1.5, -0.5, 0), Bjorck, Bowie 1971: converges, slowly at first
  kExact,         ///< by the singular-value decomposition, on the range of M
};

/// What a unit direction is multiplied by; m rows, n columns.
enum class DescentScale {
  kRowsOverColumns,  ///< sqrt(max(1, m / n)): Muon
  kAdamRms,          ///< 0.2 sqrt(max(m, n)): as long as Adam's, for its learning rates (Moonlight)
  kSpectralRatio,    ///< sqrt(m / n): unit operator norm between RMS norms (Scion, Modula)
  kDualNorm,         ///< the dual norm of M, <M, U>: the true steepest descent
  kNone,             ///< 1
};

/// Which steepest descent `muon_estimator` is.
struct MuonOptions {
  DescentNorm norm = DescentNorm::kSpectral;  ///< see there
  PolarMethod method = PolarMethod::kMuon;    ///< for the spectral norm
  int64_t steps = 5;                          ///< of Newton-Schulz; a set's last one repeats
  DescentScale scale = DescentScale::kRowsOverColumns;  ///< see there
  /// Dtype of the products, the view's if empty; the published program multiplies in bfloat16,
  /// which leaves errors of two percent and takes half of the time where processors have it.
  std::optional<at::ScalarType> products = {};
};

/// U = argmax { <M, U> : |U| <= 1 }: steepest descent under a norm, for the momentum M. No state.
///
/// With the spectral norm it is Muon: U = M (M^T M)^-1/2, to which X = M / (|M|_F + 1e-7) comes
/// near by polynomials. Jordan et al., "Muon", 2024; Bernstein, Newhouse, "Old optimizer, new
/// norm", arXiv 2409.20325. The published program's momentum is `MomentumOptions{.beta = 0.95,
/// .nesterov = true, .bias_correction = false}`, its learning rate 0.02.
///
/// Muon costs `steps` times two products of the shorter side's squares (half of each is redundant
/// and left out) and one with X. It is for views of two axes. With the other norms m and n are the
/// first axis and the others' product, and any number of axes is allowed. There is no snapshot.
/// @throws OptionError; the factory throws it for a parameter that is not a matrix
EstimatorFactory muon_estimator(const MuonOptions& options = {});

/// What `muon_estimator` takes the polar factor U V^T of X = U S V^T to be, for a matrix `[m, n]`.
at::Tensor polar_factor(const at::Tensor& x, PolarMethod method = PolarMethod::kMuon,
                        int64_t steps = 5);

}  // namespace curvature::optim
