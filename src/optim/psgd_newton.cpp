#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/matrix_free/hessian.hpp>
#include <curvature/optim/psgd_newton.hpp>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "optim/archive_visitor.hpp"
#include "optim/model_minimizer.hpp"
#include "optim/psgd_preconditioner.hpp"
#include "optim/tensor_view.hpp"

namespace curvature::optim {
namespace {

/// What random numbers are for.
constexpr uint64_t kProbes = 1, kNoise = 2;

/// A slice of the vector of all parameters, with its preconditioner.
struct Slice {
  std::string name;
  int64_t first = 0, count = 0;
  std::unique_ptr<PsgdPreconditioner> preconditioner;
  int64_t has_started = 0;

  Slice clone() const { return {name, first, count, preconditioner->clone(), has_started}; }

  at::Tensor of(const at::Tensor& flat) const {
    return flat.narrow(0, first, count).view(preconditioner->shape());
  }

  void move(const at::Tensor& h, const at::Tensor& v, int64_t number) {
    if (has_started == 0) {
      const auto scale = psgd_scale(h);
      if (!scale) return;
      preconditioner->start(*scale * std::pow(v.square().mean().item<double>(), 0.25));
      has_started = 1;
    }
    preconditioner->move(h, v, number);
  }

  at::Tensor direction(const at::Tensor& flat) const {
    if (has_started == 0) return at::zeros_like(flat.narrow(0, first, count));
    return preconditioner->apply(of(flat)).view({count});
  }

  void visit(StateVisitor& visitor) {
    preconditioner->visit(visitor);
    visitor.count("started", has_started);
  }
};

using Slices = std::vector<Slice>;

class PsgdNewton final : public detail::ModelMinimizer {
 public:
  PsgdNewton(const EmpiricalRisk& risk, PsgdNewtonOptions options)
      : ModelMinimizer(risk, "psgd-newton", options.learning_rate),
        options_(std::move(options)),
        use_(std::visit([](const auto& form) { return psgd_use(form); }, options_.form)) {
    CURVATURE_CHECK(options_.momentum >= 0 && options_.momentum < 1, OptionError,
                    "psgd-newton: momentum must be in [0, 1); got {}", options_.momentum);
    CURVATURE_CHECK(options_.max_norm >= 0, OptionError,
                    "psgd-newton: max_norm must not be negative; got {}", options_.max_norm);
    if (!options_.curvature) {
      options_.curvature = [](const EmpiricalRisk& batch) { return hessian(batch); };
    }
    slices_ = make_slices();
  }

  int64_t state_bytes() const override {
    int64_t bytes = options_.momentum > 0 ? vector_bytes() : 0;
    for (const Slice& slice : slices_) bytes += slice.preconditioner->state_bytes();
    return bytes;
  }

 protected:
  StepReport step_from(const EmpiricalRisk& batch, const detail::Point& point) override {
    Slices slices = copy(slices_);
    if (steps_ % use_.refresh_interval == 0) refresh(batch, slices);
    const at::Tensor momentum = filtered(point.gradient);
    const at::Tensor direction = direction_of(slices, momentum);
    const double norm = curvature::detail::norm(direction);
    CURVATURE_CHECK(std::isfinite(norm), NumericalError,
                    "psgd-newton: the direction is not finite; use more noise");
    const double bound = options_.max_norm;
    const double rate = learning_rate() * (bound > 0 && norm > bound ? bound / norm : 1);
    detail::set_parameters(batch, point.parameters - rate * direction);
    slices_ = std::move(slices);
    if (options_.momentum > 0) momentum_ = momentum;
    ++steps_;
    return {.loss = point.loss, .gradient_norm = point.gradient_norm, .learning_rate = rate};
  }

  void save_state(detail::StateWriter& writer) const override {
    writer.number("step", static_cast<double>(steps_));
    writer.vector("momentum", risk().space(), momentum_);
    Archive inner;
    ArchiveWriter visitor(inner);
    for (Slice& slice : copy(slices_)) {
      visitor.under(slice.name);
      slice.visit(visitor);
    }
    writer.archive("preconditioner", inner);
  }

  void load_state(const detail::StateReader& reader) override {
    const double steps = reader.number("step");
    const at::Tensor momentum = reader.vector("momentum", risk().space(), options());
    const Archive inner = reader.archive("preconditioner");
    Slices slices = make_slices();
    for (Slice& slice : slices) slice.preconditioner->start(1);  // for the shapes that are expected
    ArchiveReader visitor(inner);
    for (Slice& slice : slices) {
      visitor.under(slice.name);
      slice.visit(visitor);
    }
    visitor.commit();
    slices_ = std::move(slices);
    steps_ = static_cast<int64_t>(steps);
    momentum_ = momentum;
  }

 private:
  static Slices copy(const Slices& slices) {
    Slices copies;
    for (const Slice& slice : slices) copies.push_back(slice.clone());
    return copies;
  }

  Slices make_slices() const {
    const bool has_axes = std::holds_alternative<PsgdKronOptions>(options_.form);
    Slices slices;
    if (options_.joint && !has_axes) {
      slices.push_back(make_slice("all", {risk().space().size()}, 0, 0));
      return slices;
    }
    for (const SpaceEntry& entry : risk().space().entries()) {
      Shape shape = viewed_shape(entry.shape, {.shape = options_.shape});
      if (shape.empty()) shape = {1};
      slices.push_back(
          make_slice(entry.name, shape, entry.offset, static_cast<int64_t>(slices.size())));
    }
    return slices;
  }

  Slice make_slice(const std::string& name, const Shape& shape, int64_t first,
                   int64_t index) const {
    const ParameterView view{.name = name,
                             .shape = shape,
                             .modes = std::vector<ModeKind>(shape.size(), ModeKind::kDense),
                             .options = options(),
                             .index = index};
    return {name, first, view.size(), use_.make(view)};
  }

  void refresh(const EmpiricalRisk& batch, Slices& slices) const {
    const int64_t n = risk().space().size();
    const at::Tensor v =
        options_.random.derive(kProbes).normal(static_cast<uint64_t>(steps_), n).to(options());
    const at::Tensor h = with_noise(options_.curvature(batch)->apply(v), use_.noise,
                                    options_.random.derive(kNoise), steps_);
    CURVATURE_CHECK(std::isfinite(curvature::detail::norm(h)), NumericalError,
                    "psgd-newton: the product with the curvature is not finite");
    for (Slice& slice : slices) {
      slice.move(slice.of(h), slice.of(v), steps_ / use_.refresh_interval + 1);
    }
  }

  /// P m. A parameter whose gradients have all been zero, because nothing uses it, stays where it
  /// is: what P has learned of it is the noise of v.
  at::Tensor direction_of(const Slices& slices, const at::Tensor& momentum) const {
    std::vector<at::Tensor> pieces;
    for (const Slice& slice : slices) pieces.push_back(slice.direction(momentum));
    at::Tensor direction = at::cat(pieces);
    for (const SpaceEntry& entry : risk().space().entries()) {
      const bool is_used = momentum.narrow(0, entry.offset, entry.size).any().item<bool>();
      if (!is_used) direction.narrow(0, entry.offset, entry.size).zero_();
    }
    return direction;
  }

  at::Tensor filtered(const at::Tensor& gradient) const {
    if (!momentum_.defined()) return gradient;
    const auto t = static_cast<double>(steps_);
    const double b = std::min(t / (t + 1), options_.momentum);
    return b * momentum_ + (1 - b) * gradient;
  }

  PsgdNewtonOptions options_;
  PsgdUse use_;
  Slices slices_;
  at::Tensor momentum_;
  int64_t steps_ = 0;
};

}  // namespace

std::unique_ptr<Minimizer> psgd_newton(const EmpiricalRisk& risk,
                                       const PsgdNewtonOptions& options) {
  return std::make_unique<PsgdNewton>(risk, options);
}

}  // namespace curvature::optim
