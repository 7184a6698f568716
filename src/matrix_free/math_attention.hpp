#pragma once

namespace curvature::detail {

/// While one exists, attention runs in its decomposed form: the fused kernels have no second
/// derivatives. The switches are global to the process, so guards are counted; hold one around a
/// forward pass only.
class MathAttentionGuard {
 public:
  MathAttentionGuard();
  ~MathAttentionGuard();
  MathAttentionGuard(const MathAttentionGuard&) = delete;
  MathAttentionGuard& operator=(const MathAttentionGuard&) = delete;
};

}  // namespace curvature::detail
