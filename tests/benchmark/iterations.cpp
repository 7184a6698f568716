#include <algorithm>
#include <numeric>

#include <fmt/core.h>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/solvers/conjugate_gradient.hpp>
#include <curvature/solvers/minres.hpp>
#include <curvature/spectral/density.hpp>
#include <curvature/spectral/eigenpairs.hpp>
#include <curvature/spectral/hutch_plus_plus.hpp>
#include <curvature/spectral/hutchinson.hpp>
#include <curvature/spectral/lanczos.hpp>

#include "operations.hpp"

namespace curvature::benchmark {
namespace {

constexpr int64_t kSteps = 20;
constexpr double kSystemDamping = 1e-3;
constexpr int64_t kTraceVectors = 20;
constexpr int64_t kHutchPlusPlusVectors = 21;  // three equal parts
constexpr int64_t kEigenvalues = 10;
constexpr double kRelativeTolerance = 1e-3;
constexpr int64_t kToleranceSteps = 40;

using Factory = std::function<OperatorPtr(const Problem&)>;

OperatorPtr make_hessian(const Problem& problem) {
  return hessian(problem.risk, problem.matrix_free);
}

OperatorPtr make_ggn(const Problem& problem) { return ggn(problem.risk, problem.matrix_free); }

/// What `run` computes from a new operator, as a row whose value and note `extra` tells.
template <class Run, class Extra>
Operation algorithm(const std::string& name, const Factory& make, const Run& run,
                    const Extra& extra) {
  return {name, [=](const Problem& problem, const Recorder& record) {
            decltype(run(make(problem))) result;
            record.measure(
                name, "product", [&] { result = run(make(problem)); },
                [&] { return extra(result); });
          }};
}

Json products_note(int64_t products, Termination termination = Termination::kConverged) {
  std::string note = fmt::format("{} products", products);
  if (termination != Termination::kConverged) note += fmt::format(", {}", to_string(termination));
  return {{"note", note}};
}

Json with_value(double value, Json extra) {
  extra["value"] = value;
  return extra;
}

/// Twenty steps, and one product more for the true residual.
Operation solver(const std::string& name, const Factory& make, const SolverPtr& method) {
  return {
      name, [=](const Problem& problem, const Recorder& record) {
        Solution result;
        at::Tensor v;
        const auto work = [&] {
          const OperatorPtr a = shifted(make(problem), kSystemDamping);
          v = probe(*a);
          result = solve(a, v, method);
        };
        record.measure(name, "product", work, [&] { return Json{{"value", inner(v, result.x)}}; });
      }};
}

Operation trace(const std::string& name, const Factory& make,
                Estimate (*estimate)(OperatorRef, const EstimateOptions&), int64_t products) {
  return algorithm(
      name, make, [=](const OperatorPtr& a) { return estimate(a, {.samples = products}); },
      [](const Estimate& result) {
        return with_value(result.value, products_note(result.products));
      });
}

Operation density(const std::string& name, const Factory& make) {
  return algorithm(
      name, make,
      [](const OperatorPtr& a) {
        return spectral_density(a, {.num_steps = kSteps, .num_probes = 1}, RandomSource());
      },
      [](const SpectralDensity& result) { return products_note(result.products); });
}

Operation lanczos_steps(const std::string& name, const Factory& make) {
  return algorithm(
      name, make,
      [](const OperatorPtr& a) { return lanczos(*a, probe(*a), {.num_steps = kSteps}); },
      [](const LanczosResult& result) {
        return with_value(std::accumulate(result.alphas.begin(), result.alphas.end(), 0.0),
                          products_note(result.num_steps()));
      });
}

/// ARPACK takes tolerances relative to each eigenvalue, this library relative to the norm: a part
/// of the norm that is as good for the last eigenvalue wanted. A few more products tell.
double tolerance_for(const LinearOperator& a) {
  const RitzPairs ritz = ritz_pairs(lanczos(a, probe(a), {.num_steps = kToleranceSteps}));
  const double norm = std::max(ritz.values.back(), -ritz.values.front());
  return kRelativeTolerance * ritz.values.at(ritz.values.size() - kEigenvalues) / norm;
}

/// The work of ARPACK: its start, residuals from the recurrence, no search for copies.
Operation top(const std::string& name, const Factory& make) {
  return {name, [=](const Problem& problem, const Recorder& record) {
            const double tolerance = tolerance_for(*make(problem));
            EigenpairsResult result;
            const auto work = [&] {
              result = {};  // not two sets of vectors at once
              const OperatorPtr a = make(problem);
              result = eigenpairs(a, {.count = kEigenvalues,
                                      .tolerance = tolerance,
                                      .find_copies = false,
                                      .verify = false,
                                      .start = probe(*a)});
            };
            record.measure(name, "product", work, [&] {
              const auto& values = result.top.values;
              Json extra = products_note(result.products, result.termination);
              extra["note"] = extra["note"].get<std::string>() + ", no search for copies";
              return with_value(std::accumulate(values.begin(), values.end(), 0.0), extra);
            });
          }};
}

}  // namespace

std::vector<Operation> iterative_operations() {
  const IterationOptions iteration = {.relative_residual = 0, .max_iterations = kSteps};
  return {trace("hessian-hutchpp-21", make_hessian, hutch_plus_plus_trace, kHutchPlusPlusVectors),
          trace("hessian-hutchinson-20", make_hessian, hutchinson_trace, kTraceVectors),
          trace("ggn-hutchpp-21", make_ggn, hutch_plus_plus_trace, kHutchPlusPlusVectors),
          trace("ggn-hutchinson-20", make_ggn, hutchinson_trace, kTraceVectors),
          density("hessian-spectrum-20", make_hessian),
          top("hessian-top-10", make_hessian),
          top("ggn-top-10", make_ggn),
          solver("ggn-cg-20", make_ggn, conjugate_gradient(iteration)),
          solver("hessian-minres-20", make_hessian, minres(iteration)),
          lanczos_steps("hessian-lanczos-20", make_hessian)};
}

}  // namespace curvature::benchmark
