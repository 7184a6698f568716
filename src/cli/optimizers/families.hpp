#pragma once

#include <vector>

#include "cli/optimizers/optimizer_entry.hpp"

namespace curvature::cli {

// A family of optimizers is a file here, `<family>.cpp`, that defines its function and knows its
// optimizers' options; a new one has its line below and one in `optimizer_entries()`.

std::vector<OptimizerEntry> first_order_optimizers();
std::vector<OptimizerEntry> shampoo_family_optimizers();
std::vector<OptimizerEntry> inverse_free_optimizers();
std::vector<OptimizerEntry> psgd_optimizers();
std::vector<OptimizerEntry> model_based_optimizers();

}  // namespace curvature::cli
