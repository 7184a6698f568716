#include <limits>

#include <curvature/core/error.hpp>
#include <curvature/model/dataset.hpp>

#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(dataset_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// All batches joined again: inputs, targets, weights.
TensorList joined(const Dataset& data) {
  TensorList inputs, targets, weights;
  for (int64_t i = 0; i < data.num_batches(); ++i) {
    const Batch batch = data.batch(i);
    inputs.push_back(batch.inputs.front());
    targets.push_back(batch.targets);
    if (batch.weights.defined()) weights.push_back(batch.weights);
  }
  return {at::cat(inputs), at::cat(targets), weights.empty() ? at::Tensor() : at::cat(weights)};
}

}  // namespace

BOOST_AUTO_TEST_CASE(tensors_are_cut_into_batches_with_an_uneven_last_one) {
  const at::Tensor x = at::arange(14, at::kDouble).view({7, 2}), y = at::arange(7),
                   w = at::ones({7});
  const DatasetPtr data = tensor_dataset({x}, y, 3, w);

  BOOST_TEST(data->num_batches() == 3);
  BOOST_TEST(data->batch(2).size() == 1);
  BOOST_TEST(joined(*data)[0].equal(x));
  BOOST_TEST(joined(*data)[1].equal(y));
  BOOST_TEST(joined(*data)[2].equal(w));
}

BOOST_AUTO_TEST_CASE(the_largest_batch_size_is_one_batch) {
  const DatasetPtr data =
      tensor_dataset({at::ones({5, 2})}, at::ones({5}), std::numeric_limits<int64_t>::max());
  BOOST_TEST(data->num_batches() == 1);
  BOOST_TEST(data->batch(0).size() == 5);
}

BOOST_AUTO_TEST_CASE(half_precision_is_widened_batch_by_batch) {
  const DatasetPtr data =
      tensor_dataset({at::ones({4, 2}, at::kHalf)}, at::ones({4, 1}, at::kBFloat16), 2);

  BOOST_TEST((data->batch(1).inputs[0].scalar_type() == at::kFloat));
  BOOST_TEST((data->batch(1).targets.scalar_type() == at::kFloat));
}

BOOST_AUTO_TEST_CASE(inconsistent_tensors_are_refused) {
  const at::Tensor x = at::ones({4, 2});

  BOOST_CHECK_THROW(tensor_dataset({x}, at::ones({3}), 2), DataError);
  BOOST_CHECK_THROW(tensor_dataset({x, at::ones({5})}, at::ones({4}), 2), DataError);
  BOOST_CHECK_THROW(tensor_dataset({x}, at::ones({4}), 2, at::ones({1})), DataError);
  BOOST_CHECK_THROW(tensor_dataset({at::ones({0, 2})}, at::ones({0}), 2), DataError);
  BOOST_CHECK_THROW(tensor_dataset({at::ones({})}, at::ones({4}), 2), DataError);
  BOOST_CHECK_THROW(tensor_dataset({}, at::ones({4}), 2), DataError);
  BOOST_CHECK_THROW(tensor_dataset({x}, at::ones({4}), 0), OptionError);
  BOOST_CHECK_THROW(batch_dataset({}), DataError);
}

BOOST_AUTO_TEST_CASE(a_stream_is_reopened_to_go_back) {
  int opened = 0;
  const DatasetPtr data = stream_dataset([&opened] {
    ++opened;
    return [next = int64_t{0}]() mutable -> std::optional<Batch> {
      if (next == 4) return std::nullopt;
      return Batch{{at::full({2, 1}, next)}, at::full({2}, next++), {}};
    };
  });
  opened = 0;

  BOOST_TEST(data->num_batches() == 4);
  BOOST_TEST(data->batch(1).targets[0].item<int64_t>() == 1);
  BOOST_TEST(data->batch(3).targets[0].item<int64_t>() == 3);
  BOOST_TEST(opened == 1);
  BOOST_TEST(data->batch(0).targets[0].item<int64_t>() == 0);
  BOOST_TEST(opened == 2);
}

BOOST_AUTO_TEST_CASE(a_stream_that_shrinks_is_an_error) {
  int64_t length = 3;
  const DatasetPtr data = stream_dataset([&length] {
    return [next = int64_t{0}, end = length--]() mutable -> std::optional<Batch> {
      if (next == end) return std::nullopt;
      return Batch{{at::full({1, 1}, next)}, at::full({1}, next++), {}};
    };
  });

  BOOST_CHECK_THROW(data->batch(2), DataError);
}

BOOST_AUTO_TEST_SUITE_END()
