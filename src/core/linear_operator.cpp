#include <curvature/core/linear_operator.hpp>

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "core/check.hpp"

namespace curvature {
namespace {

void check_dtype_device(const LinearOperator& a, const at::Tensor& x, const char* verb) {
  const OperatorSpec& spec = a.spec();
  CURVATURE_CHECK(x.defined(), ShapeError, "{}: {} got an undefined tensor", a.describe(), verb);
  CURVATURE_CHECK(x.scalar_type() == spec.dtype && x.device() == spec.device, DtypeDeviceError,
                  "{}: {} expected {} on {}, got {} on {}; convert the operand with .to()",
                  a.describe(), verb, c10::toString(spec.dtype), spec.device.str(),
                  c10::toString(x.scalar_type()), x.device().str());
}

/// Checks a list operand and tells whether it carries a column axis.
bool check_list(const LinearOperator& a, const Space& space, const TensorList& x,
                const char* verb) {
  const auto& entries = space.entries();
  CURVATURE_CHECK(x.size() == entries.size(), ShapeError, "{}: {} expected {} tensors ({}), got {}",
                  a.describe(), verb, entries.size(), space.describe(), x.size());
  bool has_columns = false;
  for (size_t i = 0; i < x.size(); ++i) {
    check_dtype_device(a, x[i], verb);
    const c10::IntArrayRef sizes = x[i].sizes();
    const Shape& shape = entries[i].shape;
    const bool extra = sizes.size() == shape.size() + 1;
    const bool fits = (extra || sizes.size() == shape.size()) &&
                      std::equal(shape.begin(), shape.end(), sizes.begin());
    CURVATURE_CHECK(
        fits &&
            (i == 0 || (extra == has_columns && (!extra || sizes.back() == x[0].sizes().back()))),
        ShapeError, "{}: {} expected {} or the same with a column axis last for '{}', got {}",
        a.describe(), verb, detail::to_string(shape), entries[i].name, detail::to_string(sizes));
    has_columns = extra;
  }
  return has_columns;
}

/// Checks a flat operand and tells whether it carries a column axis.
bool check_flat(const LinearOperator& a, const Space& space, const at::Tensor& x,
                const char* verb) {
  check_dtype_device(a, x, verb);
  CURVATURE_CHECK((x.dim() == 1 || x.dim() == 2) && x.size(0) == space.size(), ShapeError,
                  "{}: {} expected [{}] or [{}, K], got {}", a.describe(), verb, space.size(),
                  space.size(), detail::to_string(x.sizes()));
  return x.dim() == 2;
}

TensorList with_columns(const TensorList& x) {
  TensorList lifted;
  lifted.reserve(x.size());
  for (const at::Tensor& tensor : x) lifted.push_back(tensor.unsqueeze(-1));
  return lifted;
}

TensorList without_columns(TensorList x) {
  for (at::Tensor& tensor : x) tensor = tensor.squeeze(-1);
  return x;
}

}  // namespace

LinearOperator::LinearOperator(OperatorSpec spec) : spec_(std::move(spec)) {
  CURVATURE_CHECK(spec_.symmetry == Symmetry::kGeneral || spec_.domain == spec_.range, ShapeError,
                  "LinearOperator: a symmetric operator has one space; got domain {} and range {}",
                  spec_.domain.describe(), spec_.range.describe());
}

LinearOperator::~LinearOperator() = default;

TensorList LinearOperator::apply(const TensorList& x) const {
  const at::NoGradGuard no_grad;
  if (check_list(*this, spec_.domain, x, "apply")) return apply_impl(x);
  return without_columns(apply_impl(with_columns(x)));
}

at::Tensor LinearOperator::apply(const at::Tensor& x) const {
  const at::NoGradGuard no_grad;
  if (check_flat(*this, spec_.domain, x, "apply")) return apply_flat_impl(x);
  return apply_flat_impl(x.unsqueeze(-1)).squeeze(-1);
}

TensorList LinearOperator::apply_adjoint(const TensorList& y) const {
  const at::NoGradGuard no_grad;
  if (check_list(*this, spec_.range, y, "apply_adjoint")) return apply_adjoint_impl(y);
  return without_columns(apply_adjoint_impl(with_columns(y)));
}

at::Tensor LinearOperator::apply_adjoint(const at::Tensor& y) const {
  const at::NoGradGuard no_grad;
  if (check_flat(*this, spec_.range, y, "apply_adjoint")) return apply_adjoint_flat_impl(y);
  return apply_adjoint_flat_impl(y.unsqueeze(-1)).squeeze(-1);
}

OperatorPtr LinearOperator::function(const SpectralFunction&) const { return nullptr; }

OperatorPtr LinearOperator::inverse() const {
  if (!is_symmetric()) return nullptr;
  return function([this](const at::Tensor& eigenvalues) {
    CURVATURE_CHECK(!eigenvalues.eq(0).any().item<bool>(), NumericalError,
                    "{}: inverse of a singular operator; add damping", describe());
    return eigenvalues.reciprocal();
  });
}

OperatorPtr LinearOperator::square_root_factor() const {
  if (!is_symmetric()) return nullptr;
  return function([this](const at::Tensor& eigenvalues) {
    // Rounding leaves tiny negative eigenvalues in a semidefinite matrix; true ones are an error.
    const double largest = eigenvalues.numel() == 0 ? 0.0 : eigenvalues.abs().max().item<double>();
    const double tolerance = static_cast<double>(eigenvalues.numel()) * largest *
                             (eigenvalues.scalar_type() == at::kDouble ? 1e-15 : 1e-6);
    CURVATURE_CHECK(eigenvalues.ge(-tolerance).all().item<bool>(), NumericalError,
                    "{}: square root of an operator that is not positive semidefinite; "
                    "smallest eigenvalue {}",
                    describe(), eigenvalues.min().item<double>());
    return eigenvalues.clamp_min(0).sqrt();
  });
}

TensorList LinearOperator::apply_adjoint_impl(const TensorList& y) const {
  CURVATURE_CHECK(is_symmetric(), NotSupportedError, "{}: this operator has no adjoint product",
                  describe());
  return apply_impl(y);
}

at::Tensor LinearOperator::apply_flat_impl(const at::Tensor& x) const {
  return spec_.range.join(apply_impl(spec_.domain.split(x)));
}

at::Tensor LinearOperator::apply_adjoint_flat_impl(const at::Tensor& y) const {
  return spec_.domain.join(apply_adjoint_impl(spec_.range.split(y)));
}

at::Tensor FlatOperator::apply_adjoint_flat_impl(const at::Tensor& y) const {
  CURVATURE_CHECK(is_symmetric(), NotSupportedError, "{}: this operator has no adjoint product",
                  describe());
  return apply_flat_impl(y);
}

TensorList FlatOperator::apply_impl(const TensorList& x) const {
  return spec().range.split(apply_flat_impl(spec().domain.join(x)));
}

TensorList FlatOperator::apply_adjoint_impl(const TensorList& y) const {
  return spec().domain.split(apply_adjoint_flat_impl(spec().range.join(y)));
}

at::Tensor materialize(const LinearOperator& a, int64_t columns_at_once) {
  CURVATURE_CHECK(columns_at_once > 0, OptionError,
                  "materialize: columns_at_once must be positive; got {}", columns_at_once);
  const auto options = at::TensorOptions().dtype(a.spec().dtype).device(a.spec().device);
  at::Tensor matrix = at::empty({a.rows(), a.cols()}, options);
  for (int64_t begin = 0; begin < a.cols(); begin += columns_at_once) {
    const int64_t count = std::min(columns_at_once, a.cols() - begin);
    at::Tensor columns = at::zeros({a.cols(), count}, options);
    columns.narrow(0, begin, count).diagonal().fill_(1);
    matrix.narrow(1, begin, count).copy_(a.apply(columns));
  }
  return matrix;
}

}  // namespace curvature
