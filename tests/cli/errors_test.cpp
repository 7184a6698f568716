// One line for each thing that can be wrong with a model, and none for what is not wrong.
#include <curvature/io/npy.hpp>

#include "cli/fixture.hpp"

BOOST_AUTO_TEST_SUITE(errors_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

const std::string kData = CURVATURE_TEST_DATA;

Words with_model(const Words& problem, const std::string& model) {
  return Words{"gradient"} + problem + Words{"--model", model};
}

}  // namespace

BOOST_AUTO_TEST_CASE(files_that_are_no_model_show_how_to_export) {
  const Scratch scratch;
  const Words words = small_problem(scratch) + Words{"--output", scratch / "g.npy"};
  for (const std::string file : {"state_dict.pt", "pickled_module.pt"}) {
    const Outcome outcome = run_tool(with_model(words, kData + "/" + file));
    BOOST_TEST(outcome.is_error(1, "torch.jit.script"), file << ": " << outcome);
  }
  ModelSource source = small_network();
  source.frozen = true;
  save_model(scratch / "frozen.pt", source);
  const Outcome frozen = run_tool(with_model(words, scratch / "frozen.pt"));
  BOOST_TEST(frozen.is_error(1, "torch.jit.freeze"), frozen);
  BOOST_TEST(!std::filesystem::exists(scratch / "g.npy"));
}

BOOST_AUTO_TEST_CASE(random_or_batch_dependent_models_are_refused) {
  const Scratch scratch;
  const Words words = small_problem(scratch);
  ModelSource dropout = small_network();
  dropout.forward = R"(forward(self, x):
    hidden = torch.dropout(torch.tanh(torch.matmul(x, self.hidden.t())), 0.5, True)
    return torch.matmul(hidden, self.output.t())
)";
  save_model(scratch / "dropout.pt", dropout);
  const Words train = {"train",    "--optimizer", "adamw",
                       "--epochs", "1",           "--batch-size",
                       "5",        "--output",    scratch / "trained.safetensors"};
  for (const Words& command : {Words{"info"}, train}) {
    const Outcome random = run_tool(command + words + Words{"--model", scratch / "dropout.pt"});
    BOOST_TEST(random.is_error(1, "eval"), random);
  }

  ModelSource batch_norm = small_network();
  batch_norm.buffers = {{"mean", at::zeros({4}, at::kDouble)},
                        {"variance", at::ones({4}, at::kDouble)}};
  batch_norm.forward = R"(forward(self, x):
    hidden = torch.matmul(x, self.hidden.t())
    hidden = torch.batch_norm(hidden, None, None, self.mean, self.variance, True, 0.1, 1e-5, False)
    return torch.matmul(hidden, self.output.t())
)";
  save_model(scratch / "norm.pt", batch_norm);
  for (const Words& command : {Words{"info"}, train}) {
    const Outcome mixed = run_tool(command + words + Words{"--model", scratch / "norm.pt"});
    BOOST_TEST(mixed.is_error(1, "eval"), mixed);
  }
  BOOST_TEST(!std::filesystem::exists(scratch / "trained.safetensors"));
}

BOOST_AUTO_TEST_CASE(models_that_warn_or_print_do_not_disturb) {
  const Scratch scratch;
  ModelSource source = small_network();
  source.forward = R"(forward(self, x):
    print("from the model")
    torch.warn("careful", 2)
    return torch.matmul(torch.tanh(torch.matmul(x, self.hidden.t())), self.output.t())
)";
  const Words words =
      write_problem(scratch, source, random_tensor({20, 5}, 3), at::zeros({20}, at::kLong));
  const Outcome outcome = run_tool(Words{"info", "--json"} + words);
  BOOST_TEST(outcome.status == 0, outcome);
  BOOST_TEST(outcome.error.empty(), outcome);
  BOOST_TEST(outcome.json().is_object(), outcome);
}

BOOST_AUTO_TEST_CASE(a_failing_model_gives_one_line) {
  const Scratch scratch;
  ModelSource source = small_network();
  source.forward = R"(forward(self, x):
    return torch.matmul(x, self.output)
)";
  const Words words =
      write_problem(scratch, source, random_tensor({20, 5}, 3), at::zeros({20}, at::kLong));
  const Outcome outcome = run_tool(Words{"info"} + words);
  BOOST_TEST(outcome.is_error(1, "failed on inputs"), outcome);
}

BOOST_AUTO_TEST_CASE(options_that_contradict_each_other) {
  const Scratch scratch;
  const Words words = small_problem(scratch);
  const auto spectrum = [&](const Words& options) {
    return run_tool(Words{"spectrum"} + words + options);
  };
  const auto refused = [&](const Words& options, const std::string& text) {
    const Outcome outcome = spectrum(options);
    BOOST_TEST(outcome.is_error(2, text), outcome);
  };
  refused({"--operator", "ggn", "--mc-samples", "3"}, "--mc-samples");
  refused({"--operator", "ggn-diagonal", "--block-diagonal", "layer"}, "--block-diagonal");
  refused({"--operator", "soap"}, "--operator");
  refused({"--operator", "shampoo", "--fisher", "empirical"}, "--fisher");
  refused({"--operator", "shampoo", "--fallback", "block"}, "--fallback");
  refused({"--operator", "shampoo", "--mc-samples", "2"}, "--mc-samples");
  refused({"--operator", "kl-shampoo", "--weight-sharing", "reduce"}, "--weight-sharing");
  refused({"--operator", "shampoo", "--fit-damping", "1"}, "--fit-damping");
  refused({"--operator", "kl-shampoo", "--fit-damping", "-1"}, "--fit-damping");
  refused({"--operator", "kl-shampoo", "--separate-bias"}, "--separate-bias");
  refused({"--operator", "kl-shampoo", "--block-diagonal", "parameter"}, "--block-diagonal");
  refused({"--operator", "ggn", "--fisher", "mc"}, "--fisher");
  refused({"--operator", "ggn", "--separate-bias"}, "--separate-bias");
  refused({"--operator", "hessian", "--fallback", "block"}, "--fallback");
  refused({"--operator", "kfac", "--mc-samples", "2"}, "--mc-samples");
  refused({"--operator", "kfac", "--block-diagonal", "layer"}, "--block-diagonal");
  refused({"--operator", "ekfac", "--fisher", "forward-only"}, "--fisher");
  refused({"--operator", "kfac", "--weight-sharing", "always"}, "expand or reduce");
  refused({"--operator", "ggn", "--top", "33"}, "--top");
  refused({"--operator", "ggn", "--top", "0"}, "nothing to compute");
  refused({"--operator", "ggn", "--top", "many"}, "--top");
  refused({"--operator", "ggn", "--density-steps", "10"}, "--density");
  refused({"--operator", "ggn", "--plot", scratch / "plot.pdf"}, ".svg or .png");
  refused({"--operator", "ggn", "--vectors-output", scratch / "u.txt"}, ".npy or .safetensors");
  refused({"--operator", "ggn", "--output", scratch / "missing/report.json"}, "existing folder");
  refused({"--operator", "ggn", "--memory-budget", "4X"}, "--memory-budget");
  refused({"--operator", "ggn", "--device", "abacus"}, "--device");
  BOOST_TEST(std::distance(std::filesystem::directory_iterator(scratch.folder()), {}) == 3);
}

BOOST_AUTO_TEST_CASE(wrong_commands_name_the_right_ones) {
  BOOST_TEST(run_tool({"spektrum"}).is_error(2, "spectrum"));
  BOOST_TEST(run_tool({}).is_error(2, "no such command"));
  BOOST_TEST(run_tool({"info", "--inputs", "x.npy"}).is_error(2, "--model"));
  BOOST_TEST(run_tool({"completion", "fish"}).is_error(2, "bash or zsh"));
}

BOOST_AUTO_TEST_CASE(numbers_are_taken_as_a_whole) {
  const Scratch scratch;
  const Words words = Words{"info"} + small_problem(scratch);
  for (const Words& wrong :
       {Words{"--batch-size", "0x10"}, Words{"--batch-size", "1e2"}, Words{"--batch-size", ""},
        Words{"--seed", "-1"}, Words{"--seed", "18446744073709551616"}, Words{"--threads", "0"},
        Words{"--memory-budget", "-1"}, Words{"--memory-budget", "99999999T"}}) {
    const Outcome outcome = run_tool(words + wrong);
    BOOST_TEST(outcome.is_error(2, wrong.front()), outcome);
  }
  // Not octal, and the largest seed.
  const Words right = {"--batch-size",         "010",       "--seed",
                       "18446744073709551615", "--dry-run", "--json"};
  const Outcome outcome = run_tool(words + right);
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(outcome.json()["num_batches"] == 2);
  BOOST_TEST(outcome.json()["seed"] == 18446744073709551615u);
}

BOOST_AUTO_TEST_SUITE_END()
