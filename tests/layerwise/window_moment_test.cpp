#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include "layerwise/layer_part.hpp"
#include "layerwise/reference.hpp"

BOOST_AUTO_TEST_SUITE(window_moment_test)

using namespace curvature;
using namespace curvature::testing;
using curvature::detail::InputMoment;
using curvature::detail::LayerPart;
using curvature::detail::match_use;
using curvature::detail::OperationUse;

namespace {

/// A convolution and the shape of its input.
struct Configuration {
  Shape input;
  int64_t outputs = 2, groups = 1;
  Shape kernel, stride, padding, dilation, output_padding;
  bool transposed = false;
};

std::ostream& operator<<(std::ostream& out, const Configuration& c) {
  return out << (c.transposed ? "transposed" : "plain") << " input " << at::IntArrayRef(c.input)
             << " groups " << c.groups << " kernel " << at::IntArrayRef(c.kernel) << " stride "
             << at::IntArrayRef(c.stride) << " padding " << at::IntArrayRef(c.padding)
             << " dilation " << at::IntArrayRef(c.dilation) << " output padding "
             << at::IntArrayRef(c.output_padding);
}

/// Whole numbers from 0 to `count` - 1, one after the other.
class Draws {
 public:
  explicit Draws(uint64_t seed) : numbers_(RandomSource(seed).uniform(0, 100000).to(at::kDouble)) {}
  int64_t below(int64_t count) {
    return static_cast<int64_t>(numbers_[next_++].item<double>() * static_cast<double>(count));
  }

 private:
  at::Tensor numbers_;
  int64_t next_ = 0;
};

/// Extents of kernel, stride, padding and dilation are drawn axis by axis; what has no output
/// pixel is drawn again.
std::vector<Configuration> configurations() {
  Draws draws(7);
  std::vector<Configuration> all;
  while (all.size() < 600) {
    Configuration c;
    const int64_t axes = 1 + draws.below(3), largest = axes == 3 ? 4 : 7;
    c.transposed = draws.below(2) == 1;
    c.groups = 1 + draws.below(2);
    c.outputs = c.groups * (1 + draws.below(2));
    c.input = {1 + draws.below(3), c.groups * (1 + draws.below(3))};
    bool has_outputs = true;
    for (int64_t i = 0; i < axes; ++i) {
      const int64_t size = 1 + draws.below(largest), k = 1 + draws.below(axes == 3 ? 3 : 5),
                    s = 1 + draws.below(4), d = 1 + draws.below(3),
                    p = draws.below(d * (k - 1) + 2),
                    extra = c.transposed ? draws.below(std::max(s, d)) : 0;
      const int64_t count = c.transposed ? (size - 1) * s - 2 * p + d * (k - 1) + extra + 1
                                         : size + 2 * p - d * (k - 1);
      has_outputs = has_outputs && count > 0;
      c.input.push_back(size);
      c.kernel.push_back(k);
      c.stride.push_back(s);
      c.padding.push_back(p);
      c.dilation.push_back(d);
      c.output_padding.push_back(extra);
    }
    if (has_outputs) all.push_back(c);
  }
  return all;
}

std::vector<LayerPart> parts_of(const Configuration& c, const at::Tensor& x) {
  Shape shape = c.transposed ? Shape{c.input[1], c.outputs / c.groups}
                             : Shape{c.outputs, c.input[1] / c.groups};
  shape.insert(shape.end(), c.kernel.begin(), c.kernel.end());
  const at::Tensor weight = numbers(shape, 2).to(x.dtype()).requires_grad_();
  std::vector<OperationUse> uses = curvature::detail::record_uses({weight}, [&] {
    at::convolution(x, weight, {}, c.stride, c.padding, c.dilation, c.transposed, c.output_padding,
                    c.groups);
  });
  BOOST_TEST_REQUIRE(uses.size() == 1);
  return match_use(std::make_shared<const OperationUse>(uses.front()), {x.size(0)}).parts;
}

}  // namespace

BOOST_AUTO_TEST_CASE(is_the_moment_of_the_windows) {
  const std::vector<Configuration> table = configurations();
  for (size_t i = 0; i < table.size(); ++i) {
    const at::Tensor x = numbers(table[i].input, i);
    BOOST_TEST_CONTEXT("configuration " << i << ": " << table[i])
    for (const LayerPart& part : parts_of(table[i], x)) {
      const bool has_stride =
          !table[i].transposed && table[i].stride != Shape(table[i].stride.size(), 1);
      BOOST_TEST_REQUIRE((part.add_moment == nullptr) == has_stride);
      if (has_stride) continue;
      const at::Tensor a = part.inputs().flatten(0, 1);
      const int64_t n = a.size(1);
      // Part of a larger matrix that is not zero.
      const at::Tensor sum = numbers({n + 1, n + 1}, i + 1), before = sum.clone();
      at::Tensor second = sum.narrow(0, 0, n).narrow(1, 0, n);
      const InputMoment moment = part.add_moment(second);
      at::Tensor expected = before.clone();
      expected.narrow(0, 0, n).narrow(1, 0, n).add_(a.t().mm(a));
      BOOST_TEST(close(sum.tril(), expected.tril(), {1e-12, 1e-12}));  // all that is used
      BOOST_TEST(close(moment.first, a.sum(0), {1e-12, 1e-12}));
      BOOST_TEST(moment.count == a.size(0));
    }
  }
}

BOOST_AUTO_TEST_CASE(in_single_precision_it_is_as_exact_as_the_product) {
  for (const bool transposed : {false, true}) {
    const Configuration c{.input = {16, 16, 20, 20},
                          .outputs = 2,
                          .kernel = {3, 3},
                          .stride = {1, 1},
                          .padding = {1, 1},
                          .dilation = {1, 1},
                          .output_padding = {0, 0},
                          .transposed = transposed};
    const at::Tensor x = (numbers(c.input, 3) + 0.3).to(at::kFloat);
    const LayerPart part = parts_of(c, x).front();
    const at::Tensor a = part.inputs().flatten(0, 1),
                     exact = a.to(at::kDouble).t().mm(a.to(at::kDouble));
    at::Tensor second = at::zeros_like(exact, at::kFloat);
    part.add_moment(second);
    const auto error = [&](const at::Tensor& m) {
      return (m.to(at::kDouble) - exact).tril().norm().item<double>() / exact.norm().item<double>();
    };
    BOOST_TEST(error(second) < 2 * error(a.t().mm(a)));
  }
}

BOOST_AUTO_TEST_CASE(is_chosen_where_channels_are_many_and_windows_overlap) {
  const auto is_chosen = [](int64_t examples, int64_t channels, int64_t size, int64_t kernel) {
    const Configuration c{.input = {examples, channels, size, size},
                          .kernel = {kernel, kernel},
                          .stride = {1, 1},
                          .padding = {kernel / 2, kernel / 2},
                          .dilation = {1, 1},
                          .output_padding = {0, 0}};
    return parts_of(c, numbers(c.input, 4)).front().moment_is_cheaper;
  };
  BOOST_TEST(is_chosen(16, 64, 16, 3));
  BOOST_TEST(is_chosen(64, 64, 4, 3));
  BOOST_TEST(!is_chosen(16, 1, 16, 3));
  BOOST_TEST(!is_chosen(16, 64, 16, 1));
}

BOOST_AUTO_TEST_CASE(factors_are_the_same_with_and_without) {
  // Weights of examples, here all one, need the windows.
  const at::Tensor w = parameter({32, 32, 3, 3}, 5), b = parameter({32}, 6);
  const Model model(
      [=](const TensorList& x) {
        const at::Tensor h = at::conv2d(x[0], w, b, 1, 1).tanh();
        return at::conv2d(h, w, {}, 1, 1).sum({2, 3});  // the second use has no bias
      },
      {{"w", w}, {"b", b}});
  const at::Tensor x = numbers({12, 32, 16, 16}, 7), y = numbers({12, 32}, 8);
  const auto uses = curvature::detail::record_uses({w, b}, [&] { model({x.narrow(0, 0, 6)}); });
  for (const OperationUse& use : uses) {
    const auto matched = match_use(std::make_shared<const OperationUse>(use), {6});
    BOOST_TEST(matched.parts.front().moment_is_cheaper);
  }
  const auto factors = [&](const at::Tensor& weights, bool separate_bias) {
    const EmpiricalRisk risk(model, mean_squared_error(), tensor_dataset({x}, y, 6, weights));
    const OperatorPtr curvature =
        kfac(risk, {.fisher = Fisher::kForwardOnly, .separate_bias = separate_bias});
    return curvature->apply(numbers({risk.space().size(), 3}, 9));
  };
  for (const bool separate_bias : {false, true}) {
    BOOST_TEST(close(factors({}, separate_bias),
                     factors(at::ones({12}, at::kDouble), separate_bias), {1e-12, 1e-12}));
  }
}

BOOST_AUTO_TEST_SUITE_END()
