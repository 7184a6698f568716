#include "cli/checkpoint.hpp"

#include <filesystem>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>

#include <curvature/io/safetensors.hpp>

#include "core/check.hpp"

namespace curvature::cli {
namespace {

constexpr const char* kFormat = "curvature training 1";
const std::string kParameters = "parameters/";
const std::string kOptimizer = "optimizer/";
const std::string kStep = "step";
const std::string kSeconds = "seconds";

std::string file_in(const std::string& folder) {
  return (std::filesystem::path(folder) / "checkpoint.safetensors").string();
}

/// What stands under `prefix`, without it.
template <class Value>
std::map<std::string, Value> under(const std::string& prefix,
                                   const std::map<std::string, Value>& all) {
  std::map<std::string, Value> found;
  for (const auto& [name, value] : all) {
    if (name.starts_with(prefix)) found[name.substr(prefix.size())] = value;
  }
  return found;
}

const at::Tensor& number_in(const Archive& archive, const std::string& name, at::ScalarType dtype,
                            const std::string& file) {
  const auto found = archive.tensors.find(name);
  CURVATURE_CHECK(found != archive.tensors.end() && found->second.numel() == 1 &&
                      found->second.scalar_type() == dtype,
                  FileError, "{}: damaged: expected a number '{}', got none", file, name);
  return found->second;
}

}  // namespace

void Checkpoint::save(const std::string& folder, const Progression& progression,
                      const std::map<std::string, std::string>& metadata) const {
  Archive archive{.tensors = {}, .metadata = metadata};
  for (const auto& [name, tensor] : parameters_) archive.tensors[kParameters + name] = tensor;
  const Archive state = minimizer_->save();
  for (const auto& [name, tensor] : state.tensors) archive.tensors[kOptimizer + name] = tensor;
  for (const auto& [name, text] : state.metadata) archive.metadata[kOptimizer + name] = text;
  archive.tensors[kStep] = at::scalar_tensor(progression.step, at::kLong);
  archive.tensors[kSeconds] = at::scalar_tensor(progression.seconds, at::kDouble);
  archive.metadata["format"] = kFormat;
  archive.metadata["settings"] = settings_.dump(-1, ' ', false, Json::error_handler_t::replace);
  write_safetensors(file_in(folder), archive);
}

void Checkpoint::check_settings(const std::string& text, const std::string& file) const {
  const Json saved = Json::parse(text, nullptr, /*exceptions=*/false);
  CURVATURE_CHECK(saved.is_object(), FileError, "{}: damaged: expected settings, got '{}'", file,
                  text);
  const auto text_in = [](const Json& settings, const std::string& name) {
    const bool known = settings.contains(name) && settings[name].is_string();
    return known ? settings[name].get<std::string>() : std::string("nothing");
  };
  const auto check_all_of = [&](const Json& names) {
    for (const auto& [name, value] : names.items()) {
      const std::string before = text_in(saved, name), now = text_in(settings_, name);
      CURVATURE_CHECK(before == now, OptionError,
                      "--resume: {} is not as in the run that is resumed; expected {}, got {}",
                      name, before, now);
    }
  };
  check_all_of(settings_);
  check_all_of(saved);
}

void Checkpoint::check_parameters(const Archive& archive, const std::string& file) const {
  const auto saved = under(kParameters, archive.tensors);
  CURVATURE_CHECK(saved.size() == parameters_.size(), DataError,
                  "{}: the checkpoint of another model; expected {} parameters, got {}", file,
                  parameters_.size(), saved.size());
  for (const auto& [name, tensor] : parameters_) {
    const auto found = saved.find(name);
    CURVATURE_CHECK(found != saved.end() && found->second.sizes() == tensor.sizes() &&
                        found->second.scalar_type() == tensor.scalar_type(),
                    DataError, "{}: the checkpoint of another model; expected '{}' of shape {}",
                    file, name, detail::to_string(tensor.sizes()));
  }
}

std::optional<Progression> Checkpoint::load(const std::string& folder) {
  const std::string file = file_in(folder);
  std::error_code status;
  CURVATURE_CHECK(std::filesystem::is_directory(folder, status), FileError,
                  "--resume: expected the folder of a run's checkpoints, got '{}'", folder);
  if (!std::filesystem::exists(file, status)) return std::nullopt;
  const Archive archive = read_safetensors(file);
  const auto format = archive.metadata.find("format");
  const auto settings = archive.metadata.find("settings");
  CURVATURE_CHECK(format != archive.metadata.end() && format->second == kFormat &&
                      settings != archive.metadata.end(),
                  FileError, "{}: not a checkpoint; expected format '{}'", file, kFormat);
  check_settings(settings->second, file);
  check_parameters(archive, file);
  const Progression progression = {
      .step = number_in(archive, kStep, at::kLong, file).item<int64_t>(),
      .seconds = number_in(archive, kSeconds, at::kDouble, file).item<double>()};
  Archive state{.tensors = under(kOptimizer, archive.tensors),
                .metadata = under(kOptimizer, archive.metadata)};
  for (auto& [name, tensor] : state.tensors) {
    tensor = tensor.to(parameters_.front().tensor.device());
  }
  minimizer_->load(state);
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : parameters_) {
    tensor.copy_(archive.tensors.at(kParameters + name));
  }
  return progression;
}

}  // namespace curvature::cli
