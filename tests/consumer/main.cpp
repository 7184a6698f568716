// An operator of one's own, outside the library: the second difference with zero boundaries.
#include <iostream>
#include <string>

#include <ATen/ATen.h>

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
    at::Tensor y = 2 * x;
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
  std::cout << "curvature " << CURVATURE_VERSION << ": " << a.describe() << " of ones is\n" << y << "\n";
  const at::Tensor expected = at::tensor({1.0, 0.0, 0.0, 1.0}, at::kDouble);
  return at::equal(y, expected) ? 0 : 1;
}
