#include <algorithm>

#include <curvature/operators/function_operator.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

/// A result of the caller's function, checked.
at::Tensor checked_result(const LinearOperator& a, at::Tensor y, const Shape& expected) {
  CURVATURE_CHECK(y.defined() && y.sizes() == c10::IntArrayRef(expected), ShapeError,
                  "{}: the function returned a wrong shape; expected {}, got {}", a.describe(),
                  detail::to_string(expected),
                  y.defined() ? detail::to_string(y.sizes()) : "an undefined tensor");
  CURVATURE_CHECK(y.scalar_type() == a.spec().dtype && y.device() == a.spec().device,
                  DtypeDeviceError, "{}: the function returned {} on {}; expected {} on {}",
                  a.describe(), c10::toString(y.scalar_type()), y.device().str(),
                  c10::toString(a.spec().dtype), a.spec().device.str());
  return y.detach();
}

std::string describe_function(const LinearOperator& a) {
  return fmt::format("Function({}x{})", a.rows(), a.cols());
}

/// The function to call for A^T: a symmetric operator needs none of its own.
template <class Map>
const Map& adjoint_map(const LinearOperator& a, const Map& apply, const Map& apply_adjoint) {
  if (apply_adjoint) return apply_adjoint;
  CURVATURE_CHECK(a.is_symmetric(), NotSupportedError,
                  "{}: has no adjoint product; pass apply_adjoint to function_operator",
                  a.describe());
  return apply;
}

class MatrixFunction final : public FlatOperator {
 public:
  MatrixFunction(OperatorSpec spec, MatrixMap apply, MatrixMap apply_adjoint)
      : FlatOperator(std::move(spec)),
        apply_(std::move(apply)),
        apply_adjoint_(std::move(apply_adjoint)) {}

  std::string describe() const override { return describe_function(*this); }

 private:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return checked_result(*this, apply_(x), {rows(), x.size(1)});
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return checked_result(*this, adjoint_map(*this, apply_, apply_adjoint_)(y),
                          {cols(), y.size(1)});
  }

  MatrixMap apply_;
  MatrixMap apply_adjoint_;
};

class ListFunction final : public LinearOperator {
 public:
  ListFunction(OperatorSpec spec, ListMap apply, ListMap apply_adjoint)
      : LinearOperator(std::move(spec)),
        apply_(std::move(apply)),
        apply_adjoint_(std::move(apply_adjoint)) {}

  std::string describe() const override { return describe_function(*this); }

 private:
  TensorList apply_impl(const TensorList& x) const override {
    return checked_list(apply_(x), spec().range, x);
  }
  TensorList apply_adjoint_impl(const TensorList& y) const override {
    return checked_list(adjoint_map(*this, apply_, apply_adjoint_)(y), spec().domain, y);
  }
  TensorList checked_list(TensorList y, const Space& space, const TensorList& operand) const {
    const auto& entries = space.entries();
    CURVATURE_CHECK(y.size() == entries.size(), ShapeError,
                    "{}: the function returned {} tensors; expected {}", describe(), y.size(),
                    entries.size());
    for (size_t i = 0; i < y.size(); ++i) {
      Shape expected = entries[i].shape;
      expected.push_back(operand.front().size(-1));
      y[i] = checked_result(*this, y[i], expected);
    }
    return y;
  }

  ListMap apply_;
  ListMap apply_adjoint_;
};

template <class Operator, class Map>
OperatorPtr make(OperatorSpec spec, Map apply, Map apply_adjoint) {
  CURVATURE_CHECK(static_cast<bool>(apply), OptionError, "function_operator: apply is empty");
  return std::make_shared<Operator>(std::move(spec), std::move(apply), std::move(apply_adjoint));
}

}  // namespace

OperatorPtr function_operator(OperatorSpec spec, MatrixMap apply, MatrixMap apply_adjoint) {
  return make<MatrixFunction>(std::move(spec), std::move(apply), std::move(apply_adjoint));
}

OperatorPtr function_operator(OperatorSpec spec, ListMap apply, ListMap apply_adjoint) {
  return make<ListFunction>(std::move(spec), std::move(apply), std::move(apply_adjoint));
}

}  // namespace curvature
