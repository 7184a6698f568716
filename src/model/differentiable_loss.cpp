#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <curvature/model/loss.hpp>

#include "core/check.hpp"

namespace curvature {
namespace {

using LossFunction = std::function<at::Tensor(const at::Tensor& output, const at::Tensor& targets)>;

at::Tensor as_rows(const at::Tensor& output) { return output.reshape({output.size(0), -1}); }

class DifferentiablePoint final : public LossPoint {
 public:
  DifferentiablePoint(const LossFunction& function, const at::Tensor& output,
                      const at::Tensor& targets) {
    const at::AutoGradMode with_gradients(true);
    output_ = output.detach().requires_grad_();
    const at::Tensor total = function(output_, targets).sum();
    gradient_ = torch::autograd::grad({total}, {output_}, {}, /*retain_graph=*/true,
                                      /*create_graph=*/true)[0];
  }

  at::Tensor gradient() const override { return as_rows(gradient_.detach()); }

  at::Tensor hessian_product(const at::Tensor& v) const override {
    at::Tensor result = at::zeros_like(v);
    if (!gradient_.requires_grad()) return result;  // linear in the output
    const at::AutoGradMode with_gradients(true);
    for (int64_t k = 0; k < v.size(2); ++k) {
      const at::Tensor column =
          torch::autograd::grad({gradient_}, {output_}, {v.select(2, k).reshape(output_.sizes())},
                                /*retain_graph=*/true, /*create_graph=*/false,
                                /*allow_unused=*/true)[0];
      if (column.defined()) result.select(2, k).copy_(as_rows(column));
    }
    return result;
  }

  at::Tensor hessian_root() const override {
    const at::Tensor rows = as_rows(gradient_.detach());
    const at::Tensor hessians = hessian_product(
        at::eye(rows.size(1), rows.options()).expand({rows.size(0), rows.size(1), rows.size(1)}));
    const auto [eigenvalues, vectors] = at::linalg_eigh(hessians);
    const double tolerance =
        (rows.scalar_type() == at::kDouble ? 1e-12 : 1e-5) * eigenvalues.abs().max().item<double>();
    CURVATURE_CHECK(
        eigenvalues.ge(-tolerance).all().item<bool>(), NumericalError,
        "differentiable-loss: the loss is not convex in the output; smallest eigenvalue "
        "of a term's Hessian {}, so it has no square root",
        eigenvalues.min().item<double>());
    return vectors * eigenvalues.clamp_min(0).sqrt().unsqueeze(1);
  }

  at::Tensor samples(const RandomSource& random, int64_t first_example, int64_t num_examples,
                     int64_t draws) const override {
    const at::Tensor root = hessian_root();
    const at::Tensor normal =
        random.normal(static_cast<uint64_t>(first_example), num_examples, draws * root.size(2))
            .view({num_examples, draws, root.size(2)})
            .transpose(1, 2)
            .to(root.options());
    return at::matmul(root, normal);
  }

 private:
  at::Tensor output_;    // leaf
  at::Tensor gradient_;  // with graph
};

class DifferentiableLoss final : public Loss {
 public:
  DifferentiableLoss(LossFunction function, std::string name)
      : function_(std::move(function)), name_(std::move(name)) {}

  std::string name() const override { return name_; }
  at::Tensor rows(const at::Tensor& output) const override { return as_rows(output); }
  at::Tensor unrows(const at::Tensor& rows, const at::Tensor& output) const override {
    std::vector<int64_t> shape = output.sizes().vec();
    for (int64_t axis = 2; axis < rows.dim(); ++axis) shape.push_back(rows.size(axis));
    return rows.reshape(shape);
  }
  // What targets may be is the function's business.
  void check_targets(const at::Tensor&, int64_t, at::ScalarType) const override {}

  at::Tensor terms(const at::Tensor& output, const at::Tensor& targets) const override {
    const at::Tensor terms = function_(output, targets);
    CURVATURE_CHECK(terms.dim() == 1 && terms.size(0) == output.size(0), ModelError,
                    "{}: expected one number per example, [{}]; got {}", name_, output.size(0),
                    detail::to_string(terms.sizes()));
    return terms;
  }
  std::unique_ptr<const LossPoint> at(const at::Tensor& output,
                                      const at::Tensor& targets) const override {
    return std::make_unique<DifferentiablePoint>(function_, output, targets);
  }
  at::Tensor normalizers(const at::Tensor& targets) const override {
    return at::ones({targets.size(0)}, at::kDouble);
  }

 private:
  LossFunction function_;
  std::string name_;
};

}  // namespace

LossPtr differentiable_loss(LossFunction function, std::string name) {
  CURVATURE_CHECK(function, OptionError, "differentiable_loss: the function is empty");
  return std::make_shared<DifferentiableLoss>(std::move(function), std::move(name));
}

}  // namespace curvature
