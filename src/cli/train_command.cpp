#include <filesystem>

#include <CLI/App.hpp>

#include <curvature/core/memory.hpp>
#include <curvature/model/torchscript.hpp>

#include "cli/command.hpp"
#include "cli/named_arrays.hpp"
#include "cli/optimizer_choice.hpp"
#include "cli/options.hpp"
#include "cli/problem.hpp"
#include "cli/progress_bar.hpp"
#include "cli/report.hpp"
#include "cli/training.hpp"
#include "cli/validators.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

/// Independent of each other.
enum TrainingPurpose : uint64_t { kShuffledOrder = 1, kOptimizerNoise = 2 };

struct TrainOptions {
  ProblemOptions problem;
  OptimizerChoice choice;
  std::optional<int64_t> steps;
  std::optional<int64_t> epochs;
  std::string batch_order = "sequential";
  std::string schedule = "constant";
  int64_t warmup = 0;
  std::vector<std::string> validation_inputs;
  std::string validation_targets;
  std::optional<int64_t> validate_every;
  std::string log;
  std::string output;
  std::string model_output;
  std::string checkpoint;
  std::optional<int64_t> checkpoint_every;
  std::string resume;
};

void check_train_options(const TrainOptions& options) {
  CURVATURE_CHECK(options.steps.has_value() != options.epochs.has_value(), OptionError,
                  "train: how long? expected one of --steps and --epochs, got {}",
                  options.steps ? "both" : "none");
  CURVATURE_CHECK(options.validation_inputs.empty() == options.validation_targets.empty(),
                  OptionError,
                  "train: validation needs inputs and targets; expected --validation-inputs and "
                  "--validation-targets, got one of them");
  CURVATURE_CHECK(!options.validate_every || !options.validation_inputs.empty(), OptionError,
                  "--validate-every: expected --validation-inputs and --validation-targets, got "
                  "none");
  CURVATURE_CHECK(!options.checkpoint_every || !options.checkpoint.empty(), OptionError,
                  "--checkpoint-every: expected --checkpoint, got none");
}

Schedule schedule_of(const TrainOptions& options, const BatchOrder& order) {
  const Schedule schedule = {
      .name = options.schedule,
      .warmup = options.warmup,
      .num_steps = options.steps.value_or(options.epochs.value_or(0) * order.steps_per_epoch())};
  CURVATURE_CHECK(schedule.warmup <= schedule.num_steps, OptionError,
                  "--warmup: longer than the training; expected at most {} steps, got {}",
                  schedule.num_steps, schedule.warmup);
  return schedule;
}

/// The parameters to train, in the model's order.
std::vector<NamedTensor> trained_parameters(const Problem& problem) {
  std::vector<NamedTensor> parameters;
  for (const NamedTensor& parameter : problem.model.parameters()) {
    if (parameter.tensor.requires_grad()) parameters.push_back(parameter);
  }
  return parameters;
}

/// What all later steps depend on, besides parameters and state; by the names that users know.
Json settings_of(const TrainOptions& options, const OptionValues& values, const Schedule& schedule,
                 const Problem& problem) {
  const ProblemOptions& asked = options.problem;
  Json settings = {{"--optimizer", options.choice.name}};
  for (const auto& [name, text] : values.texts()) settings["--option " + name] = text;
  settings["--batch-size"] = std::to_string(asked.batch_size);
  settings["--batch-order"] = options.batch_order;
  settings["--seed"] = std::to_string(asked.seed);
  settings["--loss"] = asked.loss;
  settings["--class-axis"] = std::to_string(asked.class_axis);
  settings["--ignore-index"] = asked.ignore_index ? std::to_string(*asked.ignore_index) : "none";
  settings["--reduction"] = asked.reduction;
  settings["--schedule"] = schedule.name;
  settings["--warmup"] = std::to_string(schedule.warmup);
  // A constant learning rate does not depend on where the training ends, which may so be put off.
  if (schedule.name != "constant") settings["--steps"] = std::to_string(schedule.num_steps);
  for (size_t i = 0; i < problem.inputs.size(); ++i) {
    settings[fmt::format("--inputs ({})", i + 1)] = detail::to_string(problem.inputs[i].sizes());
  }
  settings["--targets"] = detail::to_string(problem.targets.sizes());
  return settings;
}

TrainedBy make_optimizer(const OptimizerEntry& entry, const OptionValues& values,
                         const Problem& problem, const std::optional<EmpiricalRisk>& risk,
                         const OptimizerContext& context) {
  if (!entry.from_gradients) return {.minimizer = entry.from_risk(*risk, values, context)};
  std::unique_ptr<optim::Preconditioned> made =
      entry.from_gradients(trained_parameters(problem), values, context);
  optim::Preconditioned* averaging = made.get();
  return {.minimizer = std::move(made), .averaging = averaging};
}

/// What is said before the first step.
struct TrainPlan {
  std::string job;
  int64_t num_steps = 0;
  int64_t steps_per_epoch = 0;
  int64_t state_bytes = 0;
  int64_t gradient_bytes = 0;
};

TrainPlan plan_of(const TrainOptions& options, const Problem& problem, const Schedule& schedule,
                  const BatchOrder& order, const optim::Minimizer& minimizer) {
  const int64_t element = problem.model.parameters().front().tensor.element_size();
  return {.job = fmt::format("{} of {} on {}, {} an epoch", count_of(schedule.num_steps, "step"),
                             options.choice.name, count_of(problem.space.size(), "parameter"),
                             order.steps_per_epoch()),
          .num_steps = schedule.num_steps,
          .steps_per_epoch = order.steps_per_epoch(),
          .state_bytes = minimizer.state_bytes(),
          .gradient_bytes = problem.space.size() * element};
}

void print_train_plan(const TrainPlan& plan, const Problem& problem, const TrainOptions& options,
                      const Invocation& invocation) {
  const ProblemOptions& asked = options.problem;
  const int64_t budget =
      asked.memory_budget.value_or(default_memory_budget(at::Device(asked.device)));
  if (asked.json) {
    print_json(with_origin({{"dry_run", true},
                            {"job", plan.job},
                            {"num_parameters", problem.space.size()},
                            {"num_data", problem.num_examples()},
                            {"num_batches", plan.steps_per_epoch},
                            {"steps", plan.num_steps},
                            {"state_bytes", plan.state_bytes},
                            {"memory_bytes", plan.state_bytes + plan.gradient_bytes},
                            {"memory_budget", budget}},
                           invocation, asked.seed));
    return;
  }
  print_text(fmt::format(
      "would compute: {}\n"
      "model:         {}, {} in {}\n"
      "data:          {}, {} a step\n"
      "memory:        {} of optimizer state, {} of gradients\n",
      plan.job, problem.model.description(), count_of(problem.space.size(), "parameter"),
      count_of(static_cast<int64_t>(problem.space.entries().size()), "tensor"),
      count_of(problem.num_examples(), "example"), asked.batch_size, format_bytes(plan.state_bytes),
      format_bytes(plan.gradient_bytes)));
}

/// The risk of the validation examples, if there are some.
std::optional<EmpiricalRisk> validation_of(const TrainOptions& options, const EmpiricalRisk& risk) {
  if (options.validation_inputs.empty()) return std::nullopt;
  TensorList inputs;
  for (const std::string& name : options.validation_inputs) inputs.push_back(read_examples(name));
  return risk.with_data(
      make_data(std::move(inputs), read_examples(options.validation_targets), options.problem));
}

/// Makes the folder of checkpoints, so that an interrupted run can be told from a wrong name.
void make_folder(const std::string& folder) {
  if (folder.empty()) return;
  std::error_code status;
  std::filesystem::create_directory(folder, status);
  CURVATURE_CHECK(std::filesystem::is_directory(folder, status), FileError,
                  "--checkpoint: expected a folder, or a name for one in an existing folder, got "
                  "'{}'",
                  folder);
}

/// Where the steps begin: where the checkpoint of the run to resume ends, or before all of them.
Progression begin_of(const TrainOptions& options, Checkpoint& checkpoint,
                     const Schedule& schedule) {
  if (options.resume.empty()) return {};
  const std::optional<Progression> found = checkpoint.load(options.resume);
  if (found) {
    CURVATURE_CHECK(found->step <= schedule.num_steps, OptionError,
                    "--resume: the run is longer than this; expected at least {} steps, got {}",
                    found->step, schedule.num_steps);
    return *found;
  }
  // A run that was killed before its first checkpoint had no log yet: nothing can be lost.
  std::error_code status;
  const bool has_log = !options.log.empty() && std::filesystem::exists(options.log, status) &&
                       std::filesystem::file_size(options.log, status) > 0;
  CURVATURE_CHECK(!has_log, FileError,
                  "--resume: '{}' has no checkpoint but there is a log; expected both or none, got "
                  "'{}'",
                  options.resume, options.log);
  return {};
}

void write_results(const TrainOptions& options, const Training& training,
                   const Invocation& invocation) {
  const EvaluatedIterates evaluated(training.optimizer);
  check_parameters_finite(training.risk,
                          fmt::format("train: step {}", training.schedule.num_steps));
  const std::vector<NamedTensor>& parameters = training.risk.model().parameters();
  if (!options.output.empty()) {
    write_named_arrays(options.output, parameters, origin(invocation, options.problem.seed));
  }
  if (!options.model_output.empty()) {
    save_torchscript(options.model_output, options.problem.model, parameters,
                     {.dtype = parameters.front().tensor.scalar_type()});
  }
}

void print_result(const TrainingResult& result, const TrainPlan& plan, const TrainOptions& options,
                  int64_t num_parameters, const Invocation& invocation) {
  if (options.problem.json) {
    Json json = {{"optimizer", options.choice.name},
                 {"num_parameters", num_parameters},
                 {"steps", plan.num_steps},
                 {"state_bytes", plan.state_bytes}};
    if (result.last) json["loss"] = result.last->loss;
    if (result.validation_loss) json["validation_loss"] = *result.validation_loss;
    for (const auto& [name, file] : {std::pair("log", options.log),
                                     {"output", options.output},
                                     {"model_output", options.model_output},
                                     {"checkpoint", options.checkpoint}}) {
      if (!file.empty()) json[name] = file;
    }
    json["seconds"] = result.seconds;
    print_json(with_origin(json, invocation, options.problem.seed));
    return;
  }
  std::string text =
      fmt::format("{} in {:.1f} s", count_of(plan.num_steps, "step"), result.seconds);
  if (result.last) text += fmt::format(", loss of the last batch {:.6g}", result.last->loss);
  if (result.validation_loss) {
    text += fmt::format(", validation loss {:.6g}", *result.validation_loss);
  }
  print_text(text + "\n");
}

void run_train(const TrainOptions& options, const Invocation& invocation) {
  check_train_options(options);
  const OptimizerEntry& entry = entry_of(options.choice);
  const OptionValues values = values_of(options.choice);
  if (!options.problem.dry_run) make_folder(options.checkpoint);
  const Problem problem = load_problem(options.problem);
  const RandomSource random(options.problem.seed);
  BatchOrder order(problem, options.problem, options.batch_order == "shuffled",
                   random.derive(kShuffledOrder));
  const Schedule schedule = schedule_of(options, order);

  const auto warnings = std::make_shared<std::vector<std::string>>();
  std::optional<EmpiricalRisk> risk;
  // What needs the model has weight decay in the risk: in gradient, curvature and loss.
  const double weight_decay = entry.from_risk ? values.number("weight_decay") : 0;
  if (entry.from_risk) risk = make_risk(problem, options.problem, weight_decay);
  TrainedBy optimizer =
      make_optimizer(entry, values, problem, risk,
                     {.random = random.derive(kOptimizerNoise),
                      .memory_budget = options.problem.memory_budget,
                      .warn = [warnings](const std::string& text) { warnings->push_back(text); }});
  const TrainPlan plan = plan_of(options, problem, schedule, order, *optimizer.minimizer);
  if (options.problem.dry_run) return print_train_plan(plan, problem, options, invocation);
  if (!risk) risk = make_risk(problem, options.problem);  // refuses before anything is said
  if (!options.problem.json) {
    print_text(
        fmt::format("{}; {} of optimizer state\n", plan.job, format_bytes(plan.state_bytes)));
  }

  Checkpoint checkpoint(trained_parameters(problem), *optimizer.minimizer,
                        settings_of(options, values, schedule, problem));
  const double learning_rate = optimizer.minimizer->learning_rate();
  const int64_t epoch = order.steps_per_epoch();
  Training training{.risk = *risk,
                    .optimizer = std::move(optimizer),
                    .learning_rate = learning_rate,
                    .schedule = schedule,
                    .order = std::move(order),
                    .validation = validation_of(
                        options, weight_decay > 0 ? make_risk(problem, options.problem) : *risk),
                    .validate_every = options.validate_every.value_or(epoch),
                    .checkpoint_folder = options.checkpoint,
                    .checkpoint_every = options.checkpoint_every.value_or(epoch),
                    .metadata = origin(invocation, options.problem.seed),
                    .warnings = warnings};
  const Progression begin = begin_of(options, checkpoint, schedule);
  // There is a checkpoint before there is a line of the log, whenever the run is killed.
  if (!options.checkpoint.empty()) checkpoint.save(options.checkpoint, begin, training.metadata);
  TrainingLog log(options.log, begin.step);
  ProgressBar bar;
  const TrainingResult result = run_steps(training, begin, checkpoint, log, bar.observer());
  write_results(options, training, invocation);
  print_result(result, plan, options, problem.space.size(), invocation);
}

void add_run_options(CLI::App& command, TrainOptions& options) {
  constexpr const char* kGroup = "Training";
  const auto add = [&](const std::string& name, auto& value, const std::string& type,
                       const std::string& description) {
    return command.add_option(name, value, description)->type_name(type)->group(kGroup);
  };
  const auto add_choice = [&](const std::string& name, std::string& value,
                              const std::vector<std::string>& names,
                              const std::string& description) {
    add(name, value, alternatives(names), description)->check(one_of(names))->capture_default_str();
  };
  add("--steps", options.steps, "N", "length of the training; or")->transform(whole_number(1));
  add("--epochs", options.epochs, "N", "the same in passes over the data")
      ->transform(whole_number(1, 1'000'000'000));
  add_choice("--batch-order", options.batch_order, {"sequential", "shuffled"},
             "examples in file order, or in a new order for each epoch");
  add_choice("--schedule", options.schedule, schedule_names(), "of the learning rate");
  add("--warmup", options.warmup, "N", "steps of a linear rise of the learning rate before it")
      ->transform(whole_number(0))
      ->capture_default_str();
  add("--validation-inputs", options.validation_inputs, "FILE", "like --inputs, not trained on")
      ->take_all()
      ->allow_extra_args(false);
  add("--validation-targets", options.validation_targets, "FILE", "like --targets");
  add("--validate-every", options.validate_every, "N", "steps; once an epoch by default")
      ->transform(whole_number(1));
}

void add_file_options(CLI::App& command, TrainOptions& options) {
  constexpr const char* kGroup = "Files";
  const auto add = [&](const std::string& name, std::string& value, const std::string& type,
                       const std::string& description) {
    return command.add_option(name, value, description)->type_name(type)->group(kGroup);
  };
  add("--log", options.log, "FILE", "a JSON object a line for each step (.jsonl)")
      ->check(output_file({".jsonl"}));
  add("--output", options.output, "FILE", "the model's parameters by name (.safetensors or .npz)")
      ->check(output_file({".safetensors", ".npz"}));
  add("--model-output", options.model_output, "FILE", "the model with them, TorchScript (.pt)")
      ->check(output_file({".pt"}));
  add("--checkpoint", options.checkpoint, "DIR", "folder for the state of the training");
  command
      .add_option("--checkpoint-every", options.checkpoint_every,
                  "steps; once an epoch by default, and at the end")
      ->type_name("N")
      ->transform(whole_number(1))
      ->group(kGroup);
  add("--resume", options.resume, "DIR",
      "goes on from a checkpoint of this training; the log is cut to it");
}

}  // namespace

void add_train_command(CLI::App& tool, const Invocation& invocation) {
  CLI::App* command = tool.add_subcommand("train", "trains the parameters of a model");
  auto options = std::make_shared<TrainOptions>();
  add_problem_options(*command, options->problem);
  command->get_option("--batch-size")->description("examples of a step");
  add_optimizer_options(*command, options->choice);
  add_run_options(*command, *options);
  add_file_options(*command, *options);
  command->callback([options, &invocation] { run_train(*options, invocation); });
}

}  // namespace curvature::cli
