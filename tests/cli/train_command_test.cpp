// Trainings against their formulas, and trainings that are interrupted.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <numbers>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <curvature/io/npy.hpp>
#include <curvature/io/safetensors.hpp>
#include <curvature/model/torchscript.hpp>
#include <curvature/optim/natural_gradient.hpp>
#include <curvature/optim/singd.hpp>

#include "cli/batch_order.hpp"
#include "cli/fixture.hpp"
#include "cli/schedule.hpp"
#include "cli/training.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(train_command_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

using Lines = std::vector<nlohmann::json>;

Lines read_log(const std::string& file) {
  Lines lines;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

/// The lines without what depends on the clock.
Lines timeless(Lines lines) {
  for (nlohmann::json& line : lines) line.erase("seconds");
  return lines;
}

/// Trains on 20 examples with 3 in a batch (7 steps an epoch, the last of 2 examples).
Words training(const Scratch& scratch, const Words& choice) {
  return Words{"train", "--batch-size", "3"} + small_problem(scratch) + choice;
}

Words outputs(const Scratch& scratch, const std::string& name) {
  return {"--log", scratch / (name + ".jsonl"), "--output", scratch / (name + ".safetensors")};
}

void check_done(const Words& words) {
  const Outcome outcome = run_tool(words);
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(outcome.error.empty(), outcome);
}

/// Whether two runs wrote the same logs and weights, to the bit.
void check_same(const Scratch& scratch, const std::string& one, const std::string& other) {
  BOOST_TEST((timeless(read_log(scratch / (one + ".jsonl"))) ==
              timeless(read_log(scratch / (other + ".jsonl")))));
  const Archive a = read_safetensors(scratch / (one + ".safetensors"));
  const Archive b = read_safetensors(scratch / (other + ".safetensors"));
  BOOST_TEST(a.tensors.size() == b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    BOOST_TEST(tensor.equal(b.tensors.at(name)), name);
  }
}

at::Tensor loss_of(const TensorList& p, const at::Tensor& x, const at::Tensor& y) {
  return at::cross_entropy_loss(x.matmul(p[0].t()).tanh().matmul(p[1].t()), y);
}

/// Does nothing but report what a method with damping may report.
class Reporter : public optim::Minimizer {
 public:
  explicit Reporter(std::function<void(const std::string&)> warn) : warn_(std::move(warn)) {}

  optim::StepReport step(const EmpiricalRisk& batch) override {
    steps_ += 1;
    first_examples.push_back(batch.options().first_example);
    if (steps_ == 2) warn_("it was hard");
    return {.loss = batch.loss(),
            .gradient_norm = 1,
            .learning_rate = rate_,
            .damping = 0.5 / static_cast<double>(steps_),
            .accepted = steps_ != 2};
  }
  double learning_rate() const override { return rate_; }
  void set_learning_rate(double learning_rate) override { rate_ = learning_rate; }
  Archive save() const override { return {}; }
  void load(const Archive&) override {}
  int64_t state_bytes() const override { return 0; }

  std::vector<int64_t> first_examples;

 private:
  std::function<void(const std::string&)> warn_;
  double rate_ = 2;
  int64_t steps_ = 0;
};

const Words kSgd = {"--optimizer", "sgd", "--option", "learning_rate=0.5"};
const Words kAdam = {"--optimizer", "adamw", "--option", "learning_rate=0.05"};

}  // namespace

BOOST_AUTO_TEST_CASE(steps_are_those_of_a_loop_over_batches_in_file_order) {
  const Scratch scratch;
  check_done(training(scratch, kSgd) + outputs(scratch, "a") + Words{"--epochs", "2"});
  const Lines log = read_log(scratch / "a.jsonl");
  BOOST_TEST_REQUIRE(log.size() == 14u);

  const at::Tensor x = read_npy(scratch / "inputs.npy"), y = read_npy(scratch / "targets.npy");
  TensorList p;
  for (const auto& [name, tensor] : small_network().parameters) p.push_back(tensor);
  for (int64_t step = 1; step <= 14; ++step) {
    const int64_t begin = (step - 1) % 7 * 3, count = std::min<int64_t>(3, 20 - begin);
    const at::Tensor loss = loss_of(p, x.narrow(0, begin, count), y.narrow(0, begin, count));
    const TensorList g = torch::autograd::grad({loss}, p);
    const nlohmann::json& line = log[static_cast<size_t>(step - 1)];
    const double norm = std::sqrt((g[0].square().sum() + g[1].square().sum()).item<double>());
    BOOST_TEST(line["step"] == step);
    BOOST_TEST(line["epoch"] == (step <= 7 ? 1 : 2));
    BOOST_TEST(std::abs(line["loss"].get<double>() - loss.item<double>()) < 1e-13);
    BOOST_TEST(std::abs(line["gradient_norm"].get<double>() - norm) < 1e-13);
    BOOST_TEST(line["learning_rate"] == 0.5);
    BOOST_TEST(line["seconds"].get<double>() >= 0);
    for (size_t i = 0; i < 2; ++i) p[i] = (p[i].detach() - 0.5 * g[i]).requires_grad_();
  }
  const Archive weights = read_safetensors(scratch / "a.safetensors");
  BOOST_TEST(weights.metadata.at("seed") == "0");
  BOOST_TEST(close(weights.tensors.at("hidden"), p[0].detach(), {0, 1e-12}));
  BOOST_TEST(close(weights.tensors.at("output"), p[1].detach(), {0, 1e-12}));
}

BOOST_AUTO_TEST_CASE(an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone) {
  const at::Tensor w = at::ones({1}, at::kDouble);
  const Model model([w](const TensorList& inputs) { return inputs[0] * w; }, {{"w", w}});
  const cli::Problem problem = {.model = model,
                                .space = Space({{"w", {1}}}),
                                .inputs = {at::arange(20, at::kLong)},
                                .targets = at::arange(20, at::kLong) + 100};
  cli::ProblemOptions options;
  options.batch_size = 6;
  const auto order = [&](bool shuffled, uint64_t seed) {
    return cli::BatchOrder(problem, options, shuffled, RandomSource(seed));
  };
  const auto epoch_of = [](cli::BatchOrder batches, int64_t epoch) {
    TensorList parts;
    for (int64_t i = 1; i <= 4; ++i) {
      const Batch batch = batches.batch((epoch - 1) * 4 + i)->batch(0);
      BOOST_TEST(batch.targets.equal(batch.inputs[0] + 100));  // rows stay together
      BOOST_TEST(batch.size() == (i < 4 ? 6 : 2));
      parts.push_back(batch.inputs[0]);
    }
    return at::cat(parts);
  };
  const at::Tensor all = at::arange(20, at::kLong);
  BOOST_TEST(order(false, 1).steps_per_epoch() == 4);
  BOOST_TEST(epoch_of(order(false, 1), 3).equal(all));
  const at::Tensor first = epoch_of(order(true, 1), 1), second = epoch_of(order(true, 1), 2);
  BOOST_TEST(std::get<0>(first.sort()).equal(all));
  BOOST_TEST(std::get<0>(second.sort()).equal(all));
  BOOST_TEST(!first.equal(second));
  BOOST_TEST(!first.equal(epoch_of(order(true, 2), 1)));
  // A step in the middle, asked for alone.
  BOOST_TEST(order(true, 1).batch(6)->batch(0).inputs[0].equal(second.narrow(0, 6, 6)));
}

BOOST_AUTO_TEST_CASE(shuffled_batches_reach_the_optimizer) {
  const Scratch scratch;
  const Words words = training(scratch, kSgd) + Words{"--steps", "9"};
  check_done(words + outputs(scratch, "file"));
  const Words shuffled = words + Words{"--batch-order", "shuffled"};
  check_done(shuffled + outputs(scratch, "one"));
  check_done(shuffled + outputs(scratch, "same"));
  check_done(shuffled + outputs(scratch, "other") + Words{"--seed", "1"});
  check_same(scratch, "one", "same");
  const auto first_loss = [&](const std::string& name) {
    return read_log(scratch / (name + ".jsonl"))[0]["loss"].get<double>();
  };
  BOOST_TEST(first_loss("one") != first_loss("file"));
  BOOST_TEST(first_loss("one") != first_loss("other"));
}

BOOST_AUTO_TEST_CASE(schedules_follow_their_formulas) {
  const double pi = std::numbers::pi;
  for (const int64_t warmup : {0, 3}) {
    const auto factors = [&](const std::string& name) {
      const cli::Schedule schedule = {.name = name, .warmup = warmup, .num_steps = 11};
      std::vector<double> values;
      for (int64_t t = 1; t <= 11; ++t) values.push_back(schedule.factor(t));
      return values;
    };
    const std::vector<double> constant = factors("constant"), cosine = factors("cosine"),
                              linear = factors("linear");
    for (int64_t t = 1; t <= 11; ++t) {
      const auto i = static_cast<size_t>(t - 1);
      const double rise = static_cast<double>(t) / 3;
      const double p = static_cast<double>(t - 1 - warmup) / static_cast<double>(11 - warmup);
      const bool rises = t <= warmup;
      BOOST_TEST(constant[i] == (rises ? rise : 1));
      BOOST_TEST(std::abs(linear[i] - (rises ? rise : 1 - p)) < 1e-15);
      BOOST_TEST(std::abs(cosine[i] - (rises ? rise : (1 + std::cos(pi * p)) / 2)) < 1e-15);
    }
  }
  const Scratch scratch;
  check_done(training(scratch, kSgd) + outputs(scratch, "a") +
             Words{"--steps", "4", "--schedule", "linear", "--warmup", "2"});
  const Lines log = read_log(scratch / "a.jsonl");
  const std::vector<double> rates = {0.25, 0.5, 0.5, 0.25};
  for (size_t i = 0; i < 4; ++i) BOOST_TEST(log[i]["learning_rate"] == rates[i]);
}

BOOST_AUTO_TEST_CASE(validation_and_results_are_of_the_averaged_iterates) {
  const Scratch scratch;
  const Words problem = small_problem(scratch);
  write_npy(scratch / "vx.npy", random_tensor({5, 5}, 8));
  write_npy(scratch / "vy.npy", at::arange(5, at::kLong).remainder(3));
  const Words validation = {"--validation-inputs", scratch / "vx.npy",    "--validation-targets",
                            scratch / "vy.npy",    "--validate-every",    "4",
                            "--model-output",      scratch / "trained.pt"};
  for (const std::string iterates : {"last", "average", "schedule-free"}) {
    const Words words =
        training(scratch, kSgd) + outputs(scratch, iterates) + validation +
        Words{"--steps",           "8",     "--option", "iterates=" + iterates, "--option",
              "average_decay=0.5", "--json"};
    const Outcome outcome = run_tool(words);
    BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
    const Lines log = read_log(scratch / (iterates + ".jsonl"));
    for (size_t i = 0; i < log.size(); ++i) {
      BOOST_TEST(log[i].contains("validation_loss") == (i == 3 || i == 7));
    }
    // What was validated last is what was written.
    const Outcome info = run_tool({"info", "--json", "--model", scratch / "trained.pt", "--inputs",
                                   scratch / "vx.npy", "--targets", scratch / "vy.npy"});
    BOOST_TEST_REQUIRE(info.status == 0, info);
    const double loss = info.json()["loss"];
    BOOST_TEST(std::abs(log[7]["validation_loss"].get<double>() - loss) < 1e-14);
    BOOST_TEST(outcome.json()["validation_loss"] == log[7]["validation_loss"]);
    BOOST_TEST(outcome.json()["loss"] == log[7]["loss"]);
    BOOST_TEST(outcome.json()["state_bytes"] == (iterates == "last" ? 0 : 32 * 8));
    const Model trained = load_torchscript(scratch / "trained.pt");
    const Archive weights = read_safetensors(scratch / (iterates + ".safetensors"));
    for (const NamedTensor& parameter : trained.parameters()) {
      BOOST_TEST(parameter.tensor.equal(weights.tensors.at(parameter.name)));
    }
  }
  // An average lags behind, and evaluating it does not disturb the training.
  BOOST_TEST((timeless(read_log(scratch / "last.jsonl"))[6] ==
              timeless(read_log(scratch / "average.jsonl"))[6]));
  BOOST_TEST(!read_safetensors(scratch / "last.safetensors")
                  .tensors.at("output")
                  .equal(read_safetensors(scratch / "average.safetensors").tensors.at("output")));
}

BOOST_AUTO_TEST_CASE(what_a_method_reports_is_logged) {
  const Scratch scratch;
  const at::Tensor w = at::ones({1}, at::kDouble).requires_grad_();
  const cli::Problem problem = {
      .model = Model([w](const TensorList& inputs) { return inputs[0] * w; }, {{"w", w}}),
      .space = Space({{"w", {1}}}),
      .inputs = {at::ones({5, 1}, at::kDouble)},
      .targets = at::zeros({5, 1}, at::kDouble)};
  cli::ProblemOptions options;
  options.batch_size = 2;
  options.loss = "mse";
  const auto warnings = std::make_shared<std::vector<std::string>>();
  auto reporter =
      std::make_unique<Reporter>([&](const std::string& text) { warnings->push_back(text); });
  const Reporter& seen = *reporter;
  const cli::Checkpoint checkpoint({{"w", w}}, *reporter, {});
  cli::Training training{.risk = cli::make_risk(problem, options),
                         .optimizer = {.minimizer = std::move(reporter)},
                         .learning_rate = 2,
                         .schedule = {.name = "linear", .num_steps = 4},
                         .order = cli::BatchOrder(problem, options, false, RandomSource()),
                         .validation = {},
                         .checkpoint_folder = {},
                         .metadata = {},
                         .warnings = warnings};
  {
    cli::TrainingLog log(scratch / "a.jsonl", 0);
    const cli::TrainingResult result = cli::run_steps(training, {}, checkpoint, log, {});
    BOOST_TEST(*result.last->damping == 0.125);
  }
  const Lines lines = read_log(scratch / "a.jsonl");
  BOOST_TEST_REQUIRE(lines.size() == 4u);
  for (size_t i = 0; i < 4; ++i) {
    BOOST_TEST(lines[i]["damping"] == 0.5 / static_cast<double>(i + 1));
    BOOST_TEST(lines[i]["learning_rate"] == 2 * (1 - static_cast<double>(i) / 4));
    BOOST_TEST(lines[i].contains("accepted") == (i == 1));
    BOOST_TEST(lines[i].contains("warnings") == (i == 1));
  }
  BOOST_TEST(lines[1]["accepted"] == false);
  BOOST_TEST(lines[1]["warnings"][0] == "it was hard");
  // Random draws of each step are its own.
  BOOST_TEST(seen.first_examples == (std::vector<int64_t>{0, 2, 4, 6}));
}

BOOST_AUTO_TEST_CASE(options_of_layerwise_methods_reach_them) {
  const Scratch scratch;
  const Words train = training(scratch, {}) + Words{"--steps", "5"};
  const auto check = [&](const Words& choice, const auto& make) {
    check_done(train + outputs(scratch, "a") + choice);
    const Model model = load_torchscript(scratch / "model.pt");
    const at::Tensor x = read_npy(scratch / "inputs.npy"), y = read_npy(scratch / "targets.npy");
    const EmpiricalRisk risk(model, cross_entropy(), tensor_dataset({x}, y, 3),
                             {.weight_decay = 0.1});
    const std::unique_ptr<optim::Minimizer> minimizer = make(risk);
    for (int64_t step = 0; step < 5; ++step) {
      minimizer->step(risk.with_data(
          tensor_dataset({x.narrow(0, 3 * step, 3)}, y.narrow(0, 3 * step, 3), 3), 3 * step));
    }
    const Archive weights = read_safetensors(scratch / "a.safetensors");
    for (const NamedTensor& parameter : model.parameters()) {
      BOOST_TEST(close(weights.tensors.at(parameter.name), parameter.tensor.detach(), {0, 1e-12}));
    }
  };
  check({"--optimizer", "kfac", "--option", "damping_kind=kullback-leibler", "--option",
         "fisher=type-2", "--option", "weight_decay=0.1"},
        [](const EmpiricalRisk& risk) {
          return optim::natural_gradient(
              risk, {.damping_kind = KroneckerDamping::kKullbackLeibler, .fisher = Fisher::kType2});
        });
  // The tool draws for its optimizers from the second source of its seed.
  check(
      {"--optimizer", "ekfac", "--option", "step_size=quadratic-model", "--option",
       "statistics_fraction=0.6", "--option", "model_fraction=0.3", "--option", "weight_decay=0.1"},
      [](const EmpiricalRisk& risk) {
        return optim::natural_gradient(risk, {.curvature = optim::FisherApproximation::kEkfac,
                                              .step_size = optim::StepSize::kQuadraticModel,
                                              .statistics_fraction = 0.6,
                                              .model_fraction = 0.3,
                                              .random = RandomSource(0).derive(2)});
      });
  const auto assignments = [](const Words& values) {
    Words words = {"--optimizer", "singd"};
    for (const std::string& value : values) words = words + Words{"--option", value};
    return words;
  };
  check(assignments({"weight_decay=0.1", "learning_rate=0.2", "momentum=0.3", "damping=0.4",
                     "preconditioner_rate=0.5", "rate_bound=largest-entry", "alpha1=0.6",
                     "kfac_like=true", "refresh_interval=2", "input_structure=hierarchical",
                     "output_structure=upper-toeplitz", "dtype=float32", "fisher=type-2",
                     "separate_bias=true", "weight_sharing=reduce", "fallback=diagonal"}),
        [](const EmpiricalRisk& risk) {
          return optim::singd(risk,
                              {.learning_rate = 0.2,
                               .momentum = 0.3,
                               .damping = 0.4,
                               .preconditioner_rate = 0.5,
                               .rate_bound = optim::RateBound::kLargestEntry,
                               .alpha1 = 0.6,
                               .kfac_like = true,
                               .refresh_interval = 2,
                               .input_structure = {.kind = optim::FactorStructure::kHierarchical},
                               .output_structure = {.kind = optim::FactorStructure::kUpperToeplitz},
                               .dtype = at::kFloat,
                               .fisher = Fisher::kType2,
                               .weight_sharing = WeightSharing::kReduce,
                               .separate_bias = true,
                               .fallback = Fallback::kDiagonal});
        });
}

BOOST_AUTO_TEST_CASE(muon_multiplies_in_the_dtype_that_was_asked_for) {
  const Scratch scratch;
  const Words train = training(scratch, {"--steps", "4", "--optimizer", "muon"});
  check_done(train + outputs(scratch, "own"));
  for (const std::string dtype : {"float64", "bfloat16"}) {
    check_done(train + outputs(scratch, dtype) + Words{"--option", "products=" + dtype});
  }
  check_same(scratch, "own", "float64");
  const Archive own = read_safetensors(scratch / "own.safetensors");
  const Archive rounded = read_safetensors(scratch / "bfloat16.safetensors");
  for (const auto& [name, tensor] : own.tensors) {
    BOOST_TEST(!tensor.equal(rounded.tensors.at(name)), name);
    BOOST_TEST(close(rounded.tensors.at(name), tensor, {0.02}));
  }
}

BOOST_AUTO_TEST_CASE(solutions_in_the_space_of_the_data_are_those_of_the_parameters) {
  const Scratch scratch;
  const auto weights_of = [&](const std::string& name, const Words& choice) {
    check_done(training(scratch, {}) + outputs(scratch, name) +
               Words{"--steps", "4", "--optimizer"} + choice);
    return read_safetensors(scratch / (name + ".safetensors"));
  };
  const Words damped = {"levenberg-marquardt", "--option", "damping=0.1"};
  const Archive by_products = weights_of("cg", damped);  // to a relative residual of 1e-6
  const Archive by_data = weights_of("data", damped + Words{"--option", "solver=data-space"});
  for (const auto& [name, tensor] : by_products.tensors) {
    BOOST_TEST(close(by_data.tensors.at(name), tensor, {1e-4}));
  }
  const Words fixed = {"natural-gradient", "--option",   "damping=0.1",
                       "--option",         "momentum=0", "--option",
                       "learning_rate=1",  "--option",   "step_size=fixed"};
  const Archive exact = weights_of("exact", fixed);
  const Model model = load_torchscript(scratch / "model.pt");
  const at::Tensor x = read_npy(scratch / "inputs.npy"), y = read_npy(scratch / "targets.npy");
  const EmpiricalRisk risk(model, cross_entropy(), tensor_dataset({x}, y, 3));
  const auto minimizer =
      optim::natural_gradient(risk, {.curvature = optim::FisherApproximation::kFull,
                                     .learning_rate = 1,
                                     .momentum = 0,
                                     .step_size = optim::StepSize::kFixed,
                                     .damping = 0.1,
                                     .fisher = Fisher::kType2});
  for (int64_t step = 0; step < 4; ++step) {
    minimizer->step(risk.with_data(
        tensor_dataset({x.narrow(0, 3 * step, 3)}, y.narrow(0, 3 * step, 3), 3), 3 * step));
  }
  for (const NamedTensor& parameter : model.parameters()) {
    BOOST_TEST(close(exact.tensors.at(parameter.name), parameter.tensor.detach(), {0, 1e-12}));
  }
  for (const std::string fisher : {"mc", "empirical"}) {
    const Archive other = weights_of(fisher, fixed + Words{"--option", "fisher=" + fisher});
    BOOST_TEST(!at::allclose(other.tensors.begin()->second, exact.tensors.begin()->second));
  }
  const Outcome hessian =
      run_tool(training(scratch, {}) + Words{"--steps", "4", "--optimizer", "levenberg-marquardt",
                                             "--option", "solver=data-space", "--option",
                                             "curvature=hessian"});
  BOOST_TEST(hessian.is_error(2, "needs curvature=ggn"), hessian);
}

BOOST_AUTO_TEST_CASE(frozen_parameters_stay_and_are_written_too) {
  const Scratch scratch;
  check_done(training(scratch, kAdam) + outputs(scratch, "a") +
             Words{"--steps", "3", "--parameters", "out*"});
  const Archive weights = read_safetensors(scratch / "a.safetensors");
  const ModelSource source = small_network();
  BOOST_TEST(weights.tensors.at("hidden").equal(source.parameters[0].second.detach()));
  BOOST_TEST(!weights.tensors.at("output").equal(source.parameters[1].second.detach()));
}

BOOST_AUTO_TEST_CASE(a_run_that_is_killed_goes_on_bit_for_bit) {
  const Scratch scratch;
  const Words words = training(scratch, kAdam) +
                      Words{"--steps",    "1500",   "--batch-order", "shuffled",
                            "--schedule", "cosine", "--option",      "iterates=schedule-free"};
  check_done(words + outputs(scratch, "whole"));
  const Words killed = words + outputs(scratch, "killed") +
                       Words{"--checkpoint", scratch / "state", "--checkpoint-every", "40"};
  const auto log_size = [&] {
    std::error_code status;
    const auto size = std::filesystem::file_size(scratch / "killed.jsonl", status);
    return status ? 0 : size;
  };
  // Killed twice at some step, then left to end.
  for (const uintmax_t part : {4, 2}) {
    const uintmax_t enough = std::filesystem::file_size(scratch / "whole.jsonl") / part;
    const int nowhere = open("/dev/null", O_WRONLY);
    const pid_t process = start_tool(
        killed + (part == 4 ? Words{} : Words{"--resume", scratch / "state"}), nowhere, nowhere);
    close(nowhere);
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    while (log_size() < enough && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    kill(process, SIGKILL);
    int status = 0;
    waitpid(process, &status, 0);
    BOOST_TEST_REQUIRE((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
    BOOST_TEST(!std::filesystem::exists(scratch / "killed.safetensors"));
  }
  check_done(killed + Words{"--resume", scratch / "state"});
  check_same(scratch, "whole", "killed");
}

BOOST_AUTO_TEST_CASE(a_run_goes_on_in_the_middle_of_an_epoch_and_may_be_prolonged) {
  const Scratch scratch;
  const Words words = training(scratch, kAdam) + Words{"--batch-order", "shuffled"};
  check_done(words + outputs(scratch, "whole") + Words{"--steps", "19"});
  const Words checkpoint = {"--checkpoint", scratch / "state"};
  check_done(words + outputs(scratch, "parts") + checkpoint + Words{"--steps", "11"});
  // Lines after the checkpoint, also half of one, are cut off.
  std::ofstream(scratch / "parts.jsonl", std::ios::app) << "{\"step\": 12}\n{\"step\": 1";
  check_done(words + outputs(scratch, "parts") +
             Words{"--resume", scratch / "state", "--steps", "19"});
  check_same(scratch, "whole", "parts");
}

BOOST_AUTO_TEST_CASE(a_run_without_a_checkpoint_yet_begins_and_a_finished_one_ends) {
  const Scratch scratch;
  const Words words = training(scratch, kAdam) +
                      Words{"--steps", "5", "--resume", scratch / "state", "--checkpoint"};
  std::filesystem::create_directory(scratch / "state");
  check_done(words + Words{scratch / "state"} + outputs(scratch, "a"));
  check_done(words + Words{scratch / "state"} + outputs(scratch, "b"));
  BOOST_TEST(read_log(scratch / "a.jsonl").size() == 5u);
  BOOST_TEST(read_log(scratch / "b.jsonl").empty());  // nothing was left to do
  const at::Tensor a = read_safetensors(scratch / "a.safetensors").tensors.at("hidden");
  BOOST_TEST(a.equal(read_safetensors(scratch / "b.safetensors").tensors.at("hidden")));
}

BOOST_AUTO_TEST_CASE(only_the_same_run_can_be_resumed) {
  const Scratch scratch;
  const Words words = training(scratch, kAdam);
  const Words resume = {"--resume", scratch / "state"};
  const Words steps = {"--steps", "6"};
  check_done(words + steps + outputs(scratch, "a") + Words{"--checkpoint", scratch / "state"});
  const auto refused = [&](int status, const Words& options, const std::string& text) {
    const Outcome outcome = run_tool(words + steps + resume + options + Words{"--json"});
    BOOST_TEST(outcome.is_error(status, text), outcome);
  };
  refused(2, {"--batch-size", "4"}, "--batch-size is not as in the run");
  refused(2, {"--option", "beta1=0.5"},
          "--option beta1 is not as in the run that is resumed; "
          "expected 0.9, got 0.5");
  refused(2, {"--optimizer", "sgd"}, "--optimizer is not");
  refused(2, {"--seed", "3"}, "--seed is not");
  refused(2, {"--batch-order", "shuffled"}, "--batch-order is not");
  refused(2, {"--schedule", "linear"}, "--schedule is not");
  refused(2, {"--steps", "5"}, "expected at least 6 steps, got 5");
  refused(1, {"--parameters", "hidden"}, "expected 1 parameters, got 2");
  refused(1, {"--resume", scratch / "nowhere"}, "expected the folder");
  std::ofstream(scratch / "b.jsonl") << "{\"step\": 1}\n{\"step\": 3}\n";
  refused(1, {"--log", scratch / "b.jsonl"}, "not the log of the run");
  std::filesystem::create_directory(scratch / "empty");
  refused(1, {"--resume", scratch / "empty", "--log", scratch / "b.jsonl"}, "no checkpoint");
  std::filesystem::resize_file(scratch / "state/checkpoint.safetensors", 100);
  refused(1, {}, "checkpoint.safetensors");
  BOOST_TEST(read_log(scratch / "a.jsonl").size() == 6u);
  BOOST_TEST(read_log(scratch / "b.jsonl").size() == 2u);
}

BOOST_AUTO_TEST_CASE(numbers_that_are_not_finite_name_their_step) {
  const Scratch scratch;
  // Loss w^4, w <- w - 4 w^3: 1, -3, 105, -5e6, 4e20, -2e62; the next gradient has no square.
  const ModelSource source = {.parameters = {{"w", at::ones({1}, at::kDouble).requires_grad_()}},
                              .forward = "forward(self, x):\n    return x * self.w * self.w\n"};
  const Words words =
      Words{"train",
            "--loss",
            "mse",
            "--optimizer",
            "sgd",
            "--option",
            "learning_rate=1",
            "--json",
            "--log",
            scratch / "a.jsonl",
            "--checkpoint",
            scratch / "state",
            "--checkpoint-every",
            "1"} +
      write_problem(scratch, source, at::ones({4, 1}, at::kDouble), at::zeros({4, 1}, at::kDouble));
  const Outcome failed =
      run_tool(words + Words{"--steps", "9", "--output", scratch / "a.safetensors"});
  BOOST_TEST(failed.is_error(1, "train: step 6"), failed);
  BOOST_TEST(!std::filesystem::exists(scratch / "a.safetensors"));
  const Lines log = read_log(scratch / "a.jsonl");
  BOOST_TEST_REQUIRE(log.size() == 5u);
  BOOST_TEST(log[2]["loss"] == std::pow(105.0, 4));
  const Outcome kept = run_tool(words + Words{"--steps", "5", "--resume", scratch / "state"});
  BOOST_TEST(kept.status == 0, kept);
  BOOST_TEST(read_log(scratch / "a.jsonl").size() == 5u);
}

BOOST_AUTO_TEST_CASE(options_that_do_not_go_together) {
  const Scratch scratch;
  const auto refused = [&](const Words& options, const std::string& text) {
    const Outcome outcome = run_tool(training(scratch, kAdam) + options);
    BOOST_TEST(outcome.is_error(2, text), outcome);
  };
  refused({}, "--steps and --epochs, got none");
  refused({"--steps", "3", "--epochs", "1"}, "got both");
  refused({"--steps", "0"}, "--steps");
  refused({"--steps", "3", "--warmup", "4"}, "at most 3 steps, got 4");
  refused({"--steps", "3", "--validate-every", "2"}, "--validation-inputs");
  refused({"--steps", "3", "--validation-inputs", "x.npy"}, "--validation-targets");
  refused({"--steps", "3", "--checkpoint-every", "2"}, "--checkpoint");
  refused({"--steps", "3", "--option", "momentum=0.5"}, "expected learning_rate");
  refused({"--steps", "3", "--optimizer", "magic"}, "expected sgd");
  refused({"--steps", "3", "--schedule", "steep"}, "constant, cosine or linear");
  refused({"--steps", "3", "--batch-order", "any"}, "sequential or shuffled");
  refused({"--steps", "3", "--log", scratch / "log.txt"}, ".jsonl");
  refused({"--steps", "3", "--output", scratch / "w.npy"}, ".safetensors or .npz");
  BOOST_TEST(run_tool(training(scratch, kAdam) +
                      Words{"--steps", "3", "--checkpoint", scratch / "no/folder"})
                 .is_error(1, "--checkpoint"));
}

BOOST_AUTO_TEST_CASE(a_dry_run_says_sizes_and_trains_nothing) {
  const Scratch scratch;
  const Words words = training(scratch, kAdam) + outputs(scratch, "a") +
                      Words{"--epochs", "2", "--dry-run", "--checkpoint", scratch / "state"};
  const Outcome outcome = run_tool(words + Words{"--json"});
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  const nlohmann::json json = outcome.json();
  BOOST_TEST(json["steps"] == 14);
  BOOST_TEST(json["num_batches"] == 7);
  BOOST_TEST(json["state_bytes"] == 2 * 32 * 8);
  BOOST_TEST(json["memory_bytes"] == 3 * 32 * 8);
  BOOST_TEST(run_tool(words).output.find("14 steps of adamw on 32 parameters, 7 an epoch") !=
             std::string::npos);
  BOOST_TEST(std::distance(std::filesystem::directory_iterator(scratch.folder()), {}) == 3);
}

BOOST_AUTO_TEST_SUITE_END()
