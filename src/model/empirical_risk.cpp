#include <algorithm>
#include <cmath>
#include <map>
#include <fnmatch.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <curvature/model/empirical_risk.hpp>

#include "core/check.hpp"
#include "core/fast_kernels.hpp"
#include "core/finite.hpp"
#include "model/determinism.hpp"

namespace curvature {

struct EmpiricalRisk::State {
  State(Model the_model, LossPtr the_loss, DatasetPtr the_data, RiskOptions the_options)
      : model(std::move(the_model)),
        loss(std::move(the_loss)),
        data(std::move(the_data)),
        options(std::move(the_options)),
        reducer(options.reducer ? options.reducer : std::make_shared<const InProcessReducer>()) {}

  /// Chooses the parameters to differentiate.
  void select(const std::vector<std::string>& patterns);
  /// Runs the model on a few examples: output, shapes, unused parameters.
  void try_model();
  /// Checks and counts the examples.
  void count_data();

  Model model;
  LossPtr loss;
  DatasetPtr data;
  RiskOptions options;
  std::shared_ptr<const Reducer> reducer;
  Space space;
  TensorList parameters;
  std::vector<std::string> unused;
  Shape output_shape;
  int64_t num_classes = 0;
  bool changes_inputs = false;          // the model does, in place
  std::vector<int64_t> first_examples;  // of each batch
  int64_t num_local_examples = 0;
  int64_t num_examples = 0;
  double total_weight = 0;
  double scale = 1;
  std::shared_ptr<Memo> memo = std::make_shared<Memo>();
};

namespace {

constexpr int64_t kExamplesTried = 16;

/// The parameters that `patterns` select, in the patterns' order and within one in the model's.
std::vector<NamedTensor> selected_parameters(const Model& model,
                                             const std::vector<std::string>& patterns) {
  std::vector<NamedTensor> selected;
  if (patterns.empty()) {
    for (const NamedTensor& parameter : model.parameters()) {
      if (parameter.tensor.requires_grad()) selected.push_back(parameter);
    }
    CURVATURE_CHECK(!selected.empty(), ModelError,
                    "EmpiricalRisk: no parameter of the model requires gradients");
    return selected;
  }
  std::map<std::string, bool> taken;
  for (const std::string& pattern : patterns) {
    for (const std::string& name : match_parameters(model, {pattern})) {
      if (!taken.insert({name, true}).second) continue;
      const auto found =
          std::find_if(model.parameters().begin(), model.parameters().end(),
                       [&](const NamedTensor& parameter) { return parameter.name == name; });
      CURVATURE_CHECK(found->tensor.requires_grad(), OptionError,
                      "EmpiricalRisk: parameter '{}' does not require gradients; call "
                      "requires_grad_() on it first",
                      name);
      selected.push_back(*found);
    }
  }
  return selected;
}

void check_batch(const Batch& batch, int64_t index) {
  CURVATURE_CHECK(!batch.inputs.empty() && batch.inputs.front().defined() &&
                      batch.inputs.front().dim() > 0 && batch.size() > 0,
                  DataError, "EmpiricalRisk: batch {} has no examples", index);
  for (size_t i = 0; i < batch.inputs.size(); ++i) {
    const at::Tensor& input = batch.inputs[i];
    CURVATURE_CHECK(input.dim() > 0 && input.size(0) == batch.size(), DataError,
                    "EmpiricalRisk: batch {}, input {}: expected {} examples, got {}", index, i,
                    batch.size(), detail::to_string(input.sizes()));
    CURVATURE_CHECK(detail::is_finite(input), DataError,
                    "EmpiricalRisk: batch {}, input {} contains NaN or infinity", index, i);
  }
  CURVATURE_CHECK(
      batch.targets.defined() && batch.targets.dim() > 0 && batch.targets.size(0) == batch.size(),
      DataError, "EmpiricalRisk: batch {}: expected targets for {} examples, got {}", index,
      batch.size(), batch.targets.defined() ? detail::to_string(batch.targets.sizes()) : "none");
  if (!batch.weights.defined()) return;
  CURVATURE_CHECK(batch.weights.dim() == 1 && batch.weights.size(0) == batch.size() &&
                      detail::is_finite(batch.weights) && batch.weights.ge(0).all().item<bool>(),
                  DataError,
                  "EmpiricalRisk: batch {}: weights must be [{}], finite and not negative", index,
                  batch.size());
}

Batch to_device(Batch batch, const at::Device& device) {
  for (at::Tensor& input : batch.inputs) input = input.to(device);
  if (batch.targets.defined()) batch.targets = batch.targets.to(device);
  if (batch.weights.defined()) batch.weights = batch.weights.to(device);
  return batch;
}

}  // namespace

void EmpiricalRisk::State::select(const std::vector<std::string>& patterns) {
  options.parameters = patterns;
  parameters.clear();
  std::vector<std::pair<std::string, Shape>> layout;
  for (const auto& [name, tensor] : selected_parameters(model, patterns)) {
    layout.emplace_back(name, tensor.sizes().vec());
    parameters.push_back(tensor);
  }
  space = Space(std::move(layout));
  CURVATURE_CHECK(space.size() > 0, ModelError, "EmpiricalRisk: the selected parameters are empty");
}

EmpiricalRisk::EmpiricalRisk(std::shared_ptr<const State> state) : state_(std::move(state)) {}

void EmpiricalRisk::State::try_model() {
  const c10::InferenceMode no_inference(false);
  const at::AutoGradMode with_gradients(true);
  const Batch first = to_device(data->batch(0), parameters.front().device());
  check_batch(first, 0);
  TensorList few;
  for (const at::Tensor& input : first.inputs) {
    few.push_back(input.narrow(0, 0, std::min(first.size(), kExamplesTried)));
  }
  const auto [output, changes] = detail::checked_output(model, few);
  changes_inputs = changes;
  output_shape = output.sizes().slice(1).vec();
  num_classes = loss->rows(output.detach()).size(1);
  const at::Tensor targets = first.targets.narrow(0, 0, output.size(0));
  loss->check_targets(targets, num_classes, output.scalar_type());
  loss->terms(output.detach(), targets);  // throws if the shapes do not fit

  TensorList gradients(parameters.size());
  if (output.requires_grad()) {
    gradients = torch::autograd::grad({output.sum()}, parameters, {}, /*retain_graph=*/false,
                                      /*create_graph=*/false, /*allow_unused=*/true);
  }
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (!gradients[i].defined()) unused.push_back(space.entries()[i].name);
  }
}

void EmpiricalRisk::State::count_data() {
  double normalizer = 0;
  first_examples.clear();
  num_local_examples = 0;
  total_weight = 0;
  for (int64_t index = 0; index < data->num_batches(); ++index) {
    const Batch batch = data->batch(index);
    check_batch(batch, index);
    loss->check_targets(batch.targets, num_classes, parameters.front().scalar_type());
    const at::Tensor per_example = loss->normalizers(batch.targets);
    const at::Tensor weights = batch.weights.defined() ? batch.weights.to(at::kCPU, at::kDouble)
                                                       : at::full_like(per_example, 1);
    first_examples.push_back(options.first_example + num_local_examples);
    num_local_examples += batch.size();
    total_weight += weights.sum().item<double>();
    normalizer += (weights * per_example).sum().item<double>();
  }
  TensorList totals = {
      at::tensor({static_cast<double>(num_local_examples), total_weight, normalizer}, at::kDouble)};
  reducer->sum(totals);
  num_examples = static_cast<int64_t>(totals[0][0].item<double>());
  total_weight = totals[0][1].item<double>();
  normalizer = totals[0][2].item<double>();
  CURVATURE_CHECK(normalizer > 0, DataError,
                  "EmpiricalRisk: no loss term counts; all weights are zero or all labels ignored");
  if (options.reduction == Reduction::kMean) scale = 1 / normalizer;
}

EmpiricalRisk::EmpiricalRisk(Model model, LossPtr loss, DatasetPtr data, RiskOptions options) {
  CURVATURE_CHECK(loss && data, OptionError, "EmpiricalRisk: loss and data must not be null");
  CURVATURE_CHECK(std::isfinite(options.weight_decay) && options.weight_decay >= 0, OptionError,
                  "EmpiricalRisk: weight_decay must be finite and not negative; got {}",
                  options.weight_decay);
  auto state = std::make_shared<State>(std::move(model), std::move(loss), std::move(data),
                                       std::move(options));
  state->select(state->options.parameters);
  for (size_t i = 0; i < state->parameters.size(); ++i) {
    CURVATURE_CHECK(detail::is_finite(state->parameters[i]), ModelError,
                    "EmpiricalRisk: parameter '{}' contains NaN or infinity",
                    state->space.entries()[i].name);
  }
  state->try_model();
  state->count_data();
  state_ = std::move(state);
}

const Space& EmpiricalRisk::space() const { return state_->space; }
const TensorList& EmpiricalRisk::parameters() const { return state_->parameters; }
const Model& EmpiricalRisk::model() const { return state_->model; }
const Loss& EmpiricalRisk::loss_function() const { return *state_->loss; }
const Dataset& EmpiricalRisk::data() const { return *state_->data; }
const RiskOptions& EmpiricalRisk::options() const { return state_->options; }
const Reducer& EmpiricalRisk::reducer() const { return *state_->reducer; }
int64_t EmpiricalRisk::num_examples() const { return state_->num_examples; }
int64_t EmpiricalRisk::num_local_examples() const { return state_->num_local_examples; }
double EmpiricalRisk::total_weight() const { return state_->total_weight; }
double EmpiricalRisk::scale() const { return state_->scale; }
const Shape& EmpiricalRisk::output_shape() const { return state_->output_shape; }
const std::vector<std::string>& EmpiricalRisk::unused_parameters() const { return state_->unused; }

namespace {

/// J of all workers from what one of them summed, with weight decay.
double sum_over_workers(double loss, const EmpiricalRisk& risk) {
  TensorList sums = {at::scalar_tensor(loss, at::kDouble)};
  risk.reducer().sum(sums);
  double result = sums[0].item<double>();
  if (risk.options().weight_decay > 0) {
    for (const at::Tensor& parameter : risk.parameters()) {
      result += risk.options().weight_decay / 2 *
                parameter.detach().square().sum(at::kDouble).item<double>();
    }
  }
  CURVATURE_CHECK(std::isfinite(result), NumericalError, "EmpiricalRisk: the loss is not finite");
  return result;
}

}  // namespace

double EmpiricalRisk::loss(const Observer& observer) const {
  const detail::FastKernels fast;
  const c10::InferenceMode no_inference(false);
  const int64_t num_batches = data().num_batches();
  double total = 0;
  for (int64_t index = 0; index < num_batches; ++index) {
    const BatchRisk view = on(index);
    const at::Tensor output = [&] {
      // The function that is differentiated: without gradients a model may compute another one
      // (nested tensors in nn.TransformerEncoder).
      const at::AutoGradMode with_gradients(true);
      return view.predict().detach();
    }();
    const at::NoGradGuard no_grad;
    total += view.objective(output).item<double>();
    if (observer) observer({"loss", index + 1, num_batches});
  }
  return sum_over_workers(total, *this);
}

TensorList EmpiricalRisk::gradient(const Observer& observer) const {
  return loss_and_gradient(observer).gradient;
}

LossAndGradient EmpiricalRisk::loss_and_gradient(const Observer& observer) const {
  const detail::FastKernels fast;
  const c10::InferenceMode no_inference(false);
  const int64_t num_batches = data().num_batches();
  double loss = 0;
  TensorList total;
  for (const at::Tensor& parameter : parameters()) {
    total.push_back(at::zeros_like(parameter.detach()));
  }
  for (int64_t index = 0; index < num_batches; ++index) {
    const at::AutoGradMode with_gradients(true);
    const BatchRisk view = on(index);
    const at::Tensor objective = view.objective(view.predict());
    loss += objective.item<double>();
    if (objective.requires_grad()) {
      const TensorList part = torch::autograd::grad({objective}, parameters(), {}, false, false,
                                                    /*allow_unused=*/true);
      for (size_t i = 0; i < part.size(); ++i) {
        if (part[i].defined()) total[i].add_(part[i]);
      }
    }
    if (observer) observer({"gradient", index + 1, num_batches});
  }
  reducer().sum(total);
  if (options().weight_decay > 0) {
    for (size_t i = 0; i < total.size(); ++i) {
      total[i].add_(parameters()[i].detach(), options().weight_decay);
    }
  }
  loss = sum_over_workers(loss, *this);
  for (size_t i = 0; i < total.size(); ++i) {
    CURVATURE_CHECK(detail::is_finite(total[i]), NumericalError,
                    "EmpiricalRisk: the gradient of '{}' is not finite", space().entries()[i].name);
  }
  return {.loss = loss, .gradient = std::move(total)};
}

BatchRisk EmpiricalRisk::on(int64_t index) const {
  const int64_t num_batches = data().num_batches();
  CURVATURE_CHECK(index >= 0 && index < num_batches, OptionError,
                  "EmpiricalRisk::on: expected a batch among 0..{}, got {}", num_batches - 1,
                  index);
  const auto position = static_cast<size_t>(index);
  return on(data().batch(index), state_->first_examples.at(position));
}

BatchRisk EmpiricalRisk::on(Batch batch, int64_t first_example) const {
  for (size_t i = 0; i < parameters().size(); ++i) {
    CURVATURE_CHECK(parameters()[i].requires_grad(), ModelError,
                    "EmpiricalRisk: parameter '{}' was frozen after the risk was built; expected "
                    "it to require gradients; build the risk again",
                    space().entries()[i].name);
  }
  return BatchRisk(*this, to_device(std::move(batch), parameters().front().device()),
                   first_example);
}

EmpiricalRisk EmpiricalRisk::with_parameters(const std::vector<std::string>& parameters) const {
  auto state = std::make_shared<State>(*state_);
  state->select(parameters);
  state->memo = std::make_shared<Memo>();
  std::erase_if(state->unused, [&](const std::string& name) { return !state->space.find(name); });
  return EmpiricalRisk(std::move(state));
}

EmpiricalRisk EmpiricalRisk::with_data(DatasetPtr data, int64_t first_example) const {
  CURVATURE_CHECK(data, OptionError, "EmpiricalRisk::with_data: data must not be null");
  auto state = std::make_shared<State>(*state_);
  state->data = std::move(data);
  state->options.first_example = first_example;
  state->count_data();
  return EmpiricalRisk(std::move(state));
}

Memo& EmpiricalRisk::memo() const { return *state_->memo; }

std::vector<int64_t> EmpiricalRisk::versions() const {
  std::vector<int64_t> versions;
  for (const auto* tensors : {&model().parameters(), &model().buffers()}) {
    for (const NamedTensor& named : *tensors) versions.push_back(named.tensor._version());
  }
  return versions;
}

void EmpiricalRisk::check_versions(const std::vector<int64_t>& expected,
                                   const std::string& who) const {
  const std::vector<int64_t> now = versions();
  const auto changed = std::mismatch(now.begin(), now.end(), expected.begin()).first - now.begin();
  if (changed == static_cast<std::ptrdiff_t>(now.size())) return;
  const auto position = static_cast<size_t>(changed);
  const size_t num_parameters = model().parameters().size();
  const std::string& name = position < num_parameters
                                ? model().parameters()[position].name
                                : model().buffers()[position - num_parameters].name;
  throw StaleOperatorError(
      fmt::format("{}: '{}' changed since the operator was built; build it again", who, name));
}

at::Tensor BatchRisk::predict() const {
  if (!risk_->state_->changes_inputs) return risk_->model()(batch_.inputs);
  TensorList copies;  // the batch may be a view of the data
  for (const at::Tensor& input : batch_.inputs) copies.push_back(input.clone());
  return risk_->model()(copies);
}

at::Tensor BatchRisk::objective(const at::Tensor& output) const {
  const at::Tensor terms = risk_->loss_function().terms(output, batch_.targets);
  if (!batch_.weights.defined()) return terms.sum() * risk_->scale();
  return (terms * term_weights(terms.size(0))).sum();
}

at::Tensor BatchRisk::term_weights(int64_t num_terms) const {
  const auto options = risk_->parameters().front().options().requires_grad(false);
  if (!batch_.weights.defined()) return at::scalar_tensor(risk_->scale(), options);
  return (batch_.weights.to(options.dtype()) * risk_->scale())
      .repeat_interleave(num_terms / batch_.size());
}

std::unique_ptr<const LossPoint> BatchRisk::loss_point(const at::Tensor& output) const {
  return risk_->loss_function().at(output, batch_.targets);
}

}  // namespace curvature
