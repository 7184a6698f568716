#pragma once

#include <cstdint>
#include <memory>

#include <curvature/core/random.hpp>
#include <curvature/layerwise/damping.hpp>
#include <curvature/layerwise/kfac.hpp>
#include <curvature/model/empirical_risk.hpp>
#include <curvature/optim/damping_control.hpp>
#include <curvature/optim/minimizer.hpp>
#include <curvature/optim/step_size.hpp>

namespace curvature::optim {

/// What stands for the Fisher matrix, or GGN, and is inverted.
enum class FisherApproximation {
  kKfac,   ///< decaying averages of Kronecker factors
  kEkfac,  ///< decaying averages of squared gradients along the factors' eigenvectors
  kKfoc,   ///< the nearest Kronecker products, of the batch of the last refresh alone
  /// No layers: the whole matrix of the step's batch, GGN or Fisher (see `ggn_low_rank`), inverted
  /// exactly in the space of the data. For batches with fewer outputs than there are parameters.
  kFull,
};

/// How `natural_gradient` steps. Of what is said of statistics, layers and Kronecker products,
/// `FisherApproximation::kFull` knows `fisher`, `mc_samples` and `statistics_fraction` alone.
struct NaturalGradientOptions {
  FisherApproximation curvature = FisherApproximation::kKfac;  ///< see there
  double learning_rate = 0.1;  ///< 1 is natural with `StepSize::kQuadraticModel`
  double momentum = 0.9;       ///< of the last update; with the quadratic model its own choice
  StepSize step_size = StepSize::kNormConstraint;  ///< see there
  double norm_constraint = 1e-3;                   ///< c of `StepSize::kNormConstraint`
  double trust_radius = 1e-3;                      ///< of `StepSize::kTrustRegion`

  double damping = 1e-3;                                     ///< at the start
  KroneckerDamping damping_kind = KroneckerDamping::kExact;  ///< of Kronecker products
  bool relative_damping = false;  ///< in units of each block's mean eigenvalue; constant only
  DampingRule damping_rule = DampingRule::kConstant;  ///< or by rho
  int64_t damping_interval = 5;                       ///< steps from one adaptation to the next
  double damping_factor = 1.3;                        ///< of `DampingRule::kLevenbergMarquardt`
  double min_damping = 1e-9;                          ///< it does not fall below
  double max_damping = 1e9;                           ///< it does not rise above
  /// The factors are damped with a number of their own, searched every so many steps among three
  /// for the least value of the quadratic model (the gamma of Martens and Grosse, section 6.6);
  /// needs `StepSize::kQuadraticModel`. 0: with the damping itself.
  int64_t factor_damping_interval = 0;
  bool reject_increase =
      false;  ///< evaluates the loss after each step and does not take a worse one

  /// Part of a step's examples from which its statistics are taken, in (0, 1]: as many as that,
  /// rounded up, drawn anew in every step (tau_1 of Martens and Grosse, section 8). The gradient is
  /// that of all.
  double statistics_fraction = 1;
  /// The same for what a step takes from the exact GGN, along the direction and the last update:
  /// the quadratic model, the trust region and rho (their tau_2).
  double model_fraction = 1;
  double decay = 0.95;              ///< of earlier statistics at every update
  int64_t statistics_interval = 1;  ///< steps from one update of the statistics to the next
  /// Steps from one inverse (EK-FAC: basis; KFOC: fit) to the next; the first three steps have
  /// their own.
  int64_t refresh_interval = 10;
  Fisher fisher = Fisher::kMonteCarlo;                    ///< of the statistics
  int64_t mc_samples = 1;                                 ///< draws per loss term
  WeightSharing weight_sharing = WeightSharing::kExpand;  ///< see there
  bool separate_bias = false;                             ///< a bias has a block of its own
  Fallback fallback = Fallback::kRefuse;  ///< of parameters that no layer rule covers
  RandomSource random{};                  ///< of the statistics, and of which examples are taken
};

/// Natural gradient with K-FAC, EK-FAC, KFOC or the whole matrix: D = (F + (damping + weight decay)
/// I)^-1 g, and a step along D and the last update. Weight decay is the risk's: it is part of the
/// gradient, of the quadratic model and of rho.
///
/// Costs a gradient, one for the statistics (`kMonteCarlo`), the factors' arithmetic and two
/// products with them; with `kFull` a forward pass per example, a backward pass per column of U
/// `[D, M]`, O(D M^2), and 3 (D + M) M numbers while it lasts. `kTrustRegion` and adaptive damping
/// a half product of the GGN more (about a gradient), the quadratic model two; judged steps a loss.
/// Martens, Grosse, ICML 2015; George et al., NeurIPS 2018; Koroko et al., 2022; `kFull`: Ren,
/// Goldfarb, arXiv:1906.02353.
/// @throws OptionError; steps throw NotSupportedError for a parameter that is not covered, and
/// OptionError if U does not fit into memory
std::unique_ptr<Minimizer> natural_gradient(const EmpiricalRisk& risk,
                                            const NaturalGradientOptions& options = {});

}  // namespace curvature::optim
