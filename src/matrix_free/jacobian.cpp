#include <ATen/ops/empty.h>

#include <curvature/matrix_free/jacobian.hpp>
#include <curvature/operators/algebra.hpp>

#include "core/check.hpp"
#include "matrix_free/curvature_operator.hpp"

namespace curvature {
namespace {

OperatorSpec jacobian_spec(const EmpiricalRisk& risk) {
  OperatorSpec spec = detail::parameter_spec(risk, Symmetry::kGeneral);
  Shape shape = {risk.num_local_examples()};
  shape.insert(shape.end(), risk.output_shape().begin(), risk.output_shape().end());
  spec.range = Space({{"output", shape}});
  return spec;
}

class Jacobian final : public LinearOperator {
 public:
  Jacobian(const EmpiricalRisk& risk, const MatrixFreeOptions& options)
      : LinearOperator(jacobian_spec(risk)),
        risk_(risk),
        observer_(options.observer),
        all_(detail::partition(risk.space(), Blocks::kFull).front()),
        versions_(risk.versions()),
        kept_(risk.data().num_batches(), detail::budget_bytes(risk, options)) {
    CURVATURE_CHECK(options.blocks == Blocks::kFull, OptionError,
                    "jacobian: blocks of parameters are kept by symmetric operators only");
  }

  std::string describe() const override { return fmt::format("Jacobian({} x {})", rows(), cols()); }

 private:
  using Linearization = detail::OutputLinearization;

  TensorList apply_impl(const TensorList& x) const override {
    risk_.check_versions(versions_, describe());
    const detail::Columns columns(x);
    const int64_t num_columns = columns.size();
    Shape shape = spec().range.entries().front().shape;
    shape.push_back(num_columns);
    at::Tensor result = at::empty(shape, x.front().options());
    for_each_batch([&](const Linearization& batch, int64_t first, int64_t count) {
      for (int64_t k = 0; k < num_columns; ++k) {
        result.narrow(0, first, count).select(-1, k).copy_(batch.jvp(all_, columns.at(k, all_)));
      }
    });
    return {result};
  }

  TensorList apply_adjoint_impl(const TensorList& y) const override {
    risk_.check_versions(versions_, describe());
    const detail::Columns columns(y);
    const int64_t num_columns = columns.size();
    detail::ColumnSums sums(risk_.space(), num_columns, y.front().options());
    for_each_batch([&](const Linearization& batch, int64_t first, int64_t count) {
      for (int64_t k = 0; k < num_columns; ++k) {
        sums.add(k, all_, batch.vjp(all_, columns.at(k, {0}).front().narrow(0, first, count)));
      }
    });
    return std::move(sums).list();
  }

  template <class Visit>
  void for_each_batch(const Visit& visit) const {
    const int64_t num_batches = risk_.data().num_batches();
    int64_t first = 0;
    for (int64_t index = 0; index < num_batches; ++index) {
      const auto batch = kept_.get(index, [&] {
        return std::make_shared<const Linearization>(risk_.on(index), risk_.parameters());
      });
      const at::Tensor output = batch->output();
      CURVATURE_CHECK(output.sizes().slice(1).vec() == risk_.output_shape(), ModelError,
                      "{}: outputs must have one shape in all batches; expected {} per example, "
                      "got {} in batch {}",
                      describe(), detail::to_string(risk_.output_shape()),
                      detail::to_string(output.sizes().slice(1)), index);
      visit(*batch, first, output.size(0));
      first += output.size(0);
      if (observer_) observer_({"product", index + 1, num_batches});
    }
  }

  EmpiricalRisk risk_;
  Observer observer_;
  std::vector<size_t> all_;
  std::vector<int64_t> versions_;
  detail::KeptLinearizations<Linearization> kept_;
};

}  // namespace

OperatorPtr jacobian(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  return std::make_shared<Jacobian>(risk, options);
}

OperatorPtr ntk(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  const OperatorPtr j = jacobian(risk, options);
  return product(j, adjoint(j));
}

}  // namespace curvature
