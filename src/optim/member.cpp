#include <algorithm>
#include <cmath>
#include <fnmatch.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/zeros_like.h>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "optim/member.hpp"

namespace curvature::optim {
namespace {

using curvature::detail::quick_norm;
double rms(const at::Tensor& x) {
  return quick_norm(x) / std::sqrt(static_cast<double>(std::max<int64_t>(x.numel(), 1)));
}

/// Multiplies in place.
void scale(at::Tensor& x, double factor) {
  if (factor != 1) x.mul_(factor);
}

void clip(at::Tensor& u, const ClipOptions& options) {
  if (options.norm > 0) scale(u, std::min(1.0, options.norm / std::max(quick_norm(u), 1e-300)));
  if (options.rms > 0) scale(u, std::min(1.0, options.rms / std::max(rms(u), 1e-300)));
  if (options.entry > 0) u.clamp_(-options.entry, options.entry);
}

bool matches(const Route& route, const std::string& name) {
  return std::any_of(route.patterns.begin(), route.patterns.end(), [&](const std::string& pattern) {
    return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
  });
}

/// What one parameter goes by.
struct Choice {
  EstimatorFactory estimator;
  PreconditionedOptions options;
};

/// The options of a parameter that has no matrix.
PreconditionedOptions fallback_options(PreconditionedOptions options) {
  options.graft = {};
  if (!options.fallback_momentum) return options;
  options.momentum = *options.fallback_momentum;
  options.clip = {.gradient_norm = options.clip.gradient_norm};
  // AdamW has no sum of directions and decay.
  if (options.weight_decay.kind == WeightDecay::kDirection) {
    options.weight_decay.kind = WeightDecay::kDecoupled;
  }
  return options;
}

Choice chosen(const std::string& name, size_t num_axes, const ParameterGroup& group) {
  for (const Route& route : group.options.routes) {
    if (matches(route, name)) return {route.estimator, group.options};
  }
  const bool vector_alone = num_axes == 1 && group.options.view.vectors == VectorPolicy::kFallback;
  if (num_axes > 0 && !vector_alone) return {group.estimator, group.options};
  return {group.options.fallback, fallback_options(group.options)};
}

std::vector<ModeKind> modes_of(const Shape& shape, const ViewOptions& options) {
  std::vector<ModeKind> modes;
  for (const int64_t d : shape) {
    modes.push_back(d > options.max_dense ? options.beyond : ModeKind::kDense);
  }
  return modes;
}

/// Momentum after preconditioning leaves what comes before alone.
MomentumOptions at_place(const MomentumOptions& options, MomentumPlace place) {
  return options.place == place ? options : MomentumOptions{.beta = 0};
}

}  // namespace

int64_t ParameterView::size() const {
  int64_t size = 1;
  for (const int64_t d : shape) size *= d;
  return size;
}

at::Tensor GraftedLength::base_direction(const at::Tensor& gradient, const ScaledTensor& momentum) {
  if (!has_state()) return momentum.tensor * momentum.factor;
  if (!second_moment_.defined()) second_moment_ = at::zeros_like(gradient);
  second_moment_.mul_(options_.beta2).addcmul_(gradient, gradient, 1 - options_.beta2);
  const double weight =
      options_.kind == Graft::kAdam ? 1 - std::pow(options_.beta2, static_cast<double>(t_)) : 1;
  at::Tensor root = at::sqrt(second_moment_).div_(std::sqrt(weight)).add_(options_.epsilon);
  return root.reciprocal_().mul_(momentum.tensor).mul_(momentum.factor);
}

at::Tensor GraftedLength::operator()(const at::Tensor& direction, const at::Tensor& gradient,
                                     const ScaledTensor& momentum) {
  t_ += 1;
  if (options_.kind == Graft::kNone) return direction;
  constexpr double kTiny = 1e-16;  // a direction of length 0 stays one
  if (options_.kind == Graft::kUnitRms) {
    return direction *
           (std::sqrt(static_cast<double>(direction.numel())) / (quick_norm(direction) + kTiny));
  }
  const at::Tensor base = base_direction(gradient, momentum);
  if (t_ < options_.start) return base;
  return direction * (quick_norm(base) / (quick_norm(direction) + kTiny));
}

void GraftedLength::visit(StateVisitor& visitor) {
  visitor.tensor("graft_second_moment", second_moment_);
  visitor.count("graft_steps", t_);
}

Preconditioned::Member::Member(NamedTensor named, size_t the_group, const ParameterGroup& settings,
                               int64_t index)
    : name(std::move(named.name)),
      parameter(std::move(named.tensor)),
      group(the_group),
      shape(viewed_shape(parameter.sizes().vec(), settings.options.view)) {
  CURVATURE_CHECK(parameter.is_leaf() && parameter.is_floating_point(), OptionError,
                  "Preconditioned: '{}' must be a leaf tensor of a floating-point dtype", name);
  Choice choice = chosen(name, shape.size(), settings);
  CURVATURE_CHECK(choice.estimator, OptionError, "Preconditioned: no estimator for '{}'", name);
  options = std::move(choice.options);
  after = Momentum(at_place(options.momentum, MomentumPlace::kAfter));
  const auto dtype = options.view.dtype.value_or(parameter.scalar_type());
  std::vector<Block> blocks = blocks_of(shape, options.view.block_size);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const ParameterView view{
        .name = blocks.size() == 1 ? name : fmt::format("{}, block {}", name, i),
        .shape = blocks[i].size,
        .modes = modes_of(blocks[i].size, options.view),
        .options = parameter.options().requires_grad(false).dtype(dtype),
        .index = index,
        .warn = options.warn};
    parts.push_back({.block = std::move(blocks[i]),
                     .estimator = choice.estimator(view),
                     .before = Momentum(at_place(options.momentum, MomentumPlace::kBefore)),
                     .graft = GraftedLength(options.graft)});
  }
}

at::Tensor Preconditioned::Member::direction(const at::Tensor& gradient) {
  const bool decays =
      options.weight_decay.kind == WeightDecay::kGradient && options.weight_decay.decay != 0;
  at::Tensor whole = decays ? gradient.add(parameter, options.weight_decay.decay) : gradient;
  whole = whole.reshape(shape).to(options.view.dtype.value_or(parameter.scalar_type()));

  at::Tensor joined;
  for (Part& part : parts) {
    const at::Tensor piece = part.block.of(whole).contiguous();
    at::Tensor u = part.estimator->step(piece, part.before);
    if (!u.defined()) continue;
    if (part.graft.has_state() || options.graft.kind == Graft::kSgd) {
      const ScaledTensor& last = part.before.last();
      u = part.graft(u, piece, {part.estimator->to_parameter(last.tensor), last.factor});
    } else {
      u = part.graft(u, piece, {});
    }
    part.before.end_step();
    if (parts.size() == 1) {
      joined = u;
    } else {
      if (!joined.defined()) joined = at::zeros_like(whole);
      part.block.of(joined).copy_(u);
    }
  }
  if (!joined.defined()) return joined;
  joined = joined.to(parameter.scalar_type()).reshape(parameter.sizes());
  clip(joined, options.clip);
  if (options.weight_decay.kind == WeightDecay::kDirection && options.weight_decay.decay != 0) {
    joined.add_(parameter, options.weight_decay.decay);
  }
  const ScaledTensor& summed = after(joined);
  return summed.factor == 1 ? summed.tensor : summed.tensor * summed.factor;
}

void Preconditioned::Member::move(const at::Tensor& direction, double rate) {
  if (!direction.defined() && !parts.empty() && !parts.front().estimator->steps_at_start()) return;
  const auto [decay, kind] = options.weight_decay;
  const double shrink = kind == WeightDecay::kIndependent ? decay : rate * decay;
  const bool before = kind == WeightDecay::kDecoupled || kind == WeightDecay::kIndependent;
  if (options.iterates.kind == Iterates::kScheduleFree) {
    if (!average.defined()) average = parameter.detach().clone();
    squared_rates += rate * rate;
    const double weight = squared_rates > 0 ? rate * rate / squared_rates : 1;
    const double beta = options.iterates.interpolation;
    at::Tensor step = direction.defined() ? direction * rate : at::zeros_like(parameter);
    if (before || kind == WeightDecay::kDecoupledAfter) step.add_(parameter, shrink);
    parameter.lerp_(average, weight).sub_(step, 1 - (1 - weight) * beta);
    average.sub_(step);
    return;
  }
  if (before && shrink != 0) parameter.mul_(1 - shrink);
  if (direction.defined()) parameter.sub_(direction, rate);
  if (kind == WeightDecay::kDecoupledAfter && shrink != 0) parameter.mul_(1 - shrink);
  update_average();
}

void Preconditioned::Member::update_average() {
  if (options.iterates.kind != Iterates::kAverage) return;
  averaged_steps += 1;
  if (!average.defined()) average = at::zeros_like(parameter);
  average.mul_(options.iterates.decay).add_(parameter, 1 - options.iterates.decay);
}

std::optional<AdamState> Preconditioned::Member::fused_state() {
  const MomentumOptions& momentum = options.momentum;
  const ClipOptions& clips = options.clip;
  const bool plain = parts.size() == 1 && momentum.place == MomentumPlace::kBefore &&
                     momentum.beta > 0 && momentum.averaging == optim::Averaging::kMovingAverage &&
                     momentum.bias_correction && !momentum.nesterov &&
                     options.graft.kind == Graft::kNone && clips.norm == 0 && clips.rms == 0 &&
                     clips.entry == 0 && clips.kl == 0 &&
                     options.weight_decay.kind == WeightDecay::kDecoupled &&
                     options.iterates.kind != Iterates::kScheduleFree && !options.view.dtype &&
                     parameter.is_contiguous();
  return plain ? parts.front().estimator->adam() : std::nullopt;
}

void Preconditioned::Member::evaluate() {
  if (kept.defined() || !average.defined()) return;
  kept = parameter.detach().clone();
  if (options.iterates.kind == Iterates::kScheduleFree) {
    // y = beta x + (1 - beta) z, solved for x.
    const double beta = options.iterates.interpolation;
    parameter.sub_(average, 1 - beta).div_(beta);
  } else {
    parameter.copy_(average).div_(
        1 - std::pow(options.iterates.decay, static_cast<double>(averaged_steps)));
  }
}

void Preconditioned::Member::continue_training() {
  if (!kept.defined()) return;
  parameter.copy_(kept);
  kept = at::Tensor();
}

void Preconditioned::Member::visit(StateVisitor& visitor) {
  visitor.tensor("average", average);
  visitor.tensor("kept", kept);
  visitor.number("squared_rates", squared_rates);
  visitor.count("averaged_steps", averaged_steps);
  // The other one keeps nothing, and has the same names.
  if (options.momentum.place == MomentumPlace::kAfter) after.visit(visitor);
}

void Preconditioned::Member::visit_part(size_t i, StateVisitor& visitor) {
  Part& part = parts[i];
  if (options.momentum.place == MomentumPlace::kBefore) part.before.visit(visitor);
  part.graft.visit(visitor);
  part.estimator->visit(visitor);
}

std::string Preconditioned::Member::layout() const {
  std::string text = curvature::detail::to_string(parameter.sizes());
  for (const Part& part : parts)
    text.append(" ").append(curvature::detail::to_string(part.block.size));
  return text;
}

int64_t Preconditioned::Member::state_bytes() const {
  const int64_t whole = parameter.numel() * parameter.element_size();
  int64_t bytes = options.momentum.beta > 0 ? whole : 0;
  if (parts.empty()) return 0;
  if (parts.front().graft.has_state()) bytes += whole;
  if (options.iterates.kind != Iterates::kLast) bytes += whole;
  for (const Part& part : parts) bytes += part.estimator->state_bytes();
  return bytes;
}

}  // namespace curvature::optim
