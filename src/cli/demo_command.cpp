#include <CLI/App.hpp>

#include <curvature/io/atomic_file.hpp>

#include "cli/command.hpp"
#include "cli/demo.hpp"
#include "cli/plot.hpp"
#include "cli/progress_bar.hpp"
#include "cli/validators.hpp"

namespace curvature::cli {
namespace {

void run(const DemoOptions& options, const Invocation& invocation) {
  check_plot("spectrum.svg");
  const DemoResult result = [&options] {
    ProgressBar bar;
    return run_demo(options, bar.observer());
  }();
  draw_demo(result, options.output);
  const Json report = with_origin(demo_json(result), invocation, options.seed);
  write_file_atomically(options.output / "report.json", to_text(report));
  print_text(options.json ? to_text(report) : describe_demo(result, options, invocation.program));
}

}  // namespace

void add_demo_command(CLI::App& tool, const Invocation& invocation) {
  CLI::App* command = tool.add_subcommand(
      "demo", "trains a small network, and shows the spectra of its Hessian and GGN");
  auto options = std::make_shared<DemoOptions>();
  command->add_option("--output", options->output, "folder for reports, pictures and the network")
      ->type_name("DIR")
      ->capture_default_str();
  command->add_flag("--digits", options->digits,
                    "small images that are part of the tool, instead of Fashion-MNIST");
  command->add_option("--threads", options->threads, "threads of LibTorch")
      ->type_name("N")
      ->transform(whole_number(1, 4096))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "of everything random")
      ->type_name("N")
      ->transform(seed_number())
      ->capture_default_str();
  command->add_flag("--json", options->json, "one JSON object on standard output");
  command->callback([options, &invocation] { run(*options, invocation); });
}

}  // namespace curvature::cli
