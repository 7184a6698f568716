#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <curvature/matrix_free/ggn.hpp>

#include "core/check.hpp"
#include "matrix_free/curvature_operator.hpp"
#include "matrix_free/example_gradient.hpp"

namespace curvature {
namespace {

/// C = f sum_n w_n (g_n - g)(g_n - g)^T with g = sum w_n g_n / sum w_n. Since the centred numbers
/// a_n - a, a_n = <g_n, v>, have weighted sum zero, C v = f sum_n w_n g_n (a_n - a): the mean
/// gradient itself is not needed, and nothing cancels. A product passes over the batches twice.
class GradientCovariance final : public LinearOperator {
 public:
  GradientCovariance(const EmpiricalRisk& risk, const MatrixFreeOptions& options)
      : LinearOperator(detail::parameter_spec(risk, Symmetry::kPositiveSemidefinite)),
        risk_(risk),
        observer_(options.observer),
        blocks_(detail::partition(risk.space(), options.blocks)),
        versions_(risk.versions()),
        kept_(risk.data().num_batches(), detail::budget_bytes(risk, options)) {}

  std::string describe() const override { return fmt::format("GradientCovariance(n={})", rows()); }

 private:
  struct Linearization {
    detail::OutputLinearization outputs;
    at::Tensor gradient;  // of each example's own loss with respect to its output, as the output
    at::Tensor weights;   // [B], w_n
  };

  TensorList apply_impl(const TensorList& x) const override {
    risk_.check_versions(versions_, describe());
    const detail::Columns columns(x);
    const int64_t num_columns = columns.size();
    TensorList totals = {
        at::zeros({static_cast<int64_t>(blocks_.size()), num_columns}, x.front().options())};
    TensorList products;  // a_n of each batch, [blocks, K, B]
    for (int64_t index = 0; index < num_batches(); ++index) {
      const auto batch = linearization(index);
      products.push_back(gradient_products(*batch, columns));
      totals[0].add_((products.back() * batch->weights).sum(-1));
      report(index);
    }
    risk_.reducer().sum(totals);
    const at::Tensor mean = (totals[0] / risk_.total_weight()).unsqueeze(-1);

    detail::ColumnSums sums(risk_.space(), num_columns, x.front().options());
    for (int64_t index = 0; index < num_batches(); ++index) {
      const auto batch = linearization(index);
      const at::Tensor centred = products[static_cast<size_t>(index)] - mean;
      add_pullback(*batch, centred * (batch->weights * factor()), sums);
      report(num_batches() + index);
    }
    TensorList result = std::move(sums).list();
    risk_.reducer().sum(result);
    return result;
  }

  int64_t num_batches() const { return risk_.data().num_batches(); }
  void report(int64_t done) const {
    if (observer_) observer_({"product", done + 1, 2 * num_batches()});
  }
  /// f: 1 over the number of examples for `mean`.
  double factor() const {
    return risk_.options().reduction == Reduction::kMean ? 1 / risk_.total_weight() : 1;
  }

  std::shared_ptr<const Linearization> linearization(int64_t index) const {
    return kept_.get(index, [&] {
      const BatchRisk batch = risk_.on(index);
      detail::OutputLinearization outputs(batch, risk_.parameters());
      at::Tensor gradient = detail::example_loss_gradient(risk_, batch, outputs.output());
      at::Tensor weights = batch.batch().weights.defined()
                               ? batch.batch().weights.to(gradient.scalar_type())
                               : at::ones({batch.batch().size()}, gradient.options());
      return std::make_shared<const Linearization>(
          Linearization{std::move(outputs), std::move(gradient), std::move(weights)});
    });
  }

  /// <g_n, v> for each block, column and example: [blocks, K, B].
  at::Tensor gradient_products(const Linearization& batch, const detail::Columns& x) const {
    const int64_t num_columns = x.size(), size = batch.weights.size(0);
    at::Tensor products = at::zeros({static_cast<int64_t>(blocks_.size()), num_columns, size},
                                    batch.gradient.options());
    for (size_t b = 0; b < blocks_.size(); ++b) {
      for (int64_t k = 0; k < num_columns; ++k) {
        const at::Tensor jv = batch.outputs.jvp(blocks_[b], x.at(k, blocks_[b]));
        products.select(0, static_cast<int64_t>(b))
            .select(0, k)
            .copy_((batch.gradient * jv).reshape({size, -1}).sum(1));
      }
    }
    return products;
  }

  /// Adds sum_n c_n g_n for coefficients `[blocks, K, B]`.
  void add_pullback(const Linearization& batch, const at::Tensor& coefficients,
                    detail::ColumnSums& sums) const {
    Shape broadcast(static_cast<size_t>(batch.gradient.dim()), 1);
    broadcast.front() = batch.gradient.size(0);
    for (size_t b = 0; b < blocks_.size(); ++b) {
      for (int64_t k = 0; k < coefficients.size(1); ++k) {
        const at::Tensor c = coefficients.select(0, static_cast<int64_t>(b)).select(0, k);
        sums.add(k, blocks_[b],
                 batch.outputs.vjp(blocks_[b], batch.gradient * c.reshape(broadcast)));
      }
    }
  }

  EmpiricalRisk risk_;
  Observer observer_;
  detail::Partition blocks_;
  std::vector<int64_t> versions_;
  detail::KeptLinearizations<Linearization> kept_;
};

}  // namespace

OperatorPtr gradient_covariance(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  return std::make_shared<GradientCovariance>(risk, options);
}

}  // namespace curvature
