#include <algorithm>

#include <CLI/App.hpp>

#include "cli/command.hpp"
#include "cli/optimizer_choice.hpp"
#include "cli/options.hpp"
#include "cli/report.hpp"
#include "cli/validators.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

struct ListOptions {
  std::string name;  ///< empty: all
  bool json = false;
};

const char* need_of(const OptimizerEntry& entry) {
  return entry.from_gradients ? "gradients" : "model";
}

Json to_json(const OptimizerEntry& entry) {
  Json options = Json::array();
  for (const OptimizerOption& option : entry.options) {
    options.push_back({{"name", option.name},
                       {"values", type_of(option)},
                       {"default", option.default_value},
                       {"description", option.description}});
  }
  return {{"name", entry.name},
          {"description", entry.description},
          {"needs", need_of(entry)},
          {"options", options}};
}

std::string describe_all() {
  std::string text;
  for (const OptimizerEntry& entry : optimizer_entries()) {
    text += fmt::format("{:<22} {}{}\n", entry.name, entry.description,
                        entry.from_gradients ? "" : " (needs the model: train only)");
  }
  return text;
}

std::string describe(const OptimizerEntry& entry) {
  std::string text = fmt::format("{}: {}\n", entry.name, entry.description);
  for (const OptimizerOption& option : entry.options) {
    text += fmt::format("  {}={} [{}]\n      {}\n", option.name, type_of(option),
                        option.default_value, option.description);
  }
  return text;
}

void run_list(const ListOptions& options, const Invocation& invocation) {
  if (options.json) {
    Json entries = Json::array();
    for (const OptimizerEntry& entry : optimizer_entries()) {
      if (options.name.empty() || options.name == entry.name) entries.push_back(to_json(entry));
    }
    print_json(with_origin({{"optimizers", entries}}, invocation, 0));
    return;
  }
  print_text(options.name.empty() ? describe_all() : describe(entry_of({.name = options.name})));
}

}  // namespace

void add_optimizers_command(CLI::App& tool, const Invocation& invocation) {
  CLI::App* command = tool.add_subcommand(
      "optimizers", "lists the optimizers of train and replay, or one's options");
  auto options = std::make_shared<ListOptions>();
  command->add_option("name", options->name, "whose options are listed; all optimizers by default")
      ->type_name("NAME")
      ->check(one_of(optimizer_names()));
  command->add_flag("--json", options->json, "one JSON object on standard output");
  command->callback([options, &invocation] { run_list(*options, invocation); });
}

}  // namespace curvature::cli
