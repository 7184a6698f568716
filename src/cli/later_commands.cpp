#include <CLI/App.hpp>

#include "cli/command.hpp"
#include "core/check.hpp"

namespace curvature::cli {

void add_later_commands(CLI::App& tool) {
  for (const std::string name : {"estimate"}) {
    CLI::App* command = tool.add_subcommand(name, "not available in this version");
    command->allow_extras();
    command->callback([name] {
      throw OptionError(fmt::format(
          "{} is not available in this version; expected info, gradient, apply or spectrum, got {}",
          name, name));
    });
  }
}

}  // namespace curvature::cli
