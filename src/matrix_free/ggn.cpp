#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <curvature/matrix_free/ggn.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "core/transposition.hpp"
#include "matrix_free/curvature_operator.hpp"

namespace curvature {
namespace {

/// A block-diagonal matrix on the outputs of a batch, one block per loss term, weights included:
/// rows
/// `[R, C, K]` in and out.
using OutputMetric = std::function<at::Tensor(const at::Tensor& v)>;
/// Freezes the metric at an output.
using MakeMetric =
    std::function<OutputMetric(const BatchRisk& batch, const at::Tensor& output, const Loss& loss)>;

/// k w_r as `[R, 1, 1]`, or a scalar.
at::Tensor row_weights(const BatchRisk& batch, const at::Tensor& output, const Loss& loss) {
  const at::Tensor weights = batch.term_weights(loss.rows(output).size(0));
  return weights.dim() == 0 ? weights : weights.view({-1, 1, 1});
}

/// k w_r H_r.
OutputMetric hessian_metric(const BatchRisk& batch, const at::Tensor& output, const Loss& loss) {
  std::shared_ptr<const LossPoint> point = batch.loss_point(output);
  return [point, weights = row_weights(batch, output, loss)](const at::Tensor& v) {
    return point->hessian_product(v) * weights;
  };
}

/// k w_r S_r S_r^T with S `[R, C, M]`.
OutputMetric factor_metric(const at::Tensor& factor, const at::Tensor& weights) {
  return [factor, weights](const at::Tensor& v) {
    return at::matmul(factor, at::matmul(factor.transpose(1, 2), v) * weights);
  };
}

MakeMetric sampled_metric(const MonteCarloOptions& monte_carlo) {
  return [monte_carlo](const BatchRisk& batch, const at::Tensor& output, const Loss& loss) {
    const at::Tensor samples = batch.loss_point(output)->samples(
        monte_carlo.random, batch.first_example(), batch.batch().size(), monte_carlo.samples);
    return factor_metric(
        samples, row_weights(batch, output, loss) / static_cast<double>(monte_carlo.samples));
  };
}

OutputMetric gradient_metric(const BatchRisk& batch, const at::Tensor& output, const Loss& loss) {
  return factor_metric(batch.loss_point(output)->gradient().unsqueeze(-1),
                       row_weights(batch, output, loss));
}

/// sum over batches of J^T M J with a metric M on the outputs.
class GaussNewton final : public detail::CurvatureOperator {
 public:
  GaussNewton(const EmpiricalRisk& risk, const MatrixFreeOptions& options, std::string name,
              MakeMetric make_metric, double weight_decay)
      : CurvatureOperator(risk, options, std::move(name), Symmetry::kPositiveSemidefinite,
                          weight_decay),
        make_metric_(std::move(make_metric)),
        kept_(risk.data().num_batches(), detail::budget_bytes(risk, options)) {}

 private:
  struct Linearization {
    detail::OutputLinearization outputs;
    OutputMetric metric;
  };

  std::shared_ptr<const Linearization> linearize(int64_t index) const {
    const BatchRisk batch = risk().on(index);
    detail::OutputLinearization outputs(batch, risk().parameters());
    OutputMetric metric = make_metric_(batch, outputs.output(), risk().loss_function());
    return std::make_shared<const Linearization>(
        Linearization{std::move(outputs), std::move(metric)});
  }

  void add_batch(int64_t index, const detail::Columns& x, detail::ColumnSums& sums) const override {
    const auto linearization = kept_.get(index, [&] { return linearize(index); });
    const detail::OutputLinearization& outputs = linearization->outputs;
    const Loss& loss = risk().loss_function();
    const at::Tensor output = outputs.output();
    for (int64_t k = 0; k < x.size(); ++k) {
      for (const std::vector<size_t>& block : blocks()) {
        const at::Tensor v = loss.rows(outputs.jvp(block, x.at(k, block)));
        const at::Tensor w = linearization->metric(v.unsqueeze(-1)).squeeze(-1);
        sums.add(k, block, outputs.vjp(block, loss.unrows(w, output)));
      }
    }
  }

  MakeMetric make_metric_;
  detail::KeptLinearizations<Linearization> kept_;
};

void check_samples(const MonteCarloOptions& monte_carlo) {
  CURVATURE_CHECK(monte_carlo.samples > 0, OptionError,
                  "MonteCarloOptions: samples must be positive; got {}", monte_carlo.samples);
}

}  // namespace

OperatorPtr ggn(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  return std::make_shared<GaussNewton>(risk, options, "GGN", hessian_metric,
                                       risk.options().weight_decay);
}

at::Tensor ggn_gram(const EmpiricalRisk& risk, const at::Tensor& columns) {
  const OperatorSpec spec = detail::parameter_spec(risk, Symmetry::kPositiveSemidefinite);
  CURVATURE_CHECK(columns.dim() == 2 && columns.size(0) == spec.domain.size(), ShapeError,
                  "ggn_gram: expected columns [{}, K], got {}", spec.domain.size(),
                  detail::to_string(columns.sizes()));
  CURVATURE_CHECK(columns.scalar_type() == spec.dtype && columns.device() == spec.device,
                  DtypeDeviceError, "ggn_gram: expected columns in {} on {}, got {} on {}",
                  c10::toString(spec.dtype), spec.device.str(),
                  c10::toString(columns.scalar_type()), columns.device().str());
  const int64_t num_columns = columns.size(1);
  const at::Tensor rows = detail::columns_as_rows(columns.detach());
  const detail::Columns operands(rows, spec.domain);
  const std::vector<size_t> all = detail::partition(spec.domain, Blocks::kFull).front();
  TensorList gram = {at::zeros({num_columns, num_columns}, columns.options().dtype(at::kDouble))};
  for (int64_t index = 0; index < risk.data().num_batches(); ++index) {
    const BatchRisk batch = risk.on(index);
    const detail::OutputLinearization outputs(batch, risk.parameters());
    const OutputMetric metric = hessian_metric(batch, outputs.output(), risk.loss_function());
    TensorList products;
    for (int64_t k = 0; k < num_columns; ++k) {
      products.push_back(risk.loss_function().rows(outputs.jvp(all, operands.at(k, all))));
    }
    if (products.empty()) continue;
    const at::Tensor v = at::stack(products, -1);  // [R, C, K]
    gram[0].add_(v.flatten(0, 1).t().to(at::kDouble).mm(metric(v).flatten(0, 1).to(at::kDouble)));
  }
  risk.reducer().sum(gram);
  const at::Tensor doubles = rows.to(at::kDouble);
  gram[0].add_(doubles.mm(doubles.t()), risk.options().weight_decay);
  CURVATURE_CHECK(detail::is_finite(gram[0]), NumericalError, "ggn_gram: a product is not finite");
  return ((gram[0] + gram[0].t()) / 2).cpu();
}

OperatorPtr ggn_mc(const EmpiricalRisk& risk, const MonteCarloOptions& monte_carlo,
                   const MatrixFreeOptions& options) {
  check_samples(monte_carlo);
  return std::make_shared<GaussNewton>(risk, options, "MonteCarloGGN", sampled_metric(monte_carlo),
                                       risk.options().weight_decay);
}

OperatorPtr empirical_fisher(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  return std::make_shared<GaussNewton>(risk, options, "EmpiricalFisher", gradient_metric,
                                       /*weight_decay=*/0);
}

}  // namespace curvature
