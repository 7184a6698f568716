#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/frontend/sugared_value.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>

#include <curvature/core/error.hpp>
#include <curvature/layerwise/kfac.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/model/empirical_risk.hpp>
#include <curvature/model/torchscript.hpp>

#include "io/zip_archive.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(torchscript_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// A file that is removed at the end of the test.
struct TemporaryFile {
  std::string path;
  explicit TemporaryFile(const std::string& name)
      : path((std::filesystem::temp_directory_path() / (std::to_string(::getpid()) + "-" + name))
                 .string()) {}
  ~TemporaryFile() { std::filesystem::remove(path); }
};

/// Python's `torch.jit.fork` and `torch.jit.wait`.
struct Tasks final : torch::jit::Resolver {
  std::shared_ptr<torch::jit::SugaredValue> resolveValue(
      const std::string& name, torch::jit::GraphFunction& function,
      const torch::jit::SourceRange& range) override {
    using namespace torch::jit;
    if (name == "fork") return SpecialFormValue::create(prim::fork);
    if (name == "wait") return std::make_shared<BuiltinFunction>(aten::wait, std::nullopt);
    return nativeResolver()->resolveValue(name, function, range);
  }
};

torch::jit::Module scripted(const std::string& forward, bool training = false) {
  torch::jit::Module module("Net");
  const RandomSource random(4);
  module.register_parameter("hidden", random.normal(0, 4, 3).to(at::kFloat).requires_grad_(),
                            false);
  module.register_parameter("output", random.normal(9, 2, 4).to(at::kFloat).requires_grad_(),
                            false);
  module.register_attribute("training", c10::BoolType::get(), training);
  module.define(forward, std::make_shared<Tasks>());
  return module;
}

const char* kTanhNet = R"(
def forward(self, x):
    return torch.matmul(torch.tanh(torch.matmul(x, self.hidden.t())), self.output.t())
)";

DatasetPtr data(at::ScalarType dtype) {
  return tensor_dataset({RandomSource(1).normal(0, 6, 3).to(dtype)},
                        at::tensor({0, 1, 1, 0, 1, 0}, at::kLong), 4);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_scripted_model_has_the_curvature_of_the_same_function_in_cpp) {
  const TemporaryFile file("net.pt");
  scripted(kTanhNet).save(file.path);
  const Model model = load_torchscript(file.path, {.dtype = at::kDouble});
  const TensorList p = {model.parameters()[0].tensor, model.parameters()[1].tensor};
  const Model same(
      [p](const TensorList& x) { return x[0].matmul(p[0].t()).tanh().matmul(p[1].t()); },
      {{"hidden", p[0]}, {"output", p[1]}});
  const EmpiricalRisk scripted_risk(model, cross_entropy(), data(at::kDouble));
  const EmpiricalRisk risk(same, cross_entropy(), data(at::kDouble));

  for (int run = 0; run < 3; ++run) {  // the optimising executor would detach by the third
    BOOST_TEST(close(materialize(*hessian(scripted_risk)), materialize(*hessian(risk))));
    BOOST_TEST(close(materialize(*ggn(scripted_risk)), materialize(*ggn(risk))));
  }
}

BOOST_AUTO_TEST_CASE(parameters_are_selected_by_pattern_and_keep_their_order) {
  const TemporaryFile file("net.pt");
  scripted(kTanhNet).save(file.path);
  const Model all = load_torchscript(file.path),
              some = load_torchscript(file.path, {.parameters = {"out*"}});

  BOOST_TEST(all.parameters()[0].name == "hidden");
  BOOST_TEST(all.parameters()[1].name == "output");
  BOOST_TEST(EmpiricalRisk(some, cross_entropy(), data(at::kFloat)).space().size() == 8);
}

BOOST_AUTO_TEST_CASE(tied_parameters_are_one_after_loading) {
  const TemporaryFile file("tied.pt");
  torch::jit::Module module("Net");
  const at::Tensor w = RandomSource(4).normal(0, 3, 3).to(at::kFloat).requires_grad_();
  module.register_parameter("first", w, false);
  module.register_parameter("second", w, false);
  module.define(R"(
def forward(self, x):
    return torch.matmul(torch.tanh(torch.matmul(x, self.first)), self.second)
)");
  module.save(file.path);
  const Model model = load_torchscript(file.path);
  const EmpiricalRisk risk(model, mean_squared_error(),
                           tensor_dataset({at::ones({2, 3})}, at::zeros({2, 3}), 2));
  const at::Tensor p = w.detach().clone().requires_grad_();
  const at::Tensor loss = at::ones({2, 3}).matmul(p).tanh().matmul(p).square().mean();

  BOOST_TEST(risk.space().size() == 9);
  BOOST_TEST(close(risk.gradient()[0], torch::autograd::grad({loss}, {p})[0], {1e-6, 0}));

  // Patterns see the first name only.
  const auto selected = [&](const std::string& pattern) {
    const Model some = load_torchscript(file.path, {.parameters = {pattern}});
    BOOST_TEST(some.parameters().size() == 1U);
    return some.parameters().front().tensor.requires_grad();
  };
  BOOST_TEST(selected("first"));
  BOOST_TEST(!selected("second"));
}

BOOST_AUTO_TEST_CASE(a_complex_parameter_is_refused_by_name) {
  const TemporaryFile file("complex.pt");
  torch::jit::Module module = scripted(kTanhNet);
  module.register_parameter("phase", at::ones({2}, at::kComplexFloat).requires_grad_(), false);
  module.save(file.path);

  BOOST_CHECK_EXCEPTION(load_torchscript(file.path), ModelError, [](const ModelError& error) {
    return std::string(error.what()).find("'phase' must be real") != std::string::npos;
  });
  BOOST_CHECK_NO_THROW(load_torchscript(file.path, {.parameters = {"hidden"}}));
}

BOOST_AUTO_TEST_CASE(what_is_no_usable_archive_is_refused_with_the_export_line) {
  const TemporaryFile file("broken.pt");
  const auto is_one_line = [](const std::exception& error) {
    const std::string what = error.what();
    return what.find('\n') == std::string::npos &&
           what.find("torch.jit.script") != std::string::npos;
  };

  BOOST_CHECK_THROW(load_torchscript(file.path), FileError);
  BOOST_CHECK_THROW(load_torchscript("/"), FileError);
  for (const std::string content : {"", "PK", "not a model\n"}) {
    std::ofstream(file.path) << content;
    BOOST_CHECK_EXCEPTION(load_torchscript(file.path), FileError, is_one_line);
  }
  scripted(kTanhNet).save(file.path);
  const auto size = std::filesystem::file_size(file.path);
  for (const double part : {0.1, 0.5, 0.9, 0.999}) {
    scripted(kTanhNet).save(file.path);
    std::filesystem::resize_file(file.path,
                                 static_cast<uintmax_t>(part * static_cast<double>(size)));
    BOOST_CHECK_EXCEPTION(load_torchscript(file.path), FileError, is_one_line);
  }
  torch::save(at::ones({2}), file.path);
  BOOST_CHECK_THROW(load_torchscript(file.path), Error);
  torch::jit::Module frozen("Net");
  frozen.define("def forward(self, x):\n    return x\n");
  frozen.save(file.path);
  BOOST_CHECK_EXCEPTION(load_torchscript(file.path), ModelError, is_one_line);
}

BOOST_AUTO_TEST_CASE(damaged_records_are_noticed) {
  const TemporaryFile file("damaged.pt");
  scripted(kTanhNet).save(file.path);
  std::string bytes;
  {
    std::ifstream in(file.path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  const at::Tensor hidden = load_torchscript(file.path).parameters()[0].tensor;
  const std::string record(static_cast<const char*>(hidden.const_data_ptr()), hidden.nbytes());
  const size_t place = bytes.find(record);
  BOOST_TEST_REQUIRE(place != std::string::npos);
  bytes[place + 5] ^= 4;
  std::ofstream(file.path, std::ios::binary) << bytes;
  BOOST_CHECK_THROW(load_torchscript(file.path), FileError);

  // Sound as a zip file, but a record holds less than its tensor needs.
  curvature::detail::ZipWriter writer;
  std::vector<std::pair<std::string, std::string>> entries;
  {
    scripted(kTanhNet).save(file.path);
    const curvature::detail::ZipArchive archive(file.path);
    for (size_t i = 0; i < archive.entries().size(); ++i) {
      const auto source = archive.open(i);
      std::string content(source->remaining(), '\0');
      source->read(content.data(), content.size());
      if (content == record) content.resize(8);
      entries.emplace_back(archive.entries()[i], std::move(content));
    }
  }
  for (const auto& [name, content] : entries) writer.add(name, {content});
  std::ofstream(file.path, std::ios::binary) << writer.finish();
  BOOST_CHECK_EXCEPTION(load_torchscript(file.path), FileError, [](const FileError& error) {
    return std::string(error.what()).find("'hidden'") != std::string::npos;
  });
}

/// Else layers in a task would be seen or not, by chance.
BOOST_AUTO_TEST_CASE(tasks_of_a_model_run_in_turn) {
  const TemporaryFile file("fork.pt");
  scripted(R"(
def task(self, x):
    return torch.matmul(x, self.hidden.t())

def forward(self, x):
    future = fork(self.task, x)
    return torch.matmul(torch.tanh(wait(future)), self.output.t())
)")
      .save(file.path);
  const EmpiricalRisk risk(load_torchscript(file.path), cross_entropy(), data(at::kFloat));
  for (int run = 0; run < 10; ++run) {
    for (const ParameterTreatment& treatment : describe_layers(risk)) {
      BOOST_TEST(treatment.covered, treatment.name);
    }
  }
}

BOOST_AUTO_TEST_CASE(errors_inside_the_model_become_one_line) {
  const TemporaryFile file("net.pt");
  scripted(kTanhNet).save(file.path);
  const Model model = load_torchscript(file.path);
  const auto is_reason = [](const std::exception& error) {
    const std::string what = error.what();
    return what.find('\n') == std::string::npos && what.find("mat1 and mat2") != std::string::npos;
  };

  BOOST_CHECK_EXCEPTION(model({at::ones({2, 5})}), ModelError, is_reason);
  BOOST_CHECK_THROW(model({}), ModelError);
  BOOST_CHECK_THROW(model({at::ones({2, 3}), at::ones({2, 3})}), ModelError);
  scripted("def forward(self, x):\n    return (x, x)\n").save(file.path);
  BOOST_CHECK_THROW(load_torchscript(file.path)({at::ones({2, 3})}), ModelError);
}

BOOST_AUTO_TEST_CASE(training_mode_with_dropout_is_refused) {
  const TemporaryFile file("dropout.pt");
  const char* forward = R"(
def forward(self, x):
    x = torch.dropout(torch.matmul(x, self.hidden.t()), 0.5, self.training)
    return torch.matmul(x, self.output.t())
)";
  scripted(forward, /*training=*/true).save(file.path);
  BOOST_CHECK_THROW(EmpiricalRisk(load_torchscript(file.path), cross_entropy(), data(at::kFloat)),
                    ModelError);
  scripted(forward).save(file.path);
  BOOST_CHECK_NO_THROW(
      EmpiricalRisk(load_torchscript(file.path), cross_entropy(), data(at::kFloat)));
}

BOOST_AUTO_TEST_CASE(an_archive_is_saved_again_with_other_parameters) {
  const TemporaryFile source("source.pt"), saved("saved.pt");
  torch::jit::Module original = scripted(kTanhNet);
  original.register_buffer("statistics", at::arange(3, at::kFloat));
  original.save(source.path);
  const TorchscriptOptions wide = {.dtype = at::kDouble};
  const Model model = load_torchscript(source.path, wide);
  {
    const at::NoGradGuard no_grad;
    for (const NamedTensor& parameter : model.parameters()) parameter.tensor.mul_(3).add_(1e-12);
  }
  save_torchscript(saved.path, source.path, model.parameters(), wide);
  const Model again = load_torchscript(saved.path);
  BOOST_TEST_REQUIRE(again.parameters().size() == 2u);
  for (size_t i = 0; i < 2; ++i) {
    BOOST_TEST(again.parameters()[i].name == model.parameters()[i].name);
    BOOST_TEST(again.parameters()[i].tensor.equal(model.parameters()[i].tensor));
    BOOST_TEST(again.parameters()[i].tensor.requires_grad());
  }
  BOOST_TEST(again.buffers()[0].tensor.equal(at::arange(3, at::kDouble)));
  const at::Tensor x = RandomSource(5).normal(0, 6, 3);
  BOOST_TEST(again({x}).equal(model({x})));

  BOOST_CHECK_THROW(
      save_torchscript(saved.path, source.path, {{"other", at::zeros({4, 3}, at::kDouble)}}, wide),
      OptionError);
  BOOST_CHECK_THROW(save_torchscript(saved.path, source.path, model.parameters()), OptionError);
  BOOST_TEST(load_torchscript(saved.path).parameters().size() == 2u);  // as it was
}

BOOST_AUTO_TEST_SUITE_END()
