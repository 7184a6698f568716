#pragma once

#include <functional>
#include <memory>
#include <variant>
#include <vector>

#include <ATen/core/Tensor.h>

namespace curvature {

class LinearOperator;
/// Operators are immutable and shared.
using OperatorPtr = std::shared_ptr<const LinearOperator>;

/// What an operator is made of, as a value: closed algebra (the sum of two diagonals is a diagonal)
/// dispatches on it. All tensors refer to the flat view.
struct NoStructure {};
/// scale * I; identity included, and for scale 0 the zero map between any two spaces.
struct ScaledIdentityStructure {
  double scale;  ///< factor of the identity
};
/// diag(d), d `[n]`.
struct DiagonalStructure {
  at::Tensor diagonal;  ///< d
};
/// A, `[m, n]`.
struct DenseStructure {
  at::Tensor matrix;  ///< A
};
/// diag(d) + U diag(c) U^T with d `[n]`, U `[n, r]`, c `[r]`.
struct LowRankStructure {
  at::Tensor diagonal;      ///< d
  at::Tensor factor;        ///< U
  at::Tensor coefficients;  ///< c
};
/// S_1 x ... x S_k (Kronecker), S_i `[m_i, n_i]`.
struct KroneckerStructure {
  std::vector<at::Tensor> factors;  ///< S_1, ..., S_k
};
/// Q diag(l) Q^T with an orthogonal operator Q and l `[n]`.
struct EigenStructure {
  OperatorPtr basis;       ///< Q
  at::Tensor eigenvalues;  ///< l, in no particular order
};
/// Blocks down the diagonal; entry i of the space belongs to block `i` if there is one entry per
/// block.
struct BlockDiagonalStructure {
  std::vector<OperatorPtr> blocks;  ///< from the top left
};
/// Blocks on disjoint parts of a space, wherever their entries lie.
struct PartitionStructure {
  std::vector<OperatorPtr> blocks;  ///< each on a flat space
  /// The operator with other blocks on the same parts.
  std::function<OperatorPtr(std::vector<OperatorPtr>)> with_blocks;
};
/// c_1 A_1 + ... + c_k A_k + shift * I; k >= 1, and shift 0 unless domain and range are equal.
struct SumStructure {
  std::vector<double> coefficients;  ///< c
  std::vector<OperatorPtr> terms;    ///< A
  double shift = 0;                  ///< factor of the identity
};
/// A_1 A_2 ... A_k, the last applied first; k >= 2.
struct ProductStructure {
  std::vector<OperatorPtr> factors;  ///< from the left
};
/// A^T of an operator that has no closed form for it.
struct AdjointStructure {
  OperatorPtr original;  ///< A
};

/// One of the structures above.
using Structure =
    std::variant<NoStructure, ScaledIdentityStructure, DiagonalStructure, DenseStructure,
                 LowRankStructure, KroneckerStructure, EigenStructure, BlockDiagonalStructure,
                 PartitionStructure, SumStructure, ProductStructure, AdjointStructure>;

}  // namespace curvature
