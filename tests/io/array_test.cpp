#include <sys/stat.h>

#include <curvature/io/array.hpp>
#include <curvature/io/safetensors.hpp>

#include "io/files.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(array_test)

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(the_extension_says_what_a_file_is) {
  const at::Tensor values = counting(at::kFloat, {2, 3});
  BOOST_TEST(identical(read_array(golden("float32_C_2x3.npy")), values));
  BOOST_TEST(identical(read_array(golden("one.npz")), values));
  BOOST_TEST(identical(read_array(golden("torch_Float.pt")), values));
  BOOST_TEST(identical(read_array(golden("type0d.idx")), values));
  BOOST_TEST(identical(read_array(golden("images-idx3-ubyte")), counting(at::kByte, {4, 5, 6})));
  BOOST_TEST(identical(read_array(golden("images-idx3-ubyte.gz")), counting(at::kByte, {4, 5, 6})));
}

BOOST_AUTO_TEST_CASE(a_key_names_one_of_several_arrays) {
  const std::string npz = golden("several.npz");
  const std::string safetensors = golden("reference.safetensors");
  BOOST_TEST(identical(read_array(npz + ":y"), counting(at::kLong, {4})));
  BOOST_TEST(identical(read_array(safetensors + ":Int"), counting(at::kInt, {2, 3})));
  BOOST_TEST(
      identical(read_array(golden("one.npz").string() + ":data"), counting(at::kFloat, {2, 3})));
  BOOST_CHECK_EXCEPTION(read_array(npz), OptionError, says("one of 'x', 'y', 'empty'"));
  BOOST_CHECK_EXCEPTION(read_array(npz + ":z"), OptionError, says("it has 'x', 'y', 'empty'"));
  BOOST_CHECK_EXCEPTION(read_array(npz + ":"), OptionError, says("it has 'x'"));
  BOOST_CHECK_EXCEPTION(read_array(safetensors), OptionError, says("'BFloat16', 'Bool'"));
  BOOST_CHECK_EXCEPTION(read_array(safetensors + ":z"), OptionError, says("'Short', 'empty'"));
  BOOST_CHECK_EXCEPTION(read_array(golden("type0d.idx").string() + ":x"), OptionError,
                        says("takes no key, got 'x'"));
}

BOOST_AUTO_TEST_CASE(colons_may_be_part_of_names) {
  const TemporaryFolder folder;
  const at::Tensor a = counting(at::kFloat, {3});
  const at::Tensor b = counting(at::kLong, {2});
  write_array(folder / "x:1.npy", a);
  write_safetensors(folder / "y:2.safetensors",
                    {.tensors = {{"k:1", a}, {"k:2", b}}, .metadata = {}});

  BOOST_TEST(identical(read_array(folder / "x:1.npy"), a));
  BOOST_TEST(identical(read_array(folder / "y:2.safetensors:k:2"), b));
}

BOOST_AUTO_TEST_CASE(arrays_survive_a_round_trip) {
  const TemporaryFolder folder;
  const at::Tensor values = counting(at::kDouble, {4, 2}).t();
  for (const char* name : {"x.npy", "x.safetensors"}) {
    write_array(folder / name, values, {{"seed", "7"}});
    BOOST_TEST(identical(read_array(folder / name), values));
  }
  const Archive archive = read_safetensors(folder / "x.safetensors");
  BOOST_TEST(archive.tensors.contains("data"));
  BOOST_TEST(archive.metadata.at("seed") == "7");
}

BOOST_AUTO_TEST_CASE(a_tensor_on_another_device_is_written_from_there) {
  const TemporaryFolder folder;
  const at::Tensor values = counting(at::kFloat, {3, 2});
  for (const char* name : {"x.npy", "x.safetensors"}) {
    write_array(folder / name, values.to(test_device()));
    BOOST_TEST(identical(read_array(folder / name), values));
  }
}

BOOST_AUTO_TEST_CASE(what_is_no_array_is_refused) {
  const TemporaryFolder folder;
  BOOST_CHECK_EXCEPTION(read_array(folder / "no.npy"), FileError, says("no.npy: no such file"));
  BOOST_CHECK_EXCEPTION(read_array(folder / "no.npz:x"), FileError, says("no such file"));
  BOOST_CHECK_EXCEPTION(read_array(""), FileError, says("no such file"));
  BOOST_CHECK_EXCEPTION(read_array(write_bytes(folder / "x.csv", "1,2")), OptionError,
                        says("x.csv: unknown kind of array"));
  BOOST_CHECK_THROW(write_array(folder / "x.npz", at::ones({2})), OptionError);
  BOOST_CHECK_THROW(write_array(folder / "missing" / "x.npy", at::ones({2})), FileError);
  BOOST_CHECK_EXCEPTION(read_array(write_bytes(folder / "line\nbreak.npy", "")), FileError,
                        says("line?break.npy: is empty"));
}

BOOST_AUTO_TEST_CASE(folders_and_pipes_are_refused_at_once) {
  const TemporaryFolder folder;
  for (const char* extension : {".npy", ".npz", ".safetensors", ".pt", ".idx", ".idx.gz"}) {
    const auto directory = folder / (std::string("folder") + extension);
    const auto pipe = folder / (std::string("pipe") + extension);
    std::filesystem::create_directory(directory);
    ::mkfifo(pipe.c_str(), 0600);
    BOOST_TEST_CONTEXT(extension) {
      BOOST_CHECK_EXCEPTION(read_array(directory), FileError, says("is a directory"));
      BOOST_CHECK_EXCEPTION(read_array(pipe), FileError, says("not a regular file"));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
