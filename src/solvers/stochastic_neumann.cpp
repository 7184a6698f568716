#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/solvers/neumann.hpp>

#include "core/check.hpp"

namespace curvature {
namespace {

void check_options(const OperatorSequence& operators, const StochasticNeumannOptions& options) {
  CURVATURE_CHECK(operators != nullptr, OptionError, "stochastic_neumann: there are no operators");
  CURVATURE_CHECK(options.num_steps > 0 && options.num_repeats > 0, OptionError,
                  "stochastic_neumann: expected positive counts, got num_steps {} and num_repeats "
                  "{}",
                  options.num_steps, options.num_repeats);
  CURVATURE_CHECK(options.step_size > 0 && std::isfinite(options.step_size), OptionError,
                  "stochastic_neumann: step_size must be positive, about 1 / largest eigenvalue; "
                  "got {}",
                  options.step_size);
}

/// One series; how far it is from diverging is measured against its first term.
class Series {
 public:
  Series(const OperatorSequence& operators, const at::Tensor& b,
         const StochasticNeumannOptions& options)
      : operators_(operators), b_(b), options_(options) {}

  /// The series of steps `first`, `first + 1`, ...; empty if it diverges.
  std::optional<at::Tensor> run(int64_t first, StochasticSolution& solution) const {
    at::Tensor x = precondition(b_) * options_.step_size;
    const double limit = 1e6 * x.norm().item<double>() * static_cast<double>(options_.num_steps);
    const int64_t columns = b_.dim() == 2 ? b_.size(1) : 1;
    for (int64_t i = 0; i < options_.num_steps; ++i) {
      const OperatorPtr a = operators_(first + i);
      CURVATURE_CHECK(a != nullptr, OptionError, "stochastic_neumann: operator {} is null",
                      first + i);
      x = x.add(precondition(b_ - a->apply(x)), options_.step_size);
      solution.products += columns;
      if (!(x.norm().item<double>() <= limit)) return std::nullopt;
      if (options_.observer) {
        options_.observer({"Stochastic Neumann series", first + i + 1,
                           options_.num_steps * options_.num_repeats});
      }
    }
    return x;
  }

 private:
  at::Tensor precondition(const at::Tensor& x) const {
    return options_.preconditioner == nullptr ? x : options_.preconditioner->apply(x);
  }

  const OperatorSequence& operators_;
  const at::Tensor& b_;
  const StochasticNeumannOptions& options_;
};

}  // namespace

StochasticSolution stochastic_neumann(const OperatorSequence& operators, const at::Tensor& b,
                                      const StochasticNeumannOptions& options) {
  check_options(operators, options);
  const at::NoGradGuard no_grad;
  const Series series(operators, b, options);
  StochasticSolution solution{.x = at::zeros_like(b)};
  at::Tensor squares = at::zeros_like(b);  // of the deviations from the mean, by Welford's update
  for (int64_t repeat = 0; repeat < options.num_repeats; ++repeat) {
    const auto x = series.run(repeat * options.num_steps, solution);
    if (!x) {
      solution.termination = Termination::kNonFinite;
      return solution;
    }
    const at::Tensor deviation = *x - solution.x;
    solution.x.add_(deviation, 1.0 / static_cast<double>(repeat + 1));
    squares.add_(deviation * (*x - solution.x));
  }
  if (options.num_repeats > 1) {
    const auto count = static_cast<double>(options.num_repeats);
    solution.standard_error = (squares / (count - 1) / count).sqrt_();
  }
  return solution;
}

}  // namespace curvature
