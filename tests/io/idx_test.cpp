#include <zlib.h>

#include <curvature/io/idx.hpp>

#include "io/files.hpp"

BOOST_AUTO_TEST_SUITE(idx_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

void check_refused(const std::string& bytes, const std::string& message) {
  const TemporaryFolder folder;
  const auto file = write_bytes(folder / "x.idx", bytes);
  BOOST_CHECK_EXCEPTION(read_idx(file), FileError, says(message));
}

std::string gzip(const std::string& bytes) {
  const TemporaryFolder folder;
  const gzFile file = gzopen((folder / "x.gz").c_str(), "wb");
  gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(file);
  return read_bytes(folder / "x.gz");
}

std::string idx(const std::string& rest) { return std::string("\0\0", 2) + rest; }

}  // namespace

BOOST_AUTO_TEST_CASE(all_element_types_are_read) {
  for (const auto& [name, dtype] :
       std::vector<std::pair<std::string, at::ScalarType>>{{"08", at::kByte},
                                                           {"09", at::kChar},
                                                           {"0b", at::kShort},
                                                           {"0c", at::kInt},
                                                           {"0d", at::kFloat},
                                                           {"0e", at::kDouble}}) {
    BOOST_TEST_CONTEXT(name) {
      BOOST_TEST(identical(read_idx(golden("type" + name + ".idx")), counting(dtype, {2, 3})));
    }
  }
}

BOOST_AUTO_TEST_CASE(compressed_files_are_inflated) {
  const at::Tensor images = counting(at::kByte, {4, 5, 6});
  BOOST_TEST(identical(read_idx(golden("images-idx3-ubyte")), images));
  BOOST_TEST(identical(read_idx(golden("images-idx3-ubyte.gz")), images));

  // Several members make one file, also where they meet inside the data.
  const TemporaryFolder folder;
  const std::string bytes = read_bytes(golden("images-idx3-ubyte"));
  const auto file =
      write_bytes(folder / "x.gz", gzip(bytes.substr(0, 40)) + gzip(bytes.substr(40)));
  BOOST_TEST(identical(read_idx(file), images));
}

BOOST_AUTO_TEST_CASE(large_compressed_files_are_read_in_pieces) {
  const TemporaryFolder folder;
  const at::Tensor noise = at::randint(256, {3, 100000}, at::kByte);
  const std::string header("\0\0\x08\x02\0\0\0\x03\0\x01\x86\xa0", 12);
  const std::string data(static_cast<const char*>(noise.const_data_ptr()), noise.nbytes());
  const auto file = write_bytes(folder / "x-ubyte.gz", gzip(header + data));
  BOOST_TEST(identical(read_idx(file), noise));
}

BOOST_AUTO_TEST_CASE(claims_are_checked_before_memory_is_taken) {
  const std::string huge = idx("\x0e\x02\xff\xff\xff\xff\xff\xff\xff\xff" + std::string(100, 'x'));
  check_refused(huge, "too large");
  check_refused(gzip(huge), "too large");
  const std::string large = idx("\x08\x02") + std::string("\0\x10\0\0\0\x10\0\0", 8) + "x";
  check_refused(large, "1099511627776");
  check_refused(gzip(large), "1099511627776");
}

BOOST_AUTO_TEST_CASE(wrong_files_are_refused) {
  const std::string good = read_bytes(golden("type0c.idx"));
  check_refused("", "is empty");
  check_refused("x", "truncated");
  check_refused("some text", "not an idx file");
  check_refused(idx("\x07\x01") + "rest", "element type 0x07");
  check_refused(good + "x", "bytes after the end");
  check_refused(gzip(good + "x"), "bytes after the end");
  check_refused(gzip(good.substr(0, good.size() - 1)), "truncated");
  check_refused(gzip(good) + "x", "truncated");
  check_refused(gzip(good) + "garbage", "not a sound gzip file");
  check_refused(gzip(good) + std::string(10, '\0'), "not a sound gzip file");
}

BOOST_AUTO_TEST_CASE(every_truncation_is_refused) {
  for (const char* name : {"type0e.idx", "images-idx3-ubyte", "images-idx3-ubyte.gz"}) {
    check_every_prefix_is_refused(name, read_bytes(golden(name)), read_idx);
  }
}

BOOST_AUTO_TEST_CASE(damage_is_survived) {
  for (const char* name : {"type0e.idx", "images-idx3-ubyte.gz"}) {
    const std::string bytes = read_bytes(golden(name));
    check_damage_is_survived(name, bytes, 0, bytes.size(), read_idx);
  }
}

BOOST_AUTO_TEST_SUITE_END()
