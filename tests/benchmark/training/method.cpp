#include "method.hpp"

#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/muon_estimator.hpp>
#include <curvature/optim/psgd_kron_estimator.hpp>
#include <curvature/optim/shampoo_estimator.hpp>
#include <curvature/optim/soap_estimator.hpp>

#include "problem.hpp"

namespace curvature::benchmark {
namespace {

using namespace optim;

/// A basis or root is renewed in every so many-th step; KL-Shampoo's also in each of the first 20.
constexpr int64_t kRefresh = 10;
constexpr double kMomentum = 0.9;

/// What all have in common.
const PreconditionedOptions& common() {
  static const PreconditionedOptions options = {.momentum = {.beta = kMomentum},
                                                .clip = {.gradient_norm = 1},
                                                .weight_decay = {.decay = 0.01}};
  return options;
}

Method adamw() { return {.name = "adamw", .estimator = adam_estimator(), .options = common()}; }

/// The interpolation takes the place of the momentum.
Method schedule_free() {
  Method method = adamw();
  method.name = "schedule-free-adamw";
  method.options.momentum = {.beta = 0};
  method.options.iterates = {.kind = Iterates::kScheduleFree, .interpolation = kMomentum};
  method.constant_rate = true;
  return method;
}

/// With the length of Adam's directions, so that its rates are Adam's.
Method muon() {
  Method method{.name = "muon",
                .estimator = muon_estimator({.scale = DescentScale::kAdamRms}),
                .options = common(),
                .adam_at_ends = true};
  method.options.momentum = {.beta = kMomentum, .nesterov = true, .bias_correction = false};
  method.options.fallback_momentum = MomentumOptions{.beta = kMomentum};
  return method;
}

/// With the published program's momentum and bounds.
Method psgd_kron() {
  Method method{.name = "psgd-kron", .estimator = psgd_kron_estimator(), .options = common()};
  method.options.momentum = {.beta = kMomentum, .averaging = Averaging::kRunningMean};
  method.options.fallback_momentum = MomentumOptions{.beta = kMomentum};
  method.options.clip.rms = 2;
  method.options.clip.entry = 10;
  return method;
}

Method shampoo() {
  Method method{.name = "shampoo",
                .estimator = shampoo_estimator({.refresh = {.interval = kRefresh}}),
                .options = common()};
  method.options.graft = {.kind = Graft::kAdam};
  return method;
}

}  // namespace

std::vector<Method> methods() {
  return {adamw(),
          schedule_free(),
          muon(),
          psgd_kron(),
          shampoo(),
          {.name = "soap",
           .estimator = soap_estimator({.refresh = {.interval = kRefresh}}),
           .options = common()},
          {.name = "kl-shampoo", .estimator = kl_shampoo_estimator(), .options = common()},
          {.name = "kl-soap",
           .estimator = kl_shampoo_estimator(kl_soap_options()),
           .options = common()}};
}

std::unique_ptr<Preconditioned> make_optimizer(const Method& method,
                                               std::vector<NamedTensor> parameters) {
  ParameterGroup inner{{}, method.estimator, method.options};
  ParameterGroup ends{{}, adam_estimator(), common()};
  for (NamedTensor& parameter : parameters) {
    const bool apart = method.adam_at_ends && is_end(parameter.name);
    (apart ? ends : inner).parameters.push_back(std::move(parameter));
  }
  std::vector<ParameterGroup> groups{std::move(inner)};
  if (!ends.parameters.empty()) groups.push_back(std::move(ends));
  return std::make_unique<Preconditioned>(std::move(groups));
}

}  // namespace curvature::benchmark
