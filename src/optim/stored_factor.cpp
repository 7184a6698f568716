#include "optim/stored_factor.hpp"

#include <ATen/TensorOperators.h>

namespace curvature::optim {
namespace {

/// With noise `[n]` uniform in [0, 1) added to the half of a single precision number's bits that is
/// cut off. Zeros stay.
at::Tensor randomly_rounded(const at::Tensor& x, const at::Tensor& noise) {
  constexpr int64_t kCut = int64_t{1} << 16;
  const at::Tensor bits = x.to(at::kFloat).contiguous().view(at::kInt);
  const at::Tensor carry = (noise * kCut).to(bits.options()).view(bits.sizes());
  return (bits + carry).bitwise_and(-kCut).view(at::kFloat).to(at::kBFloat16);
}

}  // namespace

Parts parts_in(const Parts& parts, at::ScalarType dtype) {
  Parts result;
  for (const at::Tensor& part : parts) result.push_back(part.to(dtype).contiguous());
  return result;
}

Parts stored(const Parts& k, at::ScalarType dtype, const RandomSource& random, uint64_t stream) {
  if (dtype != at::kBFloat16) return parts_in(k, dtype);
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

}  // namespace curvature::optim
