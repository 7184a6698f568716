#pragma once

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/random.hpp>
#include <curvature/matrix_free/options.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature {

/// Monte-Carlo estimate of the loss Hessian: the average over draws from the model's own
/// distribution.
struct MonteCarloOptions {
  int64_t samples = 1;    ///< draws per loss term
  RandomSource random{};  ///< the same draws for each product, whatever the batch size
};

/// Generalised Gauss-Newton matrix k sum_r w_r J_r^T H_r J_r, weight decay included (Schraudolph
/// 2002). J_r is the Jacobian of the outputs of loss term r, H_r the Hessian of that term. Positive
/// semidefinite for losses that are convex in the output.
OperatorPtr ggn(const EmpiricalRisk& risk, const MatrixFreeOptions& options = {});

/// V^T G V for the GGN G and columns V `[n, K]` in the flat view: `[K, K]` in float64 on the CPU,
/// weight decay included. From half products: one linearisation of each batch and K products with
/// its Jacobian, none with the adjoint. What a quadratic model along K directions needs.
/// @throws ShapeError, DtypeDeviceError if V does not fit; NumericalError if it is not finite
at::Tensor ggn_gram(const EmpiricalRisk& risk, const at::Tensor& columns);

/// GGN with each H_r replaced by its Monte-Carlo estimate (type-1 Fisher), weight decay included.
OperatorPtr ggn_mc(const EmpiricalRisk& risk, const MonteCarloOptions& monte_carlo = {},
                   const MatrixFreeOptions& options = {});

/// k sum_r w_r h_r h_r^T, h_r the gradient of the unscaled term r. Without weight decay.
OperatorPtr empirical_fisher(const EmpiricalRisk& risk, const MatrixFreeOptions& options = {});

/// f sum_n (g_n - g)(g_n - g)^T, g_n the gradient of example n's own loss under the risk's
/// reduction, g their mean, f = 1/N for `mean` and 1 for `sum`. Example weights enter as
/// multiplicities. Without weight decay.
OperatorPtr gradient_covariance(const EmpiricalRisk& risk, const MatrixFreeOptions& options = {});

/// The GGN's diagonal as an operator, exact, weight decay included: one backward pass per example
/// and column of its loss Hessian's square root.
OperatorPtr ggn_diagonal(const EmpiricalRisk& risk, const MatrixFreeOptions& options = {});
/// Its Monte-Carlo estimate: one backward pass per example and draw, the terms of an example
/// together.
OperatorPtr ggn_mc_diagonal(const EmpiricalRisk& risk, const MonteCarloOptions& monte_carlo,
                            const MatrixFreeOptions& options = {});

/// The GGN as U U^T + weight decay I, a `low_rank_plus_diagonal` with closed forms: U = J^T S
/// `[D, M]`, S S^T the loss Hessian with its weights, a column for each loss term and column of its
/// square root (M = N C for N terms of C numbers; none for terms that do not count). For few terms
/// and many parameters, M < D: `inverse(shifted(.., damping))` solves in the space of the data,
/// (U U^T + d I)^-1 g = (g - U (d I + U^T U)^-1 U^T g) / d, in O(D M^2), exactly.
///
/// Costs a forward pass per example and a backward pass per column. Of the options' blocks only
/// `kFull`, and no memory budget: U takes D M numbers; with its inverse it is 3 (D + M) M at most.
/// @throws OptionError if that does not fit into the free memory, before it is taken;
/// NotSupportedError if the examples are spread over several workers; NumericalError
OperatorPtr ggn_low_rank(const EmpiricalRisk& risk, const MatrixFreeOptions& options = {});
/// The same of `ggn_mc`, a column for each loss term and draw.
OperatorPtr ggn_mc_low_rank(const EmpiricalRisk& risk, const MonteCarloOptions& monte_carlo,
                            const MatrixFreeOptions& options = {});
/// The same of `empirical_fisher`, a column for each loss term.
OperatorPtr empirical_fisher_low_rank(const EmpiricalRisk& risk,
                                      const MatrixFreeOptions& options = {});

}  // namespace curvature
