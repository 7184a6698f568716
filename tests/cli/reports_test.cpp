// What commands print and write besides their arrays.
#include <fstream>

#include <curvature/io/npy.hpp>
#include <curvature/io/safetensors.hpp>
#include <curvature/version.hpp>

#include "cli/fixture.hpp"

BOOST_AUTO_TEST_SUITE(reports_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

using Json = nlohmann::json;

Json json_of(const Words& words) {
  const Outcome outcome = run_tool(words + Words{"--json"});
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(outcome.error.empty(), outcome);
  return outcome.json();
}

std::vector<std::string> keys_of(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& item : object.items()) keys.push_back(item.key());
  return keys;  // in alphabetical order
}

void check_origin(const Json& report) {
  BOOST_TEST(report["version"] == CURVATURE_VERSION);
  BOOST_TEST(report["command_line"].get<std::string>().starts_with("curvature "));
  BOOST_TEST(report["seed"].is_number_unsigned());
}

}  // namespace

BOOST_AUTO_TEST_CASE(json_of_each_command) {
  const Scratch scratch;
  const Words words = small_problem(scratch);
  const Json info = json_of(Words{"info"} + words);
  BOOST_TEST(keys_of(info) ==
                 (Words{"command_line", "frozen_parameters", "gradient_norm", "loss", "num_data",
                        "num_parameters", "output_shape", "parameters", "seed", "version"}),
             boost::test_tools::per_element());
  const Json gradient = json_of(Words{"gradient", "--output", scratch / "g.npy"} + words);
  BOOST_TEST(gradient["gradient_norm"].get<double>() == info["gradient_norm"].get<double>(),
             boost::test_tools::tolerance(1e-12));
  const Json apply = json_of(Words{"apply", "--operator", "hessian", "--vectors", scratch / "g.npy",
                                   "--output", scratch / "h.npy"} +
                             words);
  BOOST_TEST(apply["columns"] == 1);
  const Json spectrum = json_of(Words{"spectrum", "--operator", "hessian", "--top", "3", "--bottom",
                                      "2", "--density", "--output", scratch / "s.json"} +
                                words);
  BOOST_TEST(spectrum["eigenvalues"].size() == 3u);
  BOOST_TEST(spectrum["residuals"].size() == 3u);
  BOOST_TEST(spectrum["bottom_eigenvalues"].size() == 2u);
  BOOST_TEST(spectrum["bottom_residuals"].size() == 2u);
  BOOST_TEST(spectrum["density"]["grid"].size() == spectrum["density"]["values"].size());
  BOOST_TEST(spectrum["report"]["products"].get<int64_t>() > 32);
  BOOST_TEST(spectrum["report"]["termination"] == "converged");
  BOOST_TEST(Json::parse(std::ifstream(scratch / "s.json")) == spectrum);
  for (const Json& report : {info, gradient, apply, spectrum}) check_origin(report);
}

BOOST_AUTO_TEST_CASE(what_a_spectrum_computes_by_default) {
  const Scratch scratch;
  const Words words = Words{"spectrum", "--operator", "ggn"} + small_problem(scratch);
  BOOST_TEST(json_of(words)["eigenvalues"].size() == 10u);
  BOOST_TEST(!json_of(words).contains("density"));
  const Json bottom = json_of(words + Words{"--bottom", "2"});
  BOOST_TEST(bottom["eigenvalues"].size() == 0u);
  BOOST_TEST(bottom["bottom_eigenvalues"].size() == 2u);
  const Json density = json_of(words + Words{"--top", "0", "--density", "--density-scale", "log"});
  BOOST_TEST(density["eigenvalues"].size() == 0u);
  BOOST_TEST(density["density"]["grid"][0].get<double>() > 0);
}

BOOST_AUTO_TEST_CASE(eigenvectors_are_top_then_bottom) {
  const Scratch scratch;
  const Words words = Words{"--operator", "hessian"} + small_problem(scratch);
  const Json report = json_of(
      Words{"spectrum", "--top", "2", "--bottom", "1", "--vectors-output", scratch / "u.npy"} +
      words);
  BOOST_TEST_REQUIRE(
      run_tool(Words{"apply", "--vectors", scratch / "u.npy", "--output", scratch / "hu.npy"} +
               words)
          .status == 0);
  const at::Tensor u = read_npy(scratch / "u.npy"), hu = read_npy(scratch / "hu.npy");
  const std::vector<double> values = {report["eigenvalues"][0], report["eigenvalues"][1],
                                      report["bottom_eigenvalues"][0]};
  BOOST_TEST((hu - u * at::tensor(values, at::kDouble)).abs().max().item<double>() < 1e-10);
}

BOOST_AUTO_TEST_CASE(arrays_in_safetensors_say_where_they_come_from) {
  const Scratch scratch;
  const std::string file = scratch / "g.safetensors";
  const Words words = Words{"gradient", "--seed", "7", "--output", file} + small_problem(scratch);
  BOOST_TEST_REQUIRE(run_tool(words).status == 0);
  const Archive archive = read_safetensors(file);
  BOOST_TEST(archive.tensors.at("data").size(0) == 32);
  BOOST_TEST(archive.metadata.at("version") == CURVATURE_VERSION);
  BOOST_TEST(archive.metadata.at("command_line").starts_with("curvature gradient --seed 7"));
  BOOST_TEST(archive.metadata.at("seed") == "7");
}

BOOST_AUTO_TEST_CASE(command_lines_are_quoted_for_a_shell) {
  const Scratch scratch;
  const Words words =
      Words{"info", "--parameters", "hid*", "--parameters", "o'*", "--parameters", "out*"} +
      small_problem(scratch);
  BOOST_TEST(run_tool(words).is_error(2, "o'*"));
  const Json report = json_of(Words{"info", "--parameters", "hid*"} + small_problem(scratch));
  BOOST_TEST(report["command_line"].get<std::string>().starts_with(
      "curvature info --parameters 'hid*' --model "));
}

BOOST_AUTO_TEST_CASE(a_dry_run_loads_and_runs_nothing) {
  const Scratch scratch;
  ModelSource source = small_network();
  source.forward = R"(forward(self, x):
    assert False, "the model ran"
    return torch.matmul(x, self.hidden.t())
)";
  const Words words =
      write_problem(scratch, source, random_tensor({20, 5}, 3), at::zeros({20}, at::kLong)) +
      Words{"--batch-size", "8"};
  write_npy(scratch / "v.npy", random_tensor({32, 2}, 4));
  BOOST_TEST(run_tool(Words{"info"} + words).is_error(1, "the model ran"));
  const Words commands[] = {
      {"info"},
      {"gradient", "--output", scratch / "o.npy"},
      {"apply", "--operator", "hessian", "--vectors", scratch / "v.npy", "--output",
       scratch / "o.npy"},
      {"spectrum", "--operator", "ggn", "--density", "--vectors-output", scratch / "o.npy"}};
  const int64_t products[] = {0, 0, 2, 32 + 10 + 10 * 32};
  for (size_t i = 0; i < 4; ++i) {
    const Json plan = json_of(commands[i] + words + Words{"--dry-run"});
    BOOST_TEST(plan["dry_run"] == true);
    BOOST_TEST(plan["num_parameters"] == 32);
    BOOST_TEST(plan["num_data"] == 20);
    BOOST_TEST(plan["num_batches"] == 3);
    BOOST_TEST(plan["products"] == products[i]);
    BOOST_TEST(plan["memory_bytes"].is_number_unsigned());
    const Outcome readable = run_tool(commands[i] + words + Words{"--dry-run"});
    BOOST_TEST(readable.output.find("32 parameters in 2 tensors") != std::string::npos, readable);
  }
  BOOST_TEST(!std::filesystem::exists(scratch / "o.npy"));
}

BOOST_AUTO_TEST_CASE(a_hessian_diagonal_says_its_price_first) {
  const Scratch scratch;
  const Words words = small_problem(scratch);
  write_npy(scratch / "v.npy", random_tensor({32}, 4));
  const Outcome outcome = run_tool(Words{"apply", "--operator", "hessian-diagonal", "--vectors",
                                         scratch / "v.npy", "--output", scratch / "o.npy"} +
                                   words);
  BOOST_TEST(
      outcome.output.starts_with("an exact Hessian diagonal takes a product for each parameter"),
      outcome);
}

BOOST_AUTO_TEST_CASE(small_commands) {
  const Outcome version = run_tool({"--version"});
  BOOST_TEST(version.output.starts_with("curvature " CURVATURE_VERSION " (LibTorch "), version);
  const Outcome snippet = run_tool({"export-snippet"});
  BOOST_TEST(snippet.output.find("torch.jit.script") != std::string::npos, snippet);
  for (const std::string command :
       {"info", "gradient", "apply", "spectrum", "export-snippet", "completion"}) {
    const Outcome help = run_tool({command, "--help"});
    BOOST_TEST(help.status == 0, help);
    BOOST_TEST(help.output.find("curvature " + command) != std::string::npos, help);
  }
}

BOOST_AUTO_TEST_CASE(bash_completes_commands_options_and_values) {
  const Scratch scratch;
  std::ofstream(scratch / "completion.bash") << run_tool({"completion", "bash"}).output;
  const auto complete = [&](const std::string& words, int current) {
    const std::string script = ". '" + (scratch / "completion.bash") + "'; COMP_WORDS=(" + words +
                               "); COMP_CWORD=" + std::to_string(current) +
                               "; _curvature; echo \"${COMPREPLY[*]}\" > '" + (scratch / "reply") +
                               "'";
    std::ofstream(scratch / "script.bash") << script << "\n";
    BOOST_TEST_REQUIRE(std::system(("bash '" + (scratch / "script.bash") + "'").c_str()) == 0);
    std::string reply;
    std::getline(std::ifstream(scratch / "reply"), reply);
    return reply;
  };
  BOOST_TEST(complete("curvature gra", 1) == "gradient");
  BOOST_TEST(complete("curvature spectrum --density-s", 2) == "--density-steps --density-scale");
  BOOST_TEST(complete("curvature info --loss m", 3) == "mse");
  BOOST_TEST(complete("curvature apply --operator hessian", 3) == "hessian hessian-diagonal");
  BOOST_TEST(complete("curvature apply --vectors fi", 3) == "");  // file names, by default
}

BOOST_AUTO_TEST_SUITE_END()
