#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <curvature/optim/psgd_kron_estimator.hpp>
#include <curvature/optim/sirf_estimator.hpp>
#include <curvature/optim/spectral_factorized_estimator.hpp>

#include "optim/methods.hpp"
#include "optim/reference.hpp"
#include "support/tensor_close.hpp"

namespace curvature::testing {

BOOST_AUTO_TEST_SUITE(axis_order_test)

namespace {

namespace data = boost::unit_test::data;
using namespace optim;

/// Methods whose estimators see a kernel with its long axes last.
std::vector<OptimMethod> reordering_methods() {
  return {{"shampoo", shampoo_estimator({.factor_epsilon = 1e-6})},
          {"soap", soap_estimator({.refresh = {.interval = 3}})},
          {"kl-shampoo", kl_shampoo_estimator({.refresh = {.interval = 3, .start = 3}})},
          {"psgd-kron", psgd_kron_estimator()},
          {"sirf", sirf_estimator()},
          {"spectral-factorized", spectral_factorized_estimator()}};
}

/// Its values, and its operator in the end.
struct Outcome {
  std::vector<at::Tensor> values;
  at::Tensor matrix;
};

Outcome follow(const OptimMethod& method, const at::Tensor& start,
               const std::vector<at::Tensor>& gradients, const PreconditionedOptions& options) {
  at::Tensor parameter = start.clone().requires_grad_();
  Preconditioned optimizer({{"w", parameter}}, method.estimator, options);
  Outcome outcome;
  for (const at::Tensor& gradient : gradients) {
    parameter.mutable_grad() = gradient.clone();
    optimizer.step();
    outcome.values.push_back(parameter.detach().clone());
  }
  outcome.matrix = materialize(*optimizer.snapshot("w").front());
  return outcome;
}

}  // namespace

BOOST_DATA_TEST_CASE(nothing_depends_on_the_order_of_axes,
                     data::make(reordering_methods()) *
                         data::make(std::vector<Shape>{{5, 4, 3, 2}, {4, 2, 3, 5}, {5, 2, 4}}),
                     method, shape) {
  // With its axes by length a tensor is seen as it is.
  const at::Tensor start = random_parameter(shape);
  const at::Tensor lengths = torch::tensor(at::IntArrayRef(shape));
  const at::Tensor by_length = torch::argsort(lengths);
  const Shape order(by_length.data_ptr<int64_t>(), by_length.data_ptr<int64_t>() + shape.size());
  const std::vector<at::Tensor> gradients = random_gradients(shape, 7);
  std::vector<at::Tensor> sorted;
  for (const at::Tensor& g : gradients) sorted.push_back(g.permute(order).contiguous());

  for (const Graft graft : {Graft::kNone, Graft::kAdam}) {
    const PreconditionedOptions options{.graft = {.kind = graft},
                                        .view = {.shape = ShapePolicy::kTensor}};
    const Outcome a = follow(method, start, gradients, options);
    const Outcome b = follow(method, start.permute(order).contiguous(), sorted, options);
    for (size_t t = 0; t < gradients.size(); ++t) {
      BOOST_TEST(close(a.values[t].permute(order), b.values[t], {1e-10, 1e-12}));
    }
    const at::Tensor positions = torch::arange(start.numel()).view(shape).permute(order).flatten();
    const at::Tensor moved = a.matrix.index_select(0, positions).index_select(1, positions);
    BOOST_TEST(close(moved, b.matrix, {1e-9, 1e-12}));
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace curvature::testing
