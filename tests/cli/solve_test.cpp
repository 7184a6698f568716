// `solve`: each method, its report, and what it refuses.
#include <curvature/io/npy.hpp>

#include "cli/fixture.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(solve_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// A system of the small network's damped curvature.
struct System {
  Scratch scratch;
  Words problem = small_problem(scratch);
  at::Tensor rhs = random_tensor({32, 2}, 5);

  System() { write_npy(scratch / "b.npy", rhs); }

  Words operator_words(const std::string& name) const {
    return Words{"--operator", name, "--damping", "0.1"} + problem;
  }
  Words solve(const std::string& name, const Words& more) const {
    return Words{"solve", "--rhs", scratch / "b.npy", "--output", scratch / "x.npy", "--json"} +
           operator_words(name) + more;
  }
  /// The operator times the solution that was written.
  at::Tensor product(const std::string& name) const {
    const Outcome outcome =
        run_tool(Words{"apply", "--vectors", scratch / "x.npy", "--output", scratch / "y.npy"} +
                 operator_words(name));
    BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
    return read_npy(scratch / "y.npy");
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(each_solver_solves) {
  const System system;
  for (const std::string solver :
       {"cg", "block-cg", "minres", "neumann", "lsmr", "lsqr", "direct"}) {
    std::vector<Words> variants = {{"--solver", solver, "--tolerance", "1e-9"}};
    if (solver != "direct") variants.push_back(variants[0] + Words{"--preconditioner", "diagonal"});
    for (const Words& words : variants) {
      const Outcome outcome = run_tool(system.solve("ggn", words));
      BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
      const auto report = outcome.json();
      BOOST_TEST(report["termination"] == "converged", outcome);
      BOOST_TEST(report["solver"] == solver);
      BOOST_TEST(report["relative_residual"].size() == 2u);
      BOOST_TEST(report["products"].get<int64_t>() >= report["iterations"].get<int64_t>());
      BOOST_TEST(close(system.product("ggn"), system.rhs, {1e-8, 0}));
    }
  }
}

BOOST_AUTO_TEST_CASE(diagonal_operators_and_preconditioned_hessians) {
  const System system;
  for (const std::string name : {"ggn-diagonal", "empirical-fisher", "gradient-covariance"}) {
    const Outcome outcome = run_tool(system.solve(
        name, {"--solver", name == "ggn-diagonal" ? "direct" : "cg", "--tolerance", "1e-9"}));
    BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
    BOOST_TEST(close(system.product(name), system.rhs, {1e-8, 0}));
  }
  const Outcome outcome = run_tool(system.solve(
      "hessian", {"--solver", "minres", "--preconditioner", "diagonal", "--tolerance", "1e-9"}));
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(close(system.product("hessian"), system.rhs, {1e-8, 0}));
}

BOOST_AUTO_TEST_CASE(a_low_rank_preconditioner_saves_iterations_and_is_counted) {
  const System system;
  const Words words = {"--solver", "cg", "--tolerance", "1e-9", "--damping", "1e-3"};
  const auto solve = [&](const Words& more) {
    const Outcome outcome = run_tool(system.solve("ggn", words + more));
    BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
    BOOST_TEST(outcome.json()["termination"] == "converged", outcome);
    return std::pair(outcome.json()["iterations"].get<int64_t>(),
                     outcome.json()["products"].get<int64_t>());
  };
  const auto [plain_iterations, plain_products] = solve({});
  const auto [iterations, products] = solve({"--preconditioner", "nystrom"});
  BOOST_TEST(iterations <= 3);  // all 32 parameters fit: it is the inverse
  BOOST_TEST(plain_iterations > 2 * iterations);
  BOOST_TEST(products >= 32 + iterations);
  const Words smaller = {"--preconditioner", "nystrom", "--preconditioner-rank", "12"};
  const auto [some_iterations, some_products] = solve(smaller);
  BOOST_TEST(some_iterations < plain_iterations);
  BOOST_TEST(some_products >= 12 + some_iterations);
}

BOOST_AUTO_TEST_CASE(a_start_saves_iterations_and_limits_hold) {
  const System system;
  const Words cg = {"--solver", "cg", "--tolerance", "1e-8"};
  BOOST_TEST(run_tool(system.solve("ggn", cg)).status == 0);
  std::filesystem::rename(system.scratch / "x.npy", system.scratch / "start.npy");
  const auto warm =
      run_tool(system.solve("ggn", cg + Words{"--start", system.scratch / "start.npy"})).json();
  BOOST_TEST(warm["iterations"] == 0);
  BOOST_TEST(warm["products"] == 2);

  const Words limited = cg + Words{"--max-iterations", "2"};
  const Outcome stopped = run_tool(system.solve("ggn", limited));
  BOOST_TEST(stopped.status == 0, stopped);
  BOOST_TEST(stopped.json()["termination"] == "max-iterations");
  BOOST_TEST(stopped.json()["iterations"] == 2);
  const Outcome strict = run_tool(system.solve("ggn", limited + Words{"--require-convergence"}));
  BOOST_TEST(strict.status == 1, strict);
  BOOST_TEST(strict.error.find("max-iterations") != std::string::npos, strict);
  BOOST_TEST(std::filesystem::exists(system.scratch / "x.npy"));
}

BOOST_AUTO_TEST_CASE(negative_curvature_is_said) {
  const System system;
  const Words words = Words{"solve",
                            "--operator",
                            "hessian",
                            "--damping",
                            "-100",
                            "--solver",
                            "cg",
                            "--rhs",
                            system.scratch / "b.npy",
                            "--output",
                            system.scratch / "x.npy"} +
                      system.problem;
  const Outcome outcome = run_tool(words);
  BOOST_TEST(outcome.status == 0, outcome);
  BOOST_TEST(outcome.output.find("negative-curvature") != std::string::npos, outcome);
  BOOST_TEST(outcome.output.find("add damping") != std::string::npos, outcome);
  const auto report = run_tool(words + Words{"--json"}).json();
  BOOST_TEST(report["negative_curvature"].get<double>() < -50);
}

BOOST_AUTO_TEST_CASE(wrong_words_and_systems_are_refused) {
  const System system;
  const auto refused = [&](int status, const Words& words, const std::string& text) {
    const Outcome outcome = run_tool(system.solve("ggn", words));
    BOOST_TEST(outcome.is_error(status, text), outcome);
    BOOST_TEST(!std::filesystem::exists(system.scratch / "x.npy"));
  };
  refused(2, {}, "--solver");
  refused(2, {"--solver", "gauss"}, "cg, block-cg, minres");
  refused(2, {"--solver", "cg", "--step-size", "0.1"}, "--step-size");
  refused(2, {"--solver", "neumann", "--step-size", "0"}, "--step-size");
  refused(2, {"--solver", "direct", "--max-iterations", "3"}, "--max-iterations");
  refused(2, {"--solver", "direct", "--preconditioner", "diagonal"}, "--preconditioner");
  refused(2, {"--solver", "cg", "--preconditioner", "magic"}, "diagonal");
  refused(2, {"--solver", "cg", "--preconditioner-rank", "3"}, "expected --preconditioner nystrom");
  refused(2, {"--solver", "cg", "--preconditioner", "nystrom", "--preconditioner-rank", "0"},
          "--preconditioner-rank");
  refused(2, {"--solver", "cg", "--preconditioner", "nystrom", "--damping", "0"}, "--damping");
  refused(2, {"--solver", "cg", "--tolerance", "-1"}, "--tolerance");
  write_npy(system.scratch / "short.npy", random_tensor({31}, 1));
  refused(1, {"--solver", "cg", "--rhs", system.scratch / "short.npy"}, "short.npy");
  write_npy(system.scratch / "one.npy", random_tensor({32}, 1));
  refused(1, {"--solver", "cg", "--start", system.scratch / "one.npy"}, "start");
  write_npy(system.scratch / "nan.npy", random_tensor({32}, 1) * NAN);
  refused(1, {"--solver", "cg", "--rhs", system.scratch / "nan.npy"}, "nan.npy");
}

BOOST_AUTO_TEST_CASE(a_dry_run_tells_the_cost) {
  const System system;
  const Outcome outcome =
      run_tool(system.solve("ggn", {"--solver", "cg", "--max-iterations", "7", "--dry-run"}));
  BOOST_TEST_REQUIRE(outcome.status == 0, outcome);
  BOOST_TEST(outcome.json()["products"] == 16);
  BOOST_TEST(outcome.json()["job"].get<std::string>().find("at most") != std::string::npos);
  BOOST_TEST(!std::filesystem::exists(system.scratch / "x.npy"));
  const Outcome direct = run_tool(system.solve("ggn", {"--solver", "direct", "--dry-run"}));
  BOOST_TEST(direct.json()["products"] == 36);
}

BOOST_AUTO_TEST_CASE(products_that_are_not_finite_are_errors_and_leave_no_file) {
  const Scratch scratch;
  // The square root has no derivative at zero.
  const ModelSource source{{{"w", random_tensor({5, 3}, 1).requires_grad_()}},
                           "forward(self, x):\n    return x.matmul(self.w) + "
                           "torch.sqrt(torch.abs(x.matmul(self.w) * 0))\n"};
  const Words problem =
      write_problem(scratch, source, random_tensor({20, 5}, 2), torch::arange(20).remainder(3));
  write_npy(scratch / "v.npy", random_tensor({15}, 3));
  const Words words =
      Words{"--operator", "ggn", "--damping", "0.1", "--output", scratch / "y.npy"} + problem;
  const Outcome applied = run_tool(Words{"apply", "--vectors", scratch / "v.npy"} + words);
  BOOST_TEST(applied.is_error(1, "a product is not finite"), applied);
  for (const std::string solver : {"cg", "block-cg", "minres", "lsmr", "direct"}) {
    const Outcome outcome =
        run_tool(Words{"solve", "--rhs", scratch / "v.npy", "--solver", solver} + words);
    BOOST_TEST(outcome.is_error(1, "not finite"), outcome);
    BOOST_TEST(outcome.error.find("report:") == std::string::npos, outcome);
  }
  BOOST_TEST(!std::filesystem::exists(scratch / "y.npy"));
}

BOOST_AUTO_TEST_CASE(a_batch_may_be_as_large_as_numbers_go) {
  const System system;
  const Words words =
      system.solve("ggn", {"--solver", "cg", "--batch-size", "9223372036854775807"});
  const Outcome planned = run_tool(words + Words{"--dry-run"});
  BOOST_TEST_REQUIRE(planned.status == 0, planned);
  BOOST_TEST(planned.json()["num_batches"] == 1);
  BOOST_TEST(run_tool(words).status == 0);
}

BOOST_AUTO_TEST_SUITE_END()
