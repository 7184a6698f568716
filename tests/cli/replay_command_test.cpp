// Optimizers on recorded gradients, against their formulas.
#include <cmath>
#include <limits>

#include <curvature/io/npz.hpp>
#include <curvature/io/safetensors.hpp>

#include "cli/fixture.hpp"
#include "cli/optimizer_choice.hpp"
#include "cli/optimizers/shell.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(replay_command_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

using Arrays = std::vector<std::pair<std::string, at::Tensor>>;
constexpr int64_t kSteps = 6;

at::Tensor gradients_of(const at::Tensor& parameter, uint64_t seed) {
  std::vector<int64_t> shape = parameter.sizes().vec();
  shape.insert(shape.begin(), kSteps);
  return random_tensor(shape, seed).to(parameter.scalar_type());
}

/// A matrix, a vector and a scalar.
Arrays some_parameters() {
  return {{"w", random_tensor({3, 4}, 1)},
          {"b.bias", random_tensor({5}, 2)},
          {"scale", random_tensor({}, 3)}};
}

Arrays some_gradients(const Arrays& parameters) {
  Arrays gradients;
  for (const auto& [name, tensor] : parameters) {
    gradients.emplace_back(name, gradients_of(tensor, 10 + gradients.size()));
  }
  return gradients;
}

/// Writes the recording; returns the words of a replay of it to `t.npz`.
Words recording(const Scratch& scratch, const Arrays& parameters, const Arrays& gradients) {
  write_npz(scratch / "p.npz", parameters);
  write_npz(scratch / "g.npz", gradients);
  return {"replay",          "--parameters", scratch / "p.npz", "--gradients",
          scratch / "g.npz", "--output",     scratch / "t.npz"};
}

Words small_recording(const Scratch& scratch) {
  const Arrays parameters = some_parameters();
  return recording(scratch, parameters, some_gradients(parameters));
}

Words with_options(const std::string& optimizer, const Words& assignments) {
  Words words = {"--optimizer", optimizer};
  for (const std::string& assignment : assignments) words = words + Words{"--option", assignment};
  return words;
}

/// theta after each step, where `step` moves it along a gradient.
template <class Step>
at::Tensor trajectory(const at::Tensor& start, const at::Tensor& gradients, const Step& step) {
  at::Tensor theta = start.clone();
  std::vector<at::Tensor> values;
  for (int64_t t = 1; t <= gradients.size(0); ++t) {
    theta = step(theta, gradients[t - 1], static_cast<double>(t));
    values.push_back(theta);
  }
  return at::stack(values);
}

/// Replays and compares each parameter with `expected(start, gradients)`.
template <class Expected>
void check_replay(const Words& choice, const Expected& expected) {
  const Scratch scratch;
  const Arrays parameters = some_parameters(), gradients = some_gradients(parameters);
  const Outcome outcome = run_tool(recording(scratch, parameters, gradients) + choice);
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(outcome.error.empty(), outcome);
  BOOST_TEST(list_npz(scratch / "t.npz") == (Words{"w", "b.bias", "scale"}));
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto& [name, start] = parameters[i];
    BOOST_TEST(
        close(read_npz(scratch / "t.npz", name), expected(start, gradients[i].second), {0, 1e-12}),
        name);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(adamw_follows_its_formula) {
  const double rate = 0.02, beta1 = 0.8, beta2 = 0.9, epsilon = 1e-3, decay = 0.3;
  for (const bool corrects : {true, false}) {
    check_replay(
        with_options("adamw", {"learning_rate=2e-2", "beta1=0.8", "beta2=0.9", "epsilon=0.001",
                               "weight_decay=0.3",
                               corrects ? "bias_correction=true" : "bias_correction=false"}),
        [&](const at::Tensor& start, const at::Tensor& gradients) {
          at::Tensor m = at::zeros_like(start), v = at::zeros_like(start);
          return trajectory(start, gradients, [&](const auto& theta, const auto& g, double t) {
            m = beta1 * m + (1 - beta1) * g;
            v = beta2 * v + (1 - beta2) * g * g;
            const at::Tensor m_hat = corrects ? m / (1 - std::pow(beta1, t)) : m;
            const at::Tensor u = m_hat / ((v / (1 - std::pow(beta2, t))).sqrt() + epsilon);
            return (1 - rate * decay) * theta - rate * u;
          });
        });
  }
}

BOOST_AUTO_TEST_CASE(sgd_is_a_heavy_ball) {
  const double rate = 0.1, momentum = 0.7, decay = 0.2;
  for (const bool nesterov : {false, true}) {
    check_replay(with_options("sgd", {"learning_rate=0.1", "momentum=0.7", "weight_decay=0.2",
                                      nesterov ? "nesterov=true" : "nesterov=false"}),
                 [&](const at::Tensor& start, const at::Tensor& gradients) {
                   at::Tensor m = at::zeros_like(start);
                   return trajectory(start, gradients,
                                     [&](const auto& theta, const auto& g, double) {
                                       m = momentum * m + g;
                                       const at::Tensor u = nesterov ? g + momentum * m : m;
                                       return (1 - rate * decay) * theta - rate * u;
                                     });
                 });
  }
}

BOOST_AUTO_TEST_CASE(decay_acts_where_it_is_told_to) {
  const double rate = 0.1, decay = 0.2;
  const auto check = [&](const std::string& where, const auto& step) {
    check_replay(with_options("sgd", {"learning_rate=0.1", "weight_decay=0.2", "decay=" + where}),
                 [&](const at::Tensor& start, const at::Tensor& gradients) {
                   return trajectory(
                       start, gradients,
                       [&](const auto& theta, const auto& g, double) { return step(theta, g); });
                 });
  };
  using T = at::Tensor;
  check("before", [&](const T& x, const T& g) { return (1 - rate * decay) * x - rate * g; });
  check("after", [&](const T& x, const T& g) { return (1 - rate * decay) * (x - rate * g); });
  check("independent", [&](const T& x, const T& g) { return (1 - decay) * x - rate * g; });
  check("gradient", [&](const T& x, const T& g) { return x - rate * (g + decay * x); });
  check("direction", [&](const T& x, const T& g) { return x - rate * (g + decay * x); });
}

BOOST_AUTO_TEST_CASE(directions_are_clipped) {
  const auto check = [&](const std::string& option, const auto& clipped) {
    check_replay(with_options("sgd", {"learning_rate=1", option}),
                 [&](const at::Tensor& start, const at::Tensor& gradients) {
                   return trajectory(start, gradients,
                                     [&](const auto& theta, const auto& g, double) {
                                       return theta - clipped(g);
                                     });
                 });
  };
  const auto norm = [](const at::Tensor& g) { return g.norm().item<double>(); };
  check("clip_norm=0.5", [&](const at::Tensor& g) { return g * std::min(1.0, 0.5 / norm(g)); });
  check("clip_max=0.25", [&](const at::Tensor& g) { return g.clamp(-0.25, 0.25); });
  check("clip_rms=0.1", [&](const at::Tensor& g) {
    const double rms = norm(g) / std::sqrt(static_cast<double>(g.numel()));
    return g * std::min(1.0, 0.1 / rms);
  });
}

BOOST_AUTO_TEST_CASE(gradients_are_clipped_together) {
  const Scratch scratch;
  const Arrays parameters = {{"a", at::zeros({1}, at::kDouble)},
                             {"b", at::zeros({1}, at::kDouble)}};
  const Arrays gradients = {{"a", at::full({1, 1}, 3, at::kDouble)},
                            {"b", at::full({1, 1}, 4, at::kDouble)}};
  const Outcome outcome =
      run_tool(recording(scratch, parameters, gradients) +
               with_options("sgd", {"learning_rate=1", "clip_gradient_norm=1"}));
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(std::abs(read_npz(scratch / "t.npz", "a").item<double>() + 0.6) < 1e-15);
  BOOST_TEST(std::abs(read_npz(scratch / "t.npz", "b").item<double>() + 0.8) < 1e-15);
}

BOOST_AUTO_TEST_CASE(dtypes_stay_and_a_parameter_without_gradients_stays) {
  const Scratch scratch;
  const Arrays parameters = {{"wide", random_tensor({2, 3}, 1)},
                             {"narrow", random_tensor({4}, 2).to(at::kFloat)},
                             {"still", random_tensor({2}, 3)}};
  Arrays gradients = some_gradients(parameters);
  gradients.pop_back();
  const Words words = recording(scratch, parameters, gradients) + with_options("adamw", {});
  const Outcome outcome = run_tool(words + Words{"--json"});
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(outcome.json()["steps"] == kSteps);
  BOOST_TEST(outcome.json()["num_parameters"] == 12);
  BOOST_TEST(outcome.json()["options"]["learning_rate"] == "0.001");
  BOOST_TEST(outcome.json()["state_bytes"] == 2 * (6 * 8 + 4 * 4 + 2 * 8));
  BOOST_TEST(read_npz(scratch / "t.npz", "wide").scalar_type() == at::kDouble);
  BOOST_TEST(read_npz(scratch / "t.npz", "narrow").scalar_type() == at::kFloat);
  const at::Tensor still = read_npz(scratch / "t.npz", "still");
  BOOST_TEST(still.equal(parameters[2].second.expand({kSteps, 2})));

  // The same from and to safetensors.
  Archive p, g;
  for (const auto& [name, tensor] : parameters) p.tensors[name] = tensor;
  for (const auto& [name, tensor] : gradients) g.tensors[name] = tensor;
  write_safetensors(scratch / "p.safetensors", p);
  write_safetensors(scratch / "g.safetensors", g);
  const Outcome other =
      run_tool(words + Words{"--parameters", scratch / "p.safetensors", "--gradients",
                             scratch / "g.safetensors", "--output", scratch / "t.safetensors"});
  BOOST_TEST_REQUIRE(other.status == 0, other);
  const Archive t = read_safetensors(scratch / "t.safetensors");
  BOOST_TEST(t.metadata.at("command_line").find("replay") != std::string::npos);
  for (const auto& [name, tensor] : parameters) {
    BOOST_TEST(t.tensors.at(name).equal(read_npz(scratch / "t.npz", name)), name);
  }
}

BOOST_AUTO_TEST_CASE(recordings_that_do_not_fit_are_refused) {
  const Scratch scratch;
  const Arrays parameters = some_parameters(), gradients = some_gradients(parameters);
  const auto refused = [&](const Arrays& p, const Arrays& g, const std::string& text) {
    const Outcome outcome = run_tool(recording(scratch, p, g) + with_options("adamw", {}));
    BOOST_TEST(outcome.is_error(1, text), outcome);
    BOOST_TEST(!std::filesystem::exists(scratch / "t.npz"));
  };
  Arrays wrong = gradients;
  wrong[0].first = "v";
  refused(parameters, wrong, "expected a name in");
  wrong = gradients;
  wrong[0].second = wrong[0].second.transpose(1, 2);
  refused(parameters, wrong, "expected the step axis, then [3, 4], got [6, 4, 3]");
  wrong = gradients;
  wrong[1].second = wrong[1].second.narrow(0, 0, 5);
  refused(parameters, wrong, "expected 6 as for 'w', got 5");
  wrong = gradients;
  wrong[1].second = wrong[1].second.to(at::kFloat);
  refused(parameters, wrong, "expected Double, got Float");
  wrong = gradients;
  wrong[0].second = wrong[0].second.clone();
  wrong[0].second[3][1][2] = std::numeric_limits<double>::quiet_NaN();
  refused(parameters, wrong, "step 4");
  refused(parameters, wrong, "'w' contains NaN");
  wrong = parameters;
  wrong[1].second = wrong[1].second * std::numeric_limits<double>::infinity();
  refused(wrong, gradients, "'b.bias' is not finite");
  wrong = parameters;
  wrong[1].second = at::arange(5, at::kLong);
  refused(wrong, gradients, "expected float32 or float64");
  for (auto& [name, tensor] : wrong = gradients) tensor = tensor.narrow(0, 0, 0);
  refused(parameters, wrong, "at least one step");
}

BOOST_AUTO_TEST_CASE(unknown_words_list_the_known_ones) {
  const Scratch scratch;
  const Words words = small_recording(scratch);
  const auto refused = [&](const Words& choice, const std::string& text) {
    const Outcome outcome = run_tool(words + choice);
    BOOST_TEST(outcome.is_error(2, text), outcome);
  };
  refused({"--optimizer", "adam"}, "expected sgd");
  refused({}, "--optimizer");
  refused(with_options("sgd", {"beta1=0.9"}), "momentum or nesterov, got 'beta1'");
  refused(with_options("sgd", {"momentum"}), "expected NAME=VALUE");
  refused(with_options("sgd", {"momentum=much"}), "expected a finite number, got 'much'");
  refused(with_options("sgd", {"momentum=inf"}), "expected a finite number");
  refused(with_options("sgd", {"nesterov=yes"}), "expected true or false, got 'yes'");
  refused(with_options("sgd", {"decay=never"}), "expected before, after, independent");
  refused(with_options("sgd", {"momentum=1.5"}), "beta in [0, 1)");
  refused(with_options("adamw", {}) + Words{"--output", scratch / "t.npy"}, ".safetensors or .npz");
  BOOST_TEST(!std::filesystem::exists(scratch / "t.npz"));
}

BOOST_AUTO_TEST_CASE(a_dry_run_says_sizes_and_writes_nothing) {
  const Scratch scratch;
  const Words words = small_recording(scratch) + with_options("adamw", {}) + Words{"--dry-run"};
  const Outcome json = run_tool(words + Words{"--json"});
  BOOST_TEST_REQUIRE(json.status == 0, json);
  BOOST_TEST(json.json()["state_bytes"] == 2 * 18 * 8);
  BOOST_TEST(json.json()["memory_bytes"] == 2 * 18 * 8 + kSteps * 18 * 8);
  BOOST_TEST(run_tool(words).output.find("6 steps of adamw on 18 parameters") != std::string::npos);
  BOOST_TEST(!std::filesystem::exists(scratch / "t.npz"));
}

BOOST_AUTO_TEST_CASE(optimizers_and_their_options_are_listed) {
  const Outcome all = run_tool({"optimizers"});
  BOOST_TEST(all.output.find("adamw") != std::string::npos, all);
  const Outcome one = run_tool({"optimizers", "sgd"});
  BOOST_TEST(one.output.find("nesterov=true|false") != std::string::npos, one);
  const nlohmann::json json = run_tool({"optimizers", "--json"}).json();
  BOOST_TEST(json["optimizers"].size() == cli::optimizer_entries().size());
  BOOST_TEST(json["optimizers"][0]["name"] == "sgd");
  BOOST_TEST(run_tool({"optimizers", "adam"}).is_error(2, "expected sgd"));
}

BOOST_AUTO_TEST_CASE(every_entry_is_sound_and_can_be_made) {
  for (const cli::OptimizerEntry& entry : cli::optimizer_entries()) {
    const cli::OptionValues values(entry.name, entry.options, {});
    BOOST_TEST((entry.from_gradients != nullptr) != (entry.from_risk != nullptr), entry.name);
    BOOST_TEST(values.has("learning_rate"), entry.name);
    if (!entry.from_gradients) continue;
    const at::Tensor w = random_tensor({3, 4}, 1).requires_grad_();
    const auto optimizer = entry.from_gradients({{"w", w}}, values, {});
    BOOST_TEST(optimizer->learning_rate() == values.number("learning_rate"), entry.name);
  }
}

BOOST_AUTO_TEST_CASE(words_of_the_shell_mean_the_librarys_options) {
  const cli::OptimizerOptions options =
      cli::joined({cli::step_options(0.5),
                   cli::moment_options({.beta1 = 0.25}),
                   cli::matrix_options(),
                   {cli::integer_option("start", 1, "first refresh")},
                   {cli::number_or_word("exponent", "auto", "power")}});
  const auto read = [&](const Words& assignments) {
    const cli::OptionValues values("test", options, assignments);
    return cli::preconditioned_options(values, {});
  };
  const optim::PreconditionedOptions defaults = read({});
  BOOST_TEST(defaults.learning_rate == 0.5);
  BOOST_TEST(defaults.momentum.beta == 0.25);
  BOOST_TEST((defaults.view.shape == optim::ShapePolicy::kMatrix));
  BOOST_TEST((defaults.graft.kind == optim::Graft::kNone));
  const optim::PreconditionedOptions given =
      read({"shape_policy=spatial", "vector_policy=full", "block_size=7", "max_dense=9",
            "grafting=adam", "graft_epsilon=0.5", "start=3", "beta2=0.125", "grafting=rmsprop"});
  BOOST_TEST((given.view.shape == optim::ShapePolicy::kSpatial));
  BOOST_TEST((given.view.vectors == optim::VectorPolicy::kFull));
  BOOST_TEST(given.view.block_size == 7);
  BOOST_TEST(given.view.max_dense == 9);
  BOOST_TEST((given.graft.kind == optim::Graft::kRmsProp));  // the last one counts
  BOOST_TEST(given.graft.epsilon == 0.5);
  BOOST_TEST(given.graft.start == 3);
  BOOST_TEST(given.graft.beta2 == 0.125);
  BOOST_TEST(!cli::OptionValues("test", options, {}).number_unless_word("exponent").has_value());
  BOOST_TEST(*cli::OptionValues("test", options, {"exponent=0.5"}).number_unless_word("exponent") ==
             0.5);
}

BOOST_AUTO_TEST_SUITE_END()
