#include <algorithm>
#include <fnmatch.h>

#include <curvature/model/model.hpp>

#include "core/check.hpp"
#include "core/translate.hpp"

namespace curvature {
namespace {

/// Each tensor once, under its first name.
std::vector<NamedTensor> without_repeats(std::vector<NamedTensor> tensors) {
  std::vector<NamedTensor> kept;
  for (NamedTensor& candidate : tensors) {
    const bool known = std::any_of(kept.begin(), kept.end(), [&](const NamedTensor& other) {
      return other.tensor.is_same(candidate.tensor);
    });
    if (!known) kept.push_back(std::move(candidate));
  }
  return kept;
}

}  // namespace

Model::Model(Function function, std::vector<NamedTensor> parameters,
             std::vector<NamedTensor> buffers, std::string description)
    : function_(std::move(function)),
      parameters_(without_repeats(std::move(parameters))),
      buffers_(std::move(buffers)),
      description_(std::move(description)) {
  CURVATURE_CHECK(function_, ModelError, "Model: the function is empty");
  CURVATURE_CHECK(!parameters_.empty(), ModelError, "Model: {} has no parameters to differentiate",
                  description_);
  const at::Tensor& first = parameters_.front().tensor;
  for (const auto& [name, tensor] : parameters_) {
    CURVATURE_CHECK(tensor.defined() && tensor.is_leaf(), ModelError,
                    "Model: parameter '{}' must be a leaf tensor", name);
    CURVATURE_CHECK(tensor.is_floating_point(), ModelError,
                    "Model: parameter '{}' must be real; got {}", name,
                    c10::toString(tensor.scalar_type()));
    CURVATURE_CHECK(
        tensor.scalar_type() == first.scalar_type() && tensor.device() == first.device(),
        ModelError,
        "Model: parameters must share one dtype and device; '{}' is {} on {}, '{}' is {} on {}",
        parameters_.front().name, c10::toString(first.scalar_type()), first.device().str(), name,
        c10::toString(tensor.scalar_type()), tensor.device().str());
  }
}

at::Tensor Model::operator()(const TensorList& inputs) const {
  try {
    return function_(inputs);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    std::vector<std::string> shapes;
    for (const at::Tensor& input : inputs) {
      shapes.push_back(fmt::format("{} {}", c10::toString(input.scalar_type()),
                                   detail::to_string(input.sizes())));
    }
    throw ModelError(fmt::format("Model: {} failed on inputs {}: {}", description_,
                                 fmt::join(shapes, ", "), detail::one_line_reason(error)));
  }
}

std::vector<std::string> match_parameters(const Model& model,
                                          const std::vector<std::string>& patterns) {
  std::vector<bool> used(patterns.size(), false);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : model.parameters()) {
    bool matched = false;
    for (size_t i = 0; i < patterns.size(); ++i) {
      if (fnmatch(patterns[i].c_str(), name.c_str(), 0) == 0) matched = used[i] = true;
    }
    if (matched) names.push_back(name);
  }
  for (size_t i = 0; i < patterns.size(); ++i) {
    CURVATURE_CHECK(used[i], OptionError,
                    "parameters: nothing matches '{}'; the first parameters are {}", patterns[i],
                    [&] {
                      std::vector<std::string> known;
                      for (const auto& parameter : model.parameters()) {
                        if (known.size() < 8) known.push_back(parameter.name);
                      }
                      return fmt::format("{}", fmt::join(known, ", "));
                    }());
  }
  return names;
}

}  // namespace curvature
