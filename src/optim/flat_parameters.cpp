#include "optim/flat_parameters.hpp"

#include <cmath>
#include <limits>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>

#include "core/check.hpp"
#include "core/finite.hpp"

namespace curvature::optim::detail {
namespace {

/// The vector as tensors of the parameters' shapes, views.
TensorList unflat(const Space& space, const at::Tensor& values) {
  TensorList list = space.split(values.unsqueeze(1));
  for (at::Tensor& part : list) part = part.squeeze(-1);
  return list;
}

}  // namespace

at::Tensor flat(const Space& space, const TensorList& list) {
  const at::NoGradGuard no_grad;
  TensorList columns;
  for (const at::Tensor& part : list) columns.push_back(part.detach().unsqueeze(-1));
  return space.join(columns).squeeze(1).clone();
}

at::Tensor flat_parameters(const EmpiricalRisk& risk) {
  return flat(risk.space(), risk.parameters());
}

void set_parameters(const EmpiricalRisk& risk, const at::Tensor& values) {
  const at::NoGradGuard no_grad;
  const TensorList parts = unflat(risk.space(), values);
  for (size_t i = 0; i < parts.size(); ++i) {
    const at::Tensor parameter = risk.parameters()[i];
    parameter.copy_(parts[i]);
  }
}

void check_same_parameters(const EmpiricalRisk& risk, const EmpiricalRisk& made_for,
                           const std::string& who) {
  const bool same_count = risk.parameters().size() == made_for.parameters().size();
  CURVATURE_CHECK(same_count, OptionError,
                  "{}: a batch of another risk; expected {} parameters, got {}", who,
                  made_for.parameters().size(), risk.parameters().size());
  for (size_t i = 0; i < risk.parameters().size(); ++i) {
    CURVATURE_CHECK(risk.parameters()[i].is_same(made_for.parameters()[i]), OptionError,
                    "{}: a batch of another risk; expected its parameter {} to be '{}', got '{}'",
                    who, i, made_for.space().entries()[i].name, risk.space().entries()[i].name);
  }
}

TrialParameters::TrialParameters(const EmpiricalRisk& risk, const at::Tensor& values)
    : parameters_(risk.parameters()) {
  const TensorList parts = unflat(risk.space(), values.detach());
  for (const at::Tensor& parameter : parameters_) originals_.push_back(parameter.detach());
  for (size_t i = 0; i < parts.size(); ++i) parameters_[i].set_data(parts[i]);
}

TrialParameters::~TrialParameters() {
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].set_data(originals_[i]);
}

double loss_at(const EmpiricalRisk& risk, const at::Tensor& values) {
  const TrialParameters trial(risk, values);
  try {
    return risk.loss();
  } catch (const NumericalError&) {  // a step too far, which is data here
    return std::numeric_limits<double>::quiet_NaN();
  }
}

StateWriter::StateWriter(std::string format) { archive_.metadata["format"] = std::move(format); }

void StateWriter::vector(const std::string& name, const Space& space, const at::Tensor& values) {
  if (!values.defined()) return;
  const TensorList parts = unflat(space, values);
  for (size_t i = 0; i < parts.size(); ++i) {
    archive_.tensors[name + "/" + space.entries()[i].name] = parts[i].clone();
  }
}

void StateWriter::number(const std::string& name, double value) {
  archive_.tensors[name] = at::scalar_tensor(value, at::kDouble).reshape({1});
}

void StateWriter::archive(const std::string& name, const Archive& inner) {
  for (const auto& [key, tensor] : inner.tensors) archive_.tensors[name + "/" + key] = tensor;
  for (const auto& [key, text] : inner.metadata) archive_.metadata[name + "/" + key] = text;
}

StateReader::StateReader(const Archive& archive, const std::string& format)
    : archive_(archive), who_(format) {
  const auto found = archive.metadata.find("format");
  const std::string got = found == archive.metadata.end() ? "none" : found->second;
  CURVATURE_CHECK(got == format, DataError,
                  "{}: another optimizer's state; expected '{}', got '{}'", format, format, got);
}

at::Tensor StateReader::vector(const std::string& name, const Space& space,
                               const at::TensorOptions& options) const {
  TensorList parts;
  for (const SpaceEntry& entry : space.entries()) {
    const std::string key = name + "/" + entry.name;
    const auto found = archive_.tensors.find(key);
    if (found == archive_.tensors.end()) {
      CURVATURE_CHECK(parts.empty(), DataError, "{}: the saved state lacks '{}'", who_, key);
      continue;
    }
    const at::Tensor& tensor = found->second;
    const auto dtype = c10::typeMetaToScalarType(options.dtype());
    CURVATURE_CHECK(
        parts.size() == static_cast<size_t>(&entry - space.entries().data()) &&
            tensor.sizes() == c10::IntArrayRef(entry.shape) && tensor.scalar_type() == dtype,
        DataError, "{}: '{}' does not fit; expected {} of shape {}, got {} of {}", who_, key,
        c10::toString(dtype), curvature::detail::to_string(entry.shape),
        c10::toString(tensor.scalar_type()), curvature::detail::to_string(tensor.sizes()));
    CURVATURE_CHECK(curvature::detail::is_finite(tensor), DataError, "{}: '{}' is not finite", who_,
                    key);
    parts.push_back(tensor.to(options));
  }
  return parts.empty() ? at::Tensor() : flat(space, parts);
}

double StateReader::number(const std::string& name) const {
  const auto found = archive_.tensors.find(name);
  CURVATURE_CHECK(found != archive_.tensors.end() && found->second.numel() == 1, DataError,
                  "{}: the saved state lacks the number '{}'", who_, name);
  return found->second.item<double>();
}

Archive StateReader::archive(const std::string& name) const {
  const std::string prefix = name + "/";
  Archive inner;
  for (const auto& [key, tensor] : archive_.tensors) {
    if (key.starts_with(prefix)) inner.tensors[key.substr(prefix.size())] = tensor;
  }
  for (const auto& [key, text] : archive_.metadata) {
    if (key.starts_with(prefix)) inner.metadata[key.substr(prefix.size())] = text;
  }
  return inner;
}

}  // namespace curvature::optim::detail
