// Progress bars, and jobs that are ended from outside.
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <pty.h>

#include <curvature/io/npy.hpp>

#include "cli/fixture.hpp"
#include "cli/progress_bar.hpp"

BOOST_AUTO_TEST_SUITE(interruption_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

using std::chrono::steady_clock;

/// A job of minutes: the exact Hessian diagonal of a wide layer.
Words endless_job(const Scratch& scratch) {
  const ModelSource source = {
      .parameters = {{"w", random_tensor({300, 200}, 1).requires_grad_()}},
      .forward = "forward(self, x):\n    return torch.tanh(torch.matmul(x, self.w.t()))\n"};
  const Words words =
      write_problem(scratch, source, random_tensor({256, 200}, 2), at::zeros({256}, at::kLong));
  write_npy(scratch / "v.npy", at::ones({60000}, at::kDouble));
  return Words{"apply",           "--operator", "hessian-diagonal", "--vectors",
               scratch / "v.npy", "--output",   scratch / "out.npy"} +
         words;
}

int wait_for(pid_t process) {
  int status = 0;
  waitpid(process, &status, 0);
  return status;
}

/// Reads until `text` has come, for two minutes at most.
bool read_until(int descriptor, const std::string& text, std::string& all) {
  const auto end = steady_clock::now() + std::chrono::minutes(2);
  char part[4096];
  while (all.find(text) == std::string::npos && steady_clock::now() < end) {
    const ssize_t count = read(descriptor, part, sizeof part);
    if (count <= 0) break;
    all.append(part, static_cast<size_t>(count));
  }
  return all.find(text) != std::string::npos;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_bar_says_task_part_and_time_left) {
  BOOST_TEST(cli::render_progress({"Steps", 1, 4}, 10, 40) ==
             "Steps [===>           ]  25 %, 0:30 left");
  BOOST_TEST(cli::render_progress({"Steps", 4, 4}, 10, 40).size() == 40u);
  BOOST_TEST(cli::render_progress({"Steps", 0, 4}, 0, 30).find("left") == std::string::npos);
  BOOST_TEST(cli::render_progress({"Steps", 9, 4}, 1, 40).find("100 %") != std::string::npos);
  BOOST_TEST(cli::render_progress({"Steps", 7, 0}, 1, 40) == "Steps: 7");
  BOOST_TEST(cli::render_progress({"A task with a long name", 1, 4}, 7200, 20).size() == 20u);
}

BOOST_AUTO_TEST_CASE(a_terminal_sees_a_bar_and_an_interrupt_leaves_no_output) {
  const Scratch scratch;
  const Words words = endless_job(scratch);
  int terminal = -1, inside = -1;
  BOOST_TEST_REQUIRE(openpty(&terminal, &inside, nullptr, nullptr, nullptr) == 0);
  const int nowhere = open("/dev/null", O_WRONLY);
  const pid_t process = start_tool(words, nowhere, inside);
  close(inside);
  std::string seen;
  const bool drawn = read_until(terminal, "left", seen);
  kill(process, SIGINT);
  const int status = wait_for(process);
  close(terminal);
  close(nowhere);
  BOOST_TEST(drawn, seen);
  BOOST_TEST(seen.find("Hessian diagonal [") != std::string::npos, seen);
  BOOST_TEST((WIFSIGNALED(status) && WTERMSIG(status) == SIGINT));
  BOOST_TEST(!std::filesystem::exists(scratch / "out.npy"));
}

BOOST_AUTO_TEST_CASE(a_kill_during_writing_leaves_the_old_file) {
  const Scratch scratch;
  const int64_t size = 8'000'000;  // 64 MB take a while to write
  const ModelSource source = {
      .parameters = {{"w", at::zeros({size}, at::kDouble).requires_grad_()}},
      .forward = "forward(self, x):\n    return x * self.w.sum()\n"};
  const Words words =
      write_problem(scratch, source, random_tensor({4, 1}, 2), at::zeros({4, 1}, at::kDouble)) +
      Words{"--loss", "mse"};
  const std::string folder = scratch / "results", file = folder + "/g.npy";
  std::filesystem::create_directory(folder);
  const at::Tensor old = at::ones({3}, at::kDouble);
  write_npy(file, old);
  const auto entries = [&] {
    return std::distance(std::filesystem::directory_iterator(folder), {});
  };
  const int nowhere = open("/dev/null", O_WRONLY);
  const pid_t process = start_tool(Words{"gradient", "--output", file} + words, nowhere, nowhere);
  const auto end = steady_clock::now() + std::chrono::minutes(2);
  while (entries() < 2 && steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  const bool writing = entries() == 2;
  kill(process, SIGKILL);
  wait_for(process);
  close(nowhere);
  BOOST_TEST(writing);
  const at::Tensor found = read_npy(file);
  BOOST_TEST((found.equal(old) || found.size(0) == size));
}

BOOST_AUTO_TEST_SUITE_END()
