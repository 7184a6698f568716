#include "layerwise/block_tridiagonal_operator.hpp"

#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/operators/kronecker.hpp>
#include <curvature/operators/kronecker_sum.hpp>

#include "core/check.hpp"
#include "core/matrix_product.hpp"
#include "layerwise/assemble.hpp"
#include "operators/support.hpp"

namespace curvature::detail {
namespace {

/// The gradients of a chain's layers as a Gaussian model, from the last layer to the first: that of
/// layer i is Psi_i times that of layer i + 1 and something independent with covariance Sigma_i.
/// So F^-1 = Xi^T diag(Sigma_1^-1, ..., Sigma_L^-1) Xi, with Xi the identity and blocks -Psi_i to
/// the right of its diagonal.
struct Regression {
  std::vector<LayerBlock> blocks;
  std::vector<OperatorPtr> coefficients;  ///< Psi_i, one less
  std::vector<OperatorPtr> residuals;     ///< Sigma_i
  std::vector<OperatorPtr> residual_inverses;

  size_t num_layers() const { return blocks.size(); }
};

/// F^-1, or F.
class BlockTridiagonal final : public LinearOperator {
 public:
  BlockTridiagonal(std::shared_ptr<const Regression> model, bool is_inverse, OperatorSpec spec)
      : LinearOperator(std::move(spec)), model_(std::move(model)), is_inverse_(is_inverse) {}

  std::string describe() const override {
    return fmt::format("BlockTridiagonalKFAC{}(n={}, {} layers)", is_inverse_ ? "Inverse" : "",
                       cols(), model_->num_layers());
  }

  /// Xi has ones on its diagonal.
  std::optional<LogDeterminant> log_determinant() const override {
    double sum = 0;
    for (const OperatorPtr& residual : model_->residuals) {
      sum += residual->log_determinant()->log_abs;
    }
    return LogDeterminant{1, is_inverse_ ? -sum : sum};
  }

  OperatorPtr inverse() const override {
    return std::make_shared<BlockTridiagonal>(model_, !is_inverse_, spec());
  }

 protected:
  TensorList apply_impl(const TensorList& x) const override {
    TensorList layers;
    for (const LayerBlock& block : model_->blocks) layers.push_back(block.gather(x));
    is_inverse_ ? apply_inverse(layers) : apply_model(layers);
    TensorList result;
    for (const at::Tensor& tensor : x) result.push_back(at::zeros_like(tensor));
    for (size_t i = 0; i < layers.size(); ++i) model_->blocks[i].scatter_add(layers[i], result);
    return result;
  }

 private:
  /// Xi^T Sigma^-1 Xi
  void apply_inverse(TensorList& x) const {
    const auto& psi = model_->coefficients;
    for (size_t i = 0; i < psi.size(); ++i) x[i] = x[i] - psi[i]->apply(x[i + 1]);
    for (size_t i = 0; i < x.size(); ++i) x[i] = model_->residual_inverses[i]->apply(x[i]);
    for (size_t i = psi.size(); i > 0; --i) x[i] = x[i] - psi[i - 1]->apply_adjoint(x[i - 1]);
  }
  /// Xi^-1 Sigma Xi^-T
  void apply_model(TensorList& x) const {
    const auto& psi = model_->coefficients;
    for (size_t i = 0; i < psi.size(); ++i) x[i + 1] = x[i + 1] + psi[i]->apply_adjoint(x[i]);
    for (size_t i = 0; i < x.size(); ++i) x[i] = model_->residuals[i]->apply(x[i]);
    for (size_t i = psi.size(); i > 0; --i) x[i - 1] = x[i - 1] + psi[i - 1]->apply(x[i]);
  }

  std::shared_ptr<const Regression> model_;
  bool is_inverse_;
};

/// Psi and what is subtracted in Sigma, for inputs or for gradients: C X^-1 and C X^-1 C^T, with
/// the moments C of layer i with the next, X of the next.
struct Prediction {
  at::Tensor coefficients, explained;
};

Prediction predict(const at::Tensor& cross, const at::Tensor& inverse) {
  const at::Tensor coefficients = matrix_product(cross, inverse);
  const at::Tensor explained = matrix_product(coefficients, cross.t());
  return {coefficients, (explained + explained.t()) / 2};
}

FactorPair inverse_factors(const FactorPair& factors, const std::string& layer) {
  return {inverse_matrix(factors.a, Symmetry::kPositiveDefinite,
                         fmt::format("input factor of '{}'", layer)),
          inverse_matrix(factors.b, Symmetry::kPositiveDefinite,
                         fmt::format("output factor of '{}'", layer))};
}

/// Adds a layer that the next one, with the inverse factors `next_inverse`, predicts.
void add_predicted(Regression& model, const FactorPair& layer, const FactorPair& pair,
                   const FactorPair& next_inverse, const std::string& name) {
  const Prediction a = predict(pair.a, next_inverse.a), b = predict(pair.b, next_inverse.b);
  model.coefficients.push_back(kronecker({b.coefficients, a.coefficients}));
  model.residuals.push_back(
      kronecker_sum(layer.b, layer.a, b.explained, a.explained, -1, Symmetry::kPositiveDefinite));
  try {
    model.residual_inverses.push_back(model.residuals.back()->inverse());
  } catch (const NumericalError& error) {
    throw NumericalError(fmt::format("layer of '{}': {}", name, error.what()));
  }
}

void add_last(Regression& model, const FactorPair& layer, const FactorPair& inverse) {
  model.residuals.push_back(kronecker({layer.b, layer.a}, Symmetry::kPositiveDefinite));
  model.residual_inverses.push_back(kronecker({inverse.b, inverse.a}, Symmetry::kPositiveDefinite));
}

}  // namespace

OperatorPtr block_tridiagonal_inverse(std::vector<LayerBlock> blocks, const ChainFactors& factors,
                                      const Space& space) {
  auto model = std::make_shared<Regression>();
  const std::vector<FactorPair>& layers = factors.layers;
  for (size_t i = 0; i + 1 < layers.size(); ++i) {
    const FactorPair next = inverse_factors(layers[i + 1], layer_name(space, blocks[i + 1]));
    add_predicted(*model, layers[i], factors.pairs[i], next, layer_name(space, blocks[i]));
  }
  add_last(*model, layers.back(), inverse_factors(layers.back(), layer_name(space, blocks.back())));
  model->blocks = std::move(blocks);
  const at::Tensor& any = layers.front().a;
  return std::make_shared<BlockTridiagonal>(std::move(model), /*is_inverse=*/true,
                                            OperatorSpec{.domain = space,
                                                         .range = space,
                                                         .dtype = any.scalar_type(),
                                                         .device = any.device(),
                                                         .symmetry = Symmetry::kPositiveDefinite});
}

}  // namespace curvature::detail
