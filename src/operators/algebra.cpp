#include <algorithm>
#include <cmath>
#include <variant>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include <curvature/operators/algebra.hpp>
#include <curvature/operators/block_diagonal.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/eigen_decomposed.hpp>
#include <curvature/operators/kronecker.hpp>
#include <curvature/operators/low_rank.hpp>

#include "core/check.hpp"
#include "operators/composites.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

using detail::options_of;

at::TensorOptions options_of(const OperatorSpec& spec) {
  return at::TensorOptions().dtype(spec.dtype).device(spec.device);
}

template <class Kind>
std::optional<Kind> structure_as(const LinearOperator& a) {
  const Structure structure = a.structure();
  if (const auto* kind = std::get_if<Kind>(&structure)) return *kind;
  return std::nullopt;
}

std::vector<OperatorPtr> map_all(const std::vector<OperatorPtr>& operators,
                                 const std::function<OperatorPtr(const OperatorPtr&)>& map) {
  std::vector<OperatorPtr> mapped;
  for (const OperatorPtr& a : operators) mapped.push_back(map(a));
  return mapped;
}

// --- sums ---------------------------------------------------------------------------------------

/// A + B for two structures, in either order, of an operator with this spec; null if the sum has no
/// closed form.
struct SumRule {
  const OperatorSpec& spec;

  OperatorPtr operator()(const ScaledIdentityStructure& a, const ScaledIdentityStructure& b) const {
    return scaled_identity(a.scale + b.scale, spec.domain, options_of(spec));
  }
  OperatorPtr operator()(const DiagonalStructure& a, const ScaledIdentityStructure& b) const {
    return diagonal(a.diagonal + b.scale, spec.domain);
  }
  OperatorPtr operator()(const DiagonalStructure& a, const DiagonalStructure& b) const {
    return diagonal(a.diagonal + b.diagonal, spec.domain);
  }
  OperatorPtr operator()(const DenseStructure& a, const ScaledIdentityStructure& b) const {
    at::Tensor matrix = a.matrix.clone();
    matrix.diagonal().add_(b.scale);
    return dense(matrix, spec.domain, spec.range, spec.symmetry);
  }
  OperatorPtr operator()(const DenseStructure& a, const DiagonalStructure& b) const {
    at::Tensor matrix = a.matrix.clone();
    matrix.diagonal().add_(b.diagonal);
    return dense(matrix, spec.domain, spec.range, spec.symmetry);
  }
  OperatorPtr operator()(const DenseStructure& a, const DenseStructure& b) const {
    return dense(a.matrix + b.matrix, spec.domain, spec.range, spec.symmetry);
  }
  OperatorPtr operator()(const LowRankStructure& a, const ScaledIdentityStructure& b) const {
    return low_rank_plus_diagonal(a.diagonal + b.scale, a.factor, a.coefficients, spec.domain,
                                  spec.symmetry);
  }
  OperatorPtr operator()(const LowRankStructure& a, const DiagonalStructure& b) const {
    return low_rank_plus_diagonal(a.diagonal + b.diagonal, a.factor, a.coefficients, spec.domain,
                                  spec.symmetry);
  }
  OperatorPtr operator()(const LowRankStructure& a, const LowRankStructure& b) const {
    return low_rank_plus_diagonal(a.diagonal + b.diagonal, at::cat({a.factor, b.factor}, 1),
                                  at::cat({a.coefficients, b.coefficients}), spec.domain,
                                  spec.symmetry);
  }
  OperatorPtr operator()(const EigenStructure& a, const ScaledIdentityStructure& b) const {
    return eigen_decomposed(a.basis, a.eigenvalues + b.scale);
  }
  OperatorPtr operator()(const EigenStructure& a, const EigenStructure& b) const {
    if (a.basis != b.basis) return nullptr;
    return eigen_decomposed(a.basis, a.eigenvalues + b.eigenvalues);
  }
  OperatorPtr operator()(const BlockDiagonalStructure& a, const ScaledIdentityStructure& b) const {
    if (!maps_blocks_to_themselves(a)) return nullptr;
    return rebuild(
        map_all(a.blocks, [&](const OperatorPtr& block) { return shifted(block, b.scale); }));
  }
  OperatorPtr operator()(const BlockDiagonalStructure& a, const DiagonalStructure& b) const {
    if (!maps_blocks_to_themselves(a)) return nullptr;
    int64_t row = 0;
    return rebuild(map_all(a.blocks, [&](const OperatorPtr& block) {
      const at::Tensor part = b.diagonal.narrow(0, row, block->rows());
      row += block->rows();
      return sum(block, diagonal(part, block->spec().domain));
    }));
  }
  OperatorPtr operator()(const BlockDiagonalStructure& a, const BlockDiagonalStructure& b) const {
    if (a.blocks.size() != b.blocks.size()) return nullptr;
    std::vector<OperatorPtr> blocks;
    for (size_t i = 0; i < a.blocks.size(); ++i) {
      const OperatorSpec& left = a.blocks[i]->spec();
      const OperatorSpec& right = b.blocks[i]->spec();
      if (!(left.domain == right.domain && left.range == right.range)) return nullptr;
      blocks.push_back(sum(a.blocks[i], b.blocks[i]));
    }
    return rebuild(blocks);
  }
  template <class A, class B>
  OperatorPtr operator()(const A&, const B&) const {
    return nullptr;
  }

 private:
  static bool maps_blocks_to_themselves(const BlockDiagonalStructure& a) {
    return std::all_of(a.blocks.begin(), a.blocks.end(), [](const OperatorPtr& block) {
      return block->spec().domain == block->spec().range;
    });
  }
  OperatorPtr rebuild(const std::vector<OperatorPtr>& blocks) const {
    return block_diagonal(blocks, spec.domain, spec.range);
  }
};

/// Any operator as a linear combination; a sum is flattened.
SumStructure as_sum(const OperatorPtr& a) {
  if (auto nested = structure_as<SumStructure>(*a)) return std::move(*nested);
  if (const auto multiple = structure_as<ScaledIdentityStructure>(*a)) {
    return {{}, {}, multiple->scale};
  }
  return {{1}, {a}, 0};
}

SumStructure concatenate(SumStructure a, const SumStructure& b) {
  a.coefficients.insert(a.coefficients.end(), b.coefficients.begin(), b.coefficients.end());
  a.terms.insert(a.terms.end(), b.terms.begin(), b.terms.end());
  a.shift += b.shift;
  return a;
}

// --- multiples ----------------------------------------------------------------------------------

/// factor * A, factor not 0.
struct ScaleRule {
  const OperatorPtr& a;
  OperatorSpec spec;
  double factor;

  OperatorPtr operator()(const ScaledIdentityStructure& s) const {
    return scaled_identity(factor * s.scale, spec.domain, options_of(spec));
  }
  OperatorPtr operator()(const DiagonalStructure& s) const {
    return diagonal(s.diagonal * factor, spec.domain);
  }
  OperatorPtr operator()(const DenseStructure& s) const {
    return dense(s.matrix * factor, spec.domain, spec.range, spec.symmetry);
  }
  OperatorPtr operator()(const LowRankStructure& s) const {
    return low_rank_plus_diagonal(s.diagonal * factor, s.factor, s.coefficients * factor,
                                  spec.domain, spec.symmetry);
  }
  OperatorPtr operator()(const KroneckerStructure& s) const {
    std::vector<at::Tensor> factors = s.factors;
    factors.front() = factors.front() * factor;
    return kronecker(factors, spec.domain, spec.range, spec.symmetry);
  }
  OperatorPtr operator()(const EigenStructure& s) const {
    return eigen_decomposed(s.basis, s.eigenvalues * factor);
  }
  OperatorPtr operator()(const BlockDiagonalStructure& s) const {
    return block_diagonal(
        map_all(s.blocks, [&](const OperatorPtr& block) { return scaled(block, factor); }),
        spec.domain, spec.range);
  }
  OperatorPtr operator()(SumStructure s) const {
    for (double& coefficient : s.coefficients) coefficient *= factor;
    s.shift *= factor;
    return detail::make_sum(spec, std::move(s));
  }
  template <class Other>
  OperatorPtr operator()(const Other&) const {
    return detail::make_sum(spec, {{factor}, {a}, 0});
  }
};

// --- products -----------------------------------------------------------------------------------

/// A B for two structures, of an operator with this spec; null if the product has no closed form.
struct ProductRule {
  const OperatorSpec& spec;

  OperatorPtr operator()(const DiagonalStructure& a, const DiagonalStructure& b) const {
    return diagonal(a.diagonal * b.diagonal, spec.domain);
  }
  OperatorPtr operator()(const DiagonalStructure& a, const DenseStructure& b) const {
    return dense(a.diagonal.unsqueeze(-1) * b.matrix, spec.domain, spec.range);
  }
  OperatorPtr operator()(const DenseStructure& a, const DiagonalStructure& b) const {
    return dense(a.matrix * b.diagonal, spec.domain, spec.range);
  }
  OperatorPtr operator()(const KroneckerStructure& a, const KroneckerStructure& b) const {
    if (a.factors.size() != b.factors.size()) return nullptr;
    std::vector<at::Tensor> factors;
    for (size_t i = 0; i < a.factors.size(); ++i) {
      if (a.factors[i].size(1) != b.factors[i].size(0)) return nullptr;
      factors.push_back(a.factors[i].mm(b.factors[i]));
    }
    return kronecker(factors, spec.domain, spec.range);
  }
  OperatorPtr operator()(const EigenStructure& a, const EigenStructure& b) const {
    if (a.basis != b.basis) return nullptr;
    return eigen_decomposed(a.basis, a.eigenvalues * b.eigenvalues);
  }
  OperatorPtr operator()(const BlockDiagonalStructure& a, const BlockDiagonalStructure& b) const {
    if (a.blocks.size() != b.blocks.size()) return nullptr;
    std::vector<OperatorPtr> blocks;
    for (size_t i = 0; i < a.blocks.size(); ++i) {
      if (!(a.blocks[i]->spec().domain == b.blocks[i]->spec().range)) return nullptr;
      blocks.push_back(product(a.blocks[i], b.blocks[i]));
    }
    return block_diagonal(blocks, spec.domain, spec.range);
  }
  template <class A, class B>
  OperatorPtr operator()(const A&, const B&) const {
    return nullptr;
  }
};

std::vector<OperatorPtr> as_product(const OperatorPtr& a) {
  if (auto nested = structure_as<ProductStructure>(*a)) return std::move(nested->factors);
  return {a};
}

/// Whether b is the lazy adjoint of a.
bool is_adjoint_of(const OperatorPtr& b, const OperatorPtr& a) {
  const auto adjoint = structure_as<AdjointStructure>(*b);
  return adjoint && adjoint->original == a;
}

// --- adjoints -----------------------------------------------------------------------------------

/// A^T of an operator that is not symmetric.
struct AdjointRule {
  const OperatorPtr& a;

  OperatorPtr operator()(const ScaledIdentityStructure&) const {  // only zero is not symmetric
    return zero(a->spec().range, a->spec().domain, options_of(*a));
  }
  OperatorPtr operator()(const DenseStructure& s) const {
    return dense(s.matrix.t(), a->spec().range, a->spec().domain);
  }
  OperatorPtr operator()(const KroneckerStructure& s) const {
    std::vector<at::Tensor> factors;
    for (const at::Tensor& factor : s.factors) factors.push_back(factor.t());
    return kronecker(factors, a->spec().range, a->spec().domain);
  }
  OperatorPtr operator()(const BlockDiagonalStructure& s) const {
    return block_diagonal(map_all(s.blocks, adjoint), a->spec().range, a->spec().domain);
  }
  OperatorPtr operator()(const AdjointStructure& s) const { return s.original; }
  template <class Other>
  OperatorPtr operator()(const Other&) const {
    return detail::make_adjoint(a);
  }
};

// --- powers -------------------------------------------------------------------------------------

/// The power factor by factor, so that a Kronecker product stays one; null if a factor has negative
/// eigenvalues and the exponent is not an integer (their products may still be positive).
OperatorPtr kronecker_power(const KroneckerStructure& a, const OperatorSpec& spec, double exponent,
                            const std::string& who) {
  const SpectralFunction power = detail::power_function(exponent, who);
  std::vector<at::Tensor> factors;
  for (const at::Tensor& s : a.factors) {
    const auto eigen = detail::symmetric_eigen(s, who);
    const bool negative =
        eigen.values.lt(-detail::rounding_tolerance(eigen.values)).any().item<bool>();
    if (negative && !detail::is_integer(exponent)) return nullptr;
    factors.push_back((eigen.vectors * power(eigen.values)).mm(eigen.vectors.t()));
  }
  const Symmetry symmetry = exponent < 0 ? detail::inverse_symmetry(spec.symmetry) : spec.symmetry;
  return kronecker(factors, spec.domain, spec.range, symmetry);
}

OperatorPtr symmetric_power(const LinearOperator& a, double exponent) {
  if (const auto kronecker_structure = structure_as<KroneckerStructure>(a)) {
    OperatorPtr power = kronecker_power(*kronecker_structure, a.spec(), exponent, a.describe());
    if (power) return power;
  }
  return a.function(detail::power_function(exponent, a.describe()));
}

void check_same_spaces(const LinearOperator& a, const LinearOperator& b, const char* who) {
  CURVATURE_CHECK(a.spec().domain == b.spec().domain && a.spec().range == b.spec().range,
                  ShapeError, "{}: spaces differ; {} maps {} to {}, {} maps {} to {}", who,
                  a.describe(), a.spec().domain.describe(), a.spec().range.describe(), b.describe(),
                  b.spec().domain.describe(), b.spec().range.describe());
}

bool is_zero(const LinearOperator& a) {
  const auto multiple = structure_as<ScaledIdentityStructure>(a);
  return multiple && multiple->scale == 0;
}

}  // namespace

OperatorPtr sum(const OperatorPtr& a, const OperatorPtr& b) {
  detail::check_not_null(a, "sum");
  detail::check_not_null(b, "sum");
  check_same_spaces(*a, *b, "sum");
  detail::check_same_dtype_device(*a, *b, "sum");
  if (is_zero(*a)) return b;
  if (is_zero(*b)) return a;
  OperatorSpec spec = a->spec();
  spec.symmetry = detail::sum_symmetry(a->spec().symmetry, b->spec().symmetry);
  const Structure left = a->structure();
  const Structure right = b->structure();
  if (OperatorPtr closed = std::visit(SumRule{spec}, left, right)) return closed;
  if (OperatorPtr closed = std::visit(SumRule{spec}, right, left)) return closed;
  return detail::make_sum(std::move(spec), concatenate(as_sum(a), as_sum(b)));
}

OperatorPtr sum(const std::vector<OperatorPtr>& terms) {
  CURVATURE_CHECK(!terms.empty(), OptionError, "sum: needs at least one term");
  detail::check_not_null(terms.front(), "sum");
  OperatorPtr total = terms.front();
  for (size_t i = 1; i < terms.size(); ++i) total = sum(total, terms[i]);
  return total;
}

OperatorPtr difference(const OperatorPtr& a, const OperatorPtr& b) { return sum(a, scaled(b, -1)); }

OperatorPtr product(const OperatorPtr& a, const OperatorPtr& b) {
  detail::check_not_null(a, "product");
  detail::check_not_null(b, "product");
  CURVATURE_CHECK(a->spec().domain == b->spec().range, ShapeError,
                  "product: spaces differ; {} takes {}, {} gives {}", a->describe(),
                  a->spec().domain.describe(), b->describe(), b->spec().range.describe());
  detail::check_same_dtype_device(*a, *b, "product");
  OperatorSpec spec = b->spec();
  spec.range = a->spec().range;
  spec.symmetry = is_adjoint_of(a, b) || is_adjoint_of(b, a) ? Symmetry::kPositiveSemidefinite
                                                             : Symmetry::kGeneral;
  if (is_zero(*a) || is_zero(*b)) return zero(spec.domain, spec.range, options_of(spec));
  if (const auto multiple = structure_as<ScaledIdentityStructure>(*a)) {
    return scaled(b, multiple->scale);
  }
  if (const auto multiple = structure_as<ScaledIdentityStructure>(*b)) {
    return scaled(a, multiple->scale);
  }
  if (OperatorPtr closed = std::visit(ProductRule{spec}, a->structure(), b->structure())) {
    return closed;
  }
  std::vector<OperatorPtr> factors = as_product(a);
  const std::vector<OperatorPtr> others = as_product(b);
  factors.insert(factors.end(), others.begin(), others.end());
  return detail::make_product(std::move(spec), std::move(factors));
}

OperatorPtr product(const std::vector<OperatorPtr>& factors) {
  CURVATURE_CHECK(!factors.empty(), OptionError, "product: needs at least one factor");
  detail::check_not_null(factors.front(), "product");
  OperatorPtr total = factors.front();
  for (size_t i = 1; i < factors.size(); ++i) total = product(total, factors[i]);
  return total;
}

OperatorPtr scaled(const OperatorPtr& a, double factor) {
  detail::check_not_null(a, "scaled");
  CURVATURE_CHECK(std::isfinite(factor), OptionError, "scaled: the factor must be finite; got {}",
                  factor);
  if (factor == 1) return a;
  OperatorSpec spec = a->spec();
  if (factor == 0 || is_zero(*a)) return zero(spec.domain, spec.range, options_of(spec));
  spec.symmetry = detail::scaled_symmetry(spec.symmetry, factor);
  return std::visit(ScaleRule{a, std::move(spec), factor}, a->structure());
}

OperatorPtr shifted(const OperatorPtr& a, double shift) {
  detail::check_not_null(a, "shifted");
  detail::check_one_space(*a, "shifted");
  CURVATURE_CHECK(std::isfinite(shift), OptionError, "shifted: the shift must be finite; got {}",
                  shift);
  return sum(a, scaled_identity(shift, a->spec().domain, options_of(*a)));
}

OperatorPtr adjoint(const OperatorPtr& a) {
  detail::check_not_null(a, "adjoint");
  if (a->is_symmetric()) return a;
  return std::visit(AdjointRule{a}, a->structure());
}

OperatorPtr inverse(const OperatorPtr& a) {
  detail::check_not_null(a, "inverse");
  CURVATURE_CHECK(a->rows() == a->cols(), ShapeError, "inverse: {} is not square; it is {}x{}",
                  a->describe(), a->rows(), a->cols());
  OperatorPtr result = a->inverse();
  CURVATURE_CHECK(result != nullptr, NotSupportedError,
                  "inverse: {} has no inverse in closed form; pass a solver, as in "
                  "inverse(op, conjugate_gradient())",
                  a->describe());
  return result;
}

OperatorPtr pow(const OperatorPtr& a, double exponent) {
  detail::check_not_null(a, "pow");
  CURVATURE_CHECK(std::isfinite(exponent), OptionError, "pow: the exponent must be finite; got {}",
                  exponent);
  detail::check_one_space(*a, "pow");
  if (exponent == 1) return a;
  if (exponent == 0) return identity(a->spec().domain, options_of(*a));
  if (a->is_symmetric()) {
    if (OperatorPtr power = symmetric_power(*a, exponent)) return power;
  }
  CURVATURE_CHECK(
      detail::is_integer(exponent) && std::abs(exponent) <= 64, NotSupportedError,
      "pow: {} has no power {} in closed form; use an integer of at most 64 in absolute "
      "value, or a matrix function by Lanczos",
      a->describe(), exponent);
  const OperatorPtr base = exponent < 0 ? inverse(a) : a;
  OperatorPtr power = base;
  for (int i = 1; i < std::abs(exponent); ++i) power = product(power, base);
  return power;
}

OperatorPtr function(const OperatorPtr& a, const SpectralFunction& f) {
  detail::check_not_null(a, "function");
  OperatorPtr result = a->function(f);
  CURVATURE_CHECK(result != nullptr, NotSupportedError,
                  "function: {} has no function in closed form; approximate it by Lanczos, or "
                  "declare its symmetry if it is symmetric",
                  a->describe());
  return result;
}

}  // namespace curvature
