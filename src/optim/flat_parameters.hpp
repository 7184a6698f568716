#pragma once

#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include <curvature/core/archive.hpp>
#include <curvature/model/empirical_risk.hpp>

/// Parameters of a risk as one vector `[n]`, for the optimizers that need the model.
namespace curvature::optim::detail {

/// The flat view of a list, copied.
at::Tensor flat(const Space& space, const TensorList& list);
/// The parameters, copied.
at::Tensor flat_parameters(const EmpiricalRisk& risk);
/// Writes `values` into the parameters' own memory.
void set_parameters(const EmpiricalRisk& risk, const at::Tensor& values);

/// @throws OptionError unless the risk has the very parameters of `made_for`
void check_same_parameters(const EmpiricalRisk& risk, const EmpiricalRisk& made_for,
                           const std::string& who);

/// As long as it lives the model sees other values: in other memory, so that neither the values nor
/// the versions of the parameters change, and operators that were built on them stay valid. Not for
/// concurrent use of one model.
class TrialParameters {
 public:
  TrialParameters(const EmpiricalRisk& risk, const at::Tensor& values);
  ~TrialParameters();
  TrialParameters(const TrialParameters&) = delete;
  TrialParameters& operator=(const TrialParameters&) = delete;

 private:
  TensorList parameters_;
  TensorList originals_;  // the parameters' own memory
};

/// The loss of the risk at other values; not finite where the model gives such a loss there.
double loss_at(const EmpiricalRisk& risk, const at::Tensor& values);

/// Sees a state as a vector and numbers, piece by piece; saves it or loads it.
class StateWriter {
 public:
  explicit StateWriter(std::string format);
  void vector(const std::string& name, const Space& space, const at::Tensor& values);
  void number(const std::string& name, double value);
  /// Another archive, under a prefix.
  void archive(const std::string& name, const Archive& inner);
  Archive take() && { return std::move(archive_); }

 private:
  Archive archive_;
};

/// Reads what a `StateWriter` wrote. @throws DataError that names what does not fit
class StateReader {
 public:
  StateReader(const Archive& archive, const std::string& format);
  /// Undefined if it was when it was saved.
  at::Tensor vector(const std::string& name, const Space& space,
                    const at::TensorOptions& options) const;
  double number(const std::string& name) const;
  Archive archive(const std::string& name) const;

 private:
  const Archive& archive_;
  std::string who_;
};

}  // namespace curvature::optim::detail
