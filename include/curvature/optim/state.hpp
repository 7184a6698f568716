#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <ATen/core/Tensor.h>

namespace curvature::optim {

/// Walks over everything that a part of an optimizer keeps, by name: to save it, to load it, to
/// count it. A part with state has a `visit` that shows the visitor each piece, always the same
/// ones in the same order; a tensor that is not there yet is undefined.
class StateVisitor {
 public:
  virtual ~StateVisitor() = default;
  virtual void tensor(const std::string& name, at::Tensor& value) = 0;  ///< a tensor, or undefined
  virtual void count(const std::string& name, int64_t& value) = 0;      ///< an integer
  virtual void number(const std::string& name, double& value) = 0;      ///< a real number
};

}  // namespace curvature::optim
