#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/optimizers/optimizer_entry.hpp"

namespace CLI {
class App;
}

namespace curvature::cli {

/// All optimizers that `--optimizer` knows.
const std::vector<OptimizerEntry>& optimizer_entries();
std::vector<std::string> optimizer_names();

/// Which optimizer, and its options as they were typed.
struct OptimizerChoice {
  std::string name;
  std::vector<std::string> assignments = {};  ///< `NAME=VALUE`
};

/// `--optimizer NAME` and `--option NAME=VALUE`.
void add_optimizer_options(CLI::App& command, OptimizerChoice& choice);

/// The entry of a choice. @throws OptionError that lists the known ones
const OptimizerEntry& entry_of(const OptimizerChoice& choice);
/// All options of a choice. @throws OptionError that lists what it knows
OptionValues values_of(const OptimizerChoice& choice);

}  // namespace curvature::cli
