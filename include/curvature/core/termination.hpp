#pragma once

#include <string_view>

namespace curvature {

/// Why an iteration ended. Not converging is data, never an exception.
enum class Termination {
  kConverged,          ///< the tolerance is met
  kMaxIterations,      ///< the limit came first
  kNegativeCurvature,  ///< the operator is not positive definite, and the method needs that
  kNonFinite,          ///< numbers stopped being finite, or grew without bound
  kStagnated,          ///< no progress any more: rounding limits the accuracy
};

/// `converged`, `max-iterations`, ...: the names reports use.
constexpr std::string_view to_string(Termination termination) {
  switch (termination) {
    case Termination::kConverged:
      return "converged";
    case Termination::kMaxIterations:
      return "max-iterations";
    case Termination::kNegativeCurvature:
      return "negative-curvature";
    case Termination::kNonFinite:
      return "non-finite";
    case Termination::kStagnated:
      return "stagnated";
  }
  return "unknown";
}

}  // namespace curvature
