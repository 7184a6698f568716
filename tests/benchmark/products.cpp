#include <cmath>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>

#include "operations.hpp"

namespace curvature::benchmark {
namespace {

using Factory = std::function<OperatorPtr(const Problem&)>;

constexpr int64_t kColumns = 8;

void gradient(const Problem& problem, const Recorder& record) {
  TensorList parts;
  record.measure(
      "gradient", "product", [&] { parts = problem.risk.gradient(); },
      [&] {
        double square = 0;
        for (const at::Tensor& part : parts) square += inner(part, part);
        return Json{{"value", std::sqrt(square)}};
      });
}

Operation vector(const std::string& name, const Factory& make) {
  return {name, [=](const Problem& problem, const Recorder& record) {
            OperatorPtr a;
            record.measure(name, "setup", [&] { a = make(problem); });
            const at::Tensor v = probe(*a);
            record.measure(name, "first-product", [&] {
              a.reset();  // never two linearisations at once
              a = make(problem);
              a->apply(v);
            });
            record.product(name, *a);
          }};
}

Operation matrix(const std::string& name, const Factory& make) {
  return {name, [=](const Problem& problem, const Recorder& record) {
            const OperatorPtr a = make(problem);
            a->apply(probe(*a));
            record.product(name, *a, kColumns);
          }};
}

}  // namespace

std::vector<Operation> product_operations() {
  const Factory full_hessian = [](const Problem& p) { return hessian(p.risk, p.matrix_free); };
  const Factory gauss_newton = [](const Problem& p) { return ggn(p.risk, p.matrix_free); };
  const Factory ef = [](const Problem& p) { return empirical_fisher(p.risk, p.matrix_free); };
  const Factory mc_fisher = [](const Problem& p) { return ggn_mc(p.risk, {}, p.matrix_free); };
  return {{"gradient", gradient},
          vector("hessian-vector", full_hessian),
          vector("ggn-vector", gauss_newton),
          vector("ef-vector", ef),
          vector("mc-fisher-vector", mc_fisher),
          matrix("hessian-matrix-8", full_hessian),
          matrix("ggn-matrix-8", gauss_newton)};
}

}  // namespace curvature::benchmark
