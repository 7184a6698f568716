#include "support/operator_laws.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <ATen/Parallel.h>

#include <curvature/core/error.hpp>
#include <curvature/core/random.hpp>

#include "support/tensor_close.hpp"

namespace curvature::testing {
namespace {

using Apply = std::function<at::Tensor(const at::Tensor&)>;
using ApplyList = std::function<TensorList(const TensorList&)>;

/// One direction of an operator, A or A^T, and its matrix.
struct Direction {
  const char* name;
  const Space& from;
  const Space& to;
  at::Tensor twin;
  Apply apply;
  ApplyList apply_list;
};

class Laws {
 public:
  Laws(const LinearOperator& a, const at::Tensor& twin, const LawOptions& options)
      : a_(a),
        twin_(twin),
        options_(options),
        source_(options.seed),
        tolerance_(options.tolerance > 0           ? options.tolerance
                   : a.spec().dtype == at::kDouble ? 1e-10
                                                   : 1e-4),
        norm_(twin.norm().item<double>()) {
    singular_values_ = at::linalg_svdvals(twin_.cpu());
  }

  void check_all() {
    BOOST_TEST_CONTEXT("operator " << a_.describe() << ", " << a_.spec().dtype) {
      BOOST_TEST(!a_.describe().empty());
      BOOST_TEST_REQUIRE(twin_.sizes() == (std::vector<int64_t>{a_.rows(), a_.cols()}));
      const Direction forward{"A",
                              a_.spec().domain,
                              a_.spec().range,
                              twin_,
                              [&](const at::Tensor& x) { return a_.apply(x); },
                              [&](const TensorList& x) { return a_.apply(x); }};
      const Direction adjoint{"A^T",
                              a_.spec().range,
                              a_.spec().domain,
                              twin_.t(),
                              [&](const at::Tensor& x) { return a_.apply_adjoint(x); },
                              [&](const TensorList& x) { return a_.apply_adjoint(x); }};
      check_direction(forward);
      if (options_.has_adjoint) {
        check_direction(adjoint);
        check_adjoint_identity();
      } else {
        BOOST_CHECK_THROW(a_.apply_adjoint(draw(a_.rows(), 1)), NotSupportedError);
      }
      check_symmetry();
      check_threads();
      check_closed_forms();
    }
  }

 private:
  at::Tensor draw(int64_t n, int64_t columns) {
    const int64_t first = next_stream_;
    next_stream_ += columns;
    return draw_probes(source_, Probe::kGaussian, n, first, columns,
                       at::TensorOptions().dtype(a_.spec().dtype).device(a_.spec().device));
  }

  /// Whether a result of the operator's dtype is a float64 one, up to `scale` times the tolerance.
  boost::test_tools::assertion_result agrees(const at::Tensor& actual, const at::Tensor& expected,
                                             double scale) const {
    if (actual.scalar_type() != a_.spec().dtype || actual.device() != a_.spec().device) {
      boost::test_tools::assertion_result wrong(false);
      wrong.message() << "result is " << actual.scalar_type() << " on " << actual.device();
      return wrong;
    }
    return close(actual.to(at::kDouble), expected, {tolerance_, tolerance_ * scale});
  }

  void check_direction(const Direction& d) {
    BOOST_TEST_CONTEXT("direction " << d.name) {
      check_flat_products(d);
      check_list_products(d);
      check_linearity(d);
      check_side_effects(d);
      check_errors(d);
    }
  }

  void check_flat_products(const Direction& d) {
    const at::Tensor x = draw(d.from.size(), 3);
    const at::Tensor expected = d.twin.mm(x.to(at::kDouble));
    const double scale = norm_ * x.norm().item<double>();
    BOOST_TEST(agrees(d.apply(x), expected, scale));
    BOOST_TEST(agrees(d.apply(x.contiguous()), expected, scale));
    BOOST_TEST(agrees(d.apply(x.select(1, 1)), expected.select(1, 1), scale));
    BOOST_TEST(agrees(d.apply(x.narrow(1, 2, 1)), expected.narrow(1, 2, 1), scale));
    BOOST_TEST((d.apply(x.narrow(1, 0, 0)).sizes() == std::vector<int64_t>{d.to.size(), 0}));
  }

  void check_list_products(const Direction& d) {
    const at::Tensor x = draw(d.from.size(), 2);
    const double scale = norm_ * x.norm().item<double>();
    const TensorList expected = d.to.split(d.twin.mm(x.to(at::kDouble)));
    const auto compare = [&](const TensorList& actual, const TensorList& wanted) {
      BOOST_TEST_REQUIRE(actual.size() == wanted.size());
      for (size_t i = 0; i < wanted.size(); ++i) BOOST_TEST(agrees(actual[i], wanted[i], scale));
    };
    compare(d.apply_list(d.from.split(x)), expected);
    compare(d.apply_list(d.from.split(x.contiguous())), expected);
    const auto columns = [](TensorList list, int64_t first, int64_t count) {
      for (at::Tensor& t : list) t = t.narrow(-1, first, count);
      return list;
    };
    compare(d.apply_list(columns(d.from.split(x), 0, 0)), columns(expected, 0, 0));
    const auto squeezed = [](TensorList list) {
      for (at::Tensor& t : list) t = t.squeeze(-1);
      return list;
    };
    compare(d.apply_list(squeezed(columns(d.from.split(x), 1, 1))),
            squeezed(columns(expected, 1, 1)));
  }

  void check_linearity(const Direction& d) {
    const at::Tensor x = draw(d.from.size(), 2);
    const at::Tensor y = draw(d.from.size(), 2);
    const double scale = norm_ * (x.norm() + y.norm()).item<double>();
    BOOST_TEST(
        agrees(d.apply(x * 2.5 - y), (d.apply(x) * 2.5 - d.apply(y)).to(at::kDouble), scale));
    BOOST_TEST(d.apply(at::zeros_like(x)).eq(0).all().item<bool>());
  }

  void check_side_effects(const Direction& d) {
    const at::Tensor x = draw(d.from.size(), 2).requires_grad_(true);
    const at::Tensor before = x.detach().clone();
    const at::Tensor y = d.apply(x);
    const at::Tensor first = y.clone();
    BOOST_TEST(!y.requires_grad());
    BOOST_TEST((y.numel() == 0 || !y.is_alias_of(x)));
    BOOST_TEST(d.apply(x).equal(first));
    for (const at::Tensor& t : d.apply_list(d.from.split(x))) BOOST_TEST(!t.requires_grad());
    // Writing to a result must change neither operand nor operator.
    y.zero_();
    BOOST_TEST(x.detach().equal(before));
    BOOST_TEST(d.apply(x).equal(first));
  }

  template <class Error>
  void check_throws(const std::function<void()>& call) {
    BOOST_CHECK_EXCEPTION(call(), Error, [&](const Error& error) {
      return std::string(error.what()).find(a_.describe()) != std::string::npos;
    });
  }

  void check_errors(const Direction& d) {
    const at::Tensor x = draw(d.from.size(), 2);
    const auto other = a_.spec().dtype == at::kDouble ? at::kFloat : at::kDouble;
    check_throws<ShapeError>([&] { d.apply(draw(d.from.size() + 1, 1)); });
    check_throws<ShapeError>([&] { d.apply(x.unsqueeze(-1)); });
    check_throws<ShapeError>([&] { d.apply(at::Tensor()); });
    check_throws<DtypeDeviceError>([&] { d.apply(x.to(other)); });

    TensorList list = d.from.split(x);
    list.push_back(x);
    check_throws<ShapeError>([&] { d.apply_list(list); });
    list.pop_back();
    list.front() = list.front().unsqueeze(0);
    check_throws<ShapeError>([&] { d.apply_list(list); });
    list.front() = list.front().squeeze(0).to(other);
    check_throws<DtypeDeviceError>([&] { d.apply_list(list); });
  }

  void check_adjoint_identity() {
    const at::Tensor x = draw(a_.cols(), 1).squeeze(-1);
    const at::Tensor y = draw(a_.rows(), 1).squeeze(-1);
    const double scale = norm_ * x.norm().item<double>() * y.norm().item<double>();
    const at::Tensor left = y.to(at::kDouble).dot(a_.apply(x).to(at::kDouble));
    const at::Tensor right = x.to(at::kDouble).dot(a_.apply_adjoint(y).to(at::kDouble));
    BOOST_TEST(close(left, right, {tolerance_, tolerance_ * scale}));
  }

  void check_symmetry() {
    const Symmetry declared = a_.spec().symmetry;
    if (declared == Symmetry::kGeneral) return;
    BOOST_TEST((a_.spec().domain == a_.spec().range));
    BOOST_TEST(close(twin_, twin_.t(), {tolerance_, tolerance_ * norm_}));
    if (declared == Symmetry::kSymmetric || a_.rows() == 0) return;
    const double smallest = twin_eigenvalues().min().item<double>();
    BOOST_TEST(smallest >= -tolerance_ * norm_);
    if (declared == Symmetry::kPositiveDefinite) BOOST_TEST(smallest > 0);
  }

  void check_threads() {
    const at::Tensor x = draw(a_.cols(), 2);
    const at::Tensor expected = a_.apply(x);
    const int num_threads = at::get_num_threads();
    std::atomic<int> num_same = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&] {
        at::set_num_threads(num_threads);
        try {
          for (int repeat = 0; repeat < 3; ++repeat) num_same += a_.apply(x).equal(expected);
        } catch (const std::exception&) {
          num_same = -100;  // an exception must not leave the thread; the count below reports it
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    BOOST_TEST(num_same == 9);
  }

  // --- closed forms ---

  at::Tensor twin_eigenvalues() const { return at::linalg_eigvalsh((twin_ + twin_.t()) / 2); }
  at::Tensor materialized(const LinearOperator& b) const { return materialize(b).to(at::kDouble); }
  double largest() const {
    return singular_values_.numel() == 0 ? 0 : singular_values_.max().item<double>();
  }
  double smallest() const {
    return singular_values_.numel() == 0 ? 0 : singular_values_.min().item<double>();
  }
  bool is_singular() const { return a_.rows() > 0 && smallest() <= 1e3 * epsilon() * largest(); }
  double epsilon() const { return a_.spec().dtype == at::kDouble ? 1e-15 : 1e-7; }
  double condition() const { return a_.rows() == 0 ? 1 : largest() / smallest(); }

  void check_closed_forms() {
    if (const auto norm = a_.frobenius_norm()) {
      // Rounding under a root: sqrt(n) epsilon-sized errors of |A|^2 may be what is left.
      BOOST_TEST(std::abs(*norm - norm_) <= tolerance_ * norm_);
    }
    if (a_.rows() != a_.cols()) {
      BOOST_TEST(!a_.diagonal());
      BOOST_TEST(!a_.trace());
      BOOST_TEST(!a_.log_determinant());
      BOOST_TEST(!a_.eigenvalues());
      BOOST_TEST(!a_.square_root_factor());
      BOOST_TEST(!a_.inverse());
      return;
    }
    if (const auto diagonal = a_.diagonal()) {
      BOOST_TEST(agrees(*diagonal, twin_.diagonal(), norm_));
    }
    if (const auto trace = a_.trace()) {
      const double scale = norm_ * std::sqrt(static_cast<double>(a_.rows()));
      BOOST_TEST(std::abs(*trace - twin_.trace().item<double>()) <= tolerance_ * scale);
    }
    if (const auto values = a_.eigenvalues()) {
      BOOST_TEST(a_.is_symmetric());
      BOOST_TEST(agrees(std::get<0>(values->sort()), twin_eigenvalues(), norm_));
    }
    check_log_determinant();
    check_inverse();
    check_root();
    check_function();
  }

  void check_log_determinant() {
    const auto actual = a_.log_determinant();
    if (!actual) return;
    if (is_singular()) {
      const at::Tensor bounds = singular_values_.clamp_min(1e4 * epsilon() * largest());
      BOOST_TEST((actual->sign == 0 || actual->log_abs <= bounds.log().sum().item<double>() + 1));
      return;
    }
    const auto [sign, log_abs] = at::linalg_slogdet(twin_);
    BOOST_TEST(actual->sign == sign.item<double>());
    BOOST_TEST(std::abs(actual->log_abs - log_abs.item<double>()) <=
               tolerance_ * condition() * static_cast<double>(a_.rows()));
  }

  void check_inverse() {
    OperatorPtr inverse;
    try {
      inverse = a_.inverse();
    } catch (const NumericalError&) {
      BOOST_TEST(is_singular());
      return;
    }
    if (!inverse || is_singular()) return;  // the inverse of a nearly singular matrix is noise
    BOOST_TEST((inverse->spec().domain == a_.spec().range));
    BOOST_TEST((inverse->spec().range == a_.spec().domain));
    BOOST_TEST((inverse->spec().symmetry >= a_.spec().symmetry));
    const at::Tensor product = materialized(*inverse).mm(twin_);
    const double error = tolerance_ * condition();
    BOOST_TEST(close(product, at::eye(a_.rows(), twin_.options()), {error, error}));
  }

  void check_root() {
    OperatorPtr root;
    try {
      root = a_.square_root_factor();
    } catch (const NumericalError&) {
      BOOST_TEST(twin_eigenvalues().min().item<double>() < tolerance_ * norm_);
      return;
    }
    if (!root) return;
    BOOST_TEST(a_.is_symmetric());
    BOOST_TEST((root->spec().range == a_.spec().range));
    const at::Tensor r = materialized(*root);
    // The square root turns an error e of A into up to sqrt(e) in R, but R R^T is A to e again.
    BOOST_TEST(close(r.mm(r.t()), twin_, {10 * tolerance_, 10 * tolerance_ * norm_}));
  }

  void check_function() {
    const double scale = std::max(largest(), 1e-3);
    const OperatorPtr result =
        a_.function([&](const at::Tensor& values) { return (values / scale).cos(); });
    if (!result) return;
    BOOST_TEST(a_.is_symmetric());
    BOOST_TEST((result->spec().domain == a_.spec().domain));
    const auto [values, vectors] = at::linalg_eigh((twin_ + twin_.t()) / 2);
    const at::Tensor expected = (vectors * (values / scale).cos()).mm(vectors.t());
    BOOST_TEST(close(materialized(*result), expected, {10 * tolerance_, 10 * tolerance_}));
  }

  const LinearOperator& a_;
  at::Tensor twin_;
  LawOptions options_;
  RandomSource source_;
  double tolerance_;
  double norm_;
  at::Tensor singular_values_;
  int64_t next_stream_ = 0;
};

}  // namespace

void check_operator_laws(const LinearOperator& a, const at::Tensor& dense_twin,
                         const LawOptions& options) {
  Laws(a, dense_twin, options).check_all();
}

}  // namespace curvature::testing
