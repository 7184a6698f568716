#pragma once

#include <optional>
#include <string>
#include <vector>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <curvature/model/model.hpp>

namespace curvature {

/// What happens to an archive when it is loaded.
struct TorchscriptOptions {
  /// Shell patterns of the parameters to differentiate; empty: those that require gradients.
  std::vector<std::string> parameters{};
  /// Casts floating-point parameters and buffers; empty: as stored.
  std::optional<c10::ScalarType> dtype{};
  c10::Device device = c10::kCPU;  ///< where parameters and buffers go
};

/// Loads a TorchScript archive (`torch.jit.save`), any architecture. The mode it was saved in
/// (train or eval) is kept. Parameters that are not selected do not require gradients.
/// @throws FileError if the file is missing, corrupt, or no TorchScript archive (a `state_dict`, a
///   pickled module); the message shows how to export
/// @throws ModelError if the archive is frozen or holds no parameter
Model load_torchscript(const std::string& path, const TorchscriptOptions& options = {});

/// Writes the archive `source` again, as `path` and atomically, with the parameters' values
/// replaced by these: what Python's `torch.jit.load` reads. The rest (code, buffers, mode, which
/// parameters require gradients) is `source`'s; `options` say how the model was loaded, and of them
/// `dtype` counts.
/// @throws FileError as `load_torchscript`, or if the file cannot be written
/// @throws OptionError for a parameter that the archive has not, or with another shape or dtype
void save_torchscript(const std::string& path, const std::string& source,
                      const std::vector<NamedTensor>& parameters,
                      const TorchscriptOptions& options = {});

/// The ten lines of Python that turn an `nn.Module` and arrays into files for the tool.
std::string export_snippet();

}  // namespace curvature
