// A table that is looked up is a product with one-hot vectors, without the one-hot vectors.
#include "../../src/layerwise/columns_in_basis.hpp"

#include <curvature/core/error.hpp>
#include <curvature/layerwise/kfac.hpp>
#include <curvature/operators/algebra.hpp>

#include "support/dense_operator.hpp"
#include "support/operator_laws.hpp"

BOOST_AUTO_TEST_SUITE(embedding_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

constexpr int64_t kWords = 5;

/// A word classifier on `table`, with the look-up done as `look_up` does it.
EmpiricalRisk word_risk(
    const at::Tensor& table,
    const std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>& look_up,
    int64_t batch_size = 6) {
  torch::manual_seed(1);
  const at::Tensor head = torch::randn({3, 4}, double_options()).requires_grad_();
  const Model model(
      [=](const TensorList& inputs) {
        return torch::tanh(look_up(inputs[0], table)).mean(1).matmul(head.t());
      },
      {{"table", table}, {"head", head}});
  // The words occur 1, 2, 3, 4 and 8 times: eigenvectors of A are unique.
  const at::Tensor words =
      torch::tensor({0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4}, at::kLong)
          .to(test_device())
          .index({torch::randperm(18).to(test_device())})
          .reshape({6, 3});
  const at::Tensor labels = torch::arange(6, at::kLong).remainder(3).to(test_device());
  return EmpiricalRisk(model, cross_entropy(), tensor_dataset({words}, labels, batch_size));
}

at::Tensor new_table() {
  torch::manual_seed(3);
  return torch::randn({kWords, 4}, double_options()).requires_grad_();
}

at::Tensor by_embedding(const at::Tensor& words, const at::Tensor& table) {
  return torch::embedding(table, words);
}

at::Tensor by_product(const at::Tensor& words, const at::Tensor& table) {
  return torch::one_hot(words, kWords).to(table.dtype()).matmul(table);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_look_up_is_a_product_with_one_hot_vectors) {
  const at::Tensor table = new_table();
  const EmpiricalRisk looked_up = word_risk(table, by_embedding);
  const EmpiricalRisk multiplied = word_risk(table, by_product);
  for (const Fisher fisher : {Fisher::kType2, Fisher::kEmpirical}) {
    for (const WeightSharing sharing : {WeightSharing::kExpand, WeightSharing::kReduce}) {
      const KfacOptions options{.fisher = fisher, .weight_sharing = sharing};
      BOOST_TEST(close(materialize(*kfac(looked_up, options)),
                       materialize(*kfac(multiplied, options)), {1e-12, 0}));
      BOOST_TEST(close(materialize(*ekfac(looked_up, options)),
                       materialize(*ekfac(multiplied, options)), {1e-10, 0}));
    }
  }
  BOOST_TEST(close(materialize(*ekfac(looked_up)),
                   materialize(*ekfac(word_risk(table, by_embedding, 4))), {1e-12, 0}));
}

BOOST_AUTO_TEST_CASE(padding_gets_no_curvature) {
  const at::Tensor table = new_table();
  const EmpiricalRisk padded = word_risk(table, [](const at::Tensor& words, const at::Tensor& t) {
    return torch::embedding(t, words, /*padding_idx=*/4);
  });
  const at::Tensor actual = materialize(*kfac(padded));
  const at::Tensor rows = actual.narrow(0, 4 * 4, 4);  // of the padding word
  BOOST_TEST(rows.norm().item<double>() == 0);
  BOOST_TEST(actual.norm().item<double>() > 0);
  BOOST_TEST((describe_layers(padded)[0].treatment == "embedding"));
}

BOOST_AUTO_TEST_CASE(a_table_of_many_words_costs_no_square_matrix) {
  torch::manual_seed(5);
  const int64_t words = 200000;
  const at::Tensor table = torch::randn({words, 3}, double_options()).requires_grad_();
  const Model model(
      [=](const TensorList& inputs) { return torch::embedding(table, inputs[0]).mean(1); },
      {{"table", table}});
  const at::Tensor tokens = torch::randint(words, {8, 5}, at::kLong).to(test_device());
  const at::Tensor labels = torch::arange(8, at::kLong).remainder(3).to(test_device());
  const EmpiricalRisk risk(model, cross_entropy(), tensor_dataset({tokens}, labels, 8));
  for (const OperatorPtr& a : {kfac(risk), ekfac(risk)}) {
    const OperatorPtr damped = shifted(a, 0.1);
    const at::Tensor x = torch::randn({words * 3}, double_options());
    BOOST_TEST(close(damped->apply(inverse(damped)->apply(x)), x, {1e-10, 0}));
  }
}

BOOST_AUTO_TEST_CASE(a_table_that_is_also_multiplied_is_not_covered) {
  const at::Tensor table = new_table();
  const Model model(
      [=](const TensorList& inputs) {
        return torch::embedding(table, inputs[0]).mean(1).matmul(table.t());
      },
      {{"table", table}});
  const at::Tensor tokens = torch::randint(kWords, {6, 3}, at::kLong).to(test_device());
  const EmpiricalRisk risk(model, cross_entropy(),
                           tensor_dataset({tokens}, tokens.select(1, 0).contiguous(), 6));
  BOOST_TEST(!describe_layers(risk)[0].covered);
  BOOST_CHECK_THROW(kfac(risk), NotSupportedError);
}

BOOST_AUTO_TEST_CASE(positions_that_a_batch_shares_are_seen_example_by_example) {
  torch::manual_seed(6);
  const at::Tensor positions = torch::randn({3, 4}, double_options()).requires_grad_();
  const at::Tensor head = torch::randn({3, 4}, double_options());
  const auto risk_of = [&](bool shared, int64_t batch_size) {
    const Model model(
        [=](const TensorList& inputs) {
          const at::Tensor& x = inputs[0];
          at::Tensor index = torch::arange(3, x.options().dtype(at::kLong));
          if (!shared) index = index.unsqueeze(0).repeat({x.size(0), 1});
          return torch::tanh(x + torch::embedding(positions, index)).mean(1).matmul(head.t());
        },
        {{"positions", positions}});
    torch::manual_seed(7);
    const at::Tensor x = torch::randn({6, 3, 4}, double_options());
    const at::Tensor labels = torch::arange(6, at::kLong).remainder(3).to(test_device());
    return EmpiricalRisk(model, cross_entropy(), tensor_dataset({x}, labels, batch_size));
  };
  for (const int64_t batch_size : {6, 4, 1}) {
    const EmpiricalRisk together = risk_of(true, batch_size), apart = risk_of(false, batch_size);
    BOOST_TEST(describe_layers(together)[0].covered);
    BOOST_TEST(close(materialize(*kfac(together)), materialize(*kfac(apart)), {1e-12, 0}));
    BOOST_TEST(close(materialize(*ekfac(together)), materialize(*ekfac(apart)), {1e-12, 0}));
  }
}

BOOST_AUTO_TEST_CASE(columns_in_a_basis_keep_the_laws) {
  torch::manual_seed(2);
  const at::Tensor q = std::get<0>(torch::linalg_qr(torch::randn({3, 3}, double_options())));
  const at::Tensor values = torch::rand({3, 4}, double_options()) + 0.1;
  at::Tensor matrix = torch::zeros({12, 12}, double_options());
  for (int64_t j = 0; j < 4; ++j) {
    const at::Tensor block = (q * values.select(1, j)).matmul(q.t());
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t c = 0; c < 3; ++c) matrix[r * 4 + j][c * 4 + j] = block[r][c];
    }
  }
  check_operator_laws(*curvature::detail::columns_in_basis(q, values), matrix);
}

BOOST_AUTO_TEST_SUITE_END()
