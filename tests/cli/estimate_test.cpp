// `estimate`: each quantity by each method, its report, and what it refuses.
#include <cmath>

#include <curvature/io/npy.hpp>

#include "cli/fixture.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(estimate_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// The small network's GGN, also as a matrix.
struct Curvature {
  Scratch scratch;
  Words problem = small_problem(scratch);
  at::Tensor matrix;

  Curvature() {
    write_npy(scratch / "eye.npy", torch::eye(32, at::kDouble));
    const Outcome outcome = run_tool(Words{"apply", "--operator", "ggn", "--vectors",
                                           scratch / "eye.npy", "--output", scratch / "ggn.npy"} +
                                     problem);
    BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
    matrix = read_npy(scratch / "ggn.npy");
  }

  Words words(const std::string& quantity, const std::string& method, const Words& more) const {
    return Words{"estimate", "--operator", "ggn",  "--quantity",
                 quantity,   "--method",   method, "--json"} +
           problem + more;
  }
  nlohmann::json report(const std::string& quantity, const std::string& method,
                        const Words& more = {}) const {
    const Outcome outcome = run_tool(words(quantity, method, more));
    BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
    BOOST_TEST(outcome.error.empty(), outcome);
    return outcome.json();
  }
};

struct Quantity {
  std::string name;
  std::vector<std::string> methods;
  double exact;
  Words more;
};

}  // namespace

BOOST_AUTO_TEST_CASE(numbers_by_every_method) {
  const Curvature ggn;
  const at::Tensor values = std::get<0>(torch::linalg_eigh(ggn.matrix));
  const std::vector<Quantity> quantities = {
      {"trace", {"hutchinson", "hutch++", "xtrace", "slq"}, values.sum().item<double>(), {}},
      {"frobenius", {"hutchinson", "hutch++"}, values.norm().item<double>(), {}},
      {"logdet", {"slq"}, (values + 0.1).log().sum().item<double>(), {"--damping", "0.1"}},
      {"effective-dimension",
       {"slq"},
       (values / (values + 0.1)).sum().item<double>(),
       {"--damping", "0.1"}},
  };
  for (const Quantity& quantity : quantities) {
    const auto exact = ggn.report(quantity.name, "exact", quantity.more);
    BOOST_TEST(exact["value"].get<double>() == quantity.exact, boost::test_tools::tolerance(1e-10));
    BOOST_TEST(exact["exact"] == true);
    BOOST_TEST(!exact.contains("standard_error"));
    BOOST_TEST(exact["samples"] == 0);
    for (const std::string& method : quantity.methods) {
      const auto report =
          ggn.report(quantity.name, method, quantity.more + Words{"--samples", "20"});
      BOOST_TEST(report["quantity"] == quantity.name);
      BOOST_TEST(report["method"] == method);
      BOOST_TEST(report["samples"].get<int64_t>() > 0);
      BOOST_TEST(report["samples"].get<int64_t>() <= 20);
      const double allowed = 6 * report["standard_error"].get<double>() + 1e-10;
      BOOST_TEST(std::abs(report["value"].get<double>() - quantity.exact) <= allowed);
      BOOST_TEST(allowed < std::abs(quantity.exact) * 6);
    }
  }
}

BOOST_AUTO_TEST_CASE(diagonals_by_every_method) {
  const Curvature ggn;
  const Words output = {"--output", ggn.scratch / "d.npy"};
  const auto exact = ggn.report("diagonal", "exact", output);
  BOOST_TEST(!exact.contains("value"));
  BOOST_TEST(
      close(read_npy(ggn.scratch / "d.npy"), ggn.matrix.diagonal().contiguous(), {1e-10, 0}));
  for (const std::string method : {"hutchinson", "xdiag"}) {
    const auto report = ggn.report("diagonal", method, output + Words{"--samples", "24"});
    BOOST_TEST(report["products"].get<int64_t>() <= 24);
    BOOST_TEST(report["standard_error"].get<double>() > 0);
    BOOST_TEST(
        close(read_npy(ggn.scratch / "d.npy"), ggn.matrix.diagonal().contiguous(), {0.7, 0}));
  }
}

BOOST_AUTO_TEST_CASE(a_requested_error_ends_the_sampling) {
  const Curvature ggn;
  const auto rough =
      ggn.report("trace", "hutchinson", {"--samples", "5000", "--relative-error", "0.2"});
  const auto fine =
      ggn.report("trace", "hutchinson", {"--samples", "5000", "--relative-error", "0.02"});
  BOOST_TEST(rough["products"].get<int64_t>() < fine["products"].get<int64_t>());
  BOOST_TEST(fine["standard_error"].get<double>() <= 0.02 * fine["value"].get<double>());
  const auto too_few =
      ggn.report("trace", "hutchinson", {"--samples", "20", "--relative-error", "1e-6"});
  BOOST_TEST(too_few["termination"] == "max-iterations");
}

BOOST_AUTO_TEST_CASE(seeds_and_probes) {
  const Curvature ggn;
  const auto value = [&](const Words& more) {
    return ggn.report("trace", "hutchinson", Words{"--samples", "10"} + more)["value"]
        .get<double>();
  };
  BOOST_TEST(value({}) == value({"--seed", "0", "--batch-size", "7"}),
             boost::test_tools::tolerance(1e-10));
  BOOST_TEST(value({}) != value({"--seed", "1"}));
  BOOST_TEST(value({}) != value({"--probe", "gaussian"}));
  BOOST_TEST(value({"--probe", "sphere"}) != value({"--probe", "gaussian"}));
}

BOOST_AUTO_TEST_CASE(wrong_words_and_indefinite_operators_are_refused) {
  const Curvature ggn;
  const auto refused = [&](int status, const std::string& quantity, const std::string& method,
                           const Words& more, const std::string& text) {
    const Outcome outcome = run_tool(ggn.words(quantity, method, more));
    BOOST_TEST(outcome.is_error(status, text), outcome);
  };
  refused(2, "volume", "exact", {}, "trace, diagonal, frobenius");
  refused(2, "trace", "magic", {}, "hutchinson, hutch++");
  refused(2, "trace", "xdiag", {}, "expected hutchinson, hutch++, xtrace, slq or exact");
  refused(2, "logdet", "hutchinson", {}, "expected slq or exact");
  refused(2, "trace", "hutchinson", {"--samples", "0"}, "--samples");
  refused(2, "trace", "exact", {"--samples", "10"}, "--samples");
  refused(2, "trace", "hutchinson", {"--lanczos-steps", "10"}, "--lanczos-steps");
  refused(2, "diagonal", "exact", {}, "--output");
  refused(2, "trace", "exact", {"--output", ggn.scratch / "t.npy"}, "--output");
  refused(2, "effective-dimension", "exact", {}, "--damping");
  refused(2, "effective-dimension", "slq", {"--damping", "-1"}, "--damping");
  refused(1, "logdet", "exact", {"--damping", "-0.01"}, "positive");
  refused(1, "logdet", "slq", {"--damping", "-0.01"}, "positive");
  BOOST_TEST(!std::filesystem::exists(ggn.scratch / "t.npy"));
}

BOOST_AUTO_TEST_CASE(people_hear_of_the_cost) {
  const Curvature ggn;
  const Words words =
      Words{"estimate", "--operator", "hessian", "--quantity", "frobenius", "--method", "exact"} +
      ggn.problem;
  const Outcome outcome = run_tool(words);
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(outcome.output.starts_with("an exact answer takes a product for each parameter"),
             outcome);
  const auto plan = run_tool(words + Words{"--dry-run", "--json"}).json();
  BOOST_TEST(plan["products"] == 32);
  const auto sampled = ggn.report("logdet", "slq", {"--samples", "3", "--dry-run"});
  BOOST_TEST(sampled["products"] == 3 * 32);
}

BOOST_AUTO_TEST_SUITE_END()
