#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <curvature/model/model.hpp>
#include <curvature/optim/minimizer.hpp>

#include "cli/report.hpp"

namespace curvature::cli {

/// How far a training came.
struct Progression {
  int64_t step = 0;    ///< steps done
  double seconds = 0;  ///< that they took
};

/// The state of a training in a file of a folder, from which it goes on bit for bit: parameters,
/// optimizer, step, and the settings that all later steps depend on.
class Checkpoint {
 public:
  /// `settings` has a text for each setting, under the name by which a user knows it.
  Checkpoint(std::vector<NamedTensor> parameters, optim::Minimizer& minimizer, Json settings)
      : parameters_(std::move(parameters)),
        minimizer_(&minimizer),
        settings_(std::move(settings)) {}

  /// Writes the file so that a crash leaves the old one. @throws FileError
  void save(const std::string& folder, const Progression& progression,
            const std::map<std::string, std::string>& metadata) const;
  /// Loads parameters and optimizer; empty, with nothing changed, if the folder has no checkpoint.
  /// @throws FileError if there is no such folder, or the file is damaged
  /// @throws OptionError that names the first setting that differs
  /// @throws DataError for other parameters or another optimizer's state
  std::optional<Progression> load(const std::string& folder);

 private:
  void check_settings(const std::string& text, const std::string& file) const;
  void check_parameters(const Archive& archive, const std::string& file) const;

  std::vector<NamedTensor> parameters_;
  optim::Minimizer* minimizer_;
  Json settings_;
};

}  // namespace curvature::cli
