#include "spectral/thick_restart.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include "spectral/eigen_support.hpp"
#include "spectral/krylov_space.hpp"

namespace curvature::detail {
namespace {

/// Looks at the Ritz values are worth their cubic cost this many times while a basis grows.
constexpr int64_t kJudgements = 32;
/// How likely a search may end with an eigenvalue missed.
constexpr double kMissProbability = 1e-3;
/// The range of a spectrum, as a part of that of the Ritz values.
constexpr double kRangeMargin = 1.1;

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
class ThickRestart {
 public:
  ThickRestart(const LinearOperator& a, const ThickRestartOptions& options)
      : options_(options),
        n_(a.rows()),
        capacity_(std::min(options.max_basis, n_)),
        rounding_(breakdown_threshold(a.spec().dtype)),
        space_(a, capacity_, options.block_size, options.random, options.start) {}

  /// Whether it came to an end within the restarts.
  bool run() {
    for (int64_t judged_at = 0;;) {
      expand();
      if (!space_.full() && space_.size() < judged_at + capacity_ / kJudgements) continue;
      judged_at = space_.size();
      solve();

      const Next next = judge();
      if (next == Next::kDone) return true;
      if (next == Next::kIterate && !space_.full()) continue;
      if (num_restarts_ == options_.max_restarts) return false;
      ++num_restarts_;
      if (next == Next::kSearch) {
        searched_ = sorted_values(wanted().both());
        search_steps_ = 0;
        space_.restart_randomly(pairs_, wanted().both());
      } else {
        search_steps_.reset();  // not all of the Krylov space is left
        space_.restart(pairs_, kept().both());
      }
      judged_at = space_.size();
    }
  }

  /// With residuals from the recurrence, which cannot see what rounding adds.
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

  void expand() {
    space_.expand();
    if (search_steps_) ++*search_steps_;
    if (options_.observer) options_.observer({"Lanczos products", space_.products(), 0});
  }

  void solve() {
    pairs_ = space_.solve();
    highest_ = std::max(highest_, pairs_.values.back());
    lowest_ = std::min(lowest_, pairs_.values.front());
    norm_ = std::max(highest_, -lowest_);
  }

  Next judge() const {
    // Of a space that is smaller than both ends together, they overlap.
    if (!space_.exhausted() && space_.size() < num_wanted()) return Next::kIterate;
    const Ends ends = wanted();
    for (const int64_t i : ends.both()) {
      if (pairs_.residuals[i] > allowed()) return Next::kIterate;
    }
    const bool top = may_miss_copies(ends.top), bottom = may_miss_copies(ends.bottom);
    if (space_.exhausted() || !options_.find_copies || !(top || bottom)) return Next::kDone;
    if (!was_searched()) return Next::kSearch;
    if (space_.size() < num_wanted() + 2) return Next::kIterate;
    const Ends more = outermost(pairs_.values, options_.order, options_.count + (top ? 1 : 0),
                                options_.count_bottom + (bottom ? 1 : 0));
    const bool complete = (!top || stays_behind(ends.top, more.top.back())) &&
                          (!bottom || stays_behind(ends.bottom, more.bottom.back()));
    return complete ? Next::kDone : Next::kIterate;
  }

  int64_t num_wanted() const { return options_.count + options_.count_bottom; }
  /// What a recurrence may claim. Where residuals are measured, half of the tolerance is left to
  /// rounding.
  double allowed() const {
    const double share = options_.verify ? 0.5 : 1;
    return std::max(share * options_.tolerance, rounding_) * norm_;
  }
  Ends wanted() const {
    return outermost(pairs_.values, options_.order, options_.count, options_.count_bottom);
  }
  std::vector<double> sorted_values(const std::vector<int64_t>& numbers) const {
    std::vector<double> values;
    for (const int64_t i : numbers) values.push_back(pairs_.values[i]);
    std::sort(values.begin(), values.end());
    return values;
  }
  /// How far inside the spectrum `y` lies, seen from `x` at the same end.
  double distance(double x, double y) const {
    return options_.order == EigenvalueOrder::kMagnitude ? std::abs(x) - std::abs(y)
                                                         : std::abs(x - y);
  }

  /// A block holds one vector of an eigenspace for each of its own, so only an eigenvalue that was
  /// found that often can have more copies; those of the last value found would change nothing.
  bool may_miss_copies(const std::vector<int64_t>& end) const {
    const std::vector<double> values = sorted_values(end);
    for (size_t i = 0, j = options_.block_size - 1; j < values.size(); ++i, ++j) {
      const double last = pairs_.values[end.back()];
      const double outside = std::max(distance(values[i], last), distance(values[j], last));
      if (values[j] - values[i] <= 2 * allowed() && outside > rounding_ * norm_) return true;
    }
    return false;
  }

  /// Whether the last search began with these very values.
  bool was_searched() const {
    const std::vector<double> values = sorted_values(wanted().both());
    return std::equal(values.begin(), values.end(), searched_.begin(), searched_.end(),
                      [this](double x, double y) { return std::abs(x - y) <= 2 * allowed(); });
  }

  /// Whether the best pair `next` that is not wanted surely stays behind the last one of `end`, and
  /// with it the whole complement.
  bool stays_behind(const std::vector<int64_t>& end, int64_t next) const {
    const double gap = distance(pairs_.values[end.back()], pairs_.values[next]);
    if (space_.full() && pairs_.residuals[next] <= std::max(allowed(), gap / 10)) return true;
    return search_steps_ && miss_probability(end.back(), gap) <=
                                kMissProbability / (*search_steps_ * (*search_steps_ + 1.0));
  }

  /// How likely a Krylov space from a random vector shows no eigenvalue above the last wanted one,
  /// number `last`, and none within `gap` below, although the operator has one above. Kuczynski,
  /// Wozniakowski, SIAM J. Matrix Anal. Appl. 13(4), 1992, Theorem 4.2. The sum of 1/(j (j + 1)) is
  /// one, so a search may ask after each step j.
  double miss_probability(int64_t last, double gap) const {
    if (gap <= 0) return 1;
    const double value = pairs_.values[last];
    double range = std::abs(value) + norm_;
    if (options_.order == EigenvalueOrder::kAlgebraic) {
      const bool at_bottom = options_.count == 0 || value < pairs_.values[wanted().top.back()];
      range = at_bottom ? highest_ - value : value - lowest_;
    }
    const double part = std::min(1.0, gap / (kRangeMargin * range));
    return 1.648 * std::sqrt(static_cast<double>(n_)) *
           std::exp(-std::sqrt(part) * (2 * static_cast<double>(*search_steps_) - 1));
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
    for (const int64_t i : numbers) {
      pairs.values.push_back(pairs_.values[i]);
      pairs.residuals.push_back(std::max(pairs_.residuals[i], rounding_ * norm_));
    }
    const at::Tensor indices = at::tensor(numbers, at::kLong);
    pairs.vectors = space_.ritz_vectors(pairs_.coefficients.index_select(1, indices));
    return pairs;
  }

  const ThickRestartOptions& options_;
  int64_t n_;
  int64_t capacity_;
  double rounding_;  ///< relative to |A|
  KrylovSpace space_;
  ProjectedPairs pairs_;
  std::vector<double> searched_;
  std::optional<int64_t> search_steps_;  ///< of a search that was not restarted
  double highest_ = -std::numeric_limits<double>::infinity();  ///< Ritz value of all
  double lowest_ = std::numeric_limits<double>::infinity();
  double norm_ = 0;
  int64_t num_restarts_ = 0;
};

}  // namespace

BlockLanczosResult thick_restart_eigenpairs(const LinearOperator& a,
                                            const ThickRestartOptions& options) {
  const at::NoGradGuard no_grad;
  BlockLanczosResult result;
  double norm = 0;
  bool converged = false;
  {  // the basis goes before the residuals are measured
    ThickRestart iteration(a, options);
    converged = iteration.run();
    result = iteration.result();
    norm = iteration.norm();
  }
  if (options.verify) measure_residuals(a, result);
  result.termination =
      converged ? judge_residuals(options.tolerance * norm, result) : Termination::kMaxIterations;
  return result;
}

}  // namespace curvature::detail
