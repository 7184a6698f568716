#include <curvature/io/torch_file.hpp>

#include "io/files.hpp"

BOOST_AUTO_TEST_SUITE(torch_file_test)

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(tensors_saved_by_python_are_read) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
                                     at::kInt, at::kShort, at::kChar, at::kByte, at::kBool}) {
    const std::string name = std::string("torch_") + c10::toString(dtype) + ".pt";
    BOOST_TEST_CONTEXT(name) {
      BOOST_TEST(identical(read_torch_tensor(golden(name)), counting(dtype, {2, 3})));
    }
  }
  const at::Tensor values = counting(at::kFloat, {2, 3});
  BOOST_TEST(identical(read_torch_tensor(golden("torch_transposed.pt")), values.t()));
  BOOST_TEST(identical(read_torch_tensor(golden("torch_slice.pt")), values + 3));
  BOOST_TEST(identical(read_torch_tensor(golden("torch_expanded.pt")), at::full({2, 3}, 5.0F)));
  BOOST_TEST(identical(read_torch_tensor(golden("torch_parameter.pt")), values));
  BOOST_TEST(!read_torch_tensor(golden("torch_parameter.pt")).requires_grad());
  BOOST_TEST(identical(read_torch_tensor(golden("torch_empty.pt")), at::empty({0, 3})));
  BOOST_TEST(identical(read_torch_tensor(golden("torch_scalar.pt")), at::scalar_tensor(7.0F)));
  BOOST_TEST(identical(read_torch_tensor(golden("torch_protocol4.pt")), values));
}

BOOST_AUTO_TEST_CASE(tensors_saved_by_cpp_are_read) {
  const TemporaryFolder folder;
  const std::string file = folder / "x.pt";
  const at::Tensor values = counting(at::kDouble, {70, 300});
  for (const at::Tensor& tensor : {values, values.t(), values.clone().requires_grad_(),
                                   values.slice(0, 3, 9), at::scalar_tensor(2.0), at::empty({0})}) {
    torch::save(tensor, file);
    BOOST_TEST(identical(read_torch_tensor(file), tensor));
  }
}

BOOST_AUTO_TEST_CASE(anything_else_is_named) {
  for (const auto& [name, message] : std::vector<std::pair<std::string, std::string>>{
           {"state_dict", "holds a dictionary (a state_dict?); expected one tensor"},
           {"dictionary", "holds a dictionary"},
           {"list", "holds a list of 2 values"},
           {"module", "a Python object made by torch.nn.modules.linear.Linear"},
           {"number", "holds a plain value"},
           {"torchscript", "holds a TorchScript module"},
           {"complex", "unsupported storage torch.ComplexFloatStorage"},
           {"sparse", "a Python object made by torch._utils._rebuild_sparse_tensor"},
           {"legacy", "torch < 1.6"}}) {
    BOOST_TEST_CONTEXT(name) {
      BOOST_CHECK_EXCEPTION(read_torch_tensor(golden("refused_" + name + ".pt")), FileError,
                            says(message));
    }
  }
  const TemporaryFolder folder;
  const std::string several = folder / "several.pt";
  torch::save(std::vector<at::Tensor>{at::ones({2}), at::ones({3})}, several);
  BOOST_CHECK_EXCEPTION(read_torch_tensor(several), FileError, says("a TorchScript module"));
  torch::save(torch::nn::Linear(2, 1), several);
  BOOST_CHECK_EXCEPTION(read_torch_tensor(several), FileError, says("a TorchScript module"));
  BOOST_CHECK_EXCEPTION(read_torch_tensor(golden("one.npz")), FileError, says("not of torch.save"));
  BOOST_CHECK_EXCEPTION(read_torch_tensor(write_bytes(folder / "empty.pt", "")), FileError,
                        says("is empty"));
  BOOST_CHECK_EXCEPTION(read_torch_tensor(write_bytes(folder / "text.pt", "not a tensor\n")),
                        FileError, says("not a sound zip file"));
}

BOOST_AUTO_TEST_CASE(every_truncation_is_refused) {
  const std::string name = "torch_Double.pt";
  check_every_prefix_is_refused(name, read_bytes(golden(name)), read_torch_tensor);
}

BOOST_AUTO_TEST_CASE(damage_is_survived) {
  for (const char* name : {"torch_Double.pt", "torch_expanded.pt", "torch_protocol4.pt"}) {
    const std::string bytes = read_bytes(golden(name));
    check_damage_is_survived(name, bytes, 0, bytes.size(), read_torch_tensor);
  }
}

BOOST_AUTO_TEST_SUITE_END()
