#pragma once

#include <ostream>
#include <string>
#include <vector>

#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/preconditioned.hpp>
#include <curvature/optim/psgd_dense_estimator.hpp>
#include <curvature/optim/psgd_lra_estimator.hpp>
#include <curvature/optim/shampoo_estimator.hpp>
#include <curvature/optim/soap_estimator.hpp>
#include <curvature/optim/spiked_kl_shampoo_estimator.hpp>

namespace curvature::testing {

/// A gradient-only optimizer for the laws that all of them keep.
struct OptimMethod {
  std::string name;
  optim::EstimatorFactory estimator;
  optim::PreconditionedOptions options{};
  /// Whether its directions are a power -1/2 of its operator times the momentum.
  bool is_root = true;
  double rate = 0.05;  ///< to go to the minimum of a quadratic with
};

inline std::ostream& operator<<(std::ostream& out, const OptimMethod& method) {
  return out << method.name;
}

/// All of them; a new one is a line here.
inline std::vector<OptimMethod> optim_methods() {
  using namespace optim;
  SoapEstimatorOptions eshampoo = eshampoo_options();
  eshampoo.refresh = {.interval = 3, .start = 3};
  KlShampooEstimatorOptions von_neumann{.divergence = 1, .refresh = {.interval = 3, .start = 3}};
  KlShampooEstimatorOptions kl_soap = kl_soap_options();
  kl_soap.refresh = {.interval = 3, .start = 3, .warm = 2};
  const PreconditionedOptions bounded = {.clip = {.rms = 2, .entry = 10}};
  const PreconditionedOptions of_directions = {
      .momentum = {.averaging = Averaging::kHeavyBall, .place = MomentumPlace::kAfter}};
  return {
      {"sgd", identity_estimator(), {}, false, 0.05},
      {"adamw", adam_estimator()},
      {"rmsprop", adam_estimator(), of_directions, false, 0.005},
      {"root-free", adam_estimator(root_free_adam_options(1)), {}, false, 0.05},
      {"shampoo", shampoo_estimator({.factor_epsilon = 1e-6, .refresh = {.interval = 3}})},
      {"shampoo-half",
       shampoo_estimator({.factor_epsilon = 1e-6, .exponent = 0.5, .trace_scaling = true})},
      {"shampoo-grafted",
       shampoo_estimator({.factor_epsilon = 1e-6, .refresh = {.interval = 3}}),
       {.graft = {.kind = Graft::kAdam}}},
      {"soap", soap_estimator({.refresh = {.interval = 3}})},
      {"eshampoo", eshampoo_estimator(eshampoo)},
      {"kl-shampoo", kl_shampoo_estimator({.refresh = {.interval = 3, .start = 3, .warm = 2}})},
      {"kl-shampoo-exact", kl_shampoo_estimator(exact_kl_shampoo_options())},
      {"kl-soap", kl_shampoo_estimator(kl_soap)},
      {"von-neumann", kl_shampoo_estimator(von_neumann)},
      {"spiked-kl-shampoo",
       spiked_kl_shampoo_estimator(
           {.rank = 2, .damping = 1e-6, .refresh = {.interval = 3, .start = 3, .warm = 2}})},
      {"psgd-dense", psgd_dense_estimator({.refresh_interval = 2, .noise = 1e-6}), bounded},
      {"psgd-eq", psgd_dense_estimator({.geometry = PsgdGeometry::kEq, .noise = 1e-6}), bounded},
      {"psgd-lra", psgd_lra_estimator({.rank = 2, .noise = 1e-6}), bounded},
  };
}

}  // namespace curvature::testing
