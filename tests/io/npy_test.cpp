#include <curvature/io/npy.hpp>

#include "io/files.hpp"

BOOST_AUTO_TEST_SUITE(npy_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

const std::vector<std::pair<std::string, at::ScalarType>> kDtypes = {
    {"float16", at::kHalf}, {"float32", at::kFloat}, {"float64", at::kDouble},
    {"int8", at::kChar},    {"int16", at::kShort},   {"int32", at::kInt},
    {"int64", at::kLong},   {"uint8", at::kByte},    {"bool", at::kBool}};

const std::vector<std::pair<std::string, Shape>> kShapes = {
    {"scalar", {}},      {"3", {3}},           {"0", {0}},
    {"2x3", {2, 3}},     {"2x3x4", {2, 3, 4}}, {"2x1x3x2", {2, 1, 3, 2}},
    {"2x0x3", {2, 0, 3}}};

/// An npy file of version 1 with this dictionary and `data`.
std::string npy(const std::string& dictionary, const std::string& data = "") {
  const std::string text = dictionary + "\n";
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes.push_back(static_cast<char>(text.size() & 0xff));
  bytes.push_back(static_cast<char>(text.size() >> 8));
  return bytes + text + data;
}

std::string npy_of_shape(const std::string& shape, const std::string& data = "") {
  return npy("{'descr': '<f8', 'fortran_order': False, 'shape': " + shape + ", }", data);
}

void check_refused(const std::string& bytes, const std::string& message) {
  const TemporaryFolder folder;
  const auto file = write_bytes(folder / "x.npy", bytes);
  BOOST_CHECK_EXCEPTION(read_npy(file), FileError, says(message));
  BOOST_CHECK_EXCEPTION(map_npy(file), FileError, says(message));
}

}  // namespace

BOOST_AUTO_TEST_CASE(arrays_written_by_numpy_are_read) {
  for (const auto& [name, dtype] : kDtypes) {
    for (const char* order : {"C", "F", "B"}) {
      BOOST_TEST_CONTEXT(name << " in order " << order) {
        const at::Tensor read = read_npy(golden(name + "_" + order + "_2x3.npy"));
        BOOST_TEST(identical(read, counting(dtype, {2, 3})));
        BOOST_TEST(read.is_contiguous());
      }
    }
  }
  for (const auto& [name, shape] : kShapes) {
    for (const char* order : {"C", "F"}) {
      BOOST_TEST_CONTEXT(name << " in order " << order) {
        const auto file = golden(std::string("float64_") + order + "_" + name + ".npy");
        BOOST_TEST(identical(read_npy(file), counting(at::kDouble, shape)));
        BOOST_TEST(identical(map_npy(file), counting(at::kDouble, shape)));
      }
    }
  }
  for (const char* name : {"version2_2x3.npy", "version3_2x3.npy"}) {
    BOOST_TEST(identical(read_npy(golden(name)), counting(at::kDouble, {2, 3})));
  }
}

BOOST_AUTO_TEST_CASE(arrays_survive_a_round_trip) {
  const TemporaryFolder folder;
  for (const auto& [name, dtype] : kDtypes) {
    for (const auto& [shape_name, shape] : kShapes) {
      BOOST_TEST_CONTEXT(name << " " << shape_name) {
        const at::Tensor tensor = counting(dtype, shape);
        write_npy(folder / "x.npy", tensor);
        BOOST_TEST(identical(read_npy(folder / "x.npy"), tensor));
        BOOST_TEST(identical(map_npy(folder / "x.npy"), tensor));
        const at::Tensor transposed = tensor.dim() < 2 ? tensor : tensor.transpose(0, -1);
        write_npy(folder / "x.npy", transposed);
        BOOST_TEST(identical(read_npy(folder / "x.npy"), transposed));
      }
    }
  }
  BOOST_TEST(folder.num_files() == 1U);
}

BOOST_AUTO_TEST_CASE(files_are_those_numpy_writes) {
  // NumPy pads for growth, so headers may differ in blanks; those of these files do not.
  const TemporaryFolder folder;
  for (const char* name : {"float32_C_2x3.npy", "bool_C_2x3.npy", "float64_C_3.npy",
                           "float64_C_scalar.npy", "float64_C_2x0x3.npy"}) {
    write_npy(folder / "x.npy", read_npy(golden(name)));
    BOOST_TEST(read_bytes(folder / "x.npy") == read_bytes(golden(name)));
  }
}

BOOST_AUTO_TEST_CASE(special_values_keep_their_bits) {
  const TemporaryFolder folder;
  const double inf = std::numeric_limits<double>::infinity();
  const at::Tensor tensor = at::tensor({-0.0, inf, -inf, std::nan("7"), 5e-324}, at::kDouble);
  write_npy(folder / "x.npy", tensor);
  BOOST_TEST(identical(read_npy(folder / "x.npy").view(at::kLong), tensor.view(at::kLong)));
}

BOOST_AUTO_TEST_CASE(a_mapped_array_never_changes_its_file_and_outlives_it) {
  const TemporaryFolder folder;
  const auto file = folder / "x.npy";
  write_npy(file, counting(at::kFloat, {100, 50}));
  const std::string before = read_bytes(file);

  at::Tensor row = map_npy(file)[3];
  row.fill_(-1);
  BOOST_TEST(read_bytes(file) == before);

  write_npy(file, at::zeros({2}));  // replaces the name, not the mapped file
  BOOST_TEST(identical(row, at::full({50}, -1.0F)));
}

BOOST_AUTO_TEST_CASE(a_fortran_ordered_map_is_a_view) {
  const at::Tensor mapped = map_npy(golden("float64_F_2x3x4.npy"));

  BOOST_TEST(mapped.strides() == (at::IntArrayRef{1, 2, 6}));
  BOOST_TEST(identical(mapped, counting(at::kDouble, {2, 3, 4})));
  BOOST_CHECK_EXCEPTION(map_npy(golden("float64_B_2x3.npy")), FileError, says("big-endian"));
}

BOOST_AUTO_TEST_CASE(unsupported_dtypes_are_named) {
  for (const auto& [name, message] : std::vector<std::pair<std::string, std::string>>{
           {"complex", "complex numbers (dtype '<c16')"},
           {"text", "text (dtype '<U2')"},
           {"bytes", "text (dtype '|S2')"},
           {"object", "Python objects"},
           {"uint32", "'<u4'"},
           {"structured", "structured records"},
           {"date", "dates"}}) {
    BOOST_TEST_CONTEXT(name) {
      check_refused(read_bytes(golden("refused_" + name + ".npy")), message);
    }
  }
  const TemporaryFolder folder;
  BOOST_CHECK_EXCEPTION(write_npy(folder / "x.npy", at::ones({2}, at::kBFloat16)), DtypeDeviceError,
                        says("BFloat16"));
  BOOST_CHECK_THROW(write_npy(folder / "x.npy", at::ones({2}, at::kComplexFloat)),
                    DtypeDeviceError);
  BOOST_CHECK_THROW(write_npy(folder / "x.npy", at::ones({2, 2}).to_sparse()), NotSupportedError);
  BOOST_CHECK_THROW(write_npy(folder / "x.npy", at::Tensor()), OptionError);
  BOOST_TEST(folder.num_files() == 0U);
}

BOOST_AUTO_TEST_CASE(claims_are_checked_before_memory_is_taken) {
  check_refused(npy_of_shape("(1000000000000, 3)", std::string(48, 'x')), "24000000000000");
  check_refused(npy_of_shape("(4611686018427387904, 4)"), "too large");
  check_refused(npy_of_shape("(4611686018427387904, 4, 0)"), "too large");
  check_refused(npy_of_shape("(99999999999999999999,)"), "an extent");
  check_refused(npy_of_shape("(-1,)"), "an extent");
  check_refused(npy_of_shape("(2,)", std::string(17, 'x')), "");
  std::string long_header("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12);
  check_refused(long_header, "claims 4294967295 bytes");
  std::string axes;
  for (int i = 0; i < 65; ++i) axes += "1,";
  check_refused(npy_of_shape("(" + axes + ")", std::string(8, 'x')), "65 axes");
}

BOOST_AUTO_TEST_CASE(damaged_headers_are_refused) {
  const std::string eight(8, 'x');
  check_refused("", "is empty");
  check_refused("not an array", "not a npy file");
  check_refused(std::string("\x93NUMPY\x04\x00", 8) + eight, "version 4.0");
  check_refused(npy("{'descr': '<f8', 'shape': (1,)}", eight), "the keys descr");
  check_refused(npy("{'descr': '<f8', 'descr': '<f8', 'shape': (1,)}", eight), "each once");
  check_refused(npy("{'descr': '<f8', 'fortran_order': 0, 'shape': (1,)}", eight), "True or False");
  check_refused(npy_of_shape("(1)", eight), "a comma");
  check_refused(npy_of_shape("(1.0,)", eight), "damaged npy header");
  check_refused(npy_of_shape("[1]", eight), "expected (");
  check_refused(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)} + x", eight),
                "nothing after");
  check_refused(npy("{'descr': '', 'fortran_order': False, 'shape': (1,)}", eight), "dtype ''");
  check_refused(npy("{'descr': '|b1', 'fortran_order': False, 'shape': (1,)}", "\x02"),
                "neither 0 nor 1");
}

BOOST_AUTO_TEST_CASE(misaligned_data_is_read_but_not_mapped) {
  const TemporaryFolder folder;
  const std::string dictionary = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }";
  const std::string pad((8 - (10 + dictionary.size() + 1) % 8) % 8 + 3, ' ');
  const double value = 2.5;
  const auto file = write_bytes(
      folder / "x.npy",
      npy(dictionary + pad, std::string(reinterpret_cast<const char*>(&value), sizeof(value))));

  BOOST_TEST(read_npy(file).item<double>() == value);
  BOOST_CHECK_EXCEPTION(map_npy(file), FileError, says("misaligned"));
}

BOOST_AUTO_TEST_CASE(every_truncation_is_refused) {
  for (const char* name : {"float32_C_2x3.npy", "int16_F_2x3.npy", "version2_2x3.npy"}) {
    check_every_prefix_is_refused(name, read_bytes(golden(name)), read_npy);
    check_every_prefix_is_refused(name, read_bytes(golden(name)), map_npy);
  }
}

BOOST_AUTO_TEST_CASE(damage_to_a_header_is_survived) {
  for (const char* name : {"float32_C_2x3.npy", "bool_F_2x3.npy", "version3_2x3.npy"}) {
    const std::string bytes = read_bytes(golden(name));
    check_damage_is_survived(name, bytes, 0, bytes.size(), read_npy);
    check_damage_is_survived(name, bytes, 0, bytes.size(), map_npy);
  }
}

BOOST_AUTO_TEST_SUITE_END()
