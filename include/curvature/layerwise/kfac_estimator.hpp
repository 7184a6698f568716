#pragma once

#include <cstdint>
#include <memory>

#include <curvature/core/archive.hpp>
#include <curvature/core/linear_operator.hpp>
#include <curvature/layerwise/kfac.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature {

/// The statistics behind K-FAC and EK-FAC, collected batch by batch: Kronecker factors, their
/// eigenvectors when asked for, and from then on the eigenvalues along these.
///
/// The layers are found and checked on the first batch that it sees. The parameters may move
/// between updates, as they do in training; what operators it made stay as they are. What has been
/// seen stands for all data of the risk, however much it was; draws and signs are told apart by the
/// number of a batch's first example, which should therefore grow from update to update. With a
/// `Reducer` each worker sees its own batches, and the operators are those of all workers.
class KfacEstimator {
 public:
  /// Costs nothing. With `decay` < 1 earlier statistics are multiplied by it at every update
  /// (and the weights that they are divided by, so that the average is unbiased from the start);
  /// with 1 all examples count alike.
  /// @throws OptionError
  explicit KfacEstimator(EmpiricalRisk risk, KfacOptions options = {}, double decay = 1);
  ~KfacEstimator();
  KfacEstimator(KfacEstimator&&) noexcept;             ///< leaves nothing usable behind
  KfacEstimator& operator=(KfacEstimator&&) noexcept;  ///< leaves nothing usable behind

  /// Adds what a batch says to the factors and, if there is a basis, to the eigenvalues along it.
  /// Costs a forward pass, a backward pass for each vector and the factors' arithmetic.
  /// @throws NotSupportedError for a parameter that is not covered, if the options refuse them
  void update(const BatchRisk& batch);
  /// The same for all batches of `examples` (the same parameters, other data) as one update, whose
  /// decay is applied once; `offset` is added to the numbers of the examples.
  void update(const EmpiricalRisk& examples, int64_t offset = 0);
  /// Adds to the eigenvalues alone. @throws OptionError if there is no basis
  void correct(const BatchRisk& batch);
  /// The same for all batches of `examples` as one.
  void correct(const EmpiricalRisk& examples, int64_t offset = 0);
  /// Takes the eigenvectors of the factors as they are now for a basis. An earlier one and the
  /// eigenvalues along it are forgotten, also if this throws. @throws OptionError before the first
  /// update; NumericalError that names the layer whose factor has none
  void refresh_basis();
  /// Adds what another estimator of the same layers and options has seen; its basis is ignored,
  /// and so are eigenvalues of both. @throws OptionError if they differ
  void merge(const KfacEstimator& other);

  /// Another estimator that has seen the same, to go on without this one. Copies the statistics.
  KfacEstimator clone() const;

  /// Examples seen, or with a decay their weight.
  double num_examples() const;
  /// K-FAC of what was seen: see `curvature::kfac`. @throws OptionError before the first update
  OperatorPtr kfac() const&;
  /// The same from the estimator's own memory; it cannot be used after.
  OperatorPtr kfac() &&;
  /// EK-FAC of what was seen: see `curvature::ekfac`.
  /// @throws OptionError unless the eigenvalues along a basis were collected
  OperatorPtr ekfac() const;

  /// All statistics, with the layers they belong to. `write_safetensors` makes a file of it.
  Archive save() const;
  /// Continues from what `save` returned, bit for bit.
  /// @throws DataError if it is broken or was made for other layers or options
  void load(const Archive& archive);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace curvature
