#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <sstream>
#include <unordered_map>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <torch/serialize/archive.h>
#include <fmt/ranges.h>

#include <curvature/core/memory.hpp>
#include <curvature/optim/preconditioned.hpp>

#include "core/check.hpp"
#include "core/fast_kernels.hpp"
#include "core/finite.hpp"
#include "core/inner_product.hpp"
#include "optim/archive_visitor.hpp"
#include "optim/member.hpp"

namespace curvature::optim {
namespace {

constexpr const char* kFormat = "curvature optimizer 2";
constexpr const char* kRates = "learning rates";

void check_rate(double learning_rate) {
  CURVATURE_CHECK(
      std::isfinite(learning_rate) && learning_rate >= 0, OptionError,
      "Preconditioned: expected a learning rate that is finite and not negative, got {}",
      learning_rate);
}

void check_options(const PreconditionedOptions& options) {
  check_rate(options.learning_rate);
  const ClipOptions& clip = options.clip;
  for (const double bound : {clip.gradient_norm, clip.norm, clip.rms, clip.entry, clip.kl}) {
    CURVATURE_CHECK(std::isfinite(bound) && bound >= 0, OptionError,
                    "Preconditioned: expected bounds that are finite and not negative, got {}",
                    bound);
  }
  CURVATURE_CHECK(std::isfinite(options.weight_decay.decay) && options.weight_decay.decay >= 0,
                  OptionError,
                  "Preconditioned: expected a weight decay that is finite and not negative, got {}",
                  options.weight_decay.decay);
  CURVATURE_CHECK(options.iterates.decay >= 0 && options.iterates.decay < 1 &&
                      options.iterates.interpolation > 0 && options.iterates.interpolation <= 1,
                  OptionError,
                  "Preconditioned: expected iterates.decay in [0, 1) and interpolation in (0, 1], "
                  "got {} and {}",
                  options.iterates.decay, options.iterates.interpolation);
  const GraftOptions& graft = options.graft;
  CURVATURE_CHECK(
      std::isfinite(graft.epsilon) && graft.epsilon >= 0, OptionError,
      "Preconditioned: expected a graft.epsilon that is finite and not negative, got {}",
      graft.epsilon);
  CURVATURE_CHECK(graft.beta2 >= 0 && graft.beta2 < 1, OptionError,
                  "Preconditioned: expected graft.beta2 in [0, 1), got {}", graft.beta2);
  const ViewOptions& view = options.view;
  CURVATURE_CHECK(view.merge_up_to >= 0 && view.block_size >= 0 && view.max_dense >= 0, OptionError,
                  "Preconditioned: sizes of views must not be negative");
}

std::string megabytes(int64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

}  // namespace

std::unique_ptr<torch::optim::OptimizerOptions> PreconditionedGroupOptions::clone() const {
  return std::make_unique<PreconditionedGroupOptions>(*this);
}

Preconditioned::Preconditioned(std::vector<NamedTensor> parameters, EstimatorFactory estimator,
                               PreconditionedOptions options)
    : Preconditioned({{.parameters = std::move(parameters),
                       .estimator = std::move(estimator),
                       .options = std::move(options)}}) {}

Preconditioned::Preconditioned(std::vector<ParameterGroup> groups)
    : torch::optim::Optimizer(std::vector<torch::optim::OptimizerParamGroup>(),
                              std::make_unique<PreconditionedGroupOptions>(
                                  groups.empty() ? PreconditionedOptions() : groups[0].options)) {
  for (ParameterGroup& group : groups) add_group(std::move(group));
}

Preconditioned::~Preconditioned() = default;

void Preconditioned::add_group(ParameterGroup group) {
  check_options(group.options);
  std::vector<std::unique_ptr<Member>> added;
  TensorList tensors;
  for (NamedTensor& named : group.parameters) {
    const auto same = [&](const auto& member) {
      return member->name == named.name || member->parameter.is_same(named.tensor);
    };
    CURVATURE_CHECK(std::none_of(members_.begin(), members_.end(), same) &&
                        std::none_of(added.begin(), added.end(), same),
                    OptionError, "Preconditioned: '{}' is there twice", named.name);
    tensors.push_back(named.tensor);
    added.push_back(std::make_unique<Member>(std::move(named), param_groups().size(), group,
                                             static_cast<int64_t>(members_.size() + added.size())));
  }
  int64_t bytes = state_bytes();
  for (const auto& member : added) bytes += member->state_bytes();
  if (!tensors.empty()) {
    const int64_t limit = group.options.max_state_bytes > 0
                              ? group.options.max_state_bytes
                              : available_memory(tensors.front().device());
    CURVATURE_CHECK(bytes <= limit, OptionError,
                    "Preconditioned: the state would take {}; expected at most {}; cut large axes "
                    "into blocks (view.block_size) or give them diagonals (view.max_dense)",
                    megabytes(bytes), megabytes(limit));
  }
  std::move(added.begin(), added.end(), std::back_inserter(members_));
  Optimizer::add_param_group(torch::optim::OptimizerParamGroup(std::move(tensors)));
  // Afterwards: LibTorch gives options of a kind that it does not know the first group's values.
  param_groups().back().set_options(
      std::make_unique<PreconditionedGroupOptions>(std::move(group.options)));
}

/// One step for given gradients, one for each member; undefined ones are skipped.
/// Returns their norm.
double Preconditioned::update(const TensorList& gradients) {
  const at::NoGradGuard no_grad;
  const curvature::detail::FastKernels fast;
  const double norm = checked_norm(gradients);
  const TensorList clipped = clip_gradients(gradients, norm);
  step_adam(clipped);
  step_others(clipped);
  return norm;
}

double Preconditioned::checked_norm(const TensorList& gradients) const {
  double squares = 0;
  // From the last one on: the step begins with the first, which the cache then still holds.
  for (size_t i = gradients.size(); i-- > 0;) {
    if (!gradients[i].defined()) continue;
    const Member& member = *members_[i];
    CURVATURE_CHECK(!member.kept.defined(), OptionError,
                    "Preconditioned: '{}' holds its average since eval(); call train() before a "
                    "step",
                    member.name);
    CURVATURE_CHECK(gradients[i].sizes() == member.parameter.sizes() &&
                        gradients[i].scalar_type() == member.parameter.scalar_type(),
                    ShapeError, "Preconditioned: the gradient of '{}' has another shape or dtype",
                    member.name);
    const double norm = curvature::detail::quick_norm(gradients[i]);
    CURVATURE_CHECK(std::isfinite(norm * norm), NumericalError,
                    "Preconditioned: the gradient of '{}' {}; nothing was changed", member.name,
                    curvature::detail::is_finite(gradients[i]) ? "is too large for its dtype"
                                                               : "contains NaN or infinity");
    squares += norm * norm;
  }
  return std::sqrt(squares);
}

TensorList Preconditioned::clip_gradients(const TensorList& gradients, double norm) {
  TensorList clipped = gradients;
  for (size_t i = 0; i < clipped.size(); ++i) {
    const double bound = members_[i]->options.clip.gradient_norm;
    if (clipped[i].defined() && bound > 0 && norm > bound) clipped[i] = clipped[i] * (bound / norm);
  }
  return clipped;
}

/// Members whose step is AdamW's, all of a kind in one call.
void Preconditioned::step_adam(const TensorList& gradients) {
  struct Lists {
    TensorList parameters, gradients, averages, squares, steps;
    std::vector<Member*> members;
    double decay = 0;  // one for a group
  };
  std::map<std::tuple<size_t, double, double, double, at::ScalarType>, Lists> batches;
  for (size_t i = 0; i < gradients.size(); ++i) {
    Member& member = *members_[i];
    const auto state = member.fused_state();
    if (!gradients[i].defined() || !state) continue;
    Lists& lists = batches[{member.group, member.options.momentum.beta, state->beta2,
                            state->epsilon, member.parameter.scalar_type()}];
    Momentum& momentum = member.parts.front().before;
    at::Tensor& square = *state->second_moment;
    if (!square.defined())
      square = at::zeros_like(gradients[i], at::MemoryFormat::Contiguous).view(member.shape);
    momentum.num_steps() += 1;
    *state->num_steps += 1;
    const auto& sizes = member.parameter.sizes();
    lists.parameters.push_back(member.parameter.detach());
    lists.gradients.push_back(gradients[i].contiguous());
    lists.averages.push_back(momentum.average(square).view(sizes));
    lists.squares.push_back(square.view(sizes));
    lists.steps.push_back(
        at::full({}, *state->num_steps, member.parameter.options().dtype(at::kFloat)));
    lists.members.push_back(&member);
    lists.decay = member.options.weight_decay.decay;
  }
  for (auto& [key, lists] : batches) {
    const auto& [group, beta1, beta2, epsilon, dtype] = key;
    at::_fused_adamw_(lists.parameters, lists.gradients, lists.averages, lists.squares, {},
                      lists.steps, rate_of(group), beta1, beta2, lists.decay, epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
    for (Member* member : lists.members) member->update_average();
  }
}

void Preconditioned::step_others(const TensorList& gradients) {
  TensorList directions(gradients.size());
  for (size_t i = 0; i < gradients.size(); ++i) {
    Member& member = *members_[i];
    if (!gradients[i].defined() || member.fused_state()) continue;
    directions[i] = member.direction(gradients[i]);
    if (member.options.clip.kl > 0) continue;
    member.move(directions[i], rate_of(member.group));
    directions[i] = at::Tensor();
  }
  bound_divergence(gradients, directions);
}

/// Moves the members whose steps are bounded together.
void Preconditioned::bound_divergence(const TensorList& gradients, const TensorList& directions) {
  double product = 0;
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (!directions[i].defined()) continue;
    const double rate = rate_of(members_[i]->group);
    product += rate * rate * (directions[i] * gradients[i]).sum(at::kDouble).item<double>();
  }
  for (size_t i = 0; i < gradients.size(); ++i) {
    Member& member = *members_[i];
    if (!gradients[i].defined() || member.options.clip.kl == 0) continue;
    const double factor =
        product == 0 ? 1 : std::min(1.0, std::sqrt(member.options.clip.kl / std::abs(product)));
    member.move(directions[i].defined() ? directions[i] * factor : directions[i],
                rate_of(member.group));
  }
}

double Preconditioned::rate_of(size_t group) const {
  return param_groups()[group].options().get_lr();
}

at::Tensor Preconditioned::step(LossClosure closure) {
  at::Tensor loss;
  if (closure) {
    const at::AutoGradMode with_gradients(true);
    loss = closure();
  }
  TensorList gradients;
  for (const auto& member : members_) gradients.push_back(member->parameter.grad());
  update(gradients);
  return loss;
}

StepReport Preconditioned::step(const EmpiricalRisk& batch) {
  auto [loss, gradient] = batch.loss_and_gradient();
  std::unordered_map<const c10::TensorImpl*, at::Tensor> by_parameter;
  const std::vector<std::string>& unused = batch.unused_parameters();
  for (size_t i = 0; i < gradient.size(); ++i) {
    const std::string& name = batch.space().entries()[i].name;
    const bool is_unused = std::find(unused.begin(), unused.end(), name) != unused.end() &&
                           gradient[i].count_nonzero().item<int64_t>() == 0;
    by_parameter[batch.parameters()[i].unsafeGetTensorImpl()] =
        is_unused ? at::Tensor() : gradient[i];
  }
  TensorList gradients;
  for (const auto& member : members_) {
    const auto found = by_parameter.find(member->parameter.unsafeGetTensorImpl());
    gradients.push_back(found == by_parameter.end() ? at::Tensor() : found->second);
    if (found != by_parameter.end()) by_parameter.erase(found);
  }
  CURVATURE_CHECK(by_parameter.empty(), OptionError,
                  "Preconditioned: the batch has parameters that this optimizer was not made for");
  const double rate = learning_rate();
  return {.loss = loss, .gradient_norm = update(gradients), .learning_rate = rate};
}

double Preconditioned::learning_rate() const { return param_groups().empty() ? 0 : rate_of(0); }

void Preconditioned::set_learning_rate(double learning_rate) {
  check_rate(learning_rate);
  for (auto& group : param_groups()) group.options().set_lr(learning_rate);
}

void Preconditioned::eval() {
  const at::NoGradGuard no_grad;
  for (auto& member : members_) member->evaluate();
}

void Preconditioned::train() {
  const at::NoGradGuard no_grad;
  for (auto& member : members_) member->continue_training();
}

namespace {

/// Shows the visitor everything that the members keep.
template <class Visitor, class Members>
void visit_all(Visitor& visitor, const Members& members) {
  for (const auto& member : members) {
    visitor.under(member->name);
    member->visit(visitor);
    for (size_t i = 0; i < member->parts.size(); ++i) {
      visitor.under(member->parts.size() == 1 ? member->name
                                              : fmt::format("{}/{}", member->name, i));
      member->visit_part(i, visitor);
    }
  }
}

/// One for each group.
std::vector<double> read_rates(const Archive& archive, size_t num_groups) {
  const auto found = archive.metadata.find(kRates);
  std::istringstream text(found == archive.metadata.end() ? "" : found->second);
  const std::vector<double> rates{std::istream_iterator<double>(text), {}};
  CURVATURE_CHECK(rates.size() == num_groups, DataError,
                  "load: the state has {} learning rates; expected {}, one for each group",
                  rates.size(), num_groups);
  return rates;
}

}  // namespace

Archive Preconditioned::save() const {
  Archive archive;
  archive.metadata["format"] = kFormat;
  archive.metadata[kRates] = fmt::format("{}", fmt::join(learning_rates(), " "));
  for (const auto& member : members_) archive.metadata["/" + member->name] = member->layout();
  ArchiveWriter writer(archive);
  visit_all(writer, members_);
  return archive;
}

void Preconditioned::load(const Archive& archive) {
  const auto format = archive.metadata.find("format");
  CURVATURE_CHECK(format != archive.metadata.end() && format->second == kFormat, DataError,
                  "load: not the state of an optimizer; expected format '{}'", kFormat);
  for (const auto& member : members_) {
    const auto layout = archive.metadata.find("/" + member->name);
    CURVATURE_CHECK(layout != archive.metadata.end(), DataError,
                    "load: the state has no parameter '{}'", member->name);
    CURVATURE_CHECK(layout->second == member->layout(), DataError,
                    "load: '{}' has another shape; expected {}, got {}", member->name,
                    member->layout(), layout->second);
  }
  const std::vector<double> rates = read_rates(archive, param_groups().size());
  ArchiveReader reader(archive);
  visit_all(reader, members_);
  reader.commit();
  for (size_t i = 0; i < rates.size(); ++i) param_groups()[i].options().set_lr(rates[i]);
}

std::vector<double> Preconditioned::learning_rates() const {
  std::vector<double> rates;
  for (size_t i = 0; i < param_groups().size(); ++i) rates.push_back(rate_of(i));
  return rates;
}

void Preconditioned::save(torch::serialize::OutputArchive& out) const {
  const Archive archive = save();
  c10::impl::GenericDict tensors(c10::StringType::get(), c10::TensorType::get());
  for (const auto& [name, tensor] : archive.tensors) tensors.insert(name, tensor);
  c10::impl::GenericDict metadata(c10::StringType::get(), c10::StringType::get());
  for (const auto& [name, text] : archive.metadata) metadata.insert(name, text);
  out.write("tensors", c10::IValue(std::move(tensors)));
  out.write("metadata", c10::IValue(std::move(metadata)));
}

void Preconditioned::load(torch::serialize::InputArchive& in) {
  c10::IValue tensors, metadata;
  in.read("tensors", tensors);
  in.read("metadata", metadata);
  Archive archive;
  for (const auto& item : tensors.toGenericDict()) {
    archive.tensors[item.key().toStringRef()] = item.value().toTensor();
  }
  for (const auto& item : metadata.toGenericDict()) {
    archive.metadata[item.key().toStringRef()] = item.value().toStringRef();
  }
  load(archive);
}

int64_t Preconditioned::state_bytes() const {
  int64_t bytes = 0;
  for (const auto& member : members_) bytes += member->state_bytes();
  return bytes;
}

std::vector<OperatorPtr> Preconditioned::snapshot(const std::string& parameter) const {
  for (const auto& member : members_) {
    if (member->name != parameter) continue;
    std::vector<OperatorPtr> operators;
    for (const auto& part : member->parts) operators.push_back(part.estimator->snapshot());
    return operators;
  }
  CURVATURE_CHECK(false, OptionError, "snapshot: there is no parameter '{}'", parameter);
}

}  // namespace curvature::optim
