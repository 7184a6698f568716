// How the statistics of K-FAC are saved.

#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/ops/scalar_tensor.h>

#include "core/check.hpp"
#include "layerwise/assemble.hpp"
#include "layerwise/kfac_statistics.hpp"

namespace curvature::detail {
namespace {

constexpr const char* kFormat = "curvature K-FAC statistics 2";

}  // namespace

std::string KfacStatistics::description() const {
  static constexpr const char* kFishers[] = {"type-2", "mc", "empirical", "forward-only"};
  std::string text =
      fmt::format("fisher {}, draws {}, sharing {}, {} biases, {}\n",
                  kFishers[static_cast<int>(options_.fisher)], options_.mc_samples,
                  reduces() ? "reduce" : "expand", options_.separate_bias ? "separate" : "joint",
                  c10::toString(c10::typeMetaToScalarType(tensor_options().dtype())));
  const auto name = [this](const std::optional<size_t>& parameter) {
    return parameter ? risk_.space().entries()[*parameter].name : "-";
  };
  for (const LayerBlock& block : plan_.blocks) {
    text += fmt::format("{} {} {}: group {} of {}, {} x {}{}{}\n", block.kind, name(block.weight),
                        name(block.bias), block.group, block.layout.groups, block.rows,
                        block.columns(), block.layout.transposed ? ", transposed" : "",
                        block.one_hot ? ", one-hot" : "");
  }
  return text;
}

std::map<std::string, double*> KfacStatistics::numbers() {
  std::map<std::string, double*> numbers = {{"factor_weight", &factor_weight_},
                                            {"square_weight", &square_weight_}};
  for (size_t i = 0; i < sums_.size(); ++i) {
    numbers[fmt::format("{}.input_count", i)] = &sums_[i].input_count;
    numbers[fmt::format("{}.input_rows", i)] = &sums_[i].input_rows;
    numbers[fmt::format("{}.output_rows", i)] = &sums_[i].output_rows;
    numbers[fmt::format("{}.null_inputs", i)] = &sums_[i].null_inputs;
    numbers[fmt::format("{}.null_outputs", i)] = &sums_[i].null_outputs;
  }
  return numbers;
}

Archive KfacStatistics::save() const {
  Archive archive;
  for (size_t i = 0; i < sums_.size(); ++i) {
    const BlockSums& sums = sums_[i];
    const std::map<std::string, at::Tensor> tensors = {{"input_factor", sums.factors.a},
                                                       {"output_factor", sums.factors.b},
                                                       {"input_basis", sums.basis.a},
                                                       {"output_basis", sums.basis.b}};
    for (const auto& [name, tensor] : tensors) {
      if (tensor.defined()) archive.tensors[fmt::format("{}.{}", i, name)] = tensor.clone();
    }
    if (has_basis_) archive.tensors[fmt::format("{}.squares", i)] = squares_of(i);
  }
  KfacStatistics copy = *this;  // shares the tensors
  for (const auto& [name, number] : copy.numbers()) {
    archive.tensors[name] = at::scalar_tensor(*number, at::kDouble).reshape({1});
  }
  archive.metadata["format"] = kFormat;
  archive.metadata["layers"] = description();
  archive.metadata["basis"] = has_basis_ ? "true" : "false";
  return archive;
}

void KfacStatistics::load(const Archive& archive) {
  const auto text = [&archive](const std::string& key) {
    const auto found = archive.metadata.find(key);
    return found == archive.metadata.end() ? std::string() : found->second;
  };
  CURVATURE_CHECK(text("format") == kFormat, DataError,
                  "KfacEstimator: not saved statistics; expected the format '{}', got '{}'",
                  kFormat, text("format"));
  CURVATURE_CHECK(text("layers") == description(), DataError,
                  "KfacEstimator: saved for other layers or options; expected\n{}got\n{}",
                  description(), text("layers"));
  const bool has_basis = text("basis") == "true";
  KfacStatistics loaded(risk_, options_, plan_);
  loaded.has_basis_ = has_basis;
  const auto entry = [&archive](const std::string& name, const Shape& shape, at::ScalarType dtype) {
    const auto found = archive.tensors.find(name);
    CURVATURE_CHECK(found != archive.tensors.end(), DataError,
                    "KfacEstimator: the saved statistics lack '{}'", name);
    CURVATURE_CHECK(
        found->second.sizes() == c10::IntArrayRef(shape) && found->second.scalar_type() == dtype,
        DataError, "KfacEstimator: '{}' is broken; expected {} of shape {}, got {} of {}", name,
        c10::toString(dtype), to_string(shape), c10::toString(found->second.scalar_type()),
        to_string(found->second.sizes()));
    return found->second;
  };
  const at::TensorOptions options = tensor_options();
  const auto dtype = c10::typeMetaToScalarType(options.dtype());
  for (size_t i = 0; i < plan_.blocks.size(); ++i) {
    const LayerBlock& block = plan_.blocks[i];
    const Shape inputs =
        block.one_hot ? Shape{block.columns()} : Shape{block.columns(), block.columns()};
    const Shape outputs = {block.rows, block.rows};
    const auto take = [&](const char* name, const Shape& shape) {
      return entry(fmt::format("{}.{}", i, name), shape, dtype).to(options).clone();
    };
    BlockSums& sums = loaded.sums_[i];
    sums.factors = {take("input_factor", inputs), take("output_factor", outputs)};
    if (!has_basis) continue;
    // Column by column, as LAPACK leaves them, so that resumed sums are the same to the last bit.
    const auto take_basis = [&](const char* name, const Shape& shape) {
      return take(name, shape).t().contiguous().t();
    };
    sums.basis = {block.one_hot ? at::Tensor() : take_basis("input_basis", inputs),
                  take_basis("output_basis", outputs)};
    sums.squares = take("squares", {block.rows, block.columns()});
  }
  for (const auto& [name, number] : loaded.numbers()) {
    *number = entry(name, {1}, at::kDouble).item<double>();
  }
  *this = std::move(loaded);
}

}  // namespace curvature::detail
