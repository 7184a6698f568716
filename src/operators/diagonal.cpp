#include <cmath>
#include <limits>

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <curvature/operators/diagonal.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

class Diagonal final : public LinearOperator {
 public:
  Diagonal(OperatorSpec spec, at::Tensor d)
      : LinearOperator(std::move(spec)),
        diagonal_(std::move(d)),
        parts_(this->spec().domain.split(diagonal_.unsqueeze(-1))) {}

  std::string describe() const override { return fmt::format("Diagonal(n={})", rows()); }
  Structure structure() const override { return DiagonalStructure{diagonal_}; }

  std::optional<at::Tensor> diagonal() const override { return diagonal_.clone(); }
  std::optional<double> trace() const override { return diagonal_.sum(at::kDouble).item<double>(); }
  std::optional<LogDeterminant> log_determinant() const override {
    return detail::log_determinant_of_spectrum(diagonal_);
  }
  std::optional<double> frobenius_norm() const override { return diagonal_.norm().item<double>(); }
  std::optional<at::Tensor> eigenvalues() const override { return diagonal_.clone(); }
  OperatorPtr function(const SpectralFunction& f) const override {
    return curvature::diagonal(f(diagonal_), spec().domain);
  }

 private:
  TensorList apply_impl(const TensorList& x) const override {
    TensorList y;
    y.reserve(x.size());
    for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i].mul(parts_[i]));
    return y;
  }
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return x.mul(diagonal_.unsqueeze(-1));
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return apply_flat_impl(y);
  }

  at::Tensor diagonal_;
  TensorList parts_;  // views of it, `[shape..., 1]`
};

/// scale * I, or the zero map between two spaces.
class ScaledIdentity final : public LinearOperator {
 public:
  ScaledIdentity(OperatorSpec spec, double scale)
      : LinearOperator(std::move(spec)), scale_(scale) {}

  std::string describe() const override {
    if (scale_ == 0) return fmt::format("Zero({}x{})", rows(), cols());
    const std::string identity = fmt::format("I(n={})", rows());
    return scale_ == 1 ? identity : fmt::format("{:g} {}", scale_, identity);
  }
  Structure structure() const override { return ScaledIdentityStructure{scale_}; }

  std::optional<at::Tensor> diagonal() const override {
    if (rows() != cols()) return std::nullopt;
    return at::full({rows()}, scale_, detail::options_of(*this));
  }
  std::optional<double> trace() const override {
    if (rows() != cols()) return std::nullopt;
    return scale_ * static_cast<double>(rows());
  }
  std::optional<LogDeterminant> log_determinant() const override {
    if (rows() != cols()) return std::nullopt;
    if (rows() == 0) return LogDeterminant{1, 0};
    if (scale_ == 0) return LogDeterminant{0, -std::numeric_limits<double>::infinity()};
    return LogDeterminant{scale_ < 0 && rows() % 2 == 1 ? -1.0 : 1.0,
                          static_cast<double>(rows()) * std::log(std::abs(scale_))};
  }
  std::optional<double> frobenius_norm() const override {
    return std::abs(scale_) * std::sqrt(static_cast<double>(rows()));
  }
  std::optional<at::Tensor> eigenvalues() const override {
    return is_symmetric() ? diagonal() : std::nullopt;
  }
  OperatorPtr function(const SpectralFunction& f) const override {
    if (!is_symmetric()) return nullptr;
    if (rows() == 0) return scaled_identity(scale_, spec().domain, detail::options_of(*this));
    const double value = f(at::full({1}, scale_, detail::options_of(*this))).item<double>();
    return scaled_identity(value, spec().domain, detail::options_of(*this));
  }

 private:
  TensorList map_to(const Space& target, const TensorList& x) const {
    TensorList y;
    if (scale_ == 0) {
      const int64_t columns = x.empty() ? 0 : x.front().size(-1);
      return target.split(at::zeros({target.size(), columns}, detail::options_of(*this)));
    }
    for (const at::Tensor& tensor : x) y.push_back(tensor.mul(scale_));
    return y;
  }

  TensorList apply_impl(const TensorList& x) const override { return map_to(spec().range, x); }
  TensorList apply_adjoint_impl(const TensorList& y) const override {
    return map_to(spec().domain, y);
  }
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return scale_ == 0 ? at::zeros({rows(), x.size(1)}, x.options()) : x.mul(scale_);
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return scale_ == 0 ? at::zeros({cols(), y.size(1)}, y.options()) : y.mul(scale_);
  }

  double scale_;
};

Symmetry scaled_identity_symmetry(double scale, const Space& space) {
  if (scale > 0 || space.size() == 0) return Symmetry::kPositiveDefinite;
  return scale == 0 ? Symmetry::kPositiveSemidefinite : Symmetry::kSymmetric;
}

OperatorSpec spec_from_options(Space domain, Space range, const at::TensorOptions& options,
                               Symmetry symmetry) {
  return {std::move(domain), std::move(range), c10::typeMetaToScalarType(options.dtype()),
          options.device(), symmetry};
}

}  // namespace

OperatorPtr diagonal(const at::Tensor& d) {
  return diagonal(d, Space::flat(detail::checked(d, 1, "diagonal").size(0)));
}

OperatorPtr diagonal(const at::Tensor& d, Space space) {
  at::Tensor checked = detail::checked(d, 1, "diagonal");
  CURVATURE_CHECK(checked.size(0) == space.size(), ShapeError,
                  "diagonal: expected [{}] for the space {}, got {}", space.size(),
                  space.describe(), detail::to_string(checked.sizes()));
  OperatorSpec spec = detail::spec_like(space, space, checked, detail::definiteness(checked));
  return std::make_shared<Diagonal>(std::move(spec), std::move(checked));
}

OperatorPtr diagonal(const TensorList& d) {
  CURVATURE_CHECK(!d.empty(), OptionError, "diagonal: got an empty list of tensors");
  std::vector<std::pair<std::string, Shape>> shapes;
  TensorList flat;
  for (size_t i = 0; i < d.size(); ++i) {
    const at::Tensor checked = detail::checked(d[i], -1, "diagonal");
    detail::check_like(checked, d.front(), "diagonal");
    shapes.emplace_back(std::to_string(i), checked.sizes().vec());
    flat.push_back(checked.reshape(-1));
  }
  return diagonal(at::cat(flat), Space(std::move(shapes)));
}

OperatorPtr identity(Space space, const at::TensorOptions& options) {
  return scaled_identity(1, std::move(space), options);
}

OperatorPtr scaled_identity(double scale, Space space, const at::TensorOptions& options) {
  CURVATURE_CHECK(std::isfinite(scale), OptionError,
                  "scaled_identity: scale must be finite; got {}", scale);
  return std::make_shared<ScaledIdentity>(
      spec_from_options(space, space, options, scaled_identity_symmetry(scale, space)), scale);
}

OperatorPtr zero(Space domain, Space range, const at::TensorOptions& options) {
  const Symmetry symmetry =
      domain == range ? scaled_identity_symmetry(0, domain) : Symmetry::kGeneral;
  return std::make_shared<ScaledIdentity>(
      spec_from_options(std::move(domain), std::move(range), options, symmetry), 0);
}

}  // namespace curvature
