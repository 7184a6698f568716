// Layer-wise operators in the tool: as operators, as preconditioners, and what `info` says of
// layers.
#include <curvature/io/npy.hpp>

#include "cli/fixture.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(layerwise_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

Outcome checked(const Words& words) {
  Outcome outcome = run_tool(words);
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(outcome.error.empty(), outcome);
  return outcome;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_direct_solve_is_the_inverse_of_the_damped_operator) {
  const Scratch scratch;
  const Words problem = small_problem(scratch);
  write_npy(scratch / "b.npy", random_tensor({32, 2}, 5));
  for (const std::string name : {"kfac", "ekfac"}) {
    for (const std::string fisher : {"type-2", "mc", "empirical"}) {
      const Words words =
          Words{"--operator", name, "--fisher", fisher, "--damping", "0.01"} + problem;
      const auto report = checked(Words{"solve", "--solver", "direct", "--rhs", scratch / "b.npy",
                                        "--output", scratch / "x.npy", "--json"} +
                                  words)
                              .json();
      BOOST_TEST(report["termination"] == "converged");
      checked(Words{"apply", "--vectors", scratch / "x.npy", "--output", scratch / "y.npy"} +
              words);
      BOOST_TEST(close(read_npy(scratch / "y.npy"), read_npy(scratch / "b.npy"), {1e-9, 0}));
    }
  }
}

BOOST_AUTO_TEST_CASE(closed_forms_answer_estimates_without_products) {
  const Scratch scratch;
  const Words problem = small_problem(scratch);
  write_npy(scratch / "eye.npy", torch::eye(32, at::kDouble));
  const Words words = Words{"--operator", "kfac", "--damping", "0.1"} + problem;
  checked(Words{"apply", "--vectors", scratch / "eye.npy", "--output", scratch / "k.npy"} + words);
  const at::Tensor matrix = read_npy(scratch / "k.npy");
  for (const auto& [quantity, expected] : {std::pair("trace", matrix.trace()),
                                           {"frobenius", matrix.norm()},
                                           {"logdet", matrix.logdet()}}) {
    const auto report =
        checked(Words{"estimate", "--quantity", quantity, "--method", "exact", "--json"} + words)
            .json();
    BOOST_TEST(report["value"].get<double>() == expected.item<double>(),
               boost::test_tools::tolerance(1e-9));
    BOOST_TEST(report["products"] == 0);
  }
}

BOOST_AUTO_TEST_CASE(shampoo_models_the_second_moment_of_gradients) {
  const Scratch scratch;
  const Words problem = small_problem(scratch);
  write_npy(scratch / "b.npy", random_tensor({32, 2}, 5));
  const auto trace = [&](const std::string& name) {
    const Words words = {"estimate", "--operator", name,    "--quantity",
                         "trace",    "--method",   "exact", "--json"};
    return checked(words + problem).json()["value"].get<double>();
  };
  // The trace of the second moment: that of the covariance, and the squared mean.
  const auto info = checked(Words{"info", "--json"} + problem).json();
  const double expected =
      trace("gradient-covariance") + std::pow(info["gradient_norm"].get<double>(), 2);
  BOOST_TEST(trace("shampoo") == expected, boost::test_tools::tolerance(1e-10));
  for (const std::string name : {"shampoo", "kl-shampoo"}) {
    const Words words = Words{"--operator", name, "--damping", "0.01"} + problem;
    checked(Words{"solve", "--solver", "direct", "--rhs", scratch / "b.npy", "--output",
                  scratch / "x.npy"} +
            words);
    for (const std::string budget : {"0", "1M"}) {
      checked(Words{"apply", "--vectors", scratch / "x.npy", "--output", scratch / "y.npy",
                    "--memory-budget", budget, "--batch-size", "7"} +
              words);
      BOOST_TEST(close(read_npy(scratch / "y.npy"), read_npy(scratch / "b.npy"), {1e-9, 0}));
    }
  }
}

BOOST_AUTO_TEST_CASE(kl_shampoo_says_when_there_are_too_few_examples) {
  // Gradients sum over three positions; two of them do not determine a 5 x 3 matrix.
  const Scratch scratch;
  const ModelSource source{{{"w", random_tensor({5, 3}, 1).requires_grad_()}},
                           "forward(self, x):\n    return x.matmul(self.w)\n"};
  const Words problem =
      write_problem(scratch, source, random_tensor({2, 4, 5}, 2), random_tensor({2, 4, 3}, 3));
  write_npy(scratch / "v.npy", random_tensor({15}, 3));
  const Words apply = {"apply",     "--operator",      "kl-shampoo", "--loss",         "mse",
                       "--vectors", scratch / "v.npy", "--output",   scratch / "y.npy"};
  BOOST_TEST(run_tool(apply + problem).is_error(1, "'w [5, 3]'"));
  checked(apply + problem + Words{"--fit-damping", "0.01"});
}

BOOST_AUTO_TEST_CASE(a_preconditioner_saves_iterations) {
  const Scratch scratch;
  const Words problem = small_problem(scratch);
  write_npy(scratch / "b.npy", random_tensor({32}, 5));
  const Words words = Words{"solve",
                            "--operator",
                            "ggn",
                            "--damping",
                            "1e-3",
                            "--solver",
                            "cg",
                            "--tolerance",
                            "1e-8",
                            "--rhs",
                            scratch / "b.npy",
                            "--output",
                            scratch / "x.npy",
                            "--json"} +
                      problem;
  const auto plain = checked(words).json();
  for (const std::string name : {"kfac", "ekfac"}) {
    const auto helped = checked(words + Words{"--preconditioner", name}).json();
    BOOST_TEST(helped["termination"] == "converged");
    BOOST_TEST(helped["iterations"].get<int64_t>() < plain["iterations"].get<int64_t>());
  }
}

BOOST_AUTO_TEST_CASE(info_reports_layers_and_uncovered_parameters_are_named) {
  const Scratch scratch;
  const Words problem = small_problem(scratch);
  const auto info = checked(Words{"info", "--json"} + problem).json();
  for (const auto& parameter : info["parameters"]) {
    BOOST_TEST(!parameter["treatment"].get<std::string>().starts_with("not covered"), info);
  }
  // sin(W) is a use that no rule knows.
  const Scratch other;
  const ModelSource source{{{"w", random_tensor({5, 3}, 1).requires_grad_()}},
                           "forward(self, x):\n    return x.matmul(torch.sin(self.w))\n"};
  const Words strange =
      write_problem(other, source, random_tensor({20, 5}, 2), torch::arange(20).remainder(3));
  const auto report = checked(Words{"info", "--json"} + strange).json();
  BOOST_TEST(report["parameters"][0]["treatment"].get<std::string>().starts_with("not covered"));
  write_npy(other / "v.npy", random_tensor({15}, 3));
  const Words apply = Words{"apply",         "--operator", "kfac",         "--vectors",
                            other / "v.npy", "--output",   other / "y.npy"} +
                      strange;
  BOOST_TEST(run_tool(apply).is_error(1, "'w' is not covered"));
  for (const auto& [fallback, name] : {std::pair("diagonal", "ggn-diagonal"), {"block", "ggn"}}) {
    checked(apply + Words{"--fallback", fallback});
    const at::Tensor actual = read_npy(other / "y.npy");
    checked(Words{"apply", "--operator", name, "--vectors", other / "v.npy", "--output",
                  other / "z.npy"} +
            strange);
    BOOST_TEST(close(actual, read_npy(other / "z.npy"), {1e-9, 0}));
  }

  // A preconditioner takes the options of layer rules, whatever the operator is.
  const Words solve =
      Words{"solve",         "--operator", "ggn", "--damping", "0.1",           "--rhs",
            other / "v.npy", "--solver",   "cg",  "--output",  other / "x.npy", "--json"} +
      strange;
  const Words by_kfac = solve + Words{"--preconditioner", "kfac"};
  BOOST_TEST(run_tool(by_kfac).is_error(1, "'w' is not covered"));
  const auto solved = checked(by_kfac + Words{"--fallback", "block"}).json();
  BOOST_TEST(solved["termination"] == "converged");
  BOOST_TEST(solved["iterations"].get<int64_t>() <= 2);
  BOOST_TEST(run_tool(solve + Words{"--preconditioner", "diagonal", "--fallback", "block"})
                 .is_error(2, "--fallback"));
  BOOST_TEST(run_tool(solve + Words{"--preconditioner", "ekfac", "--fisher", "forward-only"})
                 .is_error(2, "--fisher"));
}

BOOST_AUTO_TEST_SUITE_END()
