// An operator of one's own, outside the library: the second difference with zero boundaries.
#include <iostream>
#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/version.hpp>

namespace {

class SecondDifference : public curvature::FlatOperator {
 public:
  explicit SecondDifference(int64_t n)
      : FlatOperator({.domain = curvature::Space::flat(n),
                      .range = curvature::Space::flat(n),
                      .symmetry = curvature::Symmetry::kPositiveDefinite}) {}

  std::string describe() const override { return "second difference"; }

 protected:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    at::Tensor y = x.mul(2);
    const int64_t last = x.size(0) - 1;
    y.narrow(0, 1, last).sub_(x.narrow(0, 0, last));
    y.narrow(0, 0, last).sub_(x.narrow(0, 1, last));
    return y;
  }
};

}  // namespace

int main() {
  const SecondDifference a(4);
  const at::Tensor y = a.apply(at::ones({4}, at::kDouble));
  const at::Tensor expected = at::tensor({1.0, 0.0, 0.0, 1.0}, at::kDouble);
  const bool right = at::equal(y, expected);
  std::cout << "curvature " << CURVATURE_VERSION << ": the " << a.describe() << " of ones is "
            << (right ? "right" : "wrong") << "\n";
  return right ? 0 : 1;
}
