#pragma once

#include <functional>
#include <string>
#include <vector>

#include <curvature/matrix_free/options.hpp>
#include <curvature/model/empirical_risk.hpp>

#include "recorder.hpp"

namespace curvature::benchmark {

/// One workload and how its curvature is taken.
struct Problem {
  EmpiricalRisk risk;
  MatrixFreeOptions matrix_free{};
};

/// What runs in a process of its own, and records one or several rows.
struct Operation {
  std::string name;
  std::function<void(const Problem&, const Recorder&)> run;
};

/// Gradient and products, with the linearisation kept; `first-product` is construction with a
/// first product, which linearises.
std::vector<Operation> product_operations();
/// K-FAC and EK-FAC, of linear and convolution layers alone, and their inverses.
std::vector<Operation> layerwise_operations();
/// Solvers, traces, densities and eigenvalues. They start from the risk: a call constructs the
/// operator and linearises.
std::vector<Operation> iterative_operations();

}  // namespace curvature::benchmark
