#include <curvature/io/npz.hpp>

#include "io/files.hpp"

BOOST_AUTO_TEST_SUITE(npz_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

at::Tensor read_data(const std::filesystem::path& path) { return read_npz(path, "data"); }

/// A zip file with one stored entry, made by hand so that it can lie about everything.
struct ZipEntry {
  std::string name = "data.npy";
  std::string content;
  uint16_t method = 0;
  uint32_t size = 0;
  uint16_t flags = 0;
};

template <typename Number>
void append(std::string& bytes, Number number) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

std::string zip_of(const std::vector<ZipEntry>& entries) {
  std::string file;
  std::string directory;
  for (const ZipEntry& entry : entries) {
    const auto offset = static_cast<uint32_t>(file.size());
    std::string common;
    append(common, uint16_t{20});
    append(common, entry.flags);
    append(common, entry.method);
    append(common, uint32_t{0});  // time
    append(common, uint32_t{0});  // checksum
    append(common, static_cast<uint32_t>(entry.content.size()));
    append(common, entry.size);
    append(common, static_cast<uint16_t>(entry.name.size()));
    append(common, uint16_t{0});  // extra field
    file += "PK\x03\x04" + common + entry.name + entry.content;
    directory += std::string("PK\x01\x02\x14\x00", 6) + common + std::string(10, '\0');
    append(directory, offset);
    directory += entry.name;
  }
  const auto start = static_cast<uint32_t>(file.size());
  file += directory + std::string("PK\x05\x06\x00\x00\x00\x00", 8);
  append(file, static_cast<uint16_t>(entries.size()));
  append(file, static_cast<uint16_t>(entries.size()));
  append(file, static_cast<uint32_t>(directory.size()));
  append(file, start);
  append(file, uint16_t{0});
  return file;
}

void check_refused(const std::string& bytes, const std::string& message) {
  const TemporaryFolder folder;
  const auto file = write_bytes(folder / "x.npz", bytes);
  BOOST_CHECK_EXCEPTION(read_data(file), FileError, says(message));
}

}  // namespace

BOOST_AUTO_TEST_CASE(archives_written_by_numpy_are_read) {
  BOOST_TEST(list_npz(golden("one.npz")) == std::vector<std::string>{"data"});
  BOOST_TEST(identical(read_data(golden("one.npz")), counting(at::kFloat, {2, 3})));

  const auto several = golden("several.npz");
  BOOST_TEST(list_npz(several) == (std::vector<std::string>{"x", "y", "empty"}));
  BOOST_TEST(identical(read_npz(several, "x"), counting(at::kDouble, {50, 20})));
  BOOST_TEST(identical(read_npz(several, "y"), counting(at::kLong, {4})));
  BOOST_TEST(identical(read_npz(several, "empty"), at::empty({0, 2}, at::kDouble)));
  BOOST_CHECK_EXCEPTION(read_npz(several, "z"), OptionError, says("it has 'x', 'y', 'empty'"));
}

BOOST_AUTO_TEST_CASE(what_an_archive_claims_is_checked) {
  const std::string npy = read_bytes(golden("float64_C_3.npy"));
  const auto size = static_cast<uint32_t>(npy.size());
  check_refused(zip_of({{.content = npy, .size = size + 1}}), "cannot hold");
  check_refused(zip_of({{.content = npy, .method = 8, .size = 0xf0000000}}), "cannot hold");
  check_refused(zip_of({{.content = npy, .method = 8, .size = size}}), "damaged");
  check_refused(zip_of({{.content = npy, .method = 12, .size = size}}), "compression method 12");
  check_refused(zip_of({{.content = npy, .size = size, .flags = 1}}), "encrypted");
  check_refused(zip_of({{.content = npy, .size = size}}), "damaged");  // its checksum is wrong
  check_refused(zip_of({{.content = "", .size = 0}}), "is empty");
  check_refused(zip_of({{.content = npy, .size = size}, {.content = npy, .size = size}}),
                "two entries called 'data.npy'");
  check_refused("", "x.npz");
  check_refused("not a zip file at all", "not a sound zip file");
}

BOOST_AUTO_TEST_CASE(every_truncation_is_refused) {
  check_every_prefix_is_refused("one.npz", read_bytes(golden("one.npz")), read_data);
}

BOOST_AUTO_TEST_CASE(damage_is_survived) {
  const Reader read = [](const std::filesystem::path& path) {
    const auto names = list_npz(path);
    if (names.empty()) throw FileError(path.string() + ": no arrays");
    return read_npz(path, names.front());
  };
  for (const char* name : {"one.npz", "several.npz"}) {
    const std::string bytes = read_bytes(golden(name));
    check_damage_is_survived(name, bytes, 0, bytes.size(), read);
  }
}

BOOST_AUTO_TEST_CASE(what_is_written_is_read) {
  const TemporaryFolder folder;
  const std::vector<std::pair<std::string, at::Tensor>> tensors = {
      {"b.weight", counting(at::kFloat, {2, 3})},
      {"a", counting(at::kDouble, {4, 5}).t()},
      {"empty", at::empty({0, 2}, at::kDouble)},
      {"scalar", at::scalar_tensor(7, at::kLong)}};
  write_npz(folder / "x.npz", tensors);
  BOOST_TEST(list_npz(folder / "x.npz") ==
             (std::vector<std::string>{"b.weight", "a", "empty", "scalar"}));
  for (const auto& [name, tensor] : tensors) {
    BOOST_TEST(identical(read_npz(folder / "x.npz", name), tensor));
  }
  write_npz(folder / "y.npz", tensors);
  BOOST_TEST(read_bytes(folder / "x.npz") == read_bytes(folder / "y.npz"));
}

BOOST_AUTO_TEST_CASE(what_cannot_be_written_leaves_the_old_file) {
  const TemporaryFolder folder;
  const at::Tensor x = counting(at::kFloat, {2});
  write_npz(folder / "x.npz", {{"x", x}});
  BOOST_CHECK_EXCEPTION(write_npz(folder / "x.npz", {{"y", x}, {"y", x}}), OptionError,
                        says("two entries called 'y.npy'"));
  BOOST_CHECK_THROW(write_npz(folder / "x.npz", {}), OptionError);
  BOOST_CHECK_THROW(write_npz(folder / "x.npz", {{"y", x.to(at::kBFloat16)}}), DtypeDeviceError);
  BOOST_TEST(identical(read_npz(folder / "x.npz", "x"), x));
  BOOST_TEST(folder.num_files() == 1u);
}

BOOST_AUTO_TEST_SUITE_END()
