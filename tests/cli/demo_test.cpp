// The demo on its built-in data.
#include <cmath>
#include <cstdlib>
#include <fstream>

#include <curvature/io/npy.hpp>

#include "cli/demo.hpp"
#include "cli/demo_data.hpp"
#include "cli/demo_network.hpp"
#include "cli/fixture.hpp"

BOOST_AUTO_TEST_SUITE(demo_test)

using namespace curvature;
using namespace curvature::testing;
using nlohmann::json;

namespace {

const Words kOneThread = {"--threads", "1"};

Outcome run_digits(const std::string& folder) {
  return run_tool(Words{"demo", "--digits", "--json", "--output", folder} + kOneThread);
}

/// A report without what may differ between two runs.
json lasting_part(json report) {
  for (const char* part : {"/seconds", "/command_line", "/training/seconds",
                           "/hessian/report/seconds", "/ggn/report/seconds"}) {
    report = report.patch({{{"op", "remove"}, {"path", part}}});
  }
  return report;
}

double area(const json& density) {
  const auto grid = density.at("grid").get<std::vector<double>>();
  const auto values = density.at("values").get<std::vector<double>>();
  double sum = 0;
  for (size_t i = 1; i < grid.size(); ++i) {
    sum += (grid[i] - grid[i - 1]) * (values[i] + values[i - 1]) / 2;
  }
  return sum;
}

std::string first_bytes(const std::string& file) {
  std::string bytes(4, ' ');
  std::ifstream(file, std::ios::binary).read(bytes.data(), 4);
  return bytes;
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_built_in_digits_are_what_their_source_says) {
  const cli::DemoData data = cli::load_digits();
  BOOST_TEST((data.train_images.sizes() == at::IntArrayRef{1437, 1, 8, 8}));
  BOOST_TEST((data.test_images.sizes() == at::IntArrayRef{360, 1, 8, 8}));
  const at::Tensor counts = at::cat({data.train_labels, data.test_labels}).bincount();
  const std::vector<int64_t> expected = {178, 182, 177, 183, 181, 182, 181, 179, 174, 180};
  BOOST_TEST(counts.equal(at::tensor(expected)));
  BOOST_TEST(std::abs(data.train_images.mean().item<double>()) < 1e-5);
  BOOST_TEST(std::abs(data.train_images.std().item<double>() - 1) < 1e-5);
}

BOOST_AUTO_TEST_CASE(the_network_starts_like_pytorchs_and_from_its_seed) {
  const auto network = cli::make_network({}, RandomSource(3));
  const auto again = cli::make_network({}, RandomSource(3));
  const auto other = cli::make_network({}, RandomSource(4));
  const at::Tensor weight = network.attr("linear1").toModule().attr("weight").toTensor();
  const double bound = 1 / std::sqrt(784.0);
  BOOST_TEST((weight.sizes() == at::IntArrayRef{32, 784}));
  BOOST_TEST(weight.abs().max().item<double>() <= bound);
  BOOST_TEST(weight.abs().max().item<double>() > 0.99 * bound);
  BOOST_TEST(std::abs(weight.mean().item<double>()) < 0.02 * bound);  // 5 standard errors
  const at::Tensor images = at::ones({2, 1, 28, 28});
  BOOST_TEST((cli::predict(network, images).sizes() == at::IntArrayRef{2, 10}));
  BOOST_TEST(cli::predict(network, images).equal(cli::predict(again, images)));
  BOOST_TEST(!cli::predict(network, images).equal(cli::predict(other, images)));
}

BOOST_AUTO_TEST_CASE(outliers_are_found_where_the_gap_is) {
  cli::DemoSpectrum spectrum;
  spectrum.pairs.top.values = {12, 10, 2, 1.5, 1.2, 1};
  spectrum.density.quadratures = {{{0, 1}, {0.5, 0.5}}, {{0, 2}, {0.5, 0.5}}};  // mean 0.75
  const cli::Outliers outliers = cli::find_outliers(spectrum, 3, 100);
  BOOST_TEST(outliers.widest_after == 2);
  BOOST_TEST(outliers.widest_gap == 5);
  BOOST_TEST(outliers.gap_before_last == 5);
  BOOST_TEST(outliers.gap_after_last == 2 / 1.5);
  BOOST_TEST(outliers.trace_share == 24 / 75.0);
}

BOOST_AUTO_TEST_CASE(the_demo_does_what_it_says_and_the_same_again) {
  const Scratch scratch;
  const std::string folder = scratch / "first", second = scratch / "second";
  const Outcome outcome = run_digits(folder);
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(outcome.error.empty(), outcome);
  const json report = outcome.json();
  BOOST_TEST((json::parse(std::ifstream(folder + "/report.json")) == report));
  BOOST_TEST((lasting_part(run_digits(second).json()) == lasting_part(report)));

  // Pictures, and nothing half-written.
  for (const std::string name : {"/spectrum", "/training"}) {
    BOOST_TEST(first_bytes(folder + name + ".svg") == "<?xm");
    BOOST_TEST(first_bytes(folder + name + ".png") == "\x89PNG");
  }
  BOOST_TEST(std::distance(std::filesystem::directory_iterator(folder), {}) == 8);

  // It learned, and the records of the training end where the spectrum begins.
  const json& training = report.at("training");
  BOOST_TEST(training.at("test_accuracy").get<double>() > 0.95);
  BOOST_TEST(training.at("steps").size() == 30u);
  BOOST_TEST(training.at("steps").front() == 0);
  BOOST_TEST(training.at("steps").back() == 20 * (1437 / 50));
  BOOST_TEST(training.at("losses").front().get<double>() > std::log(10.0) - 0.2);
  const double top = report.at("hessian").at("eigenvalues").front();
  BOOST_TEST(std::abs(training.at("top_eigenvalues").back().get<double>() - top) < 1e-3 * top);
  const double loss = report.at("loss");
  BOOST_TEST(std::abs(training.at("losses").back().get<double>() - loss) < 1e-4 * loss);

  for (const char* matrix : {"hessian", "ggn"}) {
    const json& spectrum = report.at(matrix);
    BOOST_TEST(spectrum.at("eigenvalues").size() == 20u);
    BOOST_TEST(std::abs(area(spectrum.at("density")) - 1) < 1e-6);
    BOOST_TEST(spectrum.at("report").at("termination") == "converged");
    // The tool finds the same numbers in the files that were saved.
    const Outcome again =
        run_tool(Words{"spectrum", "--operator", matrix, "--top", "20", "--json", "--model",
                       folder + "/model.pt", "--inputs", folder + "/inputs.npy", "--targets",
                       folder + "/targets.npy"} +
                 kOneThread);
    BOOST_TEST_REQUIRE(again.status == 0, again);
    for (size_t i = 0; i < 20; ++i) {
      const double expected = again.json().at("eigenvalues")[i];
      BOOST_TEST(std::abs(spectrum.at("eigenvalues")[i].get<double>() - expected) <
                 1e-3 * expected);
    }
  }
}

BOOST_AUTO_TEST_CASE(the_next_commands_work) {
  const Scratch scratch;
  const std::string folder = scratch / "a folder's";
  const Outcome outcome =
      run_tool(Words{"demo", "--digits", "--output", folder, "--seed", "1"} + kOneThread);
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  const size_t begin = outcome.output.find("Next:\n");
  BOOST_TEST_REQUIRE(begin != std::string::npos, outcome);
  const std::string commands =
      "set -e\ncurvature() { \"" CURVATURE_TOOL "\" \"$@\"; }\n" + outcome.output.substr(begin + 6);
  std::ofstream(scratch / "commands") << commands;
  const std::string shell = "sh '" + scratch / "commands" + "' > /dev/null";
  BOOST_TEST(std::system(shell.c_str()) == 0, commands);
  for (const char* name : {"/gradient.npy", "/product.npy", "/linear.svg"}) {
    BOOST_TEST(std::filesystem::exists(folder + name), name);
  }
}

BOOST_AUTO_TEST_CASE(a_wrong_place_or_seed_is_refused_at_once) {
  const Scratch scratch;
  std::ofstream(scratch / "file") << "not a folder";
  BOOST_TEST(run_tool({"demo", "--digits", "--output", scratch / "file"}).is_error(1, "--output"));
  BOOST_TEST(run_tool({"demo", "--digits", "--seed", "-1"}).is_error(2, "--seed"));
  BOOST_TEST(run_tool({"demo", "--digits", "--threads", "0"}).is_error(2, "--threads"));
}

BOOST_AUTO_TEST_CASE(missing_fashion_mnist_is_explained) {
  if (std::filesystem::exists("/usr/share/datasets/fashion-mnist")) {
    const cli::DemoData data = cli::load_fashion_mnist();
    BOOST_TEST((data.train_images.sizes() == at::IntArrayRef{60000, 1, 28, 28}));
    BOOST_TEST(data.test_labels.bincount().equal(at::full({10}, 1000, at::kLong)));
    return;
  }
  const Scratch scratch;
  const Outcome outcome = run_tool({"demo", "--output", scratch / "out"});
  BOOST_TEST(outcome.is_error(1, "dataset-fashion-mnist"), outcome);
  BOOST_TEST(outcome.is_error(1, "--digits"), outcome);
  BOOST_TEST(!std::filesystem::exists(scratch / "out"));
}

BOOST_AUTO_TEST_SUITE_END()
