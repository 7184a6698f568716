#include "cli/optimizer_choice.hpp"

#include <algorithm>

#include <CLI/App.hpp>

#include "cli/optimizers/families.hpp"
#include "cli/options.hpp"
#include "cli/validators.hpp"
#include "core/check.hpp"

namespace curvature::cli {

const std::vector<OptimizerEntry>& optimizer_entries() {
  static const std::vector<OptimizerEntry> table = [] {
    std::vector<OptimizerEntry> entries;
    for (const auto& family : {
             &first_order_optimizers,
             &shampoo_family_optimizers,
             &inverse_free_optimizers,
             &psgd_optimizers,
             &model_based_optimizers,
         }) {
      const std::vector<OptimizerEntry> members = family();
      entries.insert(entries.end(), members.begin(), members.end());
    }
    return entries;
  }();
  return table;
}

std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  for (const OptimizerEntry& entry : optimizer_entries()) names.push_back(entry.name);
  return names;
}

void add_optimizer_options(CLI::App& command, OptimizerChoice& choice) {
  constexpr const char* kGroup = "Optimizer";
  command.add_option("--optimizer", choice.name, "the method; `curvature optimizers` lists them")
      ->required()
      ->type_name(alternatives(optimizer_names()))
      ->check(one_of(optimizer_names()))
      ->group(kGroup);
  command
      .add_option("--option", choice.assignments,
                  "an option of the optimizer; may be repeated; `curvature optimizers NAME` lists "
                  "them with their defaults")
      ->type_name("NAME=VALUE")
      ->take_all()
      ->allow_extra_args(false)
      ->group(kGroup);
}

const OptimizerEntry& entry_of(const OptimizerChoice& choice) {
  const std::vector<OptimizerEntry>& entries = optimizer_entries();
  const auto found = std::find_if(entries.begin(), entries.end(), [&](const OptimizerEntry& entry) {
    return entry.name == choice.name;
  });
  CURVATURE_CHECK(found != entries.end(), OptionError, "no such optimizer; expected {}, got '{}'",
                  enumerate(optimizer_names()), choice.name);
  return *found;
}

OptionValues values_of(const OptimizerChoice& choice) {
  return OptionValues(choice.name, entry_of(choice).options, choice.assignments);
}

}  // namespace curvature::cli
