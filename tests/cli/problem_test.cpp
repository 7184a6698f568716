// What the problem options mean, seen from outside.
#include <curvature/core/space.hpp>
#include <curvature/io/npy.hpp>

#include "cli/fixture.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(problem_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

const at::Tensor kLabels = at::arange(20, at::kLong).remainder(3);

at::Tensor leaf(at::IntArrayRef shape, uint64_t seed) {
  return random_tensor(shape, seed).requires_grad_();
}

/// Runs a command that writes an array, and reads it.
at::Tensor array_of(const Scratch& scratch, const Words& words) {
  const std::string file = scratch / "result.npy";
  std::filesystem::remove(file);
  const Outcome outcome = run_tool(words + Words{"--output", file});
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(outcome.error.empty(), outcome);
  return read_npy(file);
}

/// The parameters' gradients, flattened and joined.
at::Tensor flat_gradient(const at::Tensor& loss, const TensorList& parameters) {
  TensorList parts;
  for (const at::Tensor& part : torch::autograd::grad({loss}, parameters)) {
    parts.push_back(part.reshape({-1}));
  }
  return at::cat(parts);
}

}  // namespace

BOOST_AUTO_TEST_CASE(several_inputs_come_in_their_order) {
  const Scratch scratch;
  const at::Tensor table = leaf({7, 3}, 1),
                   tokens = at::arange(60, at::kLong).remainder(7).reshape({20, 3});
  const at::Tensor mask = at::arange(60, at::kDouble).remainder(2).reshape({20, 3});
  const Words words = write_problem(
      scratch, {.parameters = {{"table", table}}, .forward = R"(forward(self, tokens, mask):
    return (torch.embedding(self.table, tokens) * mask.unsqueeze(2)).sum(1)
)"},
      tokens, kLabels);
  write_npy(scratch / "mask.npy", mask);
  const at::Tensor actual =
      array_of(scratch, Words{"gradient"} + words + Words{"--inputs", scratch / "mask.npy"});
  const at::Tensor output = (at::embedding(table, tokens) * mask.unsqueeze(2)).sum(1);
  BOOST_TEST(
      close(actual, flat_gradient(at::cross_entropy_loss(output, kLabels), {table}), {1e-12, 0}));
}

BOOST_AUTO_TEST_CASE(tied_weights_count_once_under_their_first_name) {
  const Scratch scratch;
  const at::Tensor w = leaf({3, 3}, 1), x = random_tensor({20, 3}, 2);
  const Words words = write_problem(
      scratch, {.parameters = {{"first", w}, {"second", w}}, .forward = R"(forward(self, x):
    return torch.matmul(torch.tanh(torch.matmul(x, self.first)), self.second)
)"},
      x, kLabels);
  const nlohmann::json info = run_tool(Words{"info", "--json"} + words).json();
  BOOST_TEST(info["num_parameters"] == 9);
  BOOST_TEST(info["parameters"].size() == 1u);
  BOOST_TEST(info["parameters"][0]["name"] == "first");
  const at::Tensor loss =
      at::cross_entropy_loss(at::matmul(at::tanh(at::matmul(x, w)), w), kLabels);
  BOOST_TEST(
      close(array_of(scratch, Words{"gradient"} + words), flat_gradient(loss, {w}), {1e-12, 0}));
}

BOOST_AUTO_TEST_CASE(unused_and_frozen_parameters_are_named) {
  const Scratch scratch;
  ModelSource source = small_network();
  source.parameters.push_back({"spare", leaf({2}, 5)});
  source.parameters.push_back({"fixed", random_tensor({2}, 6)});
  const Words words = write_problem(scratch, source, random_tensor({20, 5}, 3), kLabels);
  const nlohmann::json info = run_tool(Words{"info", "--json"} + words).json();
  BOOST_TEST(info["num_parameters"] == 34);
  BOOST_TEST(info["parameters"][1]["treatment"] == "matmul");
  BOOST_TEST(info["parameters"][2]["name"] == "spare");
  BOOST_TEST(info["parameters"][2]["treatment"] == "unused");
  BOOST_TEST(info["frozen_parameters"][0]["name"] == "fixed");
  const Outcome table = run_tool(Words{"info"} + words);
  BOOST_TEST(table.output.find("frozen") != std::string::npos, table);

  write_npy(scratch / "ones.npy", at::ones({34}, at::kDouble));
  const at::Tensor product = array_of(
      scratch, Words{"apply", "--operator", "hessian", "--vectors", scratch / "ones.npy"} + words);
  BOOST_TEST(close(product.narrow(0, 32, 2), at::zeros({2}, at::kDouble), {0, 0}));
}

BOOST_AUTO_TEST_CASE(parameters_are_chosen_by_pattern_and_kept_in_the_models_order) {
  const Scratch scratch;
  const Words words = small_problem(scratch);
  const at::Tensor all = array_of(scratch, Words{"gradient"} + words);
  const auto chosen = [&](const Words& options) {
    return array_of(scratch, Words{"gradient"} + words + options);
  };
  BOOST_TEST(close(chosen({"--parameters", "out*"}), all.narrow(0, 20, 12), {1e-13, 0}));
  BOOST_TEST(close(chosen({"--parameters", "output", "--parameters", "hid*"}), all, {1e-13, 0}));
  BOOST_TEST(
      run_tool(Words{"info"} + words + Words{"--parameters", "out*", "--parameters", "typo*"})
          .is_error(2, "typo*"));
}

BOOST_AUTO_TEST_CASE(classes_may_be_on_axis_one) {
  const Scratch scratch;
  const at::Tensor w = leaf({3, 2}, 1), x = random_tensor({10, 2, 4}, 2);
  const at::Tensor labels = at::arange(40, at::kLong).remainder(3).reshape({10, 4});
  const Words words =
      write_problem(scratch,
                    {.parameters = {{"w", w}},
                     .forward = "forward(self, x):\n    return torch.matmul(self.w, x)\n"},
                    x, labels);
  const at::Tensor actual = array_of(scratch, Words{"gradient", "--class-axis", "1"} + words);
  const at::Tensor loss = at::cross_entropy_loss(at::matmul(w, x), labels);
  BOOST_TEST(close(actual, flat_gradient(loss, {w}), {1e-12, 0}));
  // Without the option the labels do not fit.
  BOOST_TEST(run_tool(Words{"info"} + words).is_error(1, ""));
}

BOOST_AUTO_TEST_CASE(ignored_labels_need_an_option) {
  const Scratch scratch;
  at::Tensor labels = kLabels.clone();
  labels.narrow(0, 0, 5).fill_(-100);
  const Words words = write_problem(scratch, small_network(), random_tensor({20, 5}, 3), labels);
  BOOST_TEST(run_tool(Words{"info"} + words).is_error(1, "-100"));
  const Outcome ignored = run_tool(Words{"info", "--json", "--ignore-index", "-100"} + words);
  BOOST_TEST(ignored.status == 0, ignored);
  BOOST_TEST(run_tool(Words{"info", "--ignore-index", "-100", "--loss", "mse"} + words)
                 .is_error(2, "--ignore-index"));
}

BOOST_AUTO_TEST_CASE(dtype_casts_model_inputs_and_vectors) {
  const Scratch scratch;
  ModelSource source = small_network();
  for (auto& [name, tensor] : source.parameters) {
    tensor = tensor.detach().to(at::kFloat).requires_grad_();
  }
  const Words words = write_problem(scratch, source, random_tensor({20, 5}, 3), kLabels);
  BOOST_TEST(run_tool(Words{"info"} + words).is_error(1, "--dtype"));
  write_npy(scratch / "v.npy", random_tensor({32, 2}, 4));
  const Words apply = Words{"apply", "--operator", "ggn", "--vectors", scratch / "v.npy"} + words;
  const at::Tensor narrow = array_of(scratch, apply + Words{"--dtype", "float32"});
  const at::Tensor wide = array_of(scratch, apply + Words{"--dtype", "float64"});
  BOOST_TEST(narrow.scalar_type() == at::kFloat);
  BOOST_TEST(wide.scalar_type() == at::kDouble);
  BOOST_TEST(close(narrow.to(at::kDouble), wide, {1e-4, 1e-6}));
}

BOOST_AUTO_TEST_CASE(batches_threads_and_memory_change_rounding_only) {
  const Scratch scratch;
  const Words words = small_problem(scratch);
  write_npy(scratch / "v.npy", random_tensor({32, 2}, 4));
  for (const std::string name : {"ggn-mc", "hessian"}) {
    const Words apply = Words{"apply", "--operator", name, "--vectors", scratch / "v.npy"} + words;
    const at::Tensor reference = array_of(scratch, apply);
    for (const Words& other : {Words{"--batch-size", "3"}, Words{"--threads", "2"},
                               Words{"--memory-budget", "0"}, Words{"--memory-budget", "1M"}}) {
      BOOST_TEST(close(array_of(scratch, apply + other), reference, {1e-10, 1e-14}));
    }
  }
  const Words mc = Words{"apply", "--operator", "ggn-mc", "--vectors", scratch / "v.npy"} + words;
  const at::Tensor one = array_of(scratch, mc), two = array_of(scratch, mc + Words{"--seed", "1"});
  BOOST_TEST((one - two).abs().max().item<double>() > 1e-3);
}

BOOST_AUTO_TEST_CASE(blocks_and_damping) {
  const Scratch scratch;
  const Words words = small_problem(scratch);
  write_npy(scratch / "eye.npy", at::eye(32, at::kDouble));
  const Words apply = Words{"apply", "--operator", "ggn", "--vectors", scratch / "eye.npy"} + words;
  const at::Tensor full = array_of(scratch, apply);
  at::Tensor blocks = at::zeros_like(full);
  blocks.slice(0, 0, 20).slice(1, 0, 20).copy_(full.slice(0, 0, 20).slice(1, 0, 20));
  blocks.slice(0, 20).slice(1, 20).copy_(full.slice(0, 20).slice(1, 20));
  blocks += 0.5 * at::eye(32, at::kDouble);
  const Words options = {"--block-diagonal", "parameter", "--damping", "0.5"};
  BOOST_TEST(close(array_of(scratch, apply + options), blocks, {1e-12, 1e-15}));
  BOOST_TEST(close(array_of(scratch, apply + Words{"--adjoint"}), full.t(), {1e-12, 1e-15}));
}

BOOST_AUTO_TEST_SUITE_END()
