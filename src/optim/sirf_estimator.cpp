#include <algorithm>
#include <cmath>
#include <memory>

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/optim/sirf_estimator.hpp>

#include "core/check.hpp"
#include "optim/axis_order.hpp"
#include "optim/mode_algebra.hpp"
#include "optim/mode_operator.hpp"
#include "optim/stored_factor.hpp"
#include "optim/structured_factor.hpp"

namespace curvature::optim {
namespace {

/// K and the average N of its directions for one axis.
struct Factor {
  std::unique_ptr<MatrixClass> structure;  ///< none where the axis has no factor
  bool is_full = false;                    ///< whether K K^T is worth keeping
  Parts k, n;

  /// K K^T applied to an axis.
  at::Tensor precondition(const at::Tensor& x, size_t mode) {
    if (!is_full) {
      return structure->multiply(structure->multiply(x, k, mode, true), k, mode, false);
    }
    if (!outer_of_.is_same(k[0])) {
      outer_ = mode_gram(k[0], 0);
      outer_of_ = k[0];
    }
    return mode_product(x, outer_, mode);
  }

 private:
  at::Tensor outer_, outer_of_;
};

/// Whether K is stored as one matrix.
bool is_one_matrix(FactorStructure kind) {
  return kind == FactorStructure::kDense || kind == FactorStructure::kLowerTriangular ||
         kind == FactorStructure::kUpperTriangular;
}

class SirfEstimator : public CovarianceEstimator {
 public:
  SirfEstimator(const ParameterView& view, const SirfOptions& options)
      : view_(view), options_(options), factors_(view.shape.size()) {
    for (size_t i = 0; i < factors_.size(); ++i) {
      StructureOptions structure = options.structure;
      if (view.modes[i] == ModeKind::kIdentity) continue;
      if (view.modes[i] == ModeKind::kDiagonal) structure.kind = FactorStructure::kDiagonal;
      factors_[i].structure = matrix_class(structure, view.shape[i]);
      factors_[i].is_full = is_one_matrix(structure.kind);
      factors_[i].k = factors_[i].structure->identity(view.options);
      for (const at::Tensor& part : factors_[i].k) factors_[i].n.push_back(at::zeros_like(part));
    }
  }

  at::Tensor step(const at::Tensor& gradient, Momentum& momentum) override {
    if (t_ % options_.refresh_interval == 0) refresh(gradient);
    t_ += 1;
    const ScaledTensor& filtered = momentum(gradient);
    at::Tensor u = filtered.tensor;
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (factors_[i].structure) u = factors_[i].precondition(u, i);
    }
    return u * filtered.factor;
  }

  OperatorPtr snapshot() const override {
    // Operators are in single or double precision.
    const auto dtype = view_.options.dtype() == at::kDouble ? at::kDouble : at::kFloat;
    std::vector<at::Tensor> inverses;
    for (size_t i = 0; i < factors_.size(); ++i) {
      const Factor& factor = factors_[i];
      if (!factor.structure) {
        inverses.push_back(at::ones(view_.shape[i], view_.options.dtype(dtype)));
      } else if (is_diagonal(i)) {
        inverses.push_back(factor.k[0].to(dtype).pow(-2));
      } else {
        const at::Tensor k = factor.structure->dense(factor.k).to(dtype);
        inverses.push_back(mode_gram(at::linalg_inv(k), 1));
      }
    }
    return mode_operator(in_parameter_order(view_, inverses));
  }

  void visit(StateVisitor& visitor) override {
    for (size_t i = 0; i < factors_.size(); ++i) {
      for (size_t part = 0; part < factors_[i].k.size(); ++part) {
        visitor.tensor(fmt::format("factor_{}_{}", i, part), factors_[i].k[part]);
        visitor.tensor(fmt::format("factor_direction_{}_{}", i, part), factors_[i].n[part]);
      }
    }
    visitor.count("steps", t_);
  }

  int64_t state_bytes() const override {
    int64_t entries = 0;
    for (const Factor& factor : factors_) {
      if (factor.structure) entries += (factor.is_full ? 3 : 2) * factor.structure->num_entries();
    }
    return entries * static_cast<int64_t>(view_.options.dtype().itemsize());
  }

 private:
  bool is_diagonal(size_t i) const {
    return view_.modes[i] == ModeKind::kDiagonal ||
           options_.structure.kind == FactorStructure::kDiagonal;
  }

  /// Dtypes of what is kept, and of arithmetic at a refresh.
  at::ScalarType state_dtype() const { return c10::typeMetaToScalarType(view_.options.dtype()); }
  at::ScalarType wide_dtype() const { return c10::promoteTypes(state_dtype(), at::kFloat); }

  /// All factors see the old K; nothing changes if something is not finite.
  void refresh(const at::Tensor& gradient) {
    std::vector<Parts> k(factors_.size());
    at::Tensor x = gradient.to(wide_dtype());
    std::vector<double> mean_squares(factors_.size(), 1);
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (!factors_[i].structure) continue;
      k[i] = parts_in(factors_[i].k, wide_dtype());
      x = factors_[i].structure->multiply(x, k[i], i, true);
      mean_squares[i] =
          factors_[i].structure->squared_norm(k[i]) / static_cast<double>(view_.shape[i]);
    }
    std::vector<Parts> directions(factors_.size());
    std::vector<double> rates(factors_.size());
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (!factors_[i].structure) continue;
      directions[i] = averaged_direction(i, x, k[i], mean_squares);
      const double norm = std::sqrt(factors_[i].structure->squared_norm(directions[i]));
      CURVATURE_CHECK(std::isfinite(norm), NumericalError,
                      "sirf_estimator: the preconditioned gradient of '{}' is too large for its "
                      "dtype",
                      view_.name);
      rates[i] = options_.preconditioner_rate / std::max(1.0, norm);
    }
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (factors_[i].structure) move(i, k[i], directions[i], rates[i]);
    }
  }

  /// K (I - rate N) in a fresh tensor, which tells that K K^T is out of date.
  void move(size_t i, const Parts& k, const Parts& direction, double rate) {
    Factor& factor = factors_[i];
    Parts moved = factor.structure->product(k, direction);
    scale_and_add(moved, -rate, k, 1);
    const RandomSource random = RandomSource(options_.seed)
                                    .derive(static_cast<uint64_t>(view_.index))
                                    .derive(static_cast<uint64_t>(t_));
    factor.k = stored(moved, state_dtype(), random, i);
    factor.n = parts_in(direction, state_dtype());
  }

  /// alpha2 N + (1 - alpha2) H.
  Parts averaged_direction(size_t i, const at::Tensor& x, const Parts& k,
                           const std::vector<double>& mean_squares) const {
    const Factor& factor = factors_[i];
    const double others = static_cast<double>(view_.size()) / static_cast<double>(view_.shape[i]);
    double damping = options_.damping;
    for (size_t j = 0; j < mean_squares.size(); ++j) damping *= j == i ? 1 : mean_squares[j];
    const double weight = (1 - options_.alpha2) / 2;
    Parts n = factor.structure->project_gram(x, i);
    scale_and_add(n, weight * static_cast<double>(options_.batch_size) / others,
                  parts_in(factor.n, wide_dtype()), options_.alpha2);
    if (damping != 0) {
      scale_and_add(n, 1, factor.structure->project_inner(k), weight * damping);
    }
    factor.structure->add_identity(n, -weight);
    return n;
  }

  ParameterView view_;
  SirfOptions options_;
  std::vector<Factor> factors_;
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
