#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <unistd.h>

#include <ATen/EmptyTensor.h>
#include <torch/torch.h>

#include <curvature/core/error.hpp>
#include <curvature/core/space.hpp>

namespace curvature::testing {

using Reader = std::function<at::Tensor(const std::filesystem::path&)>;

/// A folder that is removed with everything in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = std::filesystem::temp_directory_path() / "curvature-test-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }
  size_t num_files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::filesystem::path path_;
};

inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(CURVATURE_TEST_DATA) / name;
}

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::filesystem::path write_bytes(const std::filesystem::path& path,
                                         const std::string& bytes) {
  std::filesystem::remove(path);  // some file systems wait for the disk when a file is overwritten
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path;
}

/// 0, 1, 2, ... as the goldens have it; booleans are true for odd numbers.
inline at::Tensor counting(at::ScalarType dtype, const Shape& shape) {
  const at::Tensor values = at::arange(c10::multiply_integers(shape)).reshape(shape);
  return dtype == at::kBool ? values.remainder(2).to(dtype) : values.to(dtype);
}

/// Same dtype, shape and elements.
inline bool identical(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && at::equal(a, b);
}

/// A predicate for BOOST_CHECK_EXCEPTION: the message is one line that contains `text`.
inline auto says(const std::string& text) {
  return [text](const std::exception& error) {
    const std::string message = error.what();
    BOOST_TEST_INFO(message);
    BOOST_TEST(message.find('\n') == std::string::npos);
    BOOST_TEST(message.find(text) != std::string::npos);
    return true;
  };
}

/// Every file that ends early must give a FileError.
inline void check_every_prefix_is_refused(const std::string& name, const std::string& bytes,
                                          const Reader& read) {
  const TemporaryFolder folder;
  for (size_t size = 0; size < bytes.size(); ++size) {
    BOOST_TEST_CONTEXT(name << " cut to " << size << " bytes") {
      const auto file = write_bytes(folder / name, bytes.substr(0, size));
      BOOST_CHECK_EXCEPTION(read(file), FileError, says(name));
    }
  }
}

/// Changes each byte in [first, last) in several ways: the answer must be a FileError, or a tensor
/// that lies within its storage.
inline void check_damage_is_survived(const std::string& name, const std::string& bytes,
                                     size_t first, size_t last, const Reader& read) {
  const TemporaryFolder folder;
  size_t num_errors = 0;
  for (size_t position = first; position < last; ++position) {
    for (const int change : {0x01, 0x02, 0x10, 0x80, 0xff, 0x00}) {
      std::string damaged = bytes;
      damaged[position] = static_cast<char>(change == 0 ? '9' : damaged[position] ^ change);
      BOOST_TEST_CONTEXT(name << " with byte " << position << " changed by " << change) {
        try {
          const at::Tensor tensor = read(write_bytes(folder / name, damaged));
          const size_t reach = at::detail::computeStorageNbytes(
              tensor.sizes(), tensor.strides(), tensor.element_size(),
              static_cast<size_t>(tensor.storage_offset()));
          BOOST_TEST(reach <= tensor.storage().nbytes());
        } catch (const FileError& error) {
          says(name)(error);
          ++num_errors;
        }
      }
    }
  }
  BOOST_TEST(num_errors > 0);
}

}  // namespace curvature::testing
