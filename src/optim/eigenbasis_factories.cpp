#include <memory>

#include "core/check.hpp"
#include "optim/axis_order.hpp"
#include "optim/eigenbasis_estimator.hpp"

namespace curvature::optim {
namespace {

void check_beta(const char* who, const char* name, double beta) {
  CURVATURE_CHECK(beta >= 0 && beta < 1, OptionError, "{}: expected {} in [0, 1), got {}", who,
                  name, beta);
}

void check_settings(const char* who, const EigenbasisSettings& settings) {
  check_beta(who, "beta2", settings.beta2);
  check_beta(who, "the factors' decay", settings.factor_beta);
  check_refresh(settings.refresh);
  CURVATURE_CHECK(settings.epsilon >= 0 && settings.damping >= 0 && settings.exponent >= 0,
                  OptionError, "{}: epsilon, damping and exponent must not be negative", who);
  CURVATURE_CHECK(settings.initial_eigenvalue.value_or(1) > 0, OptionError,
                  "{}: expected a positive initial eigenvalue, got {}", who,
                  settings.initial_eigenvalue.value_or(1));
}

EstimatorFactory factory_of(const char* who, const EigenbasisSettings& settings) {
  check_settings(who, settings);
  return with_long_axes_last([settings](const ParameterView& view) {
    return std::make_unique<EigenbasisEstimator>(view, settings);
  });
}

}  // namespace

EstimatorFactory soap_estimator(const SoapEstimatorOptions& options) {
  return factory_of("soap_estimator", {.eigenvalues = Eigenvalues::kCorrected,
                                       .beta2 = options.beta2,
                                       .factor_beta = options.shampoo_beta.value_or(options.beta2),
                                       .sorts = true,
                                       .epsilon = options.epsilon,
                                       .exponent = options.exponent,
                                       .bias_correction = options.bias_correction,
                                       .order = options.order,
                                       .basis_method = options.basis_method,
                                       .transport = options.transport,
                                       .first_gradient = options.first_gradient,
                                       .refresh = options.refresh});
}

SoapEstimatorOptions eshampoo_options() {
  return {.order = UpdateOrder::kUpdateFirst, .basis_method = BasisMethod::kEigh};
}

EstimatorFactory eshampoo_estimator(const SoapEstimatorOptions& options) {
  return soap_estimator(options);
}

EstimatorFactory kl_shampoo_estimator(const KlShampooEstimatorOptions& options) {
  return factory_of("kl_shampoo_estimator", {.eigenvalues = options.eigenvalues,
                                             .divergence = options.divergence,
                                             .beta2 = options.beta2,
                                             .factor_beta = options.beta2,
                                             .debias = options.debias,
                                             .balance = options.balance,
                                             .epsilon = options.epsilon,
                                             .exponent = options.exponent,
                                             .damping = options.damping,
                                             .bias_correction = options.bias_correction,
                                             .order = options.order,
                                             .basis_method = options.basis_method,
                                             .transport = options.transport,
                                             .first_gradient = options.first_gradient,
                                             .initial_eigenvalue = options.initial_eigenvalue,
                                             .relative_floor = options.relative_floor,
                                             .refresh = options.refresh});
}

KlShampooEstimatorOptions exact_kl_shampoo_options() {
  return {.eigenvalues = Eigenvalues::kFactor,
          .order = UpdateOrder::kUpdateFirst,
          .basis_method = BasisMethod::kEigh,
          .refresh = {}};
}

KlShampooEstimatorOptions kl_soap_options() { return {.eigenvalues = Eigenvalues::kCorrected}; }

}  // namespace curvature::optim
