#include <curvature/io/safetensors.hpp>

#include "io/files.hpp"

BOOST_AUTO_TEST_SUITE(safetensors_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

const std::vector<at::ScalarType> kDtypes = {at::kDouble, at::kFloat, at::kHalf,  at::kBFloat16,
                                             at::kLong,   at::kInt,   at::kShort, at::kChar,
                                             at::kByte,   at::kBool};

std::string safetensors(const std::string& header, const std::string& data = "") {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header + data;
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

void check_refused(const std::string& bytes, const std::string& message) {
  const TemporaryFolder folder;
  const auto file = write_bytes(folder / "x.safetensors", bytes);
  BOOST_CHECK_EXCEPTION(read_safetensors(file), FileError, says(message));
}

at::Tensor read_first(const std::filesystem::path& path) {
  const Archive archive = read_safetensors(path);
  if (archive.tensors.empty()) throw FileError(path.string() + ": no tensors");
  return archive.tensors.begin()->second;
}

}  // namespace

BOOST_AUTO_TEST_CASE(an_archive_survives_a_round_trip) {
  const TemporaryFolder folder;
  Archive archive;
  archive.metadata = {{"version", "1.0"}, {"text", "line one\nline \"two\" \xc3\xa4"}};
  for (const at::ScalarType dtype : kDtypes) {
    for (const Shape& shape : {Shape{}, {3}, {2, 3}, {2, 3, 4}, {2, 1, 3, 2}, {0}, {2, 0, 3}}) {
      archive.tensors[std::string(c10::toString(dtype)) + c10::str(shape)] = counting(dtype, shape);
    }
  }
  const auto file = folder / "x.safetensors";
  write_safetensors(file, archive);

  const Archive read = read_safetensors(file);
  BOOST_TEST((read.metadata == archive.metadata));
  BOOST_TEST(read.tensors.size() == archive.tensors.size());
  for (const auto& [name, tensor] : archive.tensors) {
    BOOST_TEST_CONTEXT(name) {
      BOOST_TEST(identical(read.tensors.at(name), tensor));
      BOOST_TEST(identical(read_safetensors(file, name), tensor));
    }
  }
  BOOST_TEST(list_safetensors(file).size() == archive.tensors.size());
}

BOOST_AUTO_TEST_CASE(files_of_the_reference_implementation_are_read) {
  const Archive archive = read_safetensors(golden("reference.safetensors"));

  BOOST_TEST(archive.tensors.size() == kDtypes.size() + 1);
  for (const at::ScalarType dtype : kDtypes) {
    const std::string name = c10::toString(dtype);
    BOOST_TEST_CONTEXT(name) {
      BOOST_TEST(identical(archive.tensors.at(name), counting(dtype, {2, 3})));
    }
  }
  BOOST_TEST(identical(archive.tensors.at("empty"), at::empty({0, 3})));
  BOOST_TEST((archive.metadata == std::map<std::string, std::string>{{"made", "by reference"}}));
}

BOOST_AUTO_TEST_CASE(the_same_archive_gives_the_bytes_of_the_reference_implementation) {
  const TemporaryFolder folder;
  const Archive archive = read_safetensors(golden("reference.safetensors"));
  write_safetensors(folder / "a.safetensors", archive);
  write_safetensors(folder / "b.safetensors", archive);

  BOOST_TEST(read_bytes(folder / "a.safetensors") == read_bytes(folder / "b.safetensors"));
  // The reference writes the same bytes, but for the order of dtypes of equal width.
  BOOST_TEST(read_bytes(folder / "a.safetensors").size() ==
             read_bytes(golden("reference.safetensors")).size());
}

BOOST_AUTO_TEST_CASE(tensors_that_are_not_contiguous_are_written_right) {
  const TemporaryFolder folder;
  const auto file = folder / "x.safetensors";
  const at::Tensor a = counting(at::kDouble, {3, 4});
  write_safetensors(file, {.tensors = {{"t", a.t()},
                                       {"slice", a.slice(1, 1, 3)},
                                       {"expanded", a[0].expand({2, 4})},
                                       {"graph", a.clone().requires_grad_() * 2}},
                           .metadata = {}});

  BOOST_TEST(identical(read_safetensors(file, "t"), a.t()));
  BOOST_TEST(identical(read_safetensors(file, "slice"), a.slice(1, 1, 3)));
  BOOST_TEST(identical(read_safetensors(file, "expanded"), a[0].expand({2, 4})));
  BOOST_TEST(identical(read_safetensors(file, "graph"), a * 2));
  BOOST_TEST(!read_safetensors(file, "graph").requires_grad());
}

BOOST_AUTO_TEST_CASE(data_is_aligned) {
  const TemporaryFolder folder;
  const auto file = folder / "x.safetensors";
  write_safetensors(
      file, {.tensors = {{"a", at::ones({3}, at::kByte)}, {"b", at::ones({2}, at::kDouble)}},
             .metadata = {}});
  const std::string bytes = read_bytes(file);
  uint64_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof(size));

  BOOST_TEST(size % 8 == 0U);
  BOOST_TEST(bytes.find("\"b\"") < bytes.find("\"a\""));
}

BOOST_AUTO_TEST_CASE(an_empty_archive_is_one) {
  const TemporaryFolder folder;
  write_safetensors(folder / "x.safetensors", {});

  BOOST_TEST(read_safetensors(folder / "x.safetensors").tensors.empty());
}

BOOST_AUTO_TEST_CASE(keys_and_dtypes_are_named) {
  const TemporaryFolder folder;
  const auto file = write_bytes(folder / "x.safetensors",
                                safetensors("{" + entry("f8", "F8_E4M3", "[1]", "[0,1]") + "," +
                                                entry("u", "U8", "[1]", "[1,2]") + "}",
                                            "ab"));

  BOOST_TEST(read_safetensors(file, "u").item<int>() == 'b');
  BOOST_CHECK_EXCEPTION(read_safetensors(file, "f8"), FileError, says("F8_E4M3"));
  BOOST_CHECK_EXCEPTION(read_safetensors(file, "v"), OptionError, says("it has 'f8', 'u'"));
}

BOOST_AUTO_TEST_CASE(headers_that_lie_are_refused) {
  const std::string good = entry("a", "F32", "[2]", "[0,8]");
  const std::string eight(8, 'x');
  check_refused("", "is empty");
  check_refused("1234567", "truncated");
  check_refused(std::string("\0\0\0\0\0\0\0\x10", 8) + "{}", "claims 1152921504606846976 bytes");
  check_refused(safetensors("nonsense"), "not JSON");
  check_refused(safetensors(""), "not JSON");
  check_refused(safetensors("[]"), "expected a JSON object");
  check_refused(safetensors("{" + good + "}", eight + "x"), "expected 8 bytes of data, got 9");
  check_refused(safetensors("{" + good + "}", "x"), "truncated");
  check_refused(safetensors("{" + good + "," + good + "}", eight), "'a' occurs twice");
  check_refused(
      safetensors(
          "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", "x"),
      "'dtype' occurs twice");
  check_refused(
      safetensors("{" + good + "," + entry("b", "F32", "[2]", "[4,12]") + "}", eight + "abcd"),
      "overlap");
  check_refused(
      safetensors("{" + good + "," + entry("b", "F32", "[1]", "[9,13]") + "}", eight + "abcde"),
      "gap");
  check_refused(safetensors("{" + entry("a", "F32", "[2]", "[1,9]") + "}", eight + "x"), "gap");
  check_refused(safetensors("{" + entry("a", "F32", "[3]", "[0,8]") + "}", eight),
                "expected 12 bytes");
  check_refused(safetensors("{" + entry("a", "F32", "[2]", "[8,0]") + "}", eight),
                "before it begins");
  check_refused(safetensors("{" + entry("a", "F32", "[-2]", "[0,8]") + "}", eight),
                "expected a count");
  check_refused(safetensors("{" + entry("a", "F32", "[2.0]", "[0,8]") + "}", eight),
                "expected a count");
  check_refused(
      safetensors("{" + entry("a", "F32", "[18446744073709551615]", "[0,8]") + "}", eight),
      "expected a count");
  check_refused(
      safetensors("{" + entry("a", "F32", "[4611686018427387904,4]", "[0,8]") + "}", eight),
      "too large");
  check_refused(safetensors("{" + entry("a", "F32", "[4611686018427387904,4,0]", "[0,0]") + "}"),
                "too large");
  check_refused(
      safetensors("{" + entry("a", "F32", "[1000000000000]", "[0,4000000000000]") + "}", eight),
      "expected 4000000000000 bytes");
  check_refused(safetensors("{" + entry("a", "F32", "2", "[0,8]") + "}", eight), "expected dtype");
  check_refused(safetensors("{" + entry("a", "F99", "[2]", "[0,8]") + "}", eight), "F99");
  check_refused(
      safetensors("{" + entry("a", "BOOL", "[2]", "[0,2]") + "}", std::string("\x01\x02")),
      "neither 0 nor 1");
  check_refused(safetensors("{\"__metadata__\":{\"a\":1}}"), "not text");
  check_refused(safetensors("{\"__metadata__\":[]}"), "no object");
  check_refused(safetensors("{\"a\":" + std::string(100000, '[')), "nested too deeply");
}

BOOST_AUTO_TEST_CASE(what_cannot_be_written_is_refused) {
  const TemporaryFolder folder;
  const auto file = folder / "x.safetensors";
  const at::Tensor one = at::ones({1});
  BOOST_CHECK_THROW(write_safetensors(file, {.tensors = {{"__metadata__", one}}, .metadata = {}}),
                    OptionError);
  BOOST_CHECK_EXCEPTION(write_safetensors(file, {.tensors = {{"\xff", one}}, .metadata = {}}),
                        OptionError, says("UTF-8"));
  BOOST_CHECK_EXCEPTION(
      write_safetensors(file, {.tensors = {{"c", one.to(at::kComplexFloat)}}, .metadata = {}}),
      DtypeDeviceError, says("tensor 'c'"));
  BOOST_TEST(folder.num_files() == 0U);
}

BOOST_AUTO_TEST_CASE(every_truncation_is_refused) {
  const std::string name = "reference.safetensors";
  check_every_prefix_is_refused(name, read_bytes(golden(name)), read_first);
}

BOOST_AUTO_TEST_CASE(damage_to_a_header_is_survived) {
  const std::string name = "reference.safetensors";
  const std::string bytes = read_bytes(golden(name));
  check_damage_is_survived(name, bytes, 0, bytes.size(), read_first);
}

BOOST_AUTO_TEST_SUITE_END()
