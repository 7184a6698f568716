#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <curvature/optim/singd.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "core/inner_product.hpp"
#include "layerwise/assemble.hpp"
#include "optim/inverse_blocks.hpp"
#include "optim/model_minimizer.hpp"

namespace curvature::optim {
namespace {

using detail::BlockSample;
using detail::InverseBlock;
using detail::LayerBlock;
using detail::LayerPlan;

double largest_entry(const Parts& parts) {
  double largest = 0;
  for (const at::Tensor& part : parts) {
    if (part.numel() > 0) largest = std::max(largest, part.abs().max().item<double>());
  }
  return largest;
}

bool is_finite(const Parts& parts) {
  return std::all_of(parts.begin(), parts.end(),
                     [](const at::Tensor& part) { return curvature::detail::is_finite(part); });
}

/// What random numbers are for; statistics have the source itself and a purpose of theirs.
constexpr uint64_t kRounding = 2;

/// t(K^T K)
double mean_square(const InverseFactor& factor) {
  const MatrixClass& structure = factor.structure();
  return structure.squared_norm(factor.k) / static_cast<double>(structure.size());
}

/// A block of its own for a parameter that has no layer.
LayerBlock whole_parameter(size_t parameter, int64_t size) {
  LayerBlock block{.kind = "parameter", .weight = parameter, .bias = std::nullopt, .layout = {}};
  block.rows = size;
  block.weight_columns = 1;
  return block;
}

class Singd final : public detail::ModelMinimizer {
 public:
  Singd(const EmpiricalRisk& risk, const SingdOptions& options)
      : ModelMinimizer(risk, "singd", options.learning_rate), options_(options) {
    check_options();
  }

  int64_t state_bytes() const override {
    int64_t bytes = options_.momentum > 0 ? vector_bytes() : 0;
    for (const InverseBlock& block : blocks_.empty() ? first_blocks(plan_of(risk())) : blocks_) {
      if (block.has_layer()) bytes += block.input->state_bytes();
      bytes += block.output.state_bytes();
    }
    return bytes;
  }

 protected:
  StepReport step_from(const EmpiricalRisk& batch, const detail::Point& point) override {
    const at::NoGradGuard no_grad;
    std::vector<InverseBlock> blocks = blocks_;
    if (blocks.empty()) blocks = first_blocks(plan_of(batch));
    if (steps_ % options_.refresh_interval == 0) refresh(batch, blocks);
    at::Tensor update = preconditioned(blocks, point.gradient);
    if (momentum_.defined()) update.add_(momentum_, options_.momentum);
    CURVATURE_CHECK(std::isfinite(curvature::detail::norm(update)), NumericalError,
                    "{}: the step is not finite; use more damping", name());
    detail::set_parameters(batch, point.parameters - learning_rate() * update);
    blocks_ = std::move(blocks);
    if (options_.momentum > 0) momentum_ = std::move(update);
    ++steps_;
    examples_ += batch.num_examples();
    return {.loss = point.loss,
            .gradient_norm = point.gradient_norm,
            .learning_rate = learning_rate(),
            .damping = options_.damping};
  }

  void save_state(detail::StateWriter& writer) const override {
    writer.number("steps", static_cast<double>(steps_));
    writer.number("examples", static_cast<double>(examples_));
    writer.vector("momentum", risk().space(), momentum_);
    Archive factors;
    std::vector<InverseBlock> blocks = blocks_;
    visit_tensors(blocks, [&](const std::string& name, const at::Tensor& tensor) {
      factors.tensors[name] = tensor.clone();
    });
    writer.archive("factors", factors);
  }

  void load_state(const detail::StateReader& reader) override {
    const at::Tensor momentum = reader.vector("momentum", risk().space(), options());
    const double steps = reader.number("steps"), examples = reader.number("examples");
    const Archive factors = reader.archive("factors");
    std::vector<InverseBlock> blocks;
    if (steps > 0 || !factors.tensors.empty()) blocks = loaded(factors);
    momentum_ = momentum;
    steps_ = static_cast<int64_t>(steps);
    examples_ = static_cast<int64_t>(examples);
    blocks_ = std::move(blocks);
  }

 private:
  void check_options() const {
    CURVATURE_CHECK(options_.momentum >= 0 && options_.momentum < 1, OptionError,
                    "{}: momentum must be in [0, 1); got {}", name(), options_.momentum);
    CURVATURE_CHECK(options_.damping >= 0 && std::isfinite(options_.damping), OptionError,
                    "{}: damping must be finite and not negative; got {}", name(),
                    options_.damping);
    CURVATURE_CHECK(options_.preconditioner_rate > 0 && options_.preconditioner_rate < 1 &&
                        options_.alpha1 >= 0 && options_.alpha1 < 1,
                    OptionError,
                    "{}: expected preconditioner_rate in (0, 1) and alpha1 in [0, 1), got {} and "
                    "{}",
                    name(), options_.preconditioner_rate, options_.alpha1);
    CURVATURE_CHECK(options_.refresh_interval > 0, OptionError,
                    "{}: refresh_interval must be at least 1; got {}", name(),
                    options_.refresh_interval);
    const at::ScalarType dtype = state_dtype();
    CURVATURE_CHECK(dtype == at::kDouble || dtype == at::kFloat || dtype == at::kBFloat16,
                    OptionError, "{}: dtype must be Double, Float or BFloat16; got {}", name(),
                    c10::toString(dtype));
    matrix_class(options_.input_structure, 1);  // checks sizes
    matrix_class(options_.output_structure, 1);
    curvature::detail::check_options(layer_options());
  }

  KfacOptions layer_options() const {
    return {.fisher = options_.fisher,
            .mc_samples = options_.mc_samples,
            .weight_sharing = options_.weight_sharing,
            .separate_bias = options_.separate_bias,
            .fallback = options_.fallback,
            .random = options_.random};
  }

  at::ScalarType state_dtype() const {
    return options_.dtype.value_or(c10::typeMetaToScalarType(options().dtype()));
  }

  /// The same for every batch: found by the first one, and kept with the risk.
  LayerPlan plan_of(const EmpiricalRisk& batch) const {
    const BatchRisk view = batch.on(0);
    LayerPlan plan = curvature::detail::plan_layers(risk(), layer_options(),
                                                    risk().on(view.batch(), view.first_example()));
    curvature::detail::refuse_uncovered(risk(), plan, layer_options());
    return plan;
  }

  /// Layers first, in the order of the plan.
  std::vector<InverseBlock> first_blocks(const LayerPlan& plan) const {
    std::vector<InverseBlock> blocks;
    for (const LayerBlock& block : plan.blocks) {
      StructureOptions inputs = options_.input_structure;
      if (block.one_hot) inputs.kind = FactorStructure::kDiagonal;
      const std::string layer = curvature::detail::layer_name(risk().space(), block);
      blocks.push_back(
          {.name = block.layout.groups > 1 ? fmt::format("{}.{}", layer, block.group) : layer,
           .block = block,
           .input = factor_of(inputs, block.columns()),
           .output = factor_of(options_.output_structure, block.rows)});
    }
    const auto add_parameter = [&](size_t parameter, FactorStructure kind) {
      const SpaceEntry& entry = risk().space().entries()[parameter];
      blocks.push_back({.name = entry.name,
                        .block = whole_parameter(parameter, entry.size),
                        .input = std::nullopt,
                        .output = factor_of({.kind = kind}, entry.size)});
    };
    for (const size_t parameter : plan.unused) {
      add_parameter(parameter, FactorStructure::kDiagonal);
    }
    const bool is_dense = options_.fallback == Fallback::kBlock;
    for (const auto& [parameter, reason] : plan.uncovered) {
      add_parameter(parameter, is_dense ? FactorStructure::kDense : FactorStructure::kDiagonal);
    }
    return blocks;
  }

  InverseFactor factor_of(const StructureOptions& structure, int64_t size) const {
    return InverseFactor(matrix_class(structure, size), options().dtype(state_dtype()),
                         c10::typeMetaToScalarType(options().dtype()));
  }

  void refresh(const EmpiricalRisk& batch, std::vector<InverseBlock>& blocks) const {
    const double damping = options_.damping + batch.options().weight_decay;
    std::vector<BlockSample> samples =
        detail::sample_blocks(batch, layer_options(), plan_of(batch), blocks, examples_);
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (!samples[i].is_used) continue;
      InverseBlock& block = blocks[i];
      BlockSample& sample = samples[i];
      Update of_input{.damping = damping, .stream = 2 * i};
      Update of_output{.damping = damping, .stream = 2 * i + 1};
      if (block.has_layer() && !options_.kfac_like) {
        of_input.scale = sample.output.mean;
        of_input.damping *= mean_square(block.output);
        of_output.scale = sample.input->mean;
        of_output.damping *= mean_square(*block.input);
      }
      if (block.has_layer()) {
        block.input = moved(*block.input, std::move(sample.input->projected), of_input, block.name);
      }
      block.output = moved(block.output, std::move(sample.output.projected), of_output, block.name);
    }
  }

  /// What moves a factor besides its sample H: scale H + damping Pi(K^T K) - I.
  struct Update {
    double scale = 1;
    double damping = 0;
    uint64_t stream = 0;  ///< of random numbers
  };

  /// K (I - rate m) with m <- alpha1 m + weight [scale H + damping Pi(K^T K) - I].
  InverseFactor moved(const InverseFactor& factor, Parts h, const Update& update,
                      const std::string& block) const {
    const MatrixClass& structure = factor.structure();
    const bool is_average = options_.rate_bound != RateBound::kNone;
    const double weight = (is_average ? 1 - options_.alpha1 : 1) / 2;
    check_range(update, h.front().scalar_type(), block);
    scale_and_add(h, weight * update.scale, factor.wide_direction(), options_.alpha1);
    if (update.damping != 0) {
      scale_and_add(h, 1, structure.project_inner(factor.wide_k()), weight * update.damping);
    }
    structure.add_identity(h, -weight);
    InverseFactor result = factor;
    result.move(h, rate_of(structure, h),
                options_.random.derive(kRounding).derive(static_cast<uint64_t>(steps_)),
                update.stream);
    CURVATURE_CHECK(is_finite(result.k) && is_finite(result.direction), NumericalError,
                    "{}: the factors of '{}' are out of range; use a smaller preconditioner_rate "
                    "or a RateBound",
                    name(), block);
    return result;
  }

  /// LibTorch refuses to multiply by numbers that a dtype has not.
  void check_range(const Update& update, at::ScalarType dtype, const std::string& block) const {
    const double largest = dtype == at::kDouble ? std::numeric_limits<double>::max()
                                                : double{std::numeric_limits<float>::max()};
    CURVATURE_CHECK(update.scale <= largest && update.damping <= largest, NumericalError,
                    "{}: the curvature of '{}' is out of range; expected numbers up to {}, got {} "
                    "and for damping {}",
                    name(), block, largest, update.scale, update.damping);
  }

  double rate_of(const MatrixClass& structure, const Parts& direction) const {
    const double rate = options_.preconditioner_rate;
    switch (options_.rate_bound) {
      case RateBound::kFrobenius:
        return rate / std::max(1.0, std::sqrt(structure.squared_norm(direction)));
      case RateBound::kLargestEntry:
        return rate / std::max(1.0, largest_entry(direction));
      case RateBound::kNone:
        break;
    }
    return rate;
  }

  at::Tensor preconditioned(std::vector<InverseBlock>& blocks, const at::Tensor& gradient) const {
    const TensorList parts = risk().space().split(gradient.unsqueeze(1));
    TensorList result;
    for (const at::Tensor& part : parts) result.push_back(at::zeros(part.sizes(), part.options()));
    for (InverseBlock& block : blocks) {
      const LayerBlock& layout = block.block;
      at::Tensor g = layout.gather(parts).view({layout.rows, layout.columns()});
      g = block.output.precondition(g, 0);
      if (block.has_layer()) g = block.input->precondition(g, 1);
      layout.scatter_add(g.reshape({layout.size(), 1}), result);
    }
    return risk().space().join(result).squeeze(1).contiguous();
  }

  /// Shows a visitor each tensor of the factors with its name.
  template <class Visit>
  static void visit_tensors(std::vector<InverseBlock>& blocks, const Visit& visit) {
    const auto visit_factor = [&](const std::string& name, InverseFactor& factor) {
      for (size_t part = 0; part < factor.k.size(); ++part) {
        visit(fmt::format("{}_{}", name, part), factor.k[part]);
        visit(fmt::format("{}_direction_{}", name, part), factor.direction[part]);
      }
    };
    for (InverseBlock& block : blocks) {
      if (block.has_layer()) visit_factor(block.name + "/input", *block.input);
      visit_factor(block.name + "/output", block.output);
    }
  }

  std::vector<InverseBlock> loaded(const Archive& archive) const {
    std::vector<InverseBlock> blocks = first_blocks(plan_of(risk()));
    size_t count = 0;
    visit_tensors(blocks, [&](const std::string& key, at::Tensor& tensor) {
      const auto found = archive.tensors.find(key);
      CURVATURE_CHECK(found != archive.tensors.end(), DataError,
                      "{}: the saved state lacks the factor '{}'", name(), key);
      const at::Tensor& saved = found->second;
      CURVATURE_CHECK(
          saved.sizes() == tensor.sizes() && saved.scalar_type() == tensor.scalar_type(), DataError,
          "{}: the factor '{}' does not fit; expected {} of shape {}, got {} of {}", name(), key,
          c10::toString(tensor.scalar_type()), curvature::detail::to_string(tensor.sizes()),
          c10::toString(saved.scalar_type()), curvature::detail::to_string(saved.sizes()));
      CURVATURE_CHECK(curvature::detail::is_finite(saved), DataError,
                      "{}: the factor '{}' is not finite", name(), key);
      tensor = saved.to(tensor.options()).clone().contiguous();
      ++count;
    });
    CURVATURE_CHECK(count == archive.tensors.size(), DataError,
                    "{}: saved for other layers; expected {} tensors of factors, got {}", name(),
                    count, archive.tensors.size());
    return blocks;
  }

  SingdOptions options_;
  std::vector<InverseBlock> blocks_;  ///< none before the first step
  at::Tensor momentum_;
  int64_t steps_ = 0;
  int64_t examples_ = 0;  ///< of all workers: sets random draws apart
};

}  // namespace

std::unique_ptr<Minimizer> singd(const EmpiricalRisk& risk, const SingdOptions& options) {
  return std::make_unique<Singd>(risk, options);
}

}  // namespace curvature::optim
