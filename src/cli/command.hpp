#pragma once

#include <string>

namespace CLI {
class App;
}

namespace curvature::cli {

/// How the tool was called; what reports say about their origin.
struct Invocation {
  std::string program;       ///< the name it was called by
  std::string command_line;  ///< as it can be typed again
};

// One function for each command: adds its options to the tool, and the job it does when chosen.
// A job throws what the library throws; `tool` must outlive the call, `invocation` the job.

void add_info_command(CLI::App& tool, const Invocation& invocation);
void add_gradient_command(CLI::App& tool, const Invocation& invocation);
void add_apply_command(CLI::App& tool, const Invocation& invocation);
void add_solve_command(CLI::App& tool, const Invocation& invocation);
void add_spectrum_command(CLI::App& tool, const Invocation& invocation);
void add_estimate_command(CLI::App& tool, const Invocation& invocation);
void add_train_command(CLI::App& tool, const Invocation& invocation);
void add_replay_command(CLI::App& tool, const Invocation& invocation);
void add_optimizers_command(CLI::App& tool, const Invocation& invocation);
void add_demo_command(CLI::App& tool, const Invocation& invocation);
void add_export_snippet_command(CLI::App& tool);
void add_completion_command(CLI::App& tool);

}  // namespace curvature::cli
