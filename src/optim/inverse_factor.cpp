#include "optim/inverse_factor.hpp"

#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>

#include "optim/mode_algebra.hpp"

namespace curvature::optim {
namespace {

/// Contiguous; to the nearest number.
Parts parts_in(const Parts& parts, at::ScalarType dtype) {
  Parts result;
  for (const at::Tensor& part : parts) result.push_back(part.to(dtype).contiguous());
  return result;
}

/// x in bfloat16, up or down so that the mean is x: with noise `[n]` uniform in [0, 1) added to the
/// half of a single precision number's bits that is cut off. Zeros stay.
at::Tensor randomly_rounded(const at::Tensor& x, const at::Tensor& noise) {
  constexpr int64_t kCut = int64_t{1} << 16;
  const at::Tensor bits = x.to(at::kFloat).contiguous().view(at::kInt);
  const at::Tensor carry = (noise * kCut).to(bits.options()).view(bits.sizes());
  return (bits + carry).bitwise_and(-kCut).view(at::kFloat).to(at::kBFloat16);
}

Parts randomly_rounded(const Parts& k, const RandomSource& random, uint64_t stream) {
  int64_t count = 0;
  for (const at::Tensor& part : k) count += part.numel();
  const at::Tensor noise = random.uniform(stream, count).to(k.front().device());
  Parts result;
  int64_t begin = 0;
  for (const at::Tensor& part : k) {
    result.push_back(randomly_rounded(part, noise.narrow(0, begin, part.numel())));
    begin += part.numel();
  }
  return result;
}

}  // namespace

InverseFactor::InverseFactor(std::unique_ptr<MatrixClass> structure, const at::TensorOptions& state,
                             at::ScalarType arithmetic)
    : k(structure->identity(state)),
      structure_(std::move(structure)),
      wide_(c10::promoteTypes(c10::promoteTypes(k.front().scalar_type(), arithmetic), at::kFloat)) {
  for (const at::Tensor& part : k) direction.push_back(at::zeros_like(part));
}

Parts InverseFactor::wide_k() const { return parts_in(k, wide_); }
Parts InverseFactor::wide_direction() const { return parts_in(direction, wide_); }

void InverseFactor::move(const Parts& n, double rate, const RandomSource& random, uint64_t stream) {
  const Parts wide = wide_k();
  Parts moved = structure_->product(wide, n);
  scale_and_add(moved, -rate, wide, 1);
  const at::ScalarType dtype = k.front().scalar_type();
  k = dtype == at::kBFloat16 ? randomly_rounded(moved, random, stream) : parts_in(moved, dtype);
  direction = parts_in(n, dtype);
}

at::Tensor InverseFactor::precondition(const at::Tensor& x, size_t mode) {
  const at::Tensor wide = x.to(wide_);
  if (!keeps_outer()) {
    const Parts factor = wide_k();
    const at::Tensor seen = structure_->multiply(wide, factor, mode, /*transposed=*/true);
    return structure_->multiply(seen, factor, mode, /*transposed=*/false).to(x.scalar_type());
  }
  if (!outer_of_.is_same(k.front())) {
    outer_ = mode_gram(k.front(), 0);
    outer_of_ = k.front();
  }
  return mode_product(wide, outer_, mode).to(x.scalar_type());
}

int64_t InverseFactor::state_bytes() const {
  return (keeps_outer() ? 3 : 2) * structure_->num_entries() *
         static_cast<int64_t>(k.front().element_size());
}

/// In fewer bits than arithmetic has K K^T would not be positive any more.
bool InverseFactor::keeps_outer() const {
  return structure_->is_one_matrix() && k.front().scalar_type() == wide_;
}

}  // namespace curvature::optim
