#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/core/random.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature {

/// Which vectors are backpropagated from the model's output: whose second moment stands for the
/// Hessian of the loss.
enum class Fisher {
  kType2,        ///< the columns of its square root: exact, C backward passes
  kMonteCarlo,   ///< gradients at labels drawn from the model
  kEmpirical,    ///< the gradient of the loss
  kForwardOnly,  ///< none: the output factor is the identity
};

/// What happens where a layer has several positions (tokens, pixels, uses).
enum class WeightSharing {
  kExpand,  ///< each position counts like an example
  kReduce,  ///< inputs are averaged, gradients summed over the positions of an example
};

/// What happens to a parameter that no layer rule covers.
enum class Fallback {
  kRefuse,    ///< an error that names it and its use
  kDiagonal,  ///< the diagonal of the GGN
  kBlock,     ///< the exact block of the GGN, dense
};

/// How layer-wise curvatures are made.
struct KfacOptions {
  Fisher fisher = Fisher::kType2;                         ///< see there
  int64_t mc_samples = 1;                                 ///< draws per loss term
  WeightSharing weight_sharing = WeightSharing::kExpand;  ///< see there
  bool separate_bias = false;  ///< a bias gets a block of its own, not a column of its layer's
  Fallback fallback = Fallback::kRefuse;  ///< see there
  RandomSource random = RandomSource();   ///< of draws and signs
  Observer observer = {};                 ///< sees the batches
};

/// K-FAC: the Kronecker product B (x) A for each layer, acting on its row-major matrix [W | b].
/// A is the mean of a a^T over examples, positions and uses, a = [input; 1]; B = k sum of g g^T
/// over examples, positions, uses and backpropagated vectors, k the scale of the risk.
///
/// Layers are found while the model runs: linear layers and products with a parameter from the
/// right, convolutions over 1 to 3 axes, transposed or not (each group a layer), embeddings, scale
/// and shift of layer, group, batch and RMS norms, vectors added to or multiplying the last axis;
/// modules, functions and TorchScript alike. Where terms of an example interact, each term and
/// column of `kType2` carries a random sign, so that cross terms vanish in expectation. Weight
/// decay is not in it. Costs one forward pass and one backward pass for each vector; the first
/// time, to find the layers, another of a batch and both of an example. Closed forms: all. Martens,
/// Grosse, ICML 2015; Eschenhagen, Immer, Turner, Schneider, Hennig, NeurIPS 2023.
/// @throws NotSupportedError for a parameter that is not covered, and how it is used
OperatorPtr kfac(const EmpiricalRisk& risk, const KfacOptions& options = {});

/// EK-FAC: the eigenvectors of K-FAC's factors, with the second moments of the examples' gradients
/// (summed over positions) along them as eigenvalues: the best diagonal in that basis. Two passes
/// over the data. `kForwardOnly` is refused. George, Laurent, Bouthillier, Ballas, Vincent, NeurIPS
/// 2018.
/// @throws as `kfac`; OptionError for `kForwardOnly`
OperatorPtr ekfac(const EmpiricalRisk& risk, const KfacOptions& options = {});

/// KFOC: for each layer the Kronecker product nearest in the Frobenius norm to the exact block of
/// the (approximate) GGN, from the whole gradients of examples. `weight_sharing` plays no role. A
/// block takes a few dozen passes over gradients that are kept if they fit into a quarter of the
/// free memory and computed again if not; factors have at most 4096 inputs. `kForwardOnly` is
/// refused. Koroko, Anciaux-Sedrakian, Ben Gharbia, Gares, Haddou, Tran, 2022.
/// @throws as `kfac`; OptionError for `kForwardOnly`
OperatorPtr kfoc(const EmpiricalRisk& risk, const KfacOptions& options = {});

/// How a parameter is treated, and why.
struct ParameterTreatment {
  std::string name;       ///< of the parameter
  std::string treatment;  ///< kinds of its layers; `unused`; `not covered: ` and why
  bool covered = false;   ///< whether a layer rule covers it
};

/// How each parameter of the risk would be treated. Found once for a risk, by a forward pass of a
/// batch and both passes of an example.
std::vector<ParameterTreatment> describe_layers(const EmpiricalRisk& risk);

}  // namespace curvature
