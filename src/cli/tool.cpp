#include "cli/tool.hpp"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <new>

#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
#include <torch/csrc/jit/runtime/print_handler.h>
#include <torch/version.h>

#include <CLI/App.hpp>

#include <curvature/version.hpp>

#include "cli/command.hpp"
#include "cli/help_formatter.hpp"
#include "cli/report.hpp"
#include "cli/validators.hpp"
#include "core/check.hpp"
#include "core/translate.hpp"

namespace curvature::cli {
namespace {

constexpr int kJobFailed = 1;
constexpr int kWrongCommandLine = 2;

std::string command_line_of(int argc, const char* const* argv) {
  std::string line = "curvature";
  for (int i = 1; i < argc; ++i) line += " " + shell_quoted(argv[i]);
  return line;
}

/// Standard output is for results and standard error for the one error line: neither LibTorch's
/// warnings nor a model's own `print` may appear there.
void silence_torch() {
  FLAGS_caffe2_log_level = 3;  // fatal errors only; in all threads, unlike a warning handler
  torch::jit::setPrintHandler([](const std::string&) {});
}

int fail(std::string message, int status) {
  std::replace_if(
      message.begin(), message.end(), [](unsigned char c) { return std::iscntrl(c) != 0; }, ' ');
  std::cerr << "curvature: error: " << message << std::endl;
  return status;
}

std::vector<std::string> command_names(const CLI::App& tool) {
  std::vector<std::string> names;
  for (const CLI::App* command : tool.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

/// What is wrong with a command line, in our words.
std::string explain(const CLI::App& tool, const CLI::ParseError& error) {
  const std::vector<const CLI::App*> chosen = [&] {
    const auto commands = tool.get_subcommands();
    return std::vector<const CLI::App*>(commands.begin(), commands.end());
  }();
  const std::string text = error.what();
  const std::string name = error.get_name();
  if (chosen.empty()) {
    const std::vector<std::string> words = tool.remaining(true);
    return fmt::format("no such command; expected {}, got {}", enumerate(command_names(tool)),
                       words.empty() ? "nothing" : "'" + words.front() + "'");
  }
  const std::string help = fmt::format("`curvature {} --help`", chosen.front()->get_name());
  if (name == "ExtrasError") {
    return fmt::format("unknown option or argument; expected those in {}, got '{}'", help,
                       fmt::join(tool.remaining(true), " "));
  }
  if (name == "RequiredError") {
    return fmt::format("{}; expected those in {}, got none", text, help);
  }
  const size_t colon = text.find(": ");
  if (name == "ValidationError" && colon != std::string::npos) {
    return text.substr(0, colon) + "; " + text.substr(colon + 2);
  }
  return fmt::format("{}; see {}", text, help);
}

void add_commands(CLI::App& tool, const Invocation& invocation) {
  tool.set_version_flag(
      "--version", fmt::format("curvature {} (LibTorch {})", CURVATURE_VERSION, TORCH_VERSION));
  // As with other tools, the last of a repeated option counts.
  tool.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  const auto formatter = std::make_shared<HelpFormatter>();
  formatter->column_width(36);
  tool.formatter(formatter);
  add_info_command(tool, invocation);
  add_gradient_command(tool, invocation);
  add_apply_command(tool, invocation);
  add_solve_command(tool, invocation);
  add_spectrum_command(tool, invocation);
  add_estimate_command(tool, invocation);
  add_train_command(tool, invocation);
  add_replay_command(tool, invocation);
  add_optimizers_command(tool, invocation);
  add_demo_command(tool, invocation);
  add_export_snippet_command(tool);
  add_completion_command(tool);
}

/// Reads the command line and does the job. Throws CLI::ParseError and what the job throws.
void parse_and_run(CLI::App& tool, int argc, const char* const* argv) {
  tool.parse(argc, argv);
  if (tool.get_subcommands().empty()) throw CLI::RequiredError("command");
}

}  // namespace

int run_tool(int argc, const char* const* argv) {
  const Invocation invocation{argc > 0 ? argv[0] : "curvature", command_line_of(argc, argv)};
  CLI::App tool("Curvature matrices of neural networks as linear operators.", "curvature");
  try {
    silence_torch();
    add_commands(tool, invocation);
    parse_and_run(tool, argc, argv);
    return EXIT_SUCCESS;
  } catch (const CLI::Success& request) {
    return tool.exit(request);
  } catch (const CLI::ParseError& error) {
    return fail(explain(tool, error), kWrongCommandLine);
  } catch (const OptionError& error) {
    return fail(error.what(), kWrongCommandLine);
  } catch (const Error& error) {
    return fail(error.what(), kJobFailed);
  } catch (const std::bad_alloc&) {
    return fail(
        "out of memory; expected more free memory, got none; try a smaller --batch-size or "
        "--memory-budget 0",
        kJobFailed);
  } catch (const std::exception& error) {
    return fail(detail::one_line_reason(error), kJobFailed);
  }
}

}  // namespace curvature::cli
