#pragma once

#include <map>
#include <string>

#include <ATen/core/Tensor.h>

namespace curvature {

/// What is saved of an object: named tensors and text. `io` writes it as one safetensors file.
struct Archive {
  std::map<std::string, at::Tensor> tensors;    ///< by name
  std::map<std::string, std::string> metadata;  ///< by key
};

}  // namespace curvature
