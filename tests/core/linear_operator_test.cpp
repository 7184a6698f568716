#include <curvature/core/error.hpp>
#include <curvature/core/linear_operator.hpp>

#include "support/operator_laws.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(linear_operator_test)

using namespace curvature;

namespace {

/// A matrix in the smallest form that an implementer may write: flat, without closed forms.
class Plain final : public FlatOperator {
 public:
  Plain(OperatorSpec spec, at::Tensor matrix)
      : FlatOperator(std::move(spec)), matrix_(std::move(matrix)) {}
  std::string describe() const override { return "Plain"; }

 private:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override { return matrix_.mm(x); }
  at::Tensor matrix_;
};

/// The same in list form: x -> c_i x_i.
class PerEntry final : public LinearOperator {
 public:
  using LinearOperator::LinearOperator;
  std::string describe() const override { return "PerEntry"; }
  OperatorPtr function(const SpectralFunction& f) const override {
    f(at::tensor({-1.0, 2.0}, at::kDouble));
    return nullptr;
  }

 private:
  TensorList apply_impl(const TensorList& x) const override { return {x[0] * -1, x[1] * 2}; }
};

Space two_shapes() { return Space({{"weight", {2, 3}}, {"bias", {3}}}); }

}  // namespace

BOOST_AUTO_TEST_CASE(both_forms_of_implementation_obey_the_laws) {
  const at::Tensor matrix = at::rand({9, 9}, at::kDouble);
  const Plain general({two_shapes(), two_shapes()}, matrix);
  testing::check_operator_laws(general, matrix, {.has_adjoint = false});

  const at::Tensor symmetric_matrix = matrix + matrix.t();
  const Plain symmetric({two_shapes(), two_shapes(), at::kDouble, at::kCPU, Symmetry::kSymmetric},
                        symmetric_matrix);
  testing::check_operator_laws(symmetric, symmetric_matrix);
}

BOOST_AUTO_TEST_CASE(materialize_does_not_depend_on_the_chunk) {
  const at::Tensor matrix = at::rand({4, 9}, at::kDouble);
  const Plain a({two_shapes(), Space::flat(4)}, matrix);
  for (const int64_t chunk : {1, 2, 9, 100}) {
    BOOST_TEST(testing::close(materialize(a, chunk), matrix));
  }
  BOOST_CHECK_THROW(materialize(a, 0), OptionError);
}

BOOST_AUTO_TEST_CASE(a_symmetric_operator_has_one_space) {
  BOOST_CHECK_THROW(
      Plain({Space::flat(2), Space::flat(3), at::kDouble, at::kCPU, Symmetry::kSymmetric},
            at::ones({3, 2}, at::kDouble)),
      ShapeError);
}

BOOST_AUTO_TEST_CASE(defaults_of_closed_forms_go_through_function) {
  const PerEntry a({two_shapes(), two_shapes(), at::kDouble, at::kCPU, Symmetry::kSymmetric});
  BOOST_TEST(!a.inverse());  // eigenvalues are fine, but there is no closed form
  BOOST_CHECK_THROW(a.square_root_factor(), NumericalError);
  BOOST_TEST(!a.diagonal());
  BOOST_TEST(!a.trace());
}

BOOST_AUTO_TEST_SUITE_END()
