#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include <c10/core/ScalarType.h>

#include <curvature/core/random.hpp>
#include <curvature/layerwise/kfac.hpp>
#include <curvature/model/empirical_risk.hpp>
#include <curvature/optim/factor_structure.hpp>
#include <curvature/optim/minimizer.hpp>

namespace curvature::optim {

/// What the rate of the factors is divided by, so that a step does not leave the invertible
/// matrices: max(1, a norm of the factor's direction).
enum class RateBound {
  kFrobenius,     ///< the Frobenius norm: with a rate below 1 the factors stay invertible
  kLargestEntry,  ///< the largest entry's size, as in the program singd
  kNone,          ///< nothing; directions are then summed, not averaged
};

/// How `singd` steps.
struct SingdOptions {
  double learning_rate = 1e-3;        ///< beta2 of the paper
  double momentum = 0.9;              ///< m <- momentum m + direction
  double damping = 1e-3;              ///< added to the curvature; so is the risk's weight decay
  double preconditioner_rate = 0.01;  ///< step size of K and C (beta1 of the paper), in (0, 1)
  RateBound rate_bound = RateBound::kFrobenius;  ///< see there
  double alpha1 = 0.5;                  ///< decay of the averages of the directions of K and C
  bool kfac_like = false;               ///< IKFAC: the factors of a layer do not see each other
  int64_t refresh_interval = 10;        ///< K and C move in every so many-th step
  StructureOptions input_structure{};   ///< of K
  StructureOptions output_structure{};  ///< of C
  /// Of K, C and their directions: single, double precision or bfloat16; the parameters' own if
  /// empty. Arithmetic is in the wider of both, at least in float32.
  std::optional<at::ScalarType> dtype{};
  Fisher fisher = Fisher::kEmpirical;                     ///< of the output factors
  int64_t mc_samples = 1;                                 ///< draws per loss term
  WeightSharing weight_sharing = WeightSharing::kExpand;  ///< see there
  bool separate_bias = false;                             ///< a bias has a block of its own
  Fallback fallback = Fallback::kRefuse;  ///< of parameters that no layer rule covers
  RandomSource random{};                  ///< of statistics and rounding
};

/// SINGD: natural gradient whose inverse Kronecker factors K K^T and C C^T are learned directly, by
/// multiplicative updates: no inverse, no decomposition, so that bfloat16 suffices for the state.
/// With dense factors that is INGD, and with `kfac_like` IKFAC. For each layer with K-FAC's factors
/// A (inputs) and B (gradients) of the batch, t(X) = tr(X) / dim, and lambda the damping:
///
///     H_K = Pi(K^T A K),  H_C = Pi(C^T B C)
///     m_K <- alpha1 m_K + (1 - alpha1) / 2 [t(H_C) H_K + lambda t(C^T C) Pi(K^T K) - I]
///     m_C <- alpha1 m_C + (1 - alpha1) / 2 [t(H_K) H_C + lambda t(K^T K) Pi(C^T C) - I]
///     K <- K (I - rate m_K),  C <- C (I - rate m_C)
///     m <- momentum m + C C^T G K K^T,  W <- W - learning_rate m
///
/// from K = C = I, with old values on the right of both updates; `RateBound::kNone` has no factor
/// 1 - alpha1. IKFAC replaces the four t by 1. Lin, Dangel, Eschenhagen, Neklyudov, Kristiadi,
/// Turner, Makhzani, "Structured inverse-free natural gradient descent", ICML 2024, section 3;
/// the program singd.
///
/// For constant A and B, INGD goes to the Kronecker product nearest to B (x) A + lambda I in the
/// sense of Kullback and Leibler (`KroneckerDamping::kKullbackLeibler`); and IKFAC follows (A +
/// lambda I)^-1 and (B + lambda I)^-1 of decaying averages. A parameter without layer rule has one
/// factor, its curvature the GGN's diagonal or block of the batch as `fallback` says, and unused
/// ones have curvature 0. A layer that a batch does not use keeps its factors.
///
/// A step costs a gradient and four products of a layer's gradient with its factors; two where K is
/// dense or triangular and kept in the parameters' dtype, as K K^T is then kept beside K. A refresh
/// costs a forward and a backward pass more, for each vector of `fisher`, and with R rows of inputs
/// `[R, n]` (of examples and positions) their product with K and the part of a Gram matrix that the
/// structure has, 3 R n^2 operations for dense ones, and so for gradients: A and B are never made.
///
/// In bfloat16 K and C are rounded up or down at random with the right mean: most steps of rate
/// 0.01 are less than half of a number's distance to the next, and rounding to the nearest would
/// lose them. That takes a random number for each entry at a refresh. The program singd rounds to
/// the nearest.
/// @throws OptionError; steps throw NotSupportedError for a parameter that is not covered
std::unique_ptr<Minimizer> singd(const EmpiricalRisk& risk, const SingdOptions& options = {});

}  // namespace curvature::optim
