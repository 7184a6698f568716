#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/ones.h>

#include <curvature/optim/sirf_estimator.hpp>

#include "core/check.hpp"
#include "optim/axis_order.hpp"
#include "optim/inverse_factor.hpp"
#include "optim/mode_algebra.hpp"
#include "optim/mode_operator.hpp"

namespace curvature::optim {
namespace {

class SirfEstimator : public CovarianceEstimator {
 public:
  SirfEstimator(const ParameterView& view, const SirfOptions& options)
      : view_(view), options_(options), factors_(view.shape.size()) {
    for (size_t i = 0; i < factors_.size(); ++i) {
      StructureOptions structure = options.structure;
      if (view.modes[i] == ModeKind::kIdentity) continue;
      if (view.modes[i] == ModeKind::kDiagonal) structure.kind = FactorStructure::kDiagonal;
      factors_[i].emplace(matrix_class(structure, view.shape[i]), view.options, at::kFloat);
    }
  }

  at::Tensor step(const at::Tensor& gradient, Momentum& momentum) override {
    if (t_ % options_.refresh_interval == 0) refresh(gradient);
    t_ += 1;
    const ScaledTensor& filtered = momentum(gradient);
    at::Tensor u = filtered.tensor;
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (factors_[i]) u = factors_[i]->precondition(u, i);
    }
    return u * filtered.factor;
  }

  OperatorPtr snapshot() const override {
    std::vector<at::Tensor> inverses;
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (!factors_[i]) {
        inverses.push_back(at::ones(view_.shape[i], view_.options));
      } else if (is_diagonal(i)) {
        inverses.push_back(at_least_single(factors_[i]->k[0]).pow(-2));
      } else {
        const at::Tensor k = factors_[i]->structure().dense(factors_[i]->wide_k());
        inverses.push_back(mode_gram(at::linalg_inv(k), 1));
      }
    }
    return mode_operator(in_parameter_order(view_, inverses));
  }

  void visit(StateVisitor& visitor) override {
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (!factors_[i]) continue;
      for (size_t part = 0; part < factors_[i]->k.size(); ++part) {
        visitor.tensor(fmt::format("factor_{}_{}", i, part), factors_[i]->k[part]);
        visitor.tensor(fmt::format("factor_direction_{}_{}", i, part),
                       factors_[i]->direction[part]);
      }
    }
    visitor.count("steps", t_);
  }

  int64_t state_bytes() const override {
    int64_t bytes = 0;
    for (const auto& factor : factors_) bytes += factor ? factor->state_bytes() : 0;
    return bytes;
  }

 private:
  bool is_diagonal(size_t i) const {
    return view_.modes[i] == ModeKind::kDiagonal ||
           options_.structure.kind == FactorStructure::kDiagonal;
  }

  /// All factors see the old K; nothing changes if something is not finite.
  void refresh(const at::Tensor& gradient) {
    std::vector<Parts> k(factors_.size());
    at::Tensor x = gradient.to(c10::promoteTypes(gradient.scalar_type(), at::kFloat));
    std::vector<double> mean_squares(factors_.size(), 1);
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (!factors_[i]) continue;
      const MatrixClass& structure = factors_[i]->structure();
      k[i] = factors_[i]->wide_k();
      x = structure.multiply(x, k[i], i, true);
      mean_squares[i] = structure.squared_norm(k[i]) / static_cast<double>(view_.shape[i]);
    }
    std::vector<Parts> directions(factors_.size());
    std::vector<double> rates(factors_.size());
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (!factors_[i]) continue;
      directions[i] = averaged_direction(i, x, k[i], mean_squares);
      const double norm = std::sqrt(factors_[i]->structure().squared_norm(directions[i]));
      CURVATURE_CHECK(std::isfinite(norm), NumericalError,
                      "sirf_estimator: the preconditioned gradient of '{}' is too large for its "
                      "dtype",
                      view_.name);
      rates[i] = options_.preconditioner_rate / std::max(1.0, norm);
    }
    const RandomSource random = RandomSource(options_.seed)
                                    .derive(static_cast<uint64_t>(view_.index))
                                    .derive(static_cast<uint64_t>(t_));
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (factors_[i]) factors_[i]->move(directions[i], rates[i], random, i);
    }
  }

  /// alpha2 N + (1 - alpha2) H.
  Parts averaged_direction(size_t i, const at::Tensor& x, const Parts& k,
                           const std::vector<double>& mean_squares) const {
    const MatrixClass& structure = factors_[i]->structure();
    const double others = static_cast<double>(view_.size()) / static_cast<double>(view_.shape[i]);
    double damping = options_.damping;
    for (size_t j = 0; j < mean_squares.size(); ++j) damping *= j == i ? 1 : mean_squares[j];
    const double weight = (1 - options_.alpha2) / 2;
    Parts n = structure.project_gram(x, i);
    scale_and_add(n, weight * static_cast<double>(options_.batch_size) / others,
                  factors_[i]->wide_direction(), options_.alpha2);
    if (damping != 0) scale_and_add(n, 1, structure.project_inner(k), weight * damping);
    structure.add_identity(n, -weight);
    return n;
  }

  ParameterView view_;
  SirfOptions options_;
  std::vector<std::optional<InverseFactor>> factors_;  ///< none where an axis has no factor
  int64_t t_ = 0;
};

}  // namespace

EstimatorFactory sirf_estimator(const SirfOptions& options) {
  CURVATURE_CHECK(options.batch_size >= 1 && options.refresh_interval >= 1, OptionError,
                  "sirf_estimator: expected batch_size and refresh_interval >= 1, got {} and {}",
                  options.batch_size, options.refresh_interval);
  CURVATURE_CHECK(options.preconditioner_rate > 0 && options.preconditioner_rate < 1 &&
                      options.alpha2 >= 0 && options.alpha2 < 1 && options.damping >= 0,
                  OptionError,
                  "sirf_estimator: expected preconditioner_rate in (0, 1), alpha2 in [0, 1) and "
                  "damping >= 0, got {}, {} and {}",
                  options.preconditioner_rate, options.alpha2, options.damping);
  matrix_class(options.structure, 1);  // checks sizes
  return with_long_axes_last([options](const ParameterView& view) {
    return std::make_unique<SirfEstimator>(view, options);
  });
}

}  // namespace curvature::optim
