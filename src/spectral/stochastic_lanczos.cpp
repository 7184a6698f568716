#include <algorithm>
#include <utility>

#include <ATen/core/grad_mode.h>

#include <curvature/spectral/stochastic_lanczos.hpp>

#include "core/check.hpp"
#include "spectral/checked_function.hpp"
#include "spectral/lockstep_lanczos.hpp"
#include "spectral/quadrature.hpp"
#include "spectral/sampling.hpp"
#include "spectral/slq_traces.hpp"

namespace curvature {
namespace {

using detail::CheckedFunction;
using detail::SampleMean;

EstimateOptions sampling_options(const StochasticLanczosOptions& options) {
  return {.samples = options.samples,
          .probe = options.probe,
          .absolute_error = options.absolute_error,
          .relative_error = options.relative_error,
          .check_every = options.check_every,
          .columns_at_once = options.probes_at_once,
          .random = options.random};
}

/// z^T f(A) z / z^T z of each function, from one quadrature.
void add_sample(const Quadrature& quadrature, const LinearOperator& a,
                const std::vector<CheckedFunction>& functions, std::vector<SampleMean>& means) {
  for (size_t i = 0; i < functions.size(); ++i) {
    const std::vector<double> values = functions[i](quadrature.nodes, a);
    double sum = 0;
    for (size_t k = 0; k < values.size(); ++k) sum += quadrature.weights[k] * values[k];
    means[i].add(sum);
  }
}

std::vector<Estimate> to_estimates(const std::vector<SampleMean>& means, int64_t n) {
  std::vector<Estimate> estimates;
  for (const SampleMean& mean : means) {
    estimates.push_back(detail::to_estimate(mean, 0, static_cast<double>(n)));
  }
  return estimates;
}

}  // namespace

std::vector<Estimate> detail::slq_traces(const LinearOperator& a,
                                         const std::vector<CheckedFunction>& functions,
                                         const StochasticLanczosOptions& options,
                                         std::string_view who) {
  const EstimateOptions sampling = sampling_options(options);
  detail::check_square(a, who);
  detail::check_options(sampling, who);
  const at::NoGradGuard no_grad;
  const int64_t n = a.rows();
  const int64_t num_steps = std::min(options.num_steps, n);
  std::vector<SampleMean> means(functions.size());
  int64_t products = 0;
  const Termination termination = detail::draw_samples(
      {sampling, "Stochastic Lanczos quadrature", options.samples},
      [&](int64_t first, int64_t count) {
        LanczosOptions lanczos_options{.num_steps = options.num_steps};
        if (options.observer) {
          lanczos_options.observer = [&](const Progress& progress) {
            options.observer({"Stochastic Lanczos quadrature", first * num_steps + progress.done,
                              options.samples * num_steps});
          };
        }
        const at::Tensor probes =
            draw_probes(options.random, options.probe, n, first, count, detail::options_of(a));
        for (const LanczosResult& run : detail::lockstep_lanczos(a, probes, lanczos_options)) {
          products += run.num_steps();
          add_sample(detail::to_quadrature(run), a, functions, means);
        }
      },
      [&] {
        const std::vector<Estimate> estimates = to_estimates(means, n);
        return std::all_of(estimates.begin(), estimates.end(), [&](const Estimate& estimate) {
          return detail::is_accurate(sampling, estimate);
        });
      });
  std::vector<Estimate> estimates = to_estimates(means, n);
  for (Estimate& estimate : estimates) {
    estimate.products = products;
    estimate.termination = termination;
  }
  return estimates;
}

Estimate slq_trace_of_function(OperatorRef a, const ScalarFunction& f,
                               const StochasticLanczosOptions& options) {
  return detail::slq_traces(*a, {{"slq_trace_of_function", f}}, options, "slq_trace_of_function")
      .front();
}

Estimate slq_log_determinant(OperatorRef a, const StochasticLanczosOptions& options) {
  return detail::slq_traces(*a, {detail::log_function()}, options, "slq_log_determinant").front();
}

std::vector<Estimate> slq_effective_dimension(OperatorRef a, const std::vector<double>& dampings,
                                              const StochasticLanczosOptions& options) {
  return detail::slq_traces(*a, detail::effective_dimensions(dampings), options,
                            "slq_effective_dimension");
}

}  // namespace curvature
