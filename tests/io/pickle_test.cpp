#include "../../src/io/pickle.hpp"

#include "io/files.hpp"

BOOST_AUTO_TEST_SUITE(pickle_test)

using namespace curvature;
using namespace curvature::testing;
using curvature::detail::Pickle;
using Kind = curvature::detail::PickleValue::Kind;

// Damage to a `.pt` file is mostly caught by the checksums of the zip archive around it; these
// tests meet the pickle alone.

namespace {

/// The pickle of torch.save(torch.ones(2, 3), FILE), as Python writes it.
const std::string kTensor =
    std::string("\x80\x02") + "ctorch._utils\n_rebuild_tensor_v2\nq" + std::string(1, '\0') +
    "((X\x07" + std::string(3, '\0') + "storageq\x01" + "ctorch\nFloatStorage\nq\x02X\x01" +
    std::string(3, '\0') + "0q\x03X\x03" + std::string(3, '\0') + "cpuq\x04K\x06tq\x05QK" +
    std::string(1, '\0') + "K\x02K\x03\x86q\x06K\x03K\x01\x86q\x07\x89" +
    "ccollections\nOrderedDict\nq\x08)Rq\x09tq\x0aRq\x0b.";

}  // namespace

BOOST_AUTO_TEST_CASE(a_tensor_is_a_call_with_its_description) {
  const Pickle pickle("x.pt", kTensor);
  const auto& root = pickle.root();

  BOOST_TEST((root.kind == Kind::kCall));
  BOOST_TEST(root.items[0]->text == "torch._utils._rebuild_tensor_v2");
  BOOST_TEST(root.items[1]->items.size() == 6U);
  BOOST_TEST(root.items[1]->items[2]->items[1]->integer == 3);
}

BOOST_AUTO_TEST_CASE(numbers_are_exact) {
  const auto integer = [](const std::string& bytes) {
    return Pickle("x", "\x80\x02" + bytes + ".").root().integer;
  };
  BOOST_TEST(integer("K\xff") == 255);
  BOOST_TEST(integer("M\xff\xff") == 65535);
  BOOST_TEST(integer("J\xff\xff\xff\xff") == -1);
  BOOST_TEST(integer("\x8a\x02\xff\x7f") == 32767);
  BOOST_TEST(integer("\x8a\x01\x80") == -128);
  BOOST_TEST(integer(std::string("\x8a\x08") + std::string(7, '\0') + "\x40") == int64_t{1} << 62);
  BOOST_TEST((Pickle("x", "\x8a\x09" + std::string(9, '\1') + ".").root().kind == Kind::kOther));
}

BOOST_AUTO_TEST_CASE(values_may_contain_themselves) {
  // x = []; x.append(x)
  const Pickle pickle("x", std::string("\x80\x02]q") + '\0' + "h" + '\0' + "a.");
  BOOST_TEST(pickle.root().items[0] == &pickle.root());
}

BOOST_AUTO_TEST_CASE(deep_nesting_needs_no_stack) {
  const Pickle pickle("x", "N" + std::string(1000000, '\x85') + ".");
  BOOST_TEST((pickle.root().kind == Kind::kTuple));
}

BOOST_AUTO_TEST_CASE(nonsense_is_refused) {
  for (const std::string& bytes : std::vector<std::string>{"",
                                                           ".",
                                                           "N",
                                                           "NN.",
                                                           "(.",
                                                           "(N.",
                                                           "N(0.",
                                                           "\x80\x09N.",
                                                           "t.",
                                                           "N(N\x86.",
                                                           "R.",
                                                           "NR.",
                                                           "h\x01.",
                                                           "NNa.",
                                                           "}(Nu.",
                                                           "X\xff\xff\xff\xff.",
                                                           "\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
                                                           "\x95\xff\xff\xff\xff\xff\xff\xff\xffN.",
                                                           "cos\nsystem",
                                                           "NN\x93.",
                                                           "N.N",
                                                           "I1\n.",
                                                           "\x8a\xff.",
                                                           "q\x01.",
                                                           "Q."}) {
    BOOST_CHECK_EXCEPTION(Pickle("x.pt", bytes), FileError, says("x.pt: damaged"));
  }
}

BOOST_AUTO_TEST_CASE(every_truncation_is_refused) {
  for (size_t size = 0; size < kTensor.size(); ++size) {
    BOOST_CHECK_THROW(Pickle("x", kTensor.substr(0, size)), FileError);
  }
}

BOOST_AUTO_TEST_CASE(damage_is_survived) {
  size_t num_errors = 0;
  for (size_t position = 0; position < kTensor.size(); ++position) {
    for (int value = 0; value < 256; ++value) {
      std::string damaged = kTensor;
      damaged[position] = static_cast<char>(value);
      try {
        const Pickle pickle("x", damaged);
      } catch (const FileError&) {
        ++num_errors;
      }
    }
  }
  BOOST_TEST(num_errors > 0U);
}

BOOST_AUTO_TEST_SUITE_END()
