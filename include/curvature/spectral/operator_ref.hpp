#pragma once

#include <memory>

#include <curvature/core/error.hpp>
#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// An operator as an argument of an algorithm that keeps nothing: made from an operator or from a
/// shared pointer to one, and valid as long as that.
class OperatorRef {
 public:
  /// Refers to `a`.
  OperatorRef(const LinearOperator& a) : operator_(&a) {}
  /// Refers to what `a` points to. @throws OptionError if it is null
  template <class Operator>
  OperatorRef(const std::shared_ptr<Operator>& a) : operator_(a.get()) {
    if (!operator_) throw OptionError("OperatorRef: the operator is null");
  }

  /// The operator.
  const LinearOperator& operator*() const noexcept { return *operator_; }
  /// The operator.
  const LinearOperator* operator->() const noexcept { return operator_; }

 private:
  const LinearOperator* operator_;
};

}  // namespace curvature
