#pragma once

#include <functional>
#include <memory>

#include <curvature/optim/minimizer.hpp>

namespace curvature::testing {

/// Makes the minimizer under test, always with the same options.
using MinimizerFactory =
    std::function<std::unique_ptr<optim::Minimizer>(const EmpiricalRisk& risk)>;

/// What is expected of a minimizer.
struct MinimizerLaws {
  int64_t steps = 100;        ///< on all examples of a linear least-squares problem
  double excess_loss = 1e-6;  ///< over the optimum after these, as a part of what it was at first
  bool state_has_shapes = true;  ///< it keeps something for each parameter or layer
};

/// What holds for every minimizer, in float64 on small problems: it finds the optimum of a linear
/// least-squares problem; the same steps give the same bits, also if it is saved and loaded in
/// between; a step that fails leaves everything as it was; a zero gradient and parameters that are
/// frozen or unused do not move; it leaves gradients, generators and the place of parameters alone.
void check_minimizer_laws(const MinimizerFactory& make, const MinimizerLaws& laws = {});

}  // namespace curvature::testing
