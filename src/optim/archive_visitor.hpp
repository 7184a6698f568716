#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include <curvature/core/archive.hpp>
#include <curvature/optim/state.hpp>

namespace curvature::optim {

/// Writes what it is shown into an archive, under `prefix` and a slash.
class ArchiveWriter : public StateVisitor {
 public:
  explicit ArchiveWriter(Archive& archive) : archive_(&archive) {}
  void under(std::string prefix) { prefix_ = std::move(prefix) + "/"; }

  void tensor(const std::string& name, at::Tensor& value) override;
  void count(const std::string& name, int64_t& value) override;
  void number(const std::string& name, double& value) override;

 private:
  Archive* archive_;
  std::string prefix_;
};

/// Finds in an archive what it is shown; nothing changes until `commit`.
class ArchiveReader : public StateVisitor {
 public:
  explicit ArchiveReader(const Archive& archive);
  void under(std::string prefix) { prefix_ = std::move(prefix) + "/"; }

  /// @throws DataError if the archive lacks it, or has another shape or dtype than there is
  void tensor(const std::string& name, at::Tensor& value) override;
  void count(const std::string& name, int64_t& value) override;
  void number(const std::string& name, double& value) override;

  /// @throws DataError if the archive holds a tensor that nothing asked for, by its name
  void commit();

 private:
  const at::Tensor* find(const std::string& name);
  const at::Tensor& scalar(const std::string& name, at::ScalarType dtype);

  const Archive* archive_;
  std::string prefix_;
  std::set<std::string> undefined_;  ///< tensors that were not there when the state was saved
  std::vector<std::string> asked_;
  std::vector<std::function<void()>> changes_;
};

}  // namespace curvature::optim
