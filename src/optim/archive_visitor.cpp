#include <algorithm>
#include <sstream>

#include <ATen/ops/scalar_tensor.h>

#include "core/check.hpp"
#include "optim/archive_visitor.hpp"

namespace curvature::optim {
namespace {

/// Metadata: the names of tensors that are not defined, each on a line.
constexpr const char* kUndefined = "undefined";

}  // namespace

void ArchiveWriter::tensor(const std::string& name, at::Tensor& value) {
  if (value.defined()) {
    archive_->tensors[prefix_ + name] = value.detach().clone(at::MemoryFormat::Contiguous);
  } else {
    archive_->metadata[kUndefined] += prefix_ + name + "\n";
  }
}

void ArchiveWriter::count(const std::string& name, int64_t& value) {
  archive_->tensors[prefix_ + name] = at::scalar_tensor(value, at::kLong);
}

void ArchiveWriter::number(const std::string& name, double& value) {
  archive_->tensors[prefix_ + name] = at::scalar_tensor(value, at::kDouble);
}

ArchiveReader::ArchiveReader(const Archive& archive) : archive_(&archive) {
  const auto found = archive.metadata.find(kUndefined);
  if (found == archive.metadata.end()) return;
  std::istringstream names(found->second);
  for (std::string name; std::getline(names, name);) undefined_.insert(name);
}

const at::Tensor* ArchiveReader::find(const std::string& name) {
  asked_.push_back(prefix_ + name);
  const auto found = archive_->tensors.find(asked_.back());
  return found == archive_->tensors.end() ? nullptr : &found->second;
}

const at::Tensor& ArchiveReader::scalar(const std::string& name, at::ScalarType dtype) {
  const at::Tensor* found = find(name);
  CURVATURE_CHECK(found && found->numel() == 1 && found->scalar_type() == dtype, DataError,
                  "load: '{}' is missing or not a number; was the state saved by another "
                  "optimizer?",
                  asked_.back());
  return *found;
}

void ArchiveReader::tensor(const std::string& name, at::Tensor& value) {
  const at::Tensor* found = find(name);
  CURVATURE_CHECK(found || undefined_.count(asked_.back()) > 0, DataError,
                  "load: '{}' is missing; was the state saved by another optimizer?",
                  asked_.back());
  const at::Tensor loaded = found ? found->clone() : at::Tensor();
  CURVATURE_CHECK(!loaded.defined() || loaded.is_floating_point(), DataError,
                  "load: '{}' has another dtype; expected real numbers, got {}", asked_.back(),
                  c10::toString(found->scalar_type()));
  CURVATURE_CHECK(
      !loaded.defined() || !value.defined() ||
          (loaded.sizes() == value.sizes() && loaded.scalar_type() == value.scalar_type()),
      DataError, "load: '{}' has another shape or dtype; expected {} {}, got {} {}", asked_.back(),
      c10::toString(value.scalar_type()), curvature::detail::to_string(value.sizes()),
      c10::toString(loaded.scalar_type()), curvature::detail::to_string(loaded.sizes()));
  changes_.push_back([&value, loaded] { value = loaded; });
}

void ArchiveReader::count(const std::string& name, int64_t& value) {
  changes_.push_back(
      [&value, loaded = scalar(name, at::kLong).item<int64_t>()] { value = loaded; });
}

void ArchiveReader::number(const std::string& name, double& value) {
  changes_.push_back(
      [&value, loaded = scalar(name, at::kDouble).item<double>()] { value = loaded; });
}

void ArchiveReader::commit() {
  std::sort(asked_.begin(), asked_.end());
  for (const auto& [name, tensor] : archive_->tensors) {
    CURVATURE_CHECK(std::binary_search(asked_.begin(), asked_.end(), name), DataError,
                    "load: nothing here takes '{}'; was the state saved for other parameters or "
                    "another optimizer?",
                    name);
  }
  for (const auto& change : changes_) change();
}

}  // namespace curvature::optim
