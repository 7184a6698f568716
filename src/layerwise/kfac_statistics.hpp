#pragma once

#include <map>
#include <string>
#include <vector>

#include <curvature/core/archive.hpp>

#include "layerwise/layer_pass.hpp"

namespace curvature::detail {

/// Kronecker factors of a block, in the risk's dtype; or orthogonal bases for them.
struct FactorPair {
  at::Tensor a;  ///< `[columns, columns]`, or its diagonal `[columns]` for one-hot inputs
  at::Tensor b;  ///< `[rows, rows]`
};

/// Sums over what was seen of one block.
struct BlockSums {
  FactorPair factors;       ///< sums of outer products: lower triangles
  double input_count = 0;   ///< what `factors.a` is divided by
  double input_rows = 0;    ///< vectors whose outer products are in `factors.a`: bounds its rank
  double output_rows = 0;   ///< the same for `factors.b`
  FactorPair basis;         ///< eigenvectors of the factors at some time; or undefined
  double null_inputs = 0;   ///< first vectors of `basis.a` along which A had no eigenvalue but 0
  double null_outputs = 0;  ///< the same for `basis.b`
  at::Tensor squares = {};  ///< of gradients along the basis `[rows, columns]`; or none yet
};

/// What K-FAC and EK-FAC collect over the layers of a plan.
class KfacStatistics {
 public:
  KfacStatistics(EmpiricalRisk risk, KfacOptions options, LayerPlan plan);

  /// What an update adds to.
  struct Targets {
    bool factors;
    bool squares;
  };
  void add(const BatchRisk& batch, const Recorded& recorded, Targets targets);
  /// A copy that shares no tensor that is written to.
  KfacStatistics clone() const;
  /// Multiplies the sums.
  void decay(double factor, Targets targets);
  /// Adds the factors of another; squares are forgotten. @throws OptionError for other layers
  void merge(const KfacStatistics& other);
  /// @throws NumericalError that names the layer
  void refresh_basis();

  const LayerPlan& plan() const { return plan_; }
  bool has_basis() const { return has_basis_; }
  double num_examples() const { return factor_weight_; }
  double num_corrected_examples() const { return square_weight_; }
  /// The factors that the sums over all workers give; from the sums' own memory if they are given
  /// up.
  std::vector<FactorPair> factors() const&;
  std::vector<FactorPair> factors() &&;
  /// The basis of each block.
  std::vector<FactorPair> bases() const;
  /// Eigenvalues along the bases `[rows, columns]`.
  TensorList eigenvalues() const;

  Archive save() const;
  /// @throws DataError
  void load(const Archive& archive);

 private:
  void add_inputs(size_t block, const LayerPass& pass, const at::Tensor& weights);
  void add_one_hot_inputs(size_t block, const at::Tensor& indices, const at::Tensor& weights);
  void add_outputs(const LayerPass& pass, const TensorList& backward);
  /// Returns how many vectors there were.
  double add_output_moment(const at::Tensor& gradients, at::Tensor& sum) const;
  void add_squares(const LayerPass& pass, const TensorList& backward);
  /// A copy of a block's squares, of which there is a basis.
  at::Tensor squares_of(size_t block) const;
  void forget_basis();
  /// The factors of a block from its sums over this worker's data, whose memory they take.
  FactorPair factors_from(size_t block, FactorPair sums) const;
  /// No factor's rank is larger, over all workers: two numbers for each block, those of A and B.
  std::vector<int64_t> rank_bounds() const;
  /// What tells layers and options apart.
  std::string description() const;
  /// The counts and weights that `save` keeps, by name.
  std::map<std::string, double*> numbers();
  bool reduces() const { return options_.weight_sharing == WeightSharing::kReduce; }
  at::TensorOptions tensor_options() const;

  EmpiricalRisk risk_;
  KfacOptions options_;
  LayerPlan plan_;
  std::vector<BlockSums> sums_;
  bool has_basis_ = false;
  double factor_weight_ = 0;  ///< of the examples seen
  double square_weight_ = 0;
};

}  // namespace curvature::detail
