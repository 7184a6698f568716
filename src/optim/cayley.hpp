#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::optim {

/// N = rate/2 (Z - Z^T) with Z[a, b] = -T[a, b] / (e[a] - e[b]) below the diagonal where
/// eigenvalues differ by more than `gap_tolerance`, scaled down to |N|_F <= max_rotation: turns a
/// basis towards eigenvectors of T, symmetric, which is given in the basis.
at::Tensor rotation(const at::Tensor& t, const at::Tensor& e, double rate, double gap_tolerance,
                    double max_rotation);
/// Q (I + N) (I - N)^-1 for an antisymmetric N: orthogonal if Q is. In low precision, where
/// LibTorch solves no systems, by (I + N)^2 (I + N^2) (I + N^4) (I + N^8).
at::Tensor turned(const at::Tensor& q, const at::Tensor& n);
/// Q (3 I - Q^T Q) / 2: squares the distance from orthogonality.
at::Tensor orthogonalized(const at::Tensor& q);

}  // namespace curvature::optim
