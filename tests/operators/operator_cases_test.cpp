#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include <curvature/core/random.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/block_diagonal.hpp>
#include <curvature/operators/decorators.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/eigen_decomposed.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/operators/kronecker.hpp>
#include <curvature/operators/kronecker_sum.hpp>
#include <curvature/operators/low_rank.hpp>
#include <curvature/operators/permutation.hpp>
#include <curvature/operators/submatrix.hpp>

#include "support/operator_laws.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(operator_cases_test)

using namespace curvature;

namespace {

/// Random matrices of one dtype, and the float64 matrices they are.
class Draw {
 public:
  Draw(uint64_t seed, at::ScalarType dtype)
      : source_(seed), options_(at::TensorOptions(dtype).device(testing::test_device())) {}

  const at::TensorOptions& options() const { return options_; }
  at::Tensor matrix(int64_t m, int64_t n) {
    return source_.normal(next_++, m * n).reshape({m, n}).to(options_);
  }
  at::Tensor vector(int64_t n) { return source_.normal(next_++, n).to(options_); }
  at::Tensor positive(int64_t n) { return source_.uniform(next_++, n).add(0.5).to(options_); }
  at::Tensor symmetric(int64_t n) {
    const at::Tensor a = matrix(n, n);
    return (a + a.t()) / 2;
  }
  at::Tensor definite(int64_t n) {
    const at::Tensor a = matrix(n, n);
    return a.mm(a.t()) / static_cast<double>(n + 1) + at::eye(n, options_);
  }
  at::Tensor orthogonal(int64_t n) {
    const at::Tensor a = source_.normal(next_++, n * n).reshape({n, n});
    return std::get<0>(at::linalg_qr(a)).to(options_);
  }

 private:
  RandomSource source_;
  at::TensorOptions options_;
  uint64_t next_ = 0;
};

struct Pair {
  OperatorPtr op;
  at::Tensor twin;  ///< the same as a matrix, computed in float64
};

at::Tensor f64(const at::Tensor& t) { return t.to(at::kDouble); }
at::Tensor kron(const std::vector<at::Tensor>& factors) {
  at::Tensor result = f64(factors.front());
  for (size_t i = 1; i < factors.size(); ++i) result = at::kron(result, f64(factors[i]));
  return result;
}
at::Tensor blocks(const std::vector<at::Tensor>& matrices) {
  std::vector<at::Tensor> converted;
  for (const at::Tensor& m : matrices) converted.push_back(f64(m));
  return at::block_diag(converted);
}
Space two_shapes(int64_t n) { return Space({{"weight", {2, n}}, {"bias", {n}}}); }

/// A product that only a function knows: it hides structure from the algebra.
OperatorPtr opaque(const at::Tensor& matrix, Symmetry symmetry = Symmetry::kGeneral) {
  OperatorSpec spec{Space::flat(matrix.size(1)), Space::flat(matrix.size(0)), matrix.scalar_type(),
                    matrix.device(), symmetry};
  const MatrixMap apply = [matrix](const at::Tensor& x) { return matrix.mm(x); };
  const MatrixMap apply_adjoint = [matrix](const at::Tensor& y) { return matrix.t().mm(y); };
  return function_operator(spec, apply, apply_adjoint);
}

struct Case {
  const char* name;
  std::function<Pair(Draw&, int64_t n)> make;
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

constexpr auto kSym = Symmetry::kSymmetric;
constexpr auto kPsd = Symmetry::kPositiveSemidefinite;
constexpr auto kPd = Symmetry::kPositiveDefinite;

const std::vector<Case>& structured_cases() {
  static const std::vector<Case> cases = {
      {"dense",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n);
         return {dense(a), f64(a)};
       }},
      {"dense_rectangular",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n + 1, n);
         return {dense(a), f64(a)};
       }},
      {"dense_symmetric",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.symmetric(n);
         return {dense(a, kSym), f64(a)};
       }},
      {"dense_semidefinite",
       [](Draw& d, int64_t n) -> Pair {
         auto u = d.matrix(n, n / 2);
         auto a = u.mm(u.t());
         return {dense(a, kPsd), f64(a)};
       }},
      {"dense_definite",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.definite(n);
         return {dense(a, kPd), f64(a)};
       }},
      {"dense_on_shapes",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(3 * n, 3 * n + 3);
         return {dense(a, two_shapes(n + 1), two_shapes(n)), f64(a)};
       }},
      {"diagonal",
       [](Draw& d, int64_t n) -> Pair {
         auto v = d.vector(n);
         return {curvature::diagonal(v), f64(v).diag()};
       }},
      {"diagonal_positive",
       [](Draw& d, int64_t n) -> Pair {
         auto v = d.positive(n);
         return {curvature::diagonal(v), f64(v).diag()};
       }},
      {"diagonal_list",
       [](Draw& d, int64_t n) -> Pair {
         auto w = d.matrix(2, n);
         auto b = d.vector(n);
         return {curvature::diagonal(TensorList{w, b}),
                 at::cat({f64(w).reshape(-1), f64(b)}).diag()};
       }},
      {"identity",
       [](Draw& d, int64_t n) -> Pair {
         return {identity(two_shapes(n), d.options()), at::eye(3 * n, f64(d.vector(1)).options())};
       }},
      {"scaled_identity",
       [](Draw& d, int64_t n) -> Pair {
         return {scaled_identity(-2.5, Space::flat(n), d.options()),
                 -2.5 * at::eye(n, f64(d.vector(1)).options())};
       }},
      {"zero",
       [](Draw& d, int64_t n) -> Pair {
         return {zero(Space::flat(n), Space::flat(n), d.options()), f64(d.matrix(n, n)).zero_()};
       }},
      {"zero_rectangular",
       [](Draw& d, int64_t n) -> Pair {
         return {zero(two_shapes(n), Space::flat(n + 1), d.options()),
                 f64(d.matrix(n + 1, 3 * n)).zero_()};
       }},
      {"low_rank_definite",
       [](Draw& d, int64_t n) -> Pair {
         auto v = d.positive(n);
         auto u = d.matrix(n, 2);
         auto c = d.positive(2);
         return {low_rank_plus_diagonal(v, u, c), f64(v).diag() + (f64(u) * f64(c)).mm(f64(u).t())};
       }},
      {"low_rank_indefinite",
       [](Draw& d, int64_t n) -> Pair {
         auto v = d.vector(n);
         auto u = d.matrix(n, 3);
         auto c = d.vector(3);
         return {low_rank_plus_diagonal(v, u, c), f64(v).diag() + (f64(u) * f64(c)).mm(f64(u).t())};
       }},
      {"low_rank_constant_diagonal",
       [](Draw& d, int64_t n) -> Pair {
         auto u = d.matrix(n, 2);
         auto c = d.vector(2);
         return {low_rank_plus_diagonal(at::full({n}, 2, d.options()), u, c),
                 2 * at::eye(n, f64(u).options()) + (f64(u) * f64(c)).mm(f64(u).t())};
       }},
      {"low_rank_zero_coefficients",
       [](Draw& d, int64_t n) -> Pair {
         auto v = d.positive(n);
         auto u = d.matrix(n, 2);
         return {low_rank_plus_diagonal(v, u, at::zeros({2}, d.options())), f64(v).diag()};
       }},
      {"low_rank_no_rank",
       [](Draw& d, int64_t n) -> Pair {
         auto v = d.positive(n);
         return {low_rank_plus_diagonal(v, d.matrix(n, 0), d.vector(0)), f64(v).diag()};
       }},
      {"outer_products",
       [](Draw& d, int64_t n) -> Pair {
         auto u = d.matrix(n, 2);
         auto c = d.positive(2);
         return {outer_products(u, c), (f64(u) * f64(c)).mm(f64(u).t())};
       }},
      {"low_rank_inverse",
       [](Draw& d, int64_t n) -> Pair {
         auto v = d.positive(n);
         auto u = d.matrix(n, 2);
         auto c = d.positive(2);
         return {inverse(low_rank_plus_diagonal(v, u, c)),
                 at::linalg_inv(f64(v).diag() + (f64(u) * f64(c)).mm(f64(u).t()))};
       }},
      {"kronecker_rectangular",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.matrix(n, n + 1), d.matrix(3, 2), d.matrix(n, 2)};
         return {kronecker(s), kron(s)};
       }},
      {"kronecker_square_of_rectangular",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.matrix(n, n + 1), d.matrix(n + 1, n)};
         return {kronecker(s), kron(s)};
       }},
      {"kronecker_square",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.matrix(n, n), d.matrix(3, 3)};
         return {kronecker(s), kron(s)};
       }},
      {"kronecker_one_factor",
       [](Draw& d, int64_t n) -> Pair {
         auto s = d.matrix(n, n);
         return {kronecker({s}), f64(s)};
       }},
      {"kronecker_symmetric",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.symmetric(n), d.symmetric(2), d.symmetric(2)};
         return {kronecker(s, kSym), kron(s)};
       }},
      {"kronecker_sum",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.definite(n), d.definite(3)}, t{d.definite(n), d.definite(3)};
         return {kronecker_sum(s[0], s[1], t[0], t[1], 0.7, Symmetry::kPositiveDefinite),
                 kron(s) + 0.7 * kron(t)};
       }},
      {"kronecker_difference",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.definite(2), d.definite(n)}, t{d.symmetric(2), d.symmetric(n)};
         return {kronecker_sum(s[0], s[1], t[0], t[1], -0.5), kron(s) - 0.5 * kron(t)};
       }},
      {"kronecker_sum_inverse",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.definite(n), d.definite(3)}, t{d.symmetric(n), d.symmetric(3)};
         return {inverse(kronecker_sum(s[0], s[1], t[0], t[1], -0.3)),
                 at::linalg_inv(kron(s) - 0.3 * kron(t))};
       }},
      {"kronecker_definite_on_shapes",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.definite(n), d.definite(3)};
         return {kronecker(s, two_shapes(n), two_shapes(n), kPd), kron(s)};
       }},
      {"block_diagonal",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n);
         auto b = d.matrix(2, 2);
         return {block_diagonal({dense(a), dense(b)}), blocks({a, b})};
       }},
      {"block_diagonal_rectangular",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n + 1);
         auto b = d.matrix(3, 2);
         return {block_diagonal({dense(a), dense(b)}), blocks({a, b})};
       }},
      {"block_diagonal_per_entry",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.definite(2), d.definite(n)};
         auto b = d.definite(n);
         return {block_diagonal({kronecker(s, kPd), dense(b, kPd)}, two_shapes(n), two_shapes(n)),
                 blocks({kron(s), b})};
       }},
      {"block_diagonal_across_entries",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.symmetric(n);
         auto b = d.symmetric(2 * n);
         return {block_diagonal({dense(a, kSym), dense(b, kSym)}, two_shapes(n), two_shapes(n)),
                 blocks({a, b})};
       }},
      {"block_diagonal_nested",
       [](Draw& d, int64_t n) -> Pair {
         auto v = d.vector(n);
         auto w = d.matrix(2, n);
         return {block_diagonal({curvature::diagonal(v), curvature::diagonal(TensorList{w, v})}),
                 at::cat({f64(v), f64(w).reshape(-1), f64(v)}).diag()};
       }},
      {"eigen_decomposed",
       [](Draw& d, int64_t n) -> Pair {
         auto q = d.orthogonal(n);
         auto l = d.vector(n);
         return {eigen_decomposed(q, l), (f64(q) * f64(l)).mm(f64(q).t())};
       }},
      {"eigen_decomposed_kronecker",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> q{d.orthogonal(n), d.orthogonal(3)};
         auto l = d.positive(3 * n);
         return {eigen_decomposed(kronecker(q), l), (kron(q) * f64(l)).mm(kron(q).t())};
       }},
      {"eigen_decomposed_blocks",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> q{d.orthogonal(2 * n), d.orthogonal(n)};
         auto l = d.positive(3 * n);
         auto basis = block_diagonal({dense(q[0]), dense(q[1])}, two_shapes(n), two_shapes(n));
         return {eigen_decomposed(basis, l), (blocks(q) * f64(l)).mm(blocks(q).t())};
       }},
      {"eigen_decomposed_permutation",
       [](Draw& d, int64_t n) -> Pair {
         auto l = d.vector(n + 2);
         std::vector<int64_t> order;
         for (int64_t i = 0; i < n + 2; ++i) order.push_back((i + 1) % (n + 2));
         auto p = permutation(order, d.options());
         auto q = f64(materialize(*p));
         return {eigen_decomposed(p, l), (q * f64(l)).mm(q.t())};
       }},
      {"permutation",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<int64_t> order{1, 2, 0};
         for (int64_t i = 3; i < n + 3; ++i) order.push_back(n + 5 - i);
         auto eye = at::eye(n + 3, f64(d.vector(1)).options());
         return {permutation(order, d.options()),
                 eye.index_select(0, at::tensor(order).to(eye.device()))};
       }},
      {"permutation_involution",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<int64_t> order;
         for (int64_t i = 0; i < n; ++i) order.push_back(n - 1 - i);
         return {permutation(order, d.options()), at::eye(n, f64(d.vector(1)).options()).flip(0)};
       }},
      {"submatrix",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n + 2, n + 3);
         return {submatrix(opaque(a), {n + 1, 0}, {n + 1, n, n + 2}),
                 f64(a)
                     .index_select(0, at::tensor({n + 1, int64_t{0}}).to(a.device()))
                     .index_select(1, at::tensor({n + 1, n, n + 2}).to(a.device()))};
       }},
      {"submatrix_principal",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.definite(n + 1), d.definite(2)};
         return {submatrix(kronecker(s, kPd), {n + 1, 0}, {n + 1, 0}),
                 kron(s)
                     .index_select(0, at::tensor({n + 1, int64_t{0}}).to(s[0].device()))
                     .index_select(1, at::tensor({n + 1, int64_t{0}}).to(s[0].device()))};
       }},
      {"submatrix_of_low_rank",
       [](Draw& d, int64_t n) -> Pair {
         auto v = d.positive(n + 2);
         auto u = d.matrix(n + 2, 1);
         auto c = d.positive(1);
         auto i = at::tensor({n + 1, int64_t{0}}).to(v.device());
         return {submatrix(low_rank_plus_diagonal(v, u, c), {n + 1, 0}, {n + 1, 0}),
                 (f64(v).diag() + (f64(u) * f64(c)).mm(f64(u).t()))
                     .index_select(0, i)
                     .index_select(1, i)};
       }},
      {"submatrix_empty",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n + 1, n + 1);
         return {submatrix(opaque(a), {}, {0}), f64(a).narrow(0, 0, 0).narrow(1, 0, 1)};
       }},
      {"submatrix_by_name",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(3 * n, 3 * n);
         return {
             submatrix_by_name(with_spaces(opaque(a), two_shapes(n), two_shapes(n)),
                               {"bias", "weight"}, {"bias"}),
             at::cat({f64(a).narrow(0, 2 * n, n), f64(a).narrow(0, 0, 2 * n)}).narrow(1, 2 * n, n)};
       }},
      {"submatrix_by_name_of_blocks",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.definite(2 * n);
         auto b = d.definite(n);
         auto op = block_diagonal({dense(a, kPd), dense(b, kPd)}, two_shapes(n), two_shapes(n));
         return {submatrix_by_name(op, {"bias", "weight"}, {"bias", "weight"}), blocks({b, a})};
       }},
      {"function_operator",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n + 2);
         return {opaque(a), f64(a)};
       }},
      {"function_operator_lists",
       [](Draw& d, int64_t n) -> Pair {
         auto w = d.matrix(2, n);
         OperatorSpec spec{two_shapes(n), two_shapes(n), w.scalar_type(), w.device(), kSym};
         const ListMap apply = [w](const TensorList& x) {
           return TensorList{x[0] * w.unsqueeze(-1), -x[1]};
         };
         return {function_operator(spec, apply),
                 at::cat({f64(w).reshape(-1), -f64(w[0]).fill_(1)}).diag()};
       }},
      {"counting",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.definite(n);
         return {counting(dense(a, kPd), std::make_shared<std::atomic<int64_t>>(0)), f64(a)};
       }},
      {"with_spaces",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.definite(3 * n);
         return {with_spaces(dense(a, kPd), two_shapes(n), two_shapes(n)), f64(a)};
       }},
      {"with_different_spaces",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.definite(3 * n);
         return {with_spaces(dense(a, kPd), two_shapes(n), Space({{"a", {n, 3}}})), f64(a)};
       }},
      {"with_spaces_of_eigen",
       [](Draw& d, int64_t n) -> Pair {
         auto q = d.orthogonal(3 * n);
         auto l = d.positive(3 * n);
         return {shifted(with_spaces(eigen_decomposed(q, l), two_shapes(n), two_shapes(n)), 1),
                 (f64(q) * (f64(l) + 1)).mm(f64(q).t())};
       }},
      {"declare_symmetry",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.definite(n);
         return {declare_symmetry(opaque(a), kPd), f64(a)};
       }},
  };
  return cases;
}

const std::vector<Case>& algebra_cases() {
  static const std::vector<Case> cases = {
      {"lazy_sum",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n + 1);
         auto b = d.matrix(n, n + 1);
         return {opaque(a) + dense(b), f64(a) + f64(b)};
       }},
      {"nested_sum",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.symmetric(n);
         auto b = d.symmetric(n);
         auto c = d.symmetric(n);
         return {opaque(a, kSym) - 3 * (opaque(b, kSym) + 2 * shifted(opaque(c, kSym), 0.5)),
                 f64(a) - 3 * f64(b) - 6 * f64(c) - 3 * at::eye(n, f64(a).options())};
       }},
      {"sum_of_many",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.definite(n);
         auto u = d.matrix(n, n);
         return {sum({opaque(a, kPd), dense(a, kPd), opaque(u)}), 2 * f64(a) + f64(u)};
       }},
      {"sum_on_shapes",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.symmetric(3 * n);
         auto w = d.matrix(2, n);
         auto b = d.vector(n);
         return {with_spaces(opaque(a, kSym), two_shapes(n), two_shapes(n)) +
                     curvature::diagonal(TensorList{w, b}),
                 f64(a) + at::cat({f64(w).reshape(-1), f64(b)}).diag()};
       }},
      {"scaled_opaque",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n + 1, n);
         return {-2 * opaque(a), -2 * f64(a)};
       }},
      {"scaled_symmetric",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.definite(n);
         return {0.5 * declare_symmetry(dense(a), kPd), 0.5 * f64(a)};
       }},
      {"scaled_kronecker",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.definite(n), d.definite(2)};
         return {-kronecker(s, kPd), -kron(s)};
       }},
      {"scaled_permutation",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<int64_t> order{1, 2, 0};
         auto p = permutation(order, d.options());
         auto twin = f64(materialize(*p));
         return {(1.0 + static_cast<double>(n)) * p * -1, -(1.0 + static_cast<double>(n)) * twin};
       }},
      {"scaled_to_zero",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n + 1);
         return {0 * opaque(a), 0 * f64(a)};
       }},
      {"shifted_kronecker",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.definite(n), d.definite(3)};
         return {shifted(kronecker(s, kPd), 0.1),
                 kron(s) + 0.1 * at::eye(3 * n, kron(s).options())};
       }},
      {"shifted_inverse_of_kronecker",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.definite(n), d.definite(3)};
         return {inverse(shifted(kronecker(s, kPd), 0.1)),
                 at::linalg_inv(kron(s) + 0.1 * at::eye(3 * n, kron(s).options()))};
       }},
      {"shifted_blocks",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.definite(2), d.definite(n)};
         auto b = d.definite(n);
         auto op = block_diagonal({kronecker(s, kPd), dense(b, kPd)}, two_shapes(n), two_shapes(n));
         return {shifted(op, 0.5), blocks({kron(s), b}) + 0.5 * at::eye(3 * n, kron(s).options())};
       }},
      {"diagonal_plus_blocks",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.symmetric(n);
         auto b = d.symmetric(2);
         auto v = d.vector(n + 2);
         auto op = block_diagonal({dense(a, kSym), dense(b, kSym)}, Space::flat(n + 2),
                                  Space::flat(n + 2));
         return {curvature::diagonal(v) + op, blocks({a, b}) + f64(v).diag()};
       }},
      {"blocks_plus_blocks",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n + 1);
         auto b = d.matrix(2, 3);
         auto op = block_diagonal({dense(a), dense(b)});
         return {op - 2 * block_diagonal({opaque(a), opaque(b)}), -blocks({a, b})};
       }},
      {"blocks_that_do_not_match",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n);
         auto b = d.matrix(n + 1, n + 1);
         const Space s = Space::flat(2 * n + 1);
         return {block_diagonal({dense(a), dense(b)}, s, s) +
                     block_diagonal({dense(b), dense(a)}, s, s),
                 blocks({a, b}) + blocks({b, a})};
       }},
      {"diagonal_plus_low_rank",
       [](Draw& d, int64_t n) -> Pair {
         auto u = d.matrix(n, 2);
         auto c = d.positive(2);
         auto v = d.positive(n);
         return {curvature::diagonal(v) + outer_products(u, c),
                 f64(v).diag() + (f64(u) * f64(c)).mm(f64(u).t())};
       }},
      {"low_rank_plus_low_rank",
       [](Draw& d, int64_t n) -> Pair {
         auto u = d.matrix(n, 2);
         auto c = d.positive(2);
         return {shifted(outer_products(u, c) + 2 * outer_products(u, c), 1.5),
                 3 * (f64(u) * f64(c)).mm(f64(u).t()) + 1.5 * at::eye(n, f64(u).options())};
       }},
      {"dense_plus_diagonal",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.definite(n);
         auto v = d.positive(n);
         return {shifted(curvature::diagonal(v) - dense(a, kPd), 1),
                 f64(v).diag() - f64(a) + at::eye(n, f64(a).options())};
       }},
      {"eigen_with_same_basis",
       [](Draw& d, int64_t n) -> Pair {
         auto q = dense(d.orthogonal(n));
         auto l = d.positive(n);
         auto twin = f64(materialize(*q));
         return {
             shifted(eigen_decomposed(q, l) * eigen_decomposed(q, l) + eigen_decomposed(q, l), -1),
             (twin * (f64(l).square() + f64(l) - 1)).mm(twin.t())};
       }},
      {"product_rectangular",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n + 2);
         auto b = d.matrix(n + 2, 3);
         return {opaque(a) * dense(b), f64(a).mm(f64(b))};
       }},
      {"product_of_many",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.definite(n);
         auto v = d.positive(n);
         return {product({dense(a), opaque(a), curvature::diagonal(v), curvature::diagonal(v)}),
                 f64(a).mm(f64(a)) * f64(v).square()};
       }},
      {"product_square",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.definite(n);
         auto b = d.definite(n);
         return {dense(a) * (2 * dense(b)), 2 * f64(a).mm(f64(b))};
       }},
      {"product_dense_diagonal",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n);
         auto v = d.positive(n);
         return {curvature::diagonal(v) * (dense(a) * curvature::diagonal(v)),
                 f64(v).unsqueeze(-1) * f64(a) * f64(v)};
       }},
      {"product_kronecker",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> a{d.matrix(n, 2), d.matrix(3, 2)};
         std::vector<at::Tensor> b{d.matrix(2, n + 1), d.matrix(2, 2)};
         return {kronecker(a) * kronecker(b), kron(a).mm(kron(b))};
       }},
      {"product_kronecker_mismatch",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> a{d.matrix(n, 2), d.matrix(3, 3)};
         std::vector<at::Tensor> b{d.matrix(3, n + 1), d.matrix(2, 2)};
         return {kronecker(a) * kronecker(b), kron(a).mm(kron(b))};
       }},
      {"product_blocks",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, 2);
         auto b = d.matrix(3, n);
         return {
             block_diagonal({dense(a), dense(b)}) * block_diagonal({opaque(a.t()), opaque(b.t())}),
             blocks({f64(a).mm(f64(a).t()), f64(b).mm(f64(b).t())})};
       }},
      {"gram",
       [](Draw& d, int64_t n) -> Pair {
         auto a = opaque(d.matrix(n + 1, n));
         auto m = f64(materialize(*a));
         return {adjoint(a) * a, m.t().mm(m)};
       }},
      {"adjoint_opaque",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n + 1);
         return {adjoint(opaque(a)), f64(a).t()};
       }},
      {"adjoint_of_sum",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n);
         auto b = d.matrix(n, n);
         return {adjoint(shifted(opaque(a) - 2 * dense(b), 3)),
                 f64(a).t() - 2 * f64(b).t() + 3 * at::eye(n, f64(a).options())};
       }},
      {"adjoint_of_product",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, n + 2);
         auto b = d.matrix(n + 2, 3);
         return {adjoint(opaque(a) * dense(b)), f64(b).t().mm(f64(a).t())};
       }},
      {"adjoint_of_kronecker",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<at::Tensor> s{d.matrix(n, 2), d.matrix(3, n + 1)};
         return {adjoint(kronecker(s)), kron(s).t()};
       }},
      {"adjoint_of_blocks",
       [](Draw& d, int64_t n) -> Pair {
         auto a = d.matrix(n, 2);
         auto b = d.matrix(3, n);
         return {adjoint(block_diagonal({dense(a), opaque(b)})), blocks({a, b}).t()};
       }},
      {"adjoint_of_zero",
       [](Draw& d, int64_t n) -> Pair {
         return {adjoint(zero(two_shapes(n), Space::flat(2), d.options())),
                 f64(d.matrix(3 * n, 2)).zero_()};
       }},
      {"adjoint_of_permutation",
       [](Draw& d, int64_t n) -> Pair {
         std::vector<int64_t> order{1, 2, 0};
         for (int64_t i = 3; i < n + 3; ++i) order.push_back(i);
         auto p = permutation(order, d.options());
         return {adjoint(p), f64(materialize(*p)).t()};
       }},
  };
  return cases;
}

void check_case(const Case& c) {
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    for (const int64_t n : {0, 1, 2, 5}) {
      for (const uint64_t seed : {1, 2}) {
        BOOST_TEST_CONTEXT(c.name << ", n = " << n << ", seed " << seed) {
          Draw draw(seed, dtype);
          const Pair pair = c.make(draw, n);
          testing::check_operator_laws(*pair.op, pair.twin, {.seed = seed});
        }
      }
    }
  }
}

}  // namespace

BOOST_DATA_TEST_CASE(structured_operators_obey_the_laws,
                     boost::unit_test::data::make(structured_cases()), c) {
  check_case(c);
}

BOOST_DATA_TEST_CASE(algebra_obeys_the_laws, boost::unit_test::data::make(algebra_cases()), c) {
  check_case(c);
}

BOOST_AUTO_TEST_SUITE_END()
