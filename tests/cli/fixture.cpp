#include "cli/fixture.hpp"

#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/passes/freeze_module.h>

#include <curvature/core/random.hpp>
#include <curvature/io/npy.hpp>

namespace curvature::testing {
namespace {

std::string contents(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

int status_of(pid_t process) {
  int status = 0;
  waitpid(process, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

bool Outcome::is_error(int expected_status, const std::string& text) const {
  const bool one_line =
      error.starts_with("curvature: error: ") && error.find('\n') == error.size() - 1;
  return status == expected_status && output.empty() && one_line &&
         error.find(text) != std::string::npos;
}

std::ostream& operator<<(std::ostream& out, const Outcome& outcome) {
  return out << "status " << outcome.status << ", output <<" << outcome.output << ">>, error <<"
             << outcome.error << ">>";
}

Words operator+(Words first, const Words& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

pid_t start_tool(const Words& words, int output_descriptor, int error_descriptor) {
  std::vector<char*> arguments = {const_cast<char*>(CURVATURE_TOOL)};
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t process = fork();
  if (process == 0) {
    dup2(output_descriptor, STDOUT_FILENO);
    dup2(error_descriptor, STDERR_FILENO);
    execv(CURVATURE_TOOL, arguments.data());
    _exit(127);
  }
  return process;
}

Outcome run_tool(const Words& words) {
  const Scratch scratch;
  const auto open_file = [&](const std::string& name) {
    return open((scratch / name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  };
  const int output = open_file("output"), error = open_file("error");
  const int status = status_of(start_tool(words, output, error));
  ::close(output);
  ::close(error);
  return {status, contents(scratch / "output"), contents(scratch / "error")};
}

Scratch::Scratch() {
  std::string name = (std::filesystem::temp_directory_path() / "curvature-test-XXXXXX").string();
  folder_ = mkdtemp(name.data());
}

Scratch::~Scratch() {
  std::error_code ignored;  // a folder that stays behind is no reason to end the program
  std::filesystem::remove_all(folder_, ignored);
}

void save_model(const std::string& file, const ModelSource& source) {
  torch::jit::Module module("Network");
  for (const auto& [name, tensor] : source.parameters) {
    module.register_parameter(name, tensor, /*is_buffer=*/false);
  }
  for (const auto& [name, tensor] : source.buffers) module.register_buffer(name, tensor);
  module.register_attribute("training", c10::BoolType::get(), false);
  module.define("def " + source.forward);
  if (source.frozen) module = torch::jit::freeze_module(module);
  module.save(file);
}

at::Tensor random_tensor(at::IntArrayRef shape, uint64_t seed) {
  const int64_t count = c10::multiply_integers(shape);
  return RandomSource(seed).normal(0, count).reshape(shape);
}

ModelSource small_network() {
  const auto parameter = [](at::IntArrayRef shape, uint64_t seed) {
    return random_tensor(shape, seed).requires_grad_();
  };
  return {.parameters = {{"hidden", parameter({4, 5}, 1)}, {"output", parameter({3, 4}, 2)}},
          .forward = R"(forward(self, x):
    return torch.matmul(torch.tanh(torch.matmul(x, self.hidden.t())), self.output.t())
)"};
}

Words write_problem(const Scratch& scratch, const ModelSource& source, const at::Tensor& inputs,
                    const at::Tensor& targets) {
  save_model(scratch / "model.pt", source);
  write_npy(scratch / "inputs.npy", inputs);
  write_npy(scratch / "targets.npy", targets);
  return {"--model",   scratch / "model.pt",   "--inputs", scratch / "inputs.npy",
          "--targets", scratch / "targets.npy"};
}

Words small_problem(const Scratch& scratch) {
  return write_problem(scratch, small_network(), random_tensor({20, 5}, 3),
                       at::arange(20, at::kLong).remainder(3));
}

}  // namespace curvature::testing
