#include "layerwise/gradient_moments.hpp"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "matrix_free/example_gradient.hpp"
#include "matrix_free/per_example.hpp"

namespace curvature::detail {
namespace {

/// Gradients of several examples, to be worked on together.
class Chunk {
 public:
  explicit Chunk(const EmpiricalRisk& risk) : parameters_(risk.parameters()) {
    constexpr int64_t kNumbers = 1 << 21;  // 16 MiB in float64
    constexpr int64_t kExamples = 256;
    capacity_ =
        std::clamp<int64_t>(kNumbers / std::max<int64_t>(risk.space().size(), 1), 1, kExamples);
    for (const SpaceEntry& entry : risk.space().entries()) {
      const MatrixSize size = matrix_size(entry.shape);
      gradients_.push_back(
          at::zeros({capacity_, size.rows, size.columns},
                    parameters_.front().options().requires_grad(false).dtype(at::kDouble)));
    }
  }

  void add(const EmpiricalRisk& risk, const Example& example) {
    const at::Tensor cotangent = example_loss_gradient(risk, example.risk, example.output.detach());
    const TensorList gradient =
        vector_jacobian_product(graph_edges({example.output}), parameters_, {cotangent});
    const at::Tensor& weights = example.risk.batch().weights;
    const double factor = weights.defined() ? std::sqrt(weights.item<double>()) : 1;
    for (size_t i = 0; i < gradient.size(); ++i) {
      at::Tensor row = gradients_[i].select(0, size_);
      if (gradient[i].defined()) {
        row.copy_(gradient[i].reshape(row.sizes())).mul_(factor);
      } else {
        row.zero_();
      }
    }
    ++size_;
  }

  bool is_full() const { return size_ == capacity_; }

  void hand_out(const std::function<void(const TensorList&)>& visit) {
    if (size_ == 0) return;
    TensorList gradients;
    for (const at::Tensor& all : gradients_) gradients.push_back(all.narrow(0, 0, size_));
    visit(gradients);
    size_ = 0;
  }

 private:
  const TensorList& parameters_;
  int64_t capacity_ = 0;
  int64_t size_ = 0;
  TensorList gradients_;  // [capacity, rows, columns]
};

}  // namespace

MatrixSize matrix_size(const Shape& shape) {
  if (shape.empty()) return {1, 1};
  return {shape.front(), c10::multiply_integers(shape.begin() + 1, shape.end())};
}

void for_each_gradient_chunk(const EmpiricalRisk& risk, const Observer& observer,
                             const std::function<void(const TensorList&)>& visit) {
  const int64_t count = risk.num_local_examples();
  Chunk chunk(risk);
  for_each_example(risk, 0, count, [&](int64_t n, const Example& example) {
    chunk.add(risk, example);
    const at::NoGradGuard no_grad;
    if (chunk.is_full()) chunk.hand_out(visit);
    if (observer) observer({"Gradients of examples", n + 1, count});
  });
  const at::NoGradGuard no_grad;
  chunk.hand_out(visit);
}

at::Tensor row_moment(const at::Tensor& p, const at::Tensor& s) {
  const auto side_by_side = [](const at::Tensor& x) { return x.transpose(0, 1).flatten(1); };
  const at::Tensor right = side_by_side(p);
  return (s.defined() ? side_by_side(at::matmul(p, s)) : right).mm(right.t());
}

double second_moment_scale(const EmpiricalRisk& risk) {
  return risk.options().reduction == Reduction::kMean ? 1 / risk.total_weight() : 1;
}

std::vector<KroneckerMoments> kronecker_moments(const EmpiricalRisk& risk, const std::string& who,
                                                const Observer& observer) {
  constexpr int64_t kLongestSide = 8192;
  const auto options = risk.parameters().front().options().requires_grad(false).dtype(at::kDouble);
  const auto& entries = risk.space().entries();
  TensorList sums;  // rows and columns of each parameter
  for (const SpaceEntry& entry : entries) {
    const auto [rows, columns] = matrix_size(entry.shape);
    CURVATURE_CHECK(std::max(rows, columns) <= kLongestSide, NotSupportedError,
                    "{}: '{}' is a {} x {} matrix; expected sides of at most {}; leave it out of "
                    "the parameters",
                    who, entry.name, rows, columns, kLongestSide);
    sums.push_back(at::zeros({rows, rows}, options));
    sums.push_back(at::zeros({columns, columns}, options));
  }
  for_each_gradient_chunk(risk, observer, [&](const TensorList& gradients) {
    for (size_t i = 0; i < gradients.size(); ++i) {
      sums[2 * i].add_(row_moment(gradients[i]));
      sums[2 * i + 1].add_(row_moment(gradients[i].transpose(1, 2)));
    }
  });
  risk.reducer().sum(sums);
  const double half_scale = second_moment_scale(risk) / 2;
  std::vector<KroneckerMoments> moments;
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto symmetric = [&](const at::Tensor& sum) { return (sum + sum.t()) * half_scale; };
    moments.push_back({symmetric(sums[2 * i]), symmetric(sums[2 * i + 1])});
    CURVATURE_CHECK(detail::is_finite(moments.back().rows), NumericalError,
                    "{}: the gradients of '{}' are not finite", who, entries[i].name);
  }
  return moments;
}

}  // namespace curvature::detail
