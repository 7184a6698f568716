// Losses that are sums over the C numbers of a term, so that a term's Hessian is diagonal.
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/diag_embed.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/sigmoid.h>

#include <curvature/model/loss.hpp>

#include "core/check.hpp"
#include "model/row_loss.hpp"

namespace curvature {
namespace {

/// Random numbers of rows `[R, C]`, M draws each, as `[R, C, M]`; `draw` is a member of
/// RandomSource.
template <class Draw>
at::Tensor draw_rows(Draw draw, const at::Tensor& rows, int64_t first_example, int64_t num_examples,
                     int64_t draws) {
  const int64_t positions = rows.size(0) / num_examples, width = rows.size(1);
  return draw(static_cast<uint64_t>(first_example), num_examples, draws * positions * width)
      .view({num_examples, draws, positions, width})
      .permute({0, 2, 3, 1})
      .reshape({rows.size(0), width, draws})
      .to(rows.options());
}

/// A term with gradient g and diagonal Hessian h, both `[R, C]`.
class ElementwisePoint : public LossPoint {
 public:
  ElementwisePoint(at::Tensor gradient, at::Tensor hessian)
      : gradient_(std::move(gradient)), hessian_(std::move(hessian)) {}

  at::Tensor gradient() const final { return gradient_; }
  at::Tensor hessian_product(const at::Tensor& v) const final { return hessian_.unsqueeze(-1) * v; }
  at::Tensor hessian_root() const final { return at::diag_embed(hessian_.sqrt()); }

 protected:
  at::Tensor gradient_;
  at::Tensor hessian_;
};

/// MSE as the negative log-likelihood of N(f, I / 2): sampled gradients are sqrt(2) N(0, I).
class SquaredErrorPoint final : public ElementwisePoint {
 public:
  explicit SquaredErrorPoint(const at::Tensor& difference)
      : ElementwisePoint(2 * difference, at::full_like(difference, 2)) {}

  at::Tensor samples(const RandomSource& random, int64_t first_example, int64_t num_examples,
                     int64_t draws) const override {
    const auto normal = [&](uint64_t first, int64_t streams, int64_t count) {
      return random.normal(first, streams, count);
    };
    return draw_rows(normal, gradient_, first_example, num_examples, draws).mul_(std::sqrt(2.0));
  }
};

/// BCE; the Hessian is scale * p (1 - p) and sampled gradients are sqrt(scale) (p - b), b ~
/// Bernoulli(p).
class BinaryPoint final : public ElementwisePoint {
 public:
  BinaryPoint(const at::Tensor& p, const at::Tensor& positive, const at::Tensor& scale)
      : ElementwisePoint(scale * p - positive, scale * p * (1 - p)), p_(p), scale_(scale) {}

  at::Tensor samples(const RandomSource& random, int64_t first_example, int64_t num_examples,
                     int64_t draws) const override {
    const auto uniform = [&](uint64_t first, int64_t streams, int64_t count) {
      return random.uniform(first, streams, count);
    };
    const at::Tensor p = p_.unsqueeze(-1);
    const at::Tensor u = draw_rows(uniform, p_, first_example, num_examples, draws);
    return (p - (u < p).to(p.scalar_type())).mul_(scale_.sqrt().unsqueeze(-1));
  }

 private:
  at::Tensor p_;
  at::Tensor scale_;
};

/// Numbers per example: what `mean` divides by.
at::Tensor numbers_per_example(const at::Tensor& targets) {
  return at::full({targets.size(0)}, static_cast<double>(targets.numel() / targets.size(0)),
                  at::kDouble);
}

class MeanSquaredError final : public detail::RowLoss {
 public:
  explicit MeanSquaredError(const MeanSquaredErrorOptions& options)
      : RowLoss("mse", options.class_axis, detail::VectorOutput::kAllowed) {}

  void check_targets(const at::Tensor& targets, int64_t, at::ScalarType dtype) const override {
    check_real(targets, dtype);
  }
  at::Tensor terms(const at::Tensor& output, const at::Tensor& targets) const override {
    check_shape(targets, output.sizes());
    return (rows(output) - rows(targets)).square().sum(1);
  }
  std::unique_ptr<const LossPoint> at(const at::Tensor& output,
                                      const at::Tensor& targets) const override {
    check_shape(targets, output.sizes());
    return std::make_unique<SquaredErrorPoint>(rows(output.detach()) - rows(targets));
  }
  at::Tensor normalizers(const at::Tensor& targets) const override {
    return numbers_per_example(targets);
  }
};

class BinaryCrossEntropy final : public detail::RowLoss {
 public:
  explicit BinaryCrossEntropy(const BinaryCrossEntropyOptions& options)
      : RowLoss("bce-with-logits", options.class_axis, detail::VectorOutput::kAllowed),
        positive_weights_(options.positive_weights) {
    CURVATURE_CHECK(
        !positive_weights_.defined() ||
            (positive_weights_.dim() <= 1 && positive_weights_.ge(0).all().item<bool>()),
        OptionError, "bce-with-logits: positive_weights must be one number or [C], none negative");
  }

  void check_targets(const at::Tensor& targets, int64_t num_classes,
                     at::ScalarType dtype) const override {
    check_real(targets, dtype);
    CURVATURE_CHECK(targets.ge(0).logical_and(targets.le(1)).all().item<bool>(), DataError,
                    "bce-with-logits: targets must be in [0, 1]");
    CURVATURE_CHECK(!positive_weights_.defined() || positive_weights_.numel() == 1 ||
                        positive_weights_.numel() == num_classes,
                    OptionError, "bce-with-logits: expected {} positive_weights, got {}",
                    num_classes, positive_weights_.numel());
  }
  at::Tensor terms(const at::Tensor& output, const at::Tensor& targets) const override {
    check_shape(targets, output.sizes());
    const at::Tensor logits = rows(output);
    std::optional<at::Tensor> weights;
    if (positive_weights_.defined()) weights = positive_weights_.to(logits.options());
    return at::binary_cross_entropy_with_logits(logits, rows(targets), std::nullopt, weights,
                                                at::Reduction::None)
        .sum(1);
  }
  std::unique_ptr<const LossPoint> at(const at::Tensor& output,
                                      const at::Tensor& targets) const override {
    check_shape(targets, output.sizes());
    const at::Tensor logits = rows(output.detach()), t = rows(targets);
    const at::Tensor positive =
        positive_weights_.defined() ? t * positive_weights_.to(logits.options()) : t;
    return std::make_unique<BinaryPoint>(at::sigmoid(logits), positive, positive + 1 - t);
  }
  at::Tensor normalizers(const at::Tensor& targets) const override {
    return numbers_per_example(targets);
  }

 private:
  at::Tensor positive_weights_;
};

}  // namespace

LossPtr mean_squared_error(MeanSquaredErrorOptions options) {
  return std::make_shared<MeanSquaredError>(options);
}

LossPtr binary_cross_entropy_with_logits(BinaryCrossEntropyOptions options) {
  return std::make_shared<BinaryCrossEntropy>(options);
}

}  // namespace curvature
