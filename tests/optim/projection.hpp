#pragma once

#include <algorithm>

#include <ATen/ATen.h>

#include <curvature/optim/factor_structure.hpp>

namespace curvature::testing {

/// Pi of a symmetric matrix entry by entry.
inline at::Tensor projected(const at::Tensor& s, const optim::StructureOptions& options) {
  using optim::FactorStructure;
  const int64_t d = s.size(0);
  at::Tensor result = at::zeros_like(s);
  const auto block = [&](int64_t i) { return i / options.block_size; };
  const int64_t top = std::min(options.top, d), bottom = std::min(options.bottom, d - top);
  const auto strip = [&](int64_t i) { return i < top ? 0 : i < d - bottom ? 1 : 2; };
  const auto mean = [&](int64_t offset) { return s.diagonal(offset).mean(); };
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j < d; ++j) {
      double weight = 0;
      at::Tensor value = s[i][j];
      switch (options.kind) {
        case FactorStructure::kDense:
          weight = 1;
          break;
        case FactorStructure::kDiagonal:
          weight = i == j;
          break;
        case FactorStructure::kBlockDiagonal:
          weight = block(i) == block(j);
          break;
        case FactorStructure::kLowerTriangular:
          weight = i == j ? 1 : i > j ? 2 : 0;
          break;
        case FactorStructure::kUpperTriangular:
          weight = i == j ? 1 : i < j ? 2 : 0;
          break;
        case FactorStructure::kLowerToeplitz:
          weight = i == j ? 1 : i > j ? 2 : 0;
          value = mean(i - j);
          break;
        case FactorStructure::kUpperToeplitz:
          weight = i == j ? 1 : i < j ? 2 : 0;
          value = mean(i - j);
          break;
        case FactorStructure::kHierarchical:
          if (strip(i) == strip(j)) {
            weight = strip(i) != 1 || i == j;
          } else {
            weight = strip(i) == 0 || (strip(i) == 2 && strip(j) == 1) ? 2 : 0;
          }
          break;
      }
      result[i][j] = weight * value;
    }
  }
  return result;
}

}  // namespace curvature::testing
