#pragma once

#include <curvature/core/linear_operator.hpp>
#include <curvature/layerwise/damping.hpp>
#include <curvature/layerwise/kfac.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature {

/// The inverse F^-1 of block-tridiagonal K-FAC, for a chain of dense layers. Blocks (i, j) of F are
/// G_ij (x) A_ij for neighbours |i - j| <= 1, with A_ij the mean of a_i a_j^T and G_ij = k sum of
/// g_i g_j^T as in `kfac`, and what makes F^-1 block tridiagonal elsewhere: gradients of layers
/// that are no neighbours are independent given those between. Damping enlarges A_ii and G_ii, by
/// `kPerFactor` or `kHeuristicPi`; F is positive definite if it is positive.
///
/// Every parameter of the risk must belong to a linear layer (or a product with a matrix from the
/// right) that is used once and has one position for each example, and whose input comes from the
/// layer before and from no other; whatever has no parameters may lie between. Of the options,
/// `weight_sharing` plays no role, and `kForwardOnly`, `separate_bias` and fallbacks are refused.
/// Costs `kfac`'s passes, an inverse and an eigendecomposition of each factor, and then for each
/// product about four of `kfac`'s. Closed forms: determinant, and
/// `inverse`, which is F. Martens, Grosse, ICML 2015, section 4.3 and appendix B.
/// @throws NotSupportedError that names a parameter or layer that does not belong to the chain;
/// OptionError for options as above; NumericalError that names the layer whose factors are
/// singular, or nearly so, with too little damping
OperatorPtr kfac_block_tridiagonal_inverse(const EmpiricalRisk& risk,
                                           const KfacOptions& options = {},
                                           const DampingOptions& damping = {
                                               .kind = KroneckerDamping::kHeuristicPi});

}  // namespace curvature
