#pragma once

#include <cstdint>

#include <curvature/core/random.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature::optim::detail {

/// Some examples of a risk, and what their curvature is multiplied by to stand for that of all.
struct Part {
  EmpiricalRisk risk;
  double scale = 1;  ///< 1 for `mean`; without weight decay, which does not scale
};

/// The first ceil(fraction N) of the N examples of this worker that count (weight is not zero, not
/// all terms ignored), in the order of sorted random numbers of `stream`; in the same batches as
/// before. All there are, as they are, for fraction 1. Reads the data.
Part random_part(const EmpiricalRisk& risk, double fraction, const RandomSource& random,
                 uint64_t stream);

}  // namespace curvature::optim::detail
