#include <CLI/App.hpp>

#include <curvature/model/torchscript.hpp>

#include "cli/command.hpp"
#include "cli/report.hpp"

namespace curvature::cli {

void add_export_snippet_command(CLI::App& tool) {
  tool.add_subcommand("export-snippet", "Python that turns an nn.Module and arrays into files")
      ->callback([] { print_text(export_snippet()); });
}

}  // namespace curvature::cli
