#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/diag_embed.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/model/loss.hpp>

#include "core/check.hpp"
#include "model/row_loss.hpp"

namespace curvature {
namespace {

constexpr int64_t kPytorchIgnoreIndex = -100;  // of PyTorch; no label equals it unless asked for

/// Class indices, of any width.
bool is_labels(const at::Tensor& targets) {
  return at::isIntegralType(targets.scalar_type(), /*includeBool=*/true);
}

/// Every variant of the loss is - sum_c q_c log p_c with p the softmax of a row's logits and q
/// non-negative. With s = sum_c q_c: gradient s p - q, Hessian s (diag p - p p^T).
class CrossEntropyPoint final : public LossPoint {
 public:
  CrossEntropyPoint(at::Tensor probabilities, at::Tensor q)
      : p_(std::move(probabilities)), q_(std::move(q)), s_(q_.sum(1, /*keepdim=*/true)) {}

  at::Tensor gradient() const override { return p_ * s_ - q_; }

  at::Tensor hessian_product(const at::Tensor& v) const override {
    const at::Tensor p = p_.unsqueeze(-1);
    const at::Tensor pv = p * v;
    return (pv - p * pv.sum(1, /*keepdim=*/true)).mul_(s_.unsqueeze(-1));
  }

  // Column j is sqrt(s p_j) (e_j - p), `[R, C, C]`.
  at::Tensor hessian_root() const override {
    const at::Tensor root = (p_ * s_).sqrt();
    return at::diag_embed(root) - p_.unsqueeze(2) * root.unsqueeze(1);
  }

  // sqrt(s) (p - e_y) with y drawn from p.
  at::Tensor samples(const RandomSource& random, int64_t first_example, int64_t num_examples,
                     int64_t draws) const override {
    const int64_t rows = p_.size(0), classes = p_.size(1);
    const int64_t positions = rows / num_examples;
    const at::Tensor u =
        random.uniform(static_cast<uint64_t>(first_example), num_examples, draws * positions)
            .view({num_examples, draws, positions})
            .transpose(1, 2)
            .reshape({rows, draws})
            .contiguous();
    const at::Tensor cumulative = p_.to(at::kCPU, at::kDouble).cumsum(1);
    const at::Tensor labels = at::searchsorted(cumulative, u, /*out_int32=*/false, /*right=*/true)
                                  .clamp_max(classes - 1)
                                  .to(p_.device());
    at::Tensor vectors = p_.unsqueeze(2).repeat({1, 1, draws});
    vectors.scatter_add_(1, labels.unsqueeze(1),
                         at::full({1, 1, 1}, -1.0, p_.options()).expand({rows, 1, draws}));
    return vectors.mul_(s_.sqrt().unsqueeze(2));
  }

 private:
  at::Tensor p_;  // [R, C]
  at::Tensor q_;  // [R, C]
  at::Tensor s_;  // [R, 1]
};

class CrossEntropy final : public detail::RowLoss {
 public:
  explicit CrossEntropy(CrossEntropyOptions options)
      : RowLoss("cross-entropy", options.class_axis, detail::VectorOutput::kRefused),
        options_(std::move(options)) {
    CURVATURE_CHECK(options_.label_smoothing >= 0 && options_.label_smoothing <= 1, OptionError,
                    "cross-entropy: label_smoothing must be in [0, 1]; got {}",
                    options_.label_smoothing);
    if (!options_.class_weights.defined()) return;
    CURVATURE_CHECK(options_.class_weights.dim() == 1 && options_.class_weights.is_floating_point(),
                    OptionError, "cross-entropy: class_weights must be real numbers [C]; got {}",
                    detail::to_string(options_.class_weights.sizes()));
    CURVATURE_CHECK(options_.class_weights.ge(0).all().item<bool>(), OptionError,
                    "cross-entropy: class_weights must not be negative or NaN");
  }

  void check_targets(const at::Tensor& targets, int64_t num_classes,
                     at::ScalarType dtype) const override {
    const at::Tensor& weights = options_.class_weights;
    CURVATURE_CHECK(!weights.defined() || weights.size(0) == num_classes, OptionError,
                    "cross-entropy: expected {} class_weights, got {}", num_classes,
                    weights.size(0));
    if (targets.defined() && is_labels(targets)) {
      check_labels(targets.to(at::kLong), num_classes);
      return;
    }
    check_real(targets, dtype);
    CURVATURE_CHECK(targets.ge(0).logical_and(targets.le(1)).all().item<bool>(), DataError,
                    "cross-entropy: class probabilities must be in [0, 1]");
    CURVATURE_CHECK(!options_.ignore_index, OptionError,
                    "cross-entropy: ignore_index goes with class indices, not probabilities");
  }

  at::Tensor terms(const at::Tensor& output, const at::Tensor& targets) const override {
    const at::Tensor logits = rows(output);
    return at::cross_entropy_loss(
        logits, target_rows(output, targets), weights_like(logits), at::Reduction::None,
        options_.ignore_index.value_or(kPytorchIgnoreIndex), options_.label_smoothing);
  }

  std::unique_ptr<const LossPoint> at(const at::Tensor& output,
                                      const at::Tensor& targets) const override {
    const at::Tensor logits = rows(output.detach());
    return std::make_unique<CrossEntropyPoint>(at::softmax(logits, 1),
                                               soft_targets(logits, target_rows(output, targets)));
  }

  at::Tensor normalizers(const at::Tensor& targets) const override {
    if (!is_labels(targets)) {
      const int64_t terms =
          targets.numel() / targets.size(0) / targets.size(class_axis(targets.dim()));
      return at::full({targets.size(0)}, static_cast<double>(terms), at::kDouble);
    }
    const at::Tensor labels = targets.reshape({targets.size(0), -1}).to(at::kLong);
    at::Tensor weights = at::ones(labels.sizes(), labels.options().dtype(at::kDouble));
    if (options_.class_weights.defined()) {
      const at::Tensor all = options_.class_weights.to(labels.device(), at::kDouble);
      weights = all.index_select(0, valid(labels).reshape(-1)).view(labels.sizes());
    }
    if (options_.ignore_index) weights.masked_fill_(labels == *options_.ignore_index, 0);
    return weights.sum(1).to(at::kCPU);
  }

 private:
  void check_labels(const at::Tensor& labels, int64_t num_classes) const {
    at::Tensor wrong = labels.lt(0).logical_or_(labels.ge(num_classes));
    if (options_.ignore_index) wrong.logical_and_(labels.ne(*options_.ignore_index));
    if (!wrong.any().item<bool>()) return;
    throw DataError(
        fmt::format("cross-entropy: labels must be in 0..{}; got {}{}", num_classes - 1,
                    labels.masked_select(wrong)[0].item<int64_t>(),
                    options_.ignore_index ? "" : "; to leave out such terms give an ignore_index"));
  }

  /// Labels `[R]` or probabilities `[R, C]`.
  at::Tensor target_rows(const at::Tensor& output, const at::Tensor& targets) const {
    if (targets.defined() && targets.is_floating_point()) {
      check_shape(targets, output.sizes());
      return rows(targets);
    }
    std::vector<int64_t> expected = output.sizes().vec();
    expected.erase(expected.begin() + class_axis(output.dim()));
    check_shape(targets, expected);
    return targets.reshape(-1).to(at::kLong);
  }

  std::optional<at::Tensor> weights_like(const at::Tensor& logits) const {
    if (!options_.class_weights.defined()) return std::nullopt;
    return options_.class_weights.to(logits.options());
  }

  /// Labels with the ignored ones replaced by class 0.
  at::Tensor valid(const at::Tensor& labels) const {
    return options_.ignore_index ? labels.masked_fill(labels == *options_.ignore_index, 0) : labels;
  }

  /// q of CrossEntropyPoint, as PyTorch defines smoothing and weights.
  at::Tensor soft_targets(const at::Tensor& logits, const at::Tensor& targets) const {
    const double smoothing = options_.label_smoothing;
    const bool hard = is_labels(targets);
    at::Tensor q =
        hard ? at::zeros_like(logits).scatter_(1, valid(targets).unsqueeze(1), 1) : targets;
    if (smoothing > 0) {
      q = (1 - smoothing) * q + smoothing / static_cast<double>(logits.size(1));
    }
    if (options_.class_weights.defined()) q = q * *weights_like(logits);
    if (hard && options_.ignore_index) {
      q.masked_fill_((targets == *options_.ignore_index).unsqueeze(1), 0);
    }
    return q;
  }

  CrossEntropyOptions options_;
};

}  // namespace

LossPtr cross_entropy(CrossEntropyOptions options) {
  return std::make_shared<CrossEntropy>(std::move(options));
}

}  // namespace curvature
