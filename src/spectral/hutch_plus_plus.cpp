#include <algorithm>
#include <functional>
#include <string_view>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <curvature/spectral/hutch_plus_plus.hpp>

#include "core/check.hpp"
#include "spectral/by_columns.hpp"
#include "spectral/eigen_support.hpp"
#include "spectral/inner_products.hpp"
#include "spectral/sampling.hpp"

namespace curvature {
namespace {

using detail::SampleMean;

using Multiply = std::function<at::Tensor(const at::Tensor&)>;
/// A number for each column x of X, given A X: x^T A x or |A x|^2.
using ColumnValues = std::function<at::Tensor(const at::Tensor& x, const at::Tensor& ax)>;

/// What is summed over an orthonormal basis, and on which subspace exactly.
struct Sum {
  std::string_view task;
  Multiply sketch;      ///< its range is the subspace
  int64_t sketch_rows;  ///< length of its operand
  ColumnValues values;
  /// The estimate to which a requested error refers.
  std::function<Estimate(const Estimate&)> judged;
};

/// The sum: exactly on the subspace, by samples on its complement.
Estimate split_sum(const LinearOperator& a, const EstimateOptions& options, const Sum& sum) {
  const at::NoGradGuard no_grad;
  const int64_t rank = options.samples / 3;
  const Multiply multiply = [&](const at::Tensor& x) { return a.apply(x); };
  const auto report_from = [&](int64_t before) {
    return [&options, &sum, before](int64_t done) {
      if (options.observer) options.observer({sum.task, before + done, options.samples});
    };
  };

  at::Tensor basis = at::empty({a.cols(), 0}, detail::options_of(a));
  double inside = 0;
  if (rank > 0) {
    const at::Tensor s =
        draw_probes(options.random, options.probe, sum.sketch_rows, 0, rank, detail::options_of(a));
    const at::Tensor y =
        detail::multiply_in_chunks(s, options.columns_at_once, sum.sketch, report_from(0));
    basis = detail::orthonormal_basis(y);
    const at::Tensor ay =
        detail::multiply_in_chunks(basis, options.columns_at_once, multiply, report_from(rank));
    SampleMean measured;
    measured.add(sum.values(basis, ay), a);
    inside = measured.mean() * static_cast<double>(rank);
  }

  SampleMean outside;
  const Termination termination = detail::draw_samples(
      {options, sum.task, options.samples - 2 * rank, 1, 2 * rank},
      [&](int64_t first, int64_t count) {
        const at::Tensor z = draw_probes(options.random, options.probe, a.cols(), rank + first,
                                         count, detail::options_of(a));
        const at::Tensor components = detail::inner_products(z, basis).to(z.options());
        z.t().addmm_(components, basis.t(), 1, -1);
        outside.add(sum.values(z, a.apply(z)), a);
      },
      [&] {
        return detail::is_accurate(options, sum.judged(detail::to_estimate(outside, inside)));
      });
  Estimate estimate = detail::to_estimate(outside, inside);
  estimate.products = 2 * rank + outside.count();
  estimate.termination = termination;
  return estimate;
}

}  // namespace

Estimate hutch_plus_plus_trace(OperatorRef a, const EstimateOptions& options) {
  detail::check_square(*a, "hutch_plus_plus_trace");
  detail::check_options(options, "hutch_plus_plus_trace");
  if (options.samples >= a->rows())
    return detail::trace_by_columns(*a, options.columns_at_once, options.observer);
  return split_sum(*a, options,
                   {.task = "Hutch++ trace",
                    .sketch = [&](const at::Tensor& s) { return a->apply(s); },
                    .sketch_rows = a->cols(),
                    .values = detail::column_dots,
                    .judged = [](const Estimate& trace) { return trace; }});
}

FrobeniusEstimate hutch_plus_plus_frobenius_norm(OperatorRef a, const EstimateOptions& options) {
  detail::check_options(options, "hutch_plus_plus_frobenius_norm");
  CURVATURE_CHECK(detail::has_adjoint(*a), NotSupportedError,
                  "hutch_plus_plus_frobenius_norm: {} has no adjoint; use "
                  "hutchinson_frobenius_norm",
                  a->describe());
  if (options.samples >= std::min(a->rows(), a->cols())) {
    return detail::frobenius_norm_by_columns(*a, options.columns_at_once, options.observer);
  }
  FrobeniusEstimate estimate;
  estimate.squared_norm =
      split_sum(*a, options,
                {.task = "Hutch++ Frobenius norm",
                 .sketch = [&](const at::Tensor& s) { return a->apply_adjoint(s); },
                 .sketch_rows = a->rows(),
                 .values = [](const at::Tensor&,
                              const at::Tensor& ax) { return detail::column_dots(ax, ax); },
                 .judged = detail::square_root});
  estimate.norm = detail::square_root(estimate.squared_norm);
  return estimate;
}

}  // namespace curvature
