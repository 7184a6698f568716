// Structured matrices against dense ones.
#include <curvature/core/error.hpp>

#include "optim/projection.hpp"
#include "optim/reference.hpp"
#include "optim/structured_factor.hpp"

BOOST_AUTO_TEST_SUITE(structured_factor_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

struct Case {
  StructureOptions options;
  int64_t size;
};

std::vector<Case> cases() {
  std::vector<Case> list;
  for (const FactorStructure kind :
       {FactorStructure::kDense, FactorStructure::kDiagonal, FactorStructure::kBlockDiagonal,
        FactorStructure::kLowerTriangular, FactorStructure::kUpperTriangular,
        FactorStructure::kLowerToeplitz, FactorStructure::kUpperToeplitz,
        FactorStructure::kHierarchical}) {
    for (const int64_t size : {2, 3, 6, 8, 11}) {
      list.push_back({{.kind = kind, .block_size = 3, .top = 2, .bottom = 3}, size});
    }
  }
  return list;
}

/// A member of the class, by its own parts.
Parts random_member(const MatrixClass& structure, uint64_t seed) {
  Parts k = structure.identity(double_options());
  for (at::Tensor& part : k) {
    part = normal(part.sizes(), seed++);
  }
  // Triangular matrices are stored with their zeros.
  const at::Tensor pattern = structure.dense(
      structure.project_gram(torch::eye(structure.size(), double_options()) + 1, 0));
  if (k[0].dim() == 2 && k[0].size(0) == structure.size()) k[0] = k[0] * pattern.ne(0);
  return k;
}

}  // namespace

BOOST_AUTO_TEST_CASE(products_are_those_of_dense_matrices) {
  for (const auto& [options, size] : cases()) {
    const auto structure = matrix_class(options, size);
    const Parts a = random_member(*structure, 1), b = random_member(*structure, 20);
    const at::Tensor dense_a = structure->dense(a), dense_b = structure->dense(b);
    BOOST_TEST(
        close(structure->dense(structure->product(a, b)), dense_a.matmul(dense_b), {1e-12, 1e-12}));
    for (const int64_t mode : {0, 1, 2}) {
      std::vector<int64_t> shape = {2, 3, 4};
      shape[size_t(mode)] = size;
      const at::Tensor x = normal(shape, 5);
      BOOST_TEST(close(structure->multiply(x, a, size_t(mode), false), multiplied(x, dense_a, mode),
                       {1e-12, 1e-12}));
      BOOST_TEST(close(structure->multiply(x, a, size_t(mode), true),
                       multiplied(x, dense_a.t(), mode), {1e-12, 1e-12}));
    }
  }
}

BOOST_AUTO_TEST_CASE(projections_are_those_of_dense_matrices) {
  for (const auto& [options, size] : cases()) {
    const auto structure = matrix_class(options, size);
    const Parts k = random_member(*structure, 1);
    const at::Tensor dense = structure->dense(k);
    BOOST_TEST(close(structure->dense(structure->project_inner(k)),
                     projected(dense.t().matmul(dense), options), {1e-12, 1e-12}));
    for (const int64_t mode : {0, 1, 2}) {
      std::vector<int64_t> shape = {2, 3, 4};
      shape[size_t(mode)] = size;
      const at::Tensor x = unfolded(normal(shape, 5), mode);
      BOOST_TEST(close(structure->dense(structure->project_gram(normal(shape, 5), size_t(mode))),
                       projected(x.matmul(x.t()), options), {1e-12, 1e-12}));
    }
  }
}

BOOST_AUTO_TEST_CASE(norms_and_identities_are_those_of_dense_matrices) {
  for (const auto& [options, size] : cases()) {
    const auto structure = matrix_class(options, size);
    const at::Tensor eye = torch::eye(size, double_options());
    BOOST_TEST(structure->dense(structure->identity(double_options())).equal(eye));
    Parts k = random_member(*structure, 1);
    const at::Tensor dense = structure->dense(k).clone();
    BOOST_TEST(structure->squared_norm(k) == dense.square().sum().item<double>(),
               boost::test_tools::tolerance(1e-12));
    BOOST_TEST(structure->trace(k) == dense.trace().item<double>(),
               boost::test_tools::tolerance(1e-12));
    structure->add_identity(k, -0.5);
    BOOST_TEST(close(structure->dense(k), dense - 0.5 * eye));
  }
}

BOOST_AUTO_TEST_CASE(projection_keeps_the_change_of_the_product_to_first_order) {
  // K (I - h Pi(S)) and K (I - h S) have the same K K^T up to terms in h^2 where the class can
  // reach all symmetric matrices.
  for (const FactorStructure kind : {FactorStructure::kDense, FactorStructure::kLowerTriangular,
                                     FactorStructure::kUpperTriangular}) {
    const auto structure = matrix_class({.kind = kind}, 5);
    const at::Tensor x = normal({5, 7}, 3), s = x.matmul(x.t());
    const at::Tensor pi = structure->dense(structure->project_gram(x, 0));
    const auto difference = [&](double h) {
      const at::Tensor eye = torch::eye(5, double_options());
      const at::Tensor a = eye - h * pi, b = eye - h * s;
      return (a.matmul(a.t()) - b.matmul(b.t())).norm().item<double>();
    };
    if (kind != FactorStructure::kDense) BOOST_TEST(difference(1e-2) > 1e-3);
    BOOST_TEST(difference(1e-4) <= 1.1e-4 * difference(1e-2) + 1e-14);
  }
}

BOOST_AUTO_TEST_CASE(memory_is_what_the_structure_promises) {
  BOOST_TEST(matrix_class({.kind = FactorStructure::kBlockDiagonal}, 100)->num_entries() ==
             3 * 900 + 100);
  BOOST_TEST(matrix_class({.kind = FactorStructure::kLowerToeplitz}, 100)->num_entries() == 100);
  for (const auto& [options, size] : cases()) {
    const auto structure = matrix_class(options, size);
    int64_t entries = 0;
    for (const at::Tensor& part : structure->identity(double_options())) entries += part.numel();
    BOOST_TEST(structure->num_entries() == entries);
  }
  BOOST_CHECK_THROW(matrix_class({.block_size = 0}, 4), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
