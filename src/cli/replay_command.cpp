#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <CLI/App.hpp>

#include "cli/command.hpp"
#include "cli/named_arrays.hpp"
#include "cli/optimizer_choice.hpp"
#include "cli/progress_bar.hpp"
#include "cli/report.hpp"
#include "cli/validators.hpp"
#include "core/check.hpp"
#include "core/finite.hpp"

namespace curvature::cli {
namespace {

struct ReplayOptions {
  OptimizerChoice choice;
  std::string parameters;
  std::string gradients;
  std::string output;
  std::optional<int> threads;
  uint64_t seed = 0;
  bool dry_run = false;
  bool json = false;
};

/// Parameters, each with its gradients, step axis first; undefined for one that has none.
struct Recording {
  std::vector<NamedTensor> parameters;
  TensorList gradients;
  int64_t num_steps = 0;

  int64_t num_parameters() const {
    int64_t count = 0;
    for (const NamedTensor& parameter : parameters) count += parameter.tensor.numel();
    return count;
  }
  int64_t trajectory_bytes() const {
    int64_t bytes = 0;
    for (const auto& [name, tensor] : parameters) {
      bytes += num_steps * tensor.numel() * static_cast<int64_t>(tensor.element_size());
    }
    return bytes;
  }
};

void check_parameter(const NamedTensor& parameter, const std::string& file) {
  const at::ScalarType dtype = parameter.tensor.scalar_type();
  CURVATURE_CHECK(dtype == at::kFloat || dtype == at::kDouble, DataError,
                  "{}: '{}' has another dtype; expected float32 or float64, got {}", file,
                  parameter.name, c10::toString(dtype));
  CURVATURE_CHECK(detail::is_finite(parameter.tensor), DataError,
                  "{}: '{}' is not finite; expected numbers, got NaN or infinity", file,
                  parameter.name);
}

/// Whether they are gradients of the parameter; the message says what they should be.
void check_gradients(const NamedTensor& gradients, const NamedTensor& parameter,
                     const std::string& file) {
  const at::Tensor& g = gradients.tensor;
  CURVATURE_CHECK(
      g.dim() == parameter.tensor.dim() + 1 && g.sizes().slice(1) == parameter.tensor.sizes(),
      ShapeError, "{}: gradients of '{}' do not fit; expected the step axis, then {}, got {}", file,
      gradients.name, detail::to_string(parameter.tensor.sizes()), detail::to_string(g.sizes()));
  CURVATURE_CHECK(g.scalar_type() == parameter.tensor.scalar_type(), DataError,
                  "{}: gradients of '{}' have another dtype than it; expected {}, got {}", file,
                  gradients.name, c10::toString(parameter.tensor.scalar_type()),
                  c10::toString(g.scalar_type()));
}

Recording read_recording(const ReplayOptions& options) {
  Recording recording{.parameters = read_named_arrays(options.parameters), .gradients = {}};
  recording.gradients.resize(recording.parameters.size());
  std::vector<std::string> names;
  for (const NamedTensor& parameter : recording.parameters) {
    check_parameter(parameter, options.parameters);
    names.push_back(parameter.name);
  }
  std::string first;
  for (const NamedTensor& gradients : read_named_arrays(options.gradients)) {
    const auto found = std::find(names.begin(), names.end(), gradients.name);
    CURVATURE_CHECK(found != names.end(), DataError,
                    "{}: gradients of an unknown parameter; expected a name in {} ({}), got '{}'",
                    options.gradients, options.parameters, enumerate(names), gradients.name);
    const auto index = static_cast<size_t>(found - names.begin());
    check_gradients(gradients, recording.parameters[index], options.gradients);
    const int64_t num_steps = gradients.tensor.size(0);
    if (first.empty()) {
      first = gradients.name;
      recording.num_steps = num_steps;
    }
    CURVATURE_CHECK(num_steps == recording.num_steps, DataError,
                    "{}: gradients of '{}' for another number of steps; expected {} as for '{}', "
                    "got {}",
                    options.gradients, gradients.name, recording.num_steps, first, num_steps);
    recording.gradients[index] = gradients.tensor;
  }
  CURVATURE_CHECK(recording.num_steps > 0, DataError,
                  "{}: no gradients; expected at least one step of one parameter, got none",
                  options.gradients);
  return recording;
}

/// Refuses what needs a model before any file is read.
const OptimizerEntry& replayable(const OptimizerChoice& choice) {
  const OptimizerEntry& entry = entry_of(choice);
  CURVATURE_CHECK(entry.from_gradients != nullptr, OptionError,
                  "replay: {} needs the model and its data; expected an optimizer that needs "
                  "gradients only; use `curvature train`",
                  choice.name);
  return entry;
}

/// The values after each step, step axis first. The parameters move.
std::vector<NamedTensor> trajectory(const Recording& recording, optim::Preconditioned& optimizer) {
  ProgressBar bar;
  const Observer observer = bar.observer();
  std::vector<NamedTensor> values;
  for (const auto& [name, tensor] : recording.parameters) {
    Shape shape = tensor.sizes().vec();
    shape.insert(shape.begin(), recording.num_steps);
    values.push_back({name, at::empty(shape, tensor.options().requires_grad(false))});
  }
  for (int64_t step = 0; step < recording.num_steps; ++step) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (!recording.gradients[i].defined()) continue;
      recording.parameters[i].tensor.mutable_grad() = recording.gradients[i].select(0, step);
    }
    try {
      optimizer.step(nullptr);
    } catch (const NumericalError& error) {
      throw NumericalError(fmt::format("replay: step {}: {}", step + 1, error.what()));
    }
    for (size_t i = 0; i < values.size(); ++i) {
      const at::Tensor value = recording.parameters[i].tensor.detach();
      CURVATURE_CHECK(
          detail::is_finite(value), NumericalError,
          "replay: step {}: '{}' overflows; expected finite values, got NaN or infinity", step + 1,
          recording.parameters[i].name);
      values[i].tensor.select(0, step).copy_(value);
    }
    if (observer) observer({"Replay", step + 1, recording.num_steps});
  }
  return values;
}

void print_replay_plan(const Recording& recording, int64_t state_bytes,
                       const ReplayOptions& options, const Invocation& invocation) {
  const std::string job =
      fmt::format("{} of {} on {}", count_of(recording.num_steps, "step"), options.choice.name,
                  count_of(recording.num_parameters(), "parameter"));
  if (options.json) {
    print_json(with_origin({{"dry_run", true},
                            {"job", job},
                            {"num_parameters", recording.num_parameters()},
                            {"steps", recording.num_steps},
                            {"state_bytes", state_bytes},
                            {"memory_bytes", state_bytes + recording.trajectory_bytes()}},
                           invocation, options.seed));
    return;
  }
  print_text(fmt::format("would compute: {}\nmemory:        {} of state, {} of values\n", job,
                         format_bytes(state_bytes), format_bytes(recording.trajectory_bytes())));
}

void run_replay(const ReplayOptions& options, const Invocation& invocation) {
  const OptimizerEntry& entry = replayable(options.choice);
  const OptionValues values = values_of(options.choice);
  if (options.threads) at::set_num_threads(*options.threads);
  const Recording recording = read_recording(options);
  for (const NamedTensor& parameter : recording.parameters) parameter.tensor.requires_grad_();
  std::vector<std::string> warnings;
  const std::unique_ptr<optim::Preconditioned> optimizer = entry.from_gradients(
      recording.parameters, values,
      {.random = RandomSource(options.seed), .memory_budget = {}, .warn = [&](const auto& text) {
         warnings.push_back(text);
       }});
  const int64_t state_bytes = static_cast<const optim::Minimizer&>(*optimizer).state_bytes();
  if (options.dry_run) return print_replay_plan(recording, state_bytes, options, invocation);
  const Stopwatch watch;
  write_named_arrays(options.output, trajectory(recording, *optimizer),
                     origin(invocation, options.seed));
  if (options.json) {
    print_json(with_origin({{"optimizer", options.choice.name},
                            {"options", values.texts()},
                            {"num_parameters", recording.num_parameters()},
                            {"steps", recording.num_steps},
                            {"state_bytes", state_bytes},
                            {"warnings", warnings},
                            {"output", options.output},
                            {"seconds", watch.seconds()}},
                           invocation, options.seed));
    return;
  }
  std::string text;
  for (const std::string& warning : warnings) text += fmt::format("warning: {}\n", warning);
  print_text(text + fmt::format("{} of {} on {}, {} of state: values in {} ({:.1f} s)\n",
                                count_of(recording.num_steps, "step"), options.choice.name,
                                count_of(recording.num_parameters(), "parameter"),
                                format_bytes(state_bytes), options.output, watch.seconds()));
}

}  // namespace

void add_replay_command(CLI::App& tool, const Invocation& invocation) {
  constexpr const char* kGroup = "Replay";
  CLI::App* command = tool.add_subcommand("replay", "applies an optimizer to recorded gradients");
  auto options = std::make_shared<ReplayOptions>();
  add_optimizer_options(*command, options->choice);
  const auto add = [&](const std::string& name, auto& value, const std::string& type,
                       const std::string& description) {
    return command->add_option(name, value, description)->type_name(type)->group(kGroup);
  };
  add("--parameters", options->parameters, "FILE", "starting values by name (.npz or .safetensors)")
      ->required();
  add("--gradients", options->gradients, "FILE",
      "gradients by the same names, step axis first; a parameter that is missing has none")
      ->required();
  add("--output", options->output, "FILE",
      "values after each step, step axis first (.npz or .safetensors)")
      ->required()
      ->check(output_file({".safetensors", ".npz"}));
  add("--threads", options->threads, "N", "threads of LibTorch; its own choice by default")
      ->transform(whole_number(1, 4096));
  add("--seed", options->seed, "N", "of everything random")
      ->transform(seed_number())
      ->capture_default_str();
  command->add_flag("--dry-run", options->dry_run, "say what would be done; run nothing")
      ->group(kGroup);
  command->add_flag("--json", options->json, "one JSON object on standard output")->group(kGroup);
  command->callback([options, &invocation] { run_replay(*options, invocation); });
}

}  // namespace curvature::cli
