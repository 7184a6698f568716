#include <cmath>
#include <numeric>

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>

#include <curvature/operators/permutation.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

std::vector<int64_t> invert(const std::vector<int64_t>& indices) {
  std::vector<int64_t> inverse(indices.size());
  for (size_t i = 0; i < indices.size(); ++i) {
    inverse[static_cast<size_t>(indices[i])] = static_cast<int64_t>(i);
  }
  return inverse;
}

/// +1 or -1: a cycle of length l is a product of l - 1 transpositions.
double parity(const std::vector<int64_t>& indices) {
  std::vector<bool> seen(indices.size());
  double sign = 1;
  for (size_t start = 0; start < indices.size(); ++start) {
    seen[start] = true;
    for (auto i = static_cast<size_t>(indices[start]); !seen[i];
         i = static_cast<size_t>(indices[i])) {
      seen[i] = true;
      sign = -sign;
    }
  }
  return sign;
}

class Permutation final : public FlatOperator {
 public:
  Permutation(OperatorSpec spec, std::vector<int64_t> indices)
      : FlatOperator(std::move(spec)), indices_(std::move(indices)) {
    const auto options = at::TensorOptions().dtype(at::kLong);
    gather_ = at::tensor(indices_, options).to(this->spec().device);
    gather_adjoint_ = at::tensor(invert(indices_), options).to(this->spec().device);
  }

  std::string describe() const override { return fmt::format("Permutation(n={})", rows()); }

  std::optional<at::Tensor> diagonal() const override {
    return gather_.eq(at::arange(rows(), gather_.options())).to(spec().dtype);
  }
  std::optional<double> trace() const override { return diagonal()->sum().item<double>(); }
  std::optional<LogDeterminant> log_determinant() const override {
    return LogDeterminant{parity(indices_), 0};
  }
  std::optional<double> frobenius_norm() const override {
    return std::sqrt(static_cast<double>(rows()));
  }
  OperatorPtr inverse() const override {
    return permutation(invert(indices_), spec().range, spec().domain, detail::options_of(*this));
  }

 private:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return x.index_select(0, gather_);
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return y.index_select(0, gather_adjoint_);
  }

  std::vector<int64_t> indices_;
  at::Tensor gather_;
  at::Tensor gather_adjoint_;
};

}  // namespace

OperatorPtr permutation(const std::vector<int64_t>& indices, const at::TensorOptions& options) {
  const Space space = Space::flat(static_cast<int64_t>(indices.size()));
  return permutation(indices, space, space, options);
}

OperatorPtr permutation(const std::vector<int64_t>& indices, Space domain, Space range,
                        const at::TensorOptions& options) {
  const auto n = static_cast<int64_t>(indices.size());
  CURVATURE_CHECK(domain.size() == n && range.size() == n, ShapeError,
                  "permutation: {} indices do not fit the spaces {} and {}", n, domain.describe(),
                  range.describe());
  std::vector<bool> seen(indices.size());
  for (const int64_t i : indices) {
    CURVATURE_CHECK(i >= 0 && i < n && !seen[static_cast<size_t>(i)], OptionError,
                    "permutation: expected each of 0, ..., {} once; {} is out of range or repeated",
                    n - 1, i);
    seen[static_cast<size_t>(i)] = true;
  }
  const bool symmetric = domain == range && invert(indices) == indices;
  OperatorSpec spec{std::move(domain), std::move(range), c10::typeMetaToScalarType(options.dtype()),
                    options.device(), symmetric ? Symmetry::kSymmetric : Symmetry::kGeneral};
  return std::make_shared<Permutation>(std::move(spec), indices);
}

}  // namespace curvature
