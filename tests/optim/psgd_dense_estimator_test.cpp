// PSGD with one matrix for the whole parameter.
#include <boost/test/data/test_case.hpp>

#include <curvature/core/error.hpp>
#include <curvature/optim/psgd_dense_estimator.hpp>

#include "optim/psgd.hpp"

BOOST_AUTO_TEST_SUITE(psgd_dense_estimator_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

namespace data = boost::unit_test::data;

const std::vector<PsgdGeometry> kGeometries = {PsgdGeometry::kQHalfEq, PsgdGeometry::kEq,
                                               PsgdGeometry::kQuad, PsgdGeometry::kQeq};

/// P after steps along pairs (v, H v).
at::Tensor fitted(const at::Tensor& curvature, PsgdGeometry geometry, int64_t steps) {
  const int64_t n = curvature.size(0);
  const auto form = psgd_use(PsgdDenseOptions{.preconditioner_rate = 0.3, .geometry = geometry})
                        .make(view_of({n}));
  form->start(1);
  for (int64_t number = 1; number <= steps; ++number) {
    const at::Tensor v = normal({n}, 10 + number);
    form->move(curvature.matmul(v), v, number);
  }
  return preconditioner(*form);
}

at::Tensor orthogonal(int64_t n) { return std::get<0>(torch::linalg_qr(normal({n, n}, 5))); }

}  // namespace

/// Below and above the size from which on columns stand for Gram matrices.
BOOST_DATA_TEST_CASE(steps_are_those_of_the_formulas, data::make({2, 4}), rows) {
  const int64_t size = rows * 3;
  const at::Tensor eye = torch::eye(size, double_options());
  for (const bool is_newton : {false, true}) {
    for (const PsgdGeometry geometry :
         {PsgdGeometry::kQuad, PsgdGeometry::kQeq, PsgdGeometry::kEq}) {
      const auto form = psgd_use(PsgdDenseOptions{.geometry = geometry}).make(view_of({rows, 3}));
      form->start(0.7);
      at::Tensor q = 0.7 * eye;
      double bound = 0;
      for (int64_t number = 1; number <= 5; ++number) {
        const at::Tensor h = normal({size}, number), v = normal({size}, 70 + number);
        const bool eq = geometry == PsgdGeometry::kEq;
        const at::Tensor inverse = torch::linalg_inv(q);
        const at::Tensor a = eq ? q.matmul(h) : q.t().matmul(q).matmul(h);
        const at::Tensor vv = is_newton ? torch::outer(v, v) : eye;
        const at::Tensor bb = eq ? inverse.t().matmul(vv).matmul(inverse) : vv;
        const at::Tensor aa = torch::outer(a, a);
        // |A|_2 + |B|_2 where B is c I, as everywhere |A + B|_2.
        const double now = torch::linalg_eigvalsh(aa + bb)[-1].item<double>();
        bound = std::max(0.9 * bound + 0.1 * now, now);
        const double step = 0.1 / bound;
        if (eq) q = q - step * (aa - bb).triu().matmul(q);
        if (geometry == PsgdGeometry::kQeq) q = q - step * q.matmul(aa - bb);
        if (geometry == PsgdGeometry::kQuad) {
          const at::Tensor e = eye - step / 2 * (aa - bb);
          q = e.matmul(q).matmul(e);
        }
        form->move(h, is_newton ? v : at::Tensor(), number);
        BOOST_TEST(close(form->apply(v), q.t().matmul(q).matmul(v), {1e-10, 0}));
      }
    }
  }
}

/// 8 dimensions, spectrum 1 ... 8: at the optimum pairs (v, H v) leave nothing to do.
BOOST_AUTO_TEST_CASE(newton_pairs_find_the_inverse_of_a_definite_curvature) {
  const at::Tensor u = orthogonal(8);
  const at::Tensor values = torch::linspace(1, 8, 8, double_options());
  const at::Tensor curvature = u.matmul(values.diag()).matmul(u.t());
  for (const PsgdGeometry geometry : kGeometries) {
    BOOST_TEST(close(fitted(curvature, geometry, 6000), torch::linalg_inv(curvature), {1e-10, 0}));
  }
}

BOOST_AUTO_TEST_CASE(newton_pairs_find_the_inverse_modulus_of_an_indefinite_curvature) {
  const at::Tensor u = orthogonal(6);
  const at::Tensor values = torch::tensor({-3.0, -2.0, 1.0, 1.5, 2.0, 4.0}, double_options());
  const at::Tensor curvature = u.matmul(values.diag()).matmul(u.t());
  const at::Tensor expected = u.matmul(values.abs().reciprocal().diag()).matmul(u.t());
  // v and H v are not parallel at the optimum, so that a floor of noise remains.
  for (const PsgdGeometry geometry : {PsgdGeometry::kQHalfEq, PsgdGeometry::kEq}) {
    const auto form = psgd_use(PsgdDenseOptions{.preconditioner_rate = 0.004, .geometry = geometry})
                          .make(view_of({6}));
    form->start(1);
    for (int64_t number = 1; number <= 20000; ++number) {
      const at::Tensor v = normal({6}, 10 + number);
      form->move(curvature.matmul(v), v, number);
    }
    const at::Tensor error = preconditioner(*form) - expected;
    BOOST_TEST((error.norm() / expected.norm()).item<double>() < 0.03);
  }
}

BOOST_AUTO_TEST_CASE(directions_do_not_depend_on_the_shape) {
  const auto gradients = some_gradients({3, 4}, 8);
  for (const PsgdGeometry geometry : kGeometries) {
    const PreconditionedOptions options{.view = {.vectors = VectorPolicy::kFull}};
    Replay matrix(normal({3, 4}, 7), psgd_dense_estimator({.geometry = geometry}), options);
    Replay vector(normal({3, 4}, 7).flatten(), psgd_dense_estimator({.geometry = geometry}),
                  options);
    for (const at::Tensor& g : gradients) {
      BOOST_TEST(matrix.step(g).flatten().equal(vector.step(g.flatten())));
    }
  }
}

BOOST_AUTO_TEST_CASE(state_resumes_bit_for_bit) {
  for (const PsgdGeometry geometry : kGeometries) {
    BOOST_TEST(resumes(normal({4, 3}, 7),
                       psgd_dense_estimator({.geometry = geometry, .refresh_interval = 2}), {},
                       some_gradients({4, 3}, 9), 5));
  }
}

BOOST_AUTO_TEST_CASE(large_parameters_are_refused_by_name) {
  BOOST_CHECK_EXCEPTION(Replay(normal({4, 5}, 7), psgd_dense_estimator({.max_size = 19}), {}),
                        OptionError, [](const OptionError& error) {
                          return std::string(error.what()).find("'w' is too large") !=
                                 std::string::npos;
                        });
  Replay fits(normal({4, 5}, 7), psgd_dense_estimator({.max_size = 20}), {});
  BOOST_TEST(fits.optimizer.state_bytes() == 8 * (20 + 400));
}

BOOST_AUTO_TEST_SUITE_END()
