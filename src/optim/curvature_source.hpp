#pragma once

#include <cstdint>
#include <memory>

#include <curvature/layerwise/kfac.hpp>
#include <curvature/matrix_free/ggn.hpp>

#include "optim/flat_parameters.hpp"

namespace curvature::optim::detail {

/// One of the samples of the weights at which a step looks at its batch.
struct Sample {
  int64_t index = 0;
  int64_t count = 1;
  double scale = 1;  ///< of the curvature, where a part of the step's batch stands for all of it
};

/// Where a step's curvature comes from: running statistics of the batches it has seen. A value in
/// all but name: `copy` is cheap, since what was seen is shared and never written to, so that a
/// step works on a copy and keeps it only if all goes well.
class CurvatureSource {
 public:
  virtual ~CurvatureSource() = default;
  virtual std::unique_ptr<CurvatureSource> copy() const = 0;
  /// Takes what the batch says, at the parameters that the model has now. Once for each sample of
  /// a step.
  virtual void observe(const EmpiricalRisk& batch, Sample sample) = 0;
  /// The curvature of a batch like the last one, weight decay not included; the same pointer as
  /// long as it is the same. Null before the first batch.
  virtual OperatorPtr curvature() const = 0;
  virtual void save(StateWriter& writer) const = 0;
  virtual void load(const StateReader& reader) = 0;
  virtual int64_t bytes() const = 0;
};

/// How often layer-wise statistics are taken and used.
struct LayerwiseSchedule {
  double decay = 0.95;
  int64_t statistics_interval = 1;
  int64_t refresh_interval = 10;
};

/// K-FAC of decaying averages; what is used is that of the last refresh.
std::unique_ptr<CurvatureSource> kfac_source(const EmpiricalRisk& risk, const KfacOptions& options,
                                             const LayerwiseSchedule& schedule);
/// EK-FAC: decaying averages along a basis that is refreshed from those of the factors.
std::unique_ptr<CurvatureSource> ekfac_source(const EmpiricalRisk& risk, const KfacOptions& options,
                                              const LayerwiseSchedule& schedule);
/// KFOC of the batch of the last refresh.
std::unique_ptr<CurvatureSource> kfoc_source(const EmpiricalRisk& risk, const KfacOptions& options,
                                             const LayerwiseSchedule& schedule);
/// GGN, sampled GGN or empirical Fisher of the batch itself as U U^T, whole; draws are other ones
/// in every step.
std::unique_ptr<CurvatureSource> low_rank_source(Fisher fisher,
                                                 const MonteCarloOptions& monte_carlo);
/// diag(s), s <- decay s + (1 - decay) times the mean of the examples' squared gradients; the first
/// mean at the start.
std::unique_ptr<CurvatureSource> squared_gradient_source(const EmpiricalRisk& risk, double decay);

}  // namespace curvature::optim::detail
