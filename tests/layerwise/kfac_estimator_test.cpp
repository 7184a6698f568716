#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <filesystem>
#include <limits>

#include <curvature/core/error.hpp>
#include <curvature/io/safetensors.hpp>
#include <curvature/layerwise/kfac_estimator.hpp>
#include <curvature/matrix_free/ggn.hpp>

#include "layerwise/reference.hpp"
#include "support/operator_laws.hpp"

BOOST_AUTO_TEST_SUITE(kfac_estimator_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// Mean cross-entropy of nine examples in three batches, or of given ones; any of the examples as
/// data of their own.
struct Setting {
  Model model = Model::from_module(seeded(
      torch::nn::Sequential(torch::nn::Linear(3, 4), torch::nn::Tanh(), torch::nn::Linear(4, 3)),
      5));
  at::Tensor inputs = numbers({9, 3}, 1);
  at::Tensor targets = numbers({inputs.size(0), 3}, 2).argmax(1);

  EmpiricalRisk risk() const { return risk(0, inputs.size(0)); }
  EmpiricalRisk risk(int64_t first, int64_t count) const {
    return EmpiricalRisk(model, cross_entropy(),
                         tensor_dataset({inputs.narrow(0, first, count)},
                                        targets.narrow(0, first, count), inputs.size(0) / 3));
  }
};

/// One layer with 301 inputs and batches of 80 vectors: factors of low rank.
Setting wide_setting() {
  return {.model = Model::from_module(seeded(torch::nn::Linear(300, 3), 5)),
          .inputs = numbers({240, 300}, 1)};
}

/// B and A of each block.
std::vector<TensorList> factors_of(const OperatorPtr& kfac) {
  std::vector<TensorList> factors;
  const Structure structure = kfac->structure();
  for (const OperatorPtr& block : std::get<PartitionStructure>(structure).blocks) {
    factors.push_back(std::get<KroneckerStructure>(block->structure()).factors);
  }
  return factors;
}

KfacEstimator seen(const EmpiricalRisk& risk, const std::vector<int64_t>& batches,
                   double decay = 1) {
  KfacEstimator estimator(risk, {}, decay);
  for (const int64_t batch : batches) estimator.update(risk.on(batch));
  return estimator;
}

/// A file that is removed at the end of the test.
struct TemporaryFile {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / (std::to_string(::getpid()) + "-kfac.safetensors");
  ~TemporaryFile() { std::filesystem::remove(path); }
};

/// What `estimator` makes of the GGN of `seen` along its factors' eigenvectors by LAPACK.
at::Tensor reference_of_wide(const KfacEstimator& estimator, const EmpiricalRisk& seen) {
  TensorList rows;
  for (int64_t row = 0; row < 3; ++row) {
    rows.push_back(at::arange(300 * row, 300 * (row + 1)));
    rows.push_back(at::full({1}, 900 + row, at::kLong));
  }
  const at::Tensor index = at::cat(rows).to(test_device());
  const TensorList factors = factors_of(estimator.kfac()).front();
  const at::Tensor q =
      at::kron(std::get<1>(at::linalg_eigh(factors[0])), std::get<1>(at::linalg_eigh(factors[1])));
  const at::Tensor exact = materialize(*ggn(seen)).index_select(0, index).index_select(1, index);
  const at::Tensor eigenvalues = (q * exact.matmul(q)).sum(0);
  const at::Tensor back = index.argsort();
  return (q * eigenvalues).matmul(q.t()).index_select(0, back).index_select(1, back);
}

int64_t num_zeros(const KfacEstimator& estimator) {
  return estimator.ekfac()->eigenvalues()->eq(0).sum().item<int64_t>();
}

}  // namespace

BOOST_AUTO_TEST_CASE(factors_of_few_vectors_have_the_eigenvectors_they_should_have) {
  const Setting setting = wide_setting();
  const EmpiricalRisk risk = setting.risk();
  const Tolerance tolerance = {1e-7, 1e-14};
  KfacEstimator one = seen(risk, {0});
  one.refresh_basis();
  one.correct(risk.on(0));
  BOOST_TEST(
      close(materialize(*one.ekfac()), reference_of_wide(one, setting.risk(0, 80)), tolerance));
  BOOST_TEST(num_zeros(one) >= 3 * (301 - 88));

  // The bound on the rank adds up, and no decay makes it smaller.
  KfacEstimator merged = seen(risk, {0}), decayed = seen(risk, {0, 1}, 0.5);
  merged.merge(seen(risk, {1}));
  for (KfacEstimator* estimator : {&merged, &decayed}) {
    estimator->refresh_basis();
    estimator->correct(risk.on(0));
    BOOST_TEST(close(materialize(*estimator->ekfac()),
                     reference_of_wide(*estimator, setting.risk(0, 80)), tolerance));
  }
}

BOOST_AUTO_TEST_CASE(directions_that_had_no_eigenvalue_may_get_one_later) {
  const Setting setting = wide_setting();
  const EmpiricalRisk risk = setting.risk();
  KfacEstimator estimator = seen(risk, {0});
  estimator.refresh_basis();
  estimator.correct(risk.on(0));
  const int64_t before = num_zeros(estimator);
  const double exact = materialize(*ggn(setting.risk(80, 80))).trace().item<double>();
  estimator.refresh_basis();
  estimator.update(risk.on(1));
  BOOST_TEST(num_zeros(estimator) < before / 2);
  BOOST_TEST(*estimator.ekfac()->trace() == exact, boost::test_tools::tolerance(1e-10));
  const OperatorPtr ekfac = estimator.ekfac();
  BOOST_TEST(materialize(*ekfac).trace().item<double>() == exact,
             boost::test_tools::tolerance(1e-10));
}

BOOST_AUTO_TEST_CASE(bounds_on_ranks_are_saved) {
  const Setting setting = wide_setting();
  const EmpiricalRisk risk = setting.risk();
  KfacEstimator whole = seen(risk, {0, 1}), resumed(risk);
  resumed.load(whole.save());
  for (KfacEstimator* estimator : {&whole, &resumed}) {
    estimator->refresh_basis();
    estimator->correct(risk.on(0));
  }
  BOOST_TEST(at::equal(materialize(*whole.ekfac()), materialize(*resumed.ekfac())));
  resumed.load(whole.save());  // and which directions had no eigenvalue
  BOOST_TEST(num_zeros(whole) >= 3 * (301 - 168));
  BOOST_TEST(num_zeros(resumed) == num_zeros(whole));
}

BOOST_AUTO_TEST_CASE(a_basis_without_eigenvalues_yet_is_saved) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  KfacEstimator estimator = seen(risk, {0, 1, 2}), resumed(risk);
  estimator.refresh_basis();
  resumed.load(estimator.save());
  for (KfacEstimator* each : {&estimator, &resumed}) {
    BOOST_CHECK_THROW(each->ekfac(), OptionError);
    for (const int64_t batch : {0, 1, 2}) each->correct(risk.on(batch));
  }
  BOOST_TEST(at::equal(materialize(*resumed.ekfac()), materialize(*estimator.ekfac())));
}

BOOST_AUTO_TEST_CASE(the_order_of_batches_plays_no_role) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  BOOST_TEST(close(materialize(*seen(risk, {2, 0, 1}).kfac()), materialize(*kfac(risk))));
}

BOOST_AUTO_TEST_CASE(a_part_of_the_data_stands_for_all) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  KfacEstimator estimator = seen(risk, {1});
  BOOST_TEST(estimator.num_examples() == 3);
  BOOST_TEST(close(materialize(*estimator.kfac()), materialize(*kfac(setting.risk(3, 3)))));
  estimator.refresh_basis();
  estimator.correct(risk.on(1));
  BOOST_TEST(close(materialize(*estimator.ekfac()), materialize(*ekfac(setting.risk(3, 3)))));
}

BOOST_AUTO_TEST_CASE(merged_statistics_are_those_of_both) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  KfacEstimator first = seen(risk, {0, 1});
  first.merge(seen(risk, {2}));
  BOOST_TEST(first.num_examples() == 9);
  BOOST_TEST(close(materialize(*first.kfac()), materialize(*kfac(risk))));
  KfacEstimator nothing(risk);
  nothing.merge(first);
  nothing.merge(KfacEstimator(risk));
  BOOST_TEST(at::equal(materialize(*nothing.kfac()), materialize(*first.kfac())));

  KfacEstimator other(risk, {.separate_bias = true});
  other.update(risk.on(0));
  BOOST_CHECK_THROW(first.merge(other), OptionError);
}

BOOST_AUTO_TEST_CASE(a_decaying_average_forgets_and_is_unbiased_from_the_start) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  const double decay = 0.5;
  std::vector<std::vector<TensorList>> batches;  // [batch][block]
  for (int64_t i = 0; i < 3; ++i) batches.push_back(factors_of(kfac(setting.risk(3 * i, 3))));
  const auto averaged = factors_of(seen(risk, {0, 1, 2}, decay).kfac());
  for (size_t block = 0; block < averaged.size(); ++block) {
    for (size_t side = 0; side < 2; ++side) {
      const at::Tensor expected = (decay * decay * batches[0][block][side] +
                                   decay * batches[1][block][side] + batches[2][block][side]) /
                                  (decay * decay + decay + 1);
      BOOST_TEST(close(averaged[block][side], expected));
    }
  }
  BOOST_TEST(
      close(materialize(*seen(risk, {1}, decay).kfac()), materialize(*kfac(setting.risk(3, 3)))));
}

BOOST_AUTO_TEST_CASE(a_clone_goes_on_alone) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  KfacEstimator estimator = seen(risk, {0}, 0.5);
  estimator.refresh_basis();
  estimator.correct(risk.on(0));
  const at::Tensor kfac = materialize(*estimator.kfac()), ekfac = materialize(*estimator.ekfac());
  KfacEstimator clone = estimator.clone();
  BOOST_TEST(at::equal(materialize(*clone.ekfac()), ekfac));
  clone.update(risk.on(1));
  BOOST_TEST(at::equal(materialize(*estimator.kfac()), kfac));
  BOOST_TEST(at::equal(materialize(*estimator.ekfac()), ekfac));
  estimator.update(risk.on(1));
  BOOST_TEST(at::equal(materialize(*estimator.kfac()), materialize(*clone.kfac())));
  BOOST_TEST(at::equal(materialize(*estimator.ekfac()), materialize(*clone.ekfac())));
}

BOOST_AUTO_TEST_CASE(several_batches_can_be_one_update) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  KfacEstimator together(risk, {}, 0.5);
  together.update(risk.on(0));
  together.update(setting.risk(3, 6));  // two batches
  together.refresh_basis();
  together.correct(setting.risk(3, 6));
  // By hand: half of the first three examples and all of the others.
  const at::Tensor weights =
      at::tensor({.5, .5, .5, 1., 1., 1., 1., 1., 1.}, setting.inputs.options());
  const EmpiricalRisk weighted(setting.model, cross_entropy(),
                               tensor_dataset({setting.inputs}, setting.targets, 3, weights));
  BOOST_TEST(close(materialize(*together.kfac()), materialize(*kfac(weighted))));
  BOOST_TEST(together.num_examples() == 7.5);
}

BOOST_AUTO_TEST_CASE(a_stale_basis_serves_later_batches) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk(), later = setting.risk(3, 6);
  KfacEstimator estimator = seen(risk, {0});
  const auto old_factors = factors_of(estimator.kfac());
  estimator.refresh_basis();
  estimator.update(risk.on(1));
  estimator.update(risk.on(2));
  BOOST_TEST(close(materialize(*estimator.kfac()), materialize(*kfac(risk))));

  // Outputs are vectors, so the eigenvalues are the exact GGN's along the old eigenvectors.
  const at::Tensor exact = materialize(*ggn(later));
  const at::Tensor made = materialize(*estimator.ekfac());
  int64_t weight = 0;
  for (const TensorList& pair : old_factors) {
    const int64_t m = pair[0].size(0), n = pair[1].size(0) - 1;  // [W | b], stored W then b
    TensorList entries;
    for (int64_t row = 0; row < m; ++row) {
      entries.push_back(at::arange(weight + row * n, weight + (row + 1) * n));
      entries.push_back(at::full({1}, weight + m * n + row, at::kLong));
    }
    const at::Tensor index = at::cat(entries).to(test_device());
    const at::Tensor q =
        at::kron(std::get<1>(at::linalg_eigh(pair[0])), std::get<1>(at::linalg_eigh(pair[1])));
    const at::Tensor block = exact.index_select(0, index).index_select(1, index);
    const at::Tensor eigenvalues = q.t().matmul(block).matmul(q).diagonal();
    BOOST_TEST(
        close(made.index_select(0, index).index_select(1, index), (q * eigenvalues).matmul(q.t())));
    weight += m * (n + 1);
  }
}

BOOST_AUTO_TEST_CASE(operators_stay_as_they_are_when_the_model_trains_on) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  KfacEstimator estimator = seen(risk, {0});
  const OperatorPtr before = estimator.kfac();
  const at::Tensor dense_before = materialize(*before);
  {
    const at::NoGradGuard no_grad;
    for (const at::Tensor& p : risk.parameters()) at::Tensor(p).mul_(1.5);
  }
  estimator.update(risk.on(1));
  BOOST_TEST(at::equal(materialize(*before), dense_before));
  // The second batch at the new parameters, the first at the old ones.
  const auto after = factors_of(estimator.kfac()), second = factors_of(kfac(setting.risk(3, 3))),
             first = factors_of(before);
  for (size_t block = 0; block < after.size(); ++block) {
    for (size_t side = 0; side < 2; ++side) {
      BOOST_TEST(close(after[block][side], (first[block][side] + second[block][side]) / 2));
    }
  }
}

BOOST_AUTO_TEST_CASE(saved_statistics_continue_bit_for_bit) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  KfacEstimator whole = seen(risk, {0, 1}, 0.9);
  whole.refresh_basis();
  whole.update(risk.on(0));
  const TemporaryFile file;
  write_safetensors(file.path, whole.save());

  KfacEstimator resumed(risk, {}, 0.9);
  resumed.load(read_safetensors(file.path));
  for (KfacEstimator* estimator : {&whole, &resumed}) estimator->update(risk.on(2));
  BOOST_TEST(whole.num_examples() == resumed.num_examples());
  BOOST_TEST(at::equal(materialize(*whole.kfac()), materialize(*resumed.kfac())));
  BOOST_TEST(at::equal(materialize(*whole.ekfac()), materialize(*resumed.ekfac())));
}

BOOST_AUTO_TEST_CASE(what_was_saved_for_something_else_is_refused) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  const Archive archive = seen(risk, {0}).save();
  const auto refused = [](KfacEstimator estimator, const Archive& broken, const std::string& word) {
    BOOST_CHECK_EXCEPTION(estimator.load(broken), DataError, [&word](const DataError& error) {
      return std::string(error.what()).find(word) != std::string::npos;
    });
    BOOST_CHECK_THROW(estimator.kfac(), OptionError);  // nothing was taken over
  };
  refused(KfacEstimator(risk, {.fisher = Fisher::kEmpirical}), archive, "empirical");
  refused(KfacEstimator(risk, {.separate_bias = true}), archive, "joint");
  refused(KfacEstimator(risk.with_parameters({"0.*"})), archive, "2.weight");
  refused(KfacEstimator(risk), Archive{}, "format");
  Archive lacking = archive;
  lacking.tensors.erase("1.output_factor");
  refused(KfacEstimator(risk), lacking, "1.output_factor");
  Archive misshapen = archive;
  misshapen.tensors["0.input_factor"] = at::zeros({2, 2}, at::kDouble);
  refused(KfacEstimator(risk), misshapen, "0.input_factor");
}

BOOST_AUTO_TEST_CASE(what_cannot_be_asked_yet_is_refused) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  KfacEstimator estimator(risk);
  BOOST_CHECK_THROW(estimator.kfac(), OptionError);
  BOOST_CHECK_THROW(estimator.refresh_basis(), OptionError);
  BOOST_CHECK_THROW(estimator.save(), OptionError);
  estimator.update(risk.on(0));
  BOOST_CHECK_THROW(estimator.correct(risk.on(0)), OptionError);
  estimator.refresh_basis();
  BOOST_CHECK_THROW(estimator.ekfac(), OptionError);  // a basis, but no eigenvalues
  for (const double decay : {0.0, -0.5, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    BOOST_CHECK_THROW(KfacEstimator(risk, {}, decay), OptionError);
  }
}

BOOST_AUTO_TEST_CASE(a_factor_without_eigenvectors_names_its_layer) {
  const Setting setting;
  const EmpiricalRisk risk = setting.risk();
  KfacEstimator estimator = seen(risk, {0});
  estimator.refresh_basis();
  Archive archive = estimator.save();
  for (auto& [name, tensor] : archive.tensors) {  // only the one that is spoilt has no inverse
    if (name.ends_with("_factor") && tensor.dim() == 2) tensor.diagonal().add_(1);
  }
  archive.tensors["1.input_factor"].fill_(std::numeric_limits<double>::quiet_NaN());
  estimator.load(archive);
  const auto names_it = [](const NumericalError& error) {
    return std::string(error.what()).find("2.weight") != std::string::npos;
  };
  BOOST_CHECK_NO_THROW(estimator.correct(risk.on(0)));
  BOOST_CHECK_EXCEPTION(estimator.refresh_basis(), NumericalError, names_it);
  BOOST_CHECK_THROW(estimator.correct(risk.on(0)), OptionError);  // the earlier basis is gone
  BOOST_CHECK_EXCEPTION(estimator.kfac()->inverse(), NumericalError, names_it);
}

BOOST_AUTO_TEST_SUITE_END()
