#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <curvature/spectral/block_lanczos.hpp>

#include "core/check.hpp"
#include "spectral/eigen_support.hpp"
#include "spectral/krylov_space.hpp"

namespace curvature {
namespace {

using detail::KrylovSpace;
using detail::ProjectedPairs;

constexpr const char* kWho = "block_lanczos_eigenpairs";
/// Looks at the Ritz values are worth their cubic cost this many times while a basis grows.
constexpr int64_t kJudgements = 16;

/// Vectors of the basis, checked.
int64_t capacity_of(const LinearOperator& a, const BlockLanczosOptions& options) {
  CURVATURE_CHECK(options.block_size > 0, OptionError, "{}: block_size must be positive; got {}",
                  kWho, options.block_size);
  CURVATURE_CHECK(options.max_restarts >= 0, OptionError,
                  "{}: max_restarts must not be negative; got {}", kWho, options.max_restarts);
  const int64_t wanted = options.count + options.count_bottom;
  const int64_t least = std::min(wanted + 2 * options.block_size, a.rows());
  const int64_t capacity =
      options.max_basis.value_or(2 * wanted + std::max<int64_t>(20, 8 * options.block_size));
  CURVATURE_CHECK(capacity >= least, OptionError,
                  "{}: expected max_basis of at least {} for {} pairs and blocks of {}, got {}",
                  kWho, least, wanted, options.block_size, capacity);
  return std::min(capacity, a.rows());
}

/// Numbers of pairs at the two ends, the outermost ones first.
struct Ends {
  std::vector<int64_t> top;
  std::vector<int64_t> bottom;

  std::vector<int64_t> both() const {
    std::vector<int64_t> all = top;
    all.insert(all.end(), bottom.begin(), bottom.end());
    return all;
  }
};

/// The outermost `top` and `bottom` of ascending values.
Ends outermost(const std::vector<double>& values, EigenvalueOrder order, int64_t top,
               int64_t bottom) {
  std::vector<int64_t> descending(values.size());
  std::iota(descending.rbegin(), descending.rend(), 0);
  Ends ends;
  ends.bottom.assign(descending.rbegin(), descending.rbegin() + bottom);
  if (order == EigenvalueOrder::kMagnitude) {
    std::stable_sort(descending.begin(), descending.end(), [&](int64_t i, int64_t j) {
      return std::abs(values[i]) > std::abs(values[j]);
    });
  }
  ends.top.assign(descending.begin(), descending.begin() + top);
  return ends;
}

/// Thick restarts until the wanted pairs are accurate and no copy of one can be missing.
class BlockLanczos {
 public:
  BlockLanczos(const LinearOperator& a, const BlockLanczosOptions& options)
      : options_(options),
        tolerance_(detail::tolerance_of(a, options.tolerance) / 2),
        capacity_(capacity_of(a, options)),
        space_(a, capacity_, options.block_size, options.random) {}

  /// Whether it came to an end within the restarts.
  bool run() {
    for (int64_t judged_at = 0;;) {
      space_.expand();
      if (options_.observer) options_.observer({"Lanczos products", space_.products(), 0});
      if (!space_.full() && space_.size() < judged_at + capacity_ / kJudgements) continue;
      judged_at = space_.size();
      pairs_ = space_.solve();
      for (const double value : pairs_.values) norm_ = std::max(norm_, std::abs(value));

      const Next next = judge();
      if (next == Next::kDone) return true;
      if (next == Next::kIterate && !space_.full()) continue;
      if (num_restarts_ == options_.max_restarts) return false;
      ++num_restarts_;
      if (next == Next::kSearch) {
        searched_ = sorted_values();
        space_.restart_randomly(pairs_, wanted().both());
      } else {
        space_.restart(pairs_, kept().both());
      }
      judged_at = space_.size();
    }
  }

  BlockLanczosResult result() const {
    BlockLanczosResult result;
    const Ends ends = wanted();
    result.top = extract(ends.top);
    result.bottom = extract(ends.bottom);
    result.products = space_.products();
    result.num_steps = space_.num_steps();
    result.num_restarts = num_restarts_;
    result.basis_passes = space_.basis_passes();
    return result;
  }
  double norm() const { return norm_; }

 private:
  enum class Next { kIterate, kSearch, kDone };

  Next judge() const {
    // Of a space that is smaller than both ends together, they overlap.
    if (!space_.exhausted() && space_.size() < num_wanted()) return Next::kIterate;
    for (const int64_t i : wanted().both()) {
      if (pairs_.residuals[i] > allowed()) return Next::kIterate;
    }
    if (space_.exhausted() || !may_miss_copies()) return Next::kDone;
    if (!was_searched()) return Next::kSearch;
    return space_.full() && is_complete() ? Next::kDone : Next::kIterate;
  }

  int64_t num_wanted() const { return options_.count + options_.count_bottom; }
  double allowed() const { return tolerance_ * norm_; }
  Ends wanted() const {
    return outermost(pairs_.values, options_.order, options_.count, options_.count_bottom);
  }
  std::vector<double> sorted_values() const {
    std::vector<double> values;
    for (const int64_t i : wanted().both()) values.push_back(pairs_.values[i]);
    std::sort(values.begin(), values.end());
    return values;
  }

  /// A block holds one vector of an eigenspace for each of its own, so only an eigenvalue that was
  /// found that often can have more copies.
  bool may_miss_copies() const {
    const std::vector<double> values = sorted_values();
    for (size_t i = 0, j = options_.block_size - 1; j < values.size(); ++i, ++j) {
      if (values[j] - values[i] <= 2 * allowed()) return true;
    }
    return false;
  }

  /// Whether the last search began with these very values.
  bool was_searched() const {
    const std::vector<double> values = sorted_values();
    return std::equal(values.begin(), values.end(), searched_.begin(), searched_.end(),
                      [this](double x, double y) { return std::abs(x - y) <= 2 * allowed(); });
  }

  /// Whether the best pairs that are not wanted surely stay behind the last ones that are.
  bool is_complete() const {
    const Ends ends = wanted();
    const int64_t top = options_.count, bottom = options_.count_bottom;
    if (space_.size() < top + bottom + 2) return false;
    const Ends more = outermost(pairs_.values, options_.order, top + 1, bottom + 1);
    return (top == 0 || stays_behind(ends.top.back(), more.top.back())) &&
           (bottom == 0 || stays_behind(ends.bottom.back(), more.bottom.back()));
  }
  bool stays_behind(int64_t last, int64_t next) const {
    double distance = std::abs(pairs_.values[last] - pairs_.values[next]);
    if (options_.order == EigenvalueOrder::kMagnitude) {
      distance = std::abs(pairs_.values[last]) - std::abs(pairs_.values[next]);
    }
    return pairs_.residuals[next] <= std::max(allowed(), distance / 10);
  }

  /// The wanted pairs and, of the others, the outer half, so that whole blocks fill the rest.
  Ends kept() const {
    const int64_t block = options_.block_size, least = num_wanted();
    int64_t count = std::min((least + space_.size()) / 2, space_.size() - block);
    count = std::max(count - (block - (capacity_ - count) % block) % block, least);
    const int64_t extra = count - least;
    int64_t extra_top = extra / 2;
    if (options_.count_bottom == 0) extra_top = extra;
    if (options_.count == 0) extra_top = 0;
    return outermost(pairs_.values, options_.order, options_.count + extra_top,
                     options_.count_bottom + extra - extra_top);
  }

  Eigenpairs extract(const std::vector<int64_t>& numbers) const {
    Eigenpairs pairs;
    for (const int64_t i : numbers) pairs.values.push_back(pairs_.values[i]);
    const at::Tensor indices = at::tensor(numbers, at::kLong);
    pairs.vectors = space_.ritz_vectors(pairs_.coefficients.index_select(1, indices));
    return pairs;
  }

  const BlockLanczosOptions& options_;
  double tolerance_;  ///< half of it: the other half is for rounding
  int64_t capacity_;
  KrylovSpace space_;
  ProjectedPairs pairs_;
  std::vector<double> searched_;
  double norm_ = 0;
  int64_t num_restarts_ = 0;
};

}  // namespace

BlockLanczosResult block_lanczos_eigenpairs(const LinearOperator& a,
                                            const BlockLanczosOptions& options) {
  detail::check_symmetric(a, kWho);
  detail::check_selection(a, kWho, options.count, options.count_bottom, options.order);
  detail::check_tolerance(options.tolerance, kWho);
  const at::NoGradGuard no_grad;
  BlockLanczos iteration(a, options);
  const bool converged = iteration.run();
  BlockLanczosResult result = iteration.result();
  detail::measure_residuals(a, detail::tolerance_of(a, options.tolerance), iteration.norm(),
                            result);
  if (!converged) result.termination = Termination::kMaxIterations;
  return result;
}

BlockLanczosResult block_lanczos_eigenpairs(const OperatorPtr& a,
                                            const BlockLanczosOptions& options) {
  CURVATURE_CHECK(a != nullptr, OptionError, "{}: the operator is null", kWho);
  return block_lanczos_eigenpairs(*a, options);
}

}  // namespace curvature
