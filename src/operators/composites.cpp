#include "operators/composites.hpp"

#include <algorithm>
#include <cmath>

#include <curvature/operators/algebra.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature::detail {
namespace {

class Sum final : public LinearOperator {
 public:
  Sum(OperatorSpec spec, SumStructure sum)
      : LinearOperator(std::move(spec)), sum_(std::move(sum)) {}

  std::string describe() const override;
  Structure structure() const override { return sum_; }

  std::optional<at::Tensor> diagonal() const override;
  std::optional<double> trace() const override;
  std::optional<LogDeterminant> log_determinant() const override;
  std::optional<double> frobenius_norm() const override;
  std::optional<at::Tensor> eigenvalues() const override;
  OperatorPtr function(const SpectralFunction& f) const override;
  OperatorPtr inverse() const override;
  OperatorPtr square_root_factor() const override;

 private:
  /// c A + shift I: closed forms are those of A.
  bool has_one_term() const { return sum_.terms.size() == 1; }
  bool is_multiple() const { return has_one_term() && sum_.shift == 0; }
  double coefficient() const { return sum_.coefficients.front(); }
  const LinearOperator& term() const { return *sum_.terms.front(); }

  /// The combination of `product(term)` over all terms and of x.
  template <class Product>
  TensorList combine(const TensorList& x, Product product) const {
    TensorList y = product(*sum_.terms.front());
    for (at::Tensor& t : y) t = coefficient() == 1 ? t : t.mul(coefficient());
    // A term may return its operand or something it keeps, so the first addition makes a new
    // tensor.
    bool owned = coefficient() != 1;
    const auto add = [&](const TensorList& z, double factor) {
      for (size_t i = 0; i < y.size(); ++i) {
        y[i] = owned ? y[i].add_(z[i], factor) : y[i].add(z[i], factor);
      }
      owned = true;
    };
    for (size_t k = 1; k < sum_.terms.size(); ++k) {
      add(product(*sum_.terms[k]), sum_.coefficients[k]);
    }
    if (sum_.shift != 0) add(x, sum_.shift);
    return y;
  }
  TensorList apply_impl(const TensorList& x) const override {
    return combine(x, [&](const LinearOperator& a) { return a.apply(x); });
  }
  TensorList apply_adjoint_impl(const TensorList& y) const override {
    return combine(y, [&](const LinearOperator& a) { return a.apply_adjoint(y); });
  }
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return combine({x}, [&](const LinearOperator& a) { return TensorList{a.apply(x)}; }).front();
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return combine({y}, [&](const LinearOperator& a) { return TensorList{a.apply_adjoint(y)}; })
        .front();
  }

  SumStructure sum_;
};

std::string Sum::describe() const {
  std::string formula;
  const auto add = [&](double factor, const std::string& name) {
    const bool first = formula.empty();
    if (factor < 0) formula += first ? "-" : " - ";
    if (factor >= 0 && !first) formula += " + ";
    if (std::abs(factor) != 1) formula += fmt::format("{:g} ", std::abs(factor));
    formula += name;
  };
  for (size_t i = 0; i < sum_.terms.size(); ++i) {
    add(sum_.coefficients[i], sum_.terms[i]->describe());
  }
  if (sum_.shift != 0) add(sum_.shift, "I");
  return "(" + formula + ")";
}

std::optional<at::Tensor> Sum::diagonal() const {
  if (rows() != cols()) return std::nullopt;
  at::Tensor total;
  for (size_t i = 0; i < sum_.terms.size(); ++i) {
    const auto part = sum_.terms[i]->diagonal();
    if (!part) return std::nullopt;
    const at::Tensor scaled_part = part->mul(sum_.coefficients[i]);
    total = total.defined() ? total.add(scaled_part) : scaled_part;
  }
  return total.add(sum_.shift);
}

std::optional<double> Sum::trace() const {
  if (rows() != cols()) return std::nullopt;
  double total = sum_.shift * static_cast<double>(rows());
  for (size_t i = 0; i < sum_.terms.size(); ++i) {
    const auto part = sum_.terms[i]->trace();
    if (!part) return std::nullopt;
    total += sum_.coefficients[i] * *part;
  }
  return total;
}

std::optional<LogDeterminant> Sum::log_determinant() const {
  if (is_multiple()) {
    const auto part = term().log_determinant();
    if (!part) return std::nullopt;
    const bool flips = coefficient() < 0 && rows() % 2 == 1;
    return LogDeterminant{
        flips ? -part->sign : part->sign,
        part->log_abs + static_cast<double>(rows()) * std::log(std::abs(coefficient()))};
  }
  const auto values = eigenvalues();
  if (!values) return std::nullopt;
  return log_determinant_of_spectrum(*values);
}

std::optional<double> Sum::frobenius_norm() const {
  if (!has_one_term()) return std::nullopt;
  const auto norm = term().frobenius_norm();
  if (!norm || sum_.shift == 0) return norm ? std::optional(std::abs(coefficient()) * *norm) : norm;
  if (const auto values = eigenvalues()) return values->norm().item<double>();
  const auto part = term().trace();
  if (!part) return std::nullopt;
  const double scaled_norm = coefficient() * *norm;
  const double squared = scaled_norm * scaled_norm + 2 * coefficient() * sum_.shift * *part +
                         sum_.shift * sum_.shift * static_cast<double>(rows());
  return std::sqrt(std::max(squared, 0.0));
}

std::optional<at::Tensor> Sum::eigenvalues() const {
  if (!is_symmetric() || !has_one_term()) return std::nullopt;
  const auto values = term().eigenvalues();
  if (!values) return std::nullopt;
  return values->mul(coefficient()).add(sum_.shift);
}

OperatorPtr Sum::function(const SpectralFunction& f) const {
  if (!is_symmetric() || !has_one_term()) return nullptr;
  return term().function(
      [&](const at::Tensor& values) { return f(values.mul(coefficient()).add(sum_.shift)); });
}

OperatorPtr Sum::inverse() const {
  if (!is_multiple()) return LinearOperator::inverse();
  const OperatorPtr inverse_term = term().inverse();
  return inverse_term ? scaled(inverse_term, 1 / coefficient()) : nullptr;
}

OperatorPtr Sum::square_root_factor() const {
  if (!is_multiple() || coefficient() < 0) return LinearOperator::square_root_factor();
  const OperatorPtr root = term().square_root_factor();
  return root ? scaled(root, std::sqrt(coefficient())) : nullptr;
}

class Product final : public LinearOperator {
 public:
  Product(OperatorSpec spec, std::vector<OperatorPtr> factors)
      : LinearOperator(std::move(spec)), factors_(std::move(factors)) {}

  std::string describe() const override {
    std::vector<std::string> names;
    for (const OperatorPtr& factor : factors_) names.push_back(factor->describe());
    return fmt::format("({})", fmt::join(names, " "));
  }
  Structure structure() const override { return ProductStructure{factors_}; }

  std::optional<LogDeterminant> log_determinant() const override {
    LogDeterminant total{1, 0};
    for (const OperatorPtr& factor : factors_) {
      if (factor->rows() != factor->cols()) return std::nullopt;
      const auto part = factor->log_determinant();
      if (!part) return std::nullopt;
      total = {total.sign * part->sign, total.log_abs + part->log_abs};
    }
    return total;
  }
  OperatorPtr inverse() const override {
    std::vector<OperatorPtr> inverses;
    for (auto factor = factors_.rbegin(); factor != factors_.rend(); ++factor) {
      if ((*factor)->rows() != (*factor)->cols()) return nullptr;
      inverses.push_back((*factor)->inverse());
      if (!inverses.back()) return nullptr;
    }
    return product(inverses);
  }

 private:
  template <class Operand>
  Operand multiply(Operand x) const {
    for (auto a = factors_.rbegin(); a != factors_.rend(); ++a) x = (*a)->apply(x);
    return x;
  }
  template <class Operand>
  Operand multiply_adjoint(Operand y) const {
    for (const OperatorPtr& a : factors_) y = a->apply_adjoint(y);
    return y;
  }
  TensorList apply_impl(const TensorList& x) const override { return multiply(x); }
  TensorList apply_adjoint_impl(const TensorList& y) const override { return multiply_adjoint(y); }
  at::Tensor apply_flat_impl(const at::Tensor& x) const override { return multiply(x); }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return multiply_adjoint(y);
  }

  std::vector<OperatorPtr> factors_;
};

class Adjoint final : public LinearOperator {
 public:
  explicit Adjoint(OperatorPtr original)
      : LinearOperator(adjoint_spec(original->spec())), original_(std::move(original)) {}

  std::string describe() const override { return original_->describe() + "^T"; }
  Structure structure() const override { return AdjointStructure{original_}; }

  std::optional<at::Tensor> diagonal() const override { return original_->diagonal(); }
  std::optional<double> trace() const override { return original_->trace(); }
  std::optional<LogDeterminant> log_determinant() const override {
    return original_->log_determinant();
  }
  std::optional<double> frobenius_norm() const override { return original_->frobenius_norm(); }
  OperatorPtr inverse() const override {
    const OperatorPtr inverse = original_->inverse();
    return inverse ? adjoint(inverse) : nullptr;
  }

 private:
  static OperatorSpec adjoint_spec(OperatorSpec spec) {
    std::swap(spec.domain, spec.range);
    return spec;
  }
  TensorList apply_impl(const TensorList& x) const override { return original_->apply_adjoint(x); }
  TensorList apply_adjoint_impl(const TensorList& y) const override { return original_->apply(y); }
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return original_->apply_adjoint(x);
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return original_->apply(y);
  }

  OperatorPtr original_;
};

}  // namespace

OperatorPtr make_sum(OperatorSpec spec, SumStructure terms) {
  return std::make_shared<Sum>(std::move(spec), std::move(terms));
}

OperatorPtr make_product(OperatorSpec spec, std::vector<OperatorPtr> factors) {
  return std::make_shared<Product>(std::move(spec), std::move(factors));
}

OperatorPtr make_adjoint(OperatorPtr original) {
  return std::make_shared<Adjoint>(std::move(original));
}

}  // namespace curvature::detail
