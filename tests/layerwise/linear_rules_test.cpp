#include <torch/torch.h>

#include "layerwise/rules.hpp"

BOOST_AUTO_TEST_SUITE(linear_rules_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// Rows that are not sorted by example, or not all there.
void add_other_orders(std::vector<LayerCase>& all) {
  const at::Tensor w = parameter({2, 3}, 51), b = parameter({2}, 52);
  const std::vector<NamedTensor> both = {{"weight", w}, {"bias", b}};
  const auto add = [&](const std::string& name, const Layer& f, at::IntArrayRef shape) {
    const HandLayer hand = [=](Tape& t, const TensorList& x) {
      Shape output = x[0].sizes().vec();
      output.back() = 2;
      return t.linear("layer", x[0].reshape({-1, 3}), w, b).reshape(output);
    };
    all.push_back(make_case(name, both, f, hand, kJoint, {numbers(shape, 53)}));
  };
  const Layer outside = [=](const TensorList& x) {  // as in LibTorch's attention
    const at::Tensor rows = x[0].transpose(0, 1).reshape({-1, 3});
    return at::linear(rows, w, b).view({x[0].size(1), x[0].size(0), 2}).transpose(0, 1);
  };
  add("positions outside, merged", outside, {6, 4, 3});
  add("positions outside, merged, as long as a batch", outside, {4, 4, 3});
  add("positions outside, merged, an odd number", outside, {5, 3, 3});
  const Layer third = [=](const TensorList& x) {
    return at::linear(x[0].permute({1, 2, 0, 3}), w, b).permute({2, 0, 1, 3});
  };
  add("examples third", third, {5, 3, 2, 3});
  add("examples third, as long as a batch", third, {6, 4, 3, 3});

  // Only rows that begin with a positive number: another count in each example.
  const at::Tensor ragged = numbers({6, 4, 3}, 54);
  const auto kept = [](const at::Tensor& x) { return x.select(-1, 0).gt(0).nonzero_numpy(); };
  all.push_back(make_case(
      "packed rows of unequal examples", both,
      [=](const TensorList& x) {
        const std::vector<at::Tensor> where = kept(x[0]);
        const at::Tensor rows = at::linear(x[0].index({where[0], where[1]}), w, b);
        const at::Tensor padded = at::zeros({x[0].size(0), x[0].size(1), 2}, rows.options());
        return padded.index_put({where[0], where[1]}, rows.tanh());
      },
      [=](Tape& t, const TensorList& x) {
        const at::Tensor where = kept(x[0])[0];
        const at::Tensor rows = t.linear("layer", x[0].index_select(0, where), w, b);
        return at::zeros({x[0].size(0), 2}, rows.options()).index_put({where}, rows.tanh());
      },
      kJoint, {ragged}));
  const at::Tensor product_bias = parameter({2}, 55);
  all.push_back(make_case(
      "mm with W^T whose output is used without the bias as well",
      {{"weight", w}, {"bias", product_bias}},
      [=](const TensorList& x) {
        const at::Tensor y = x[0].mm(w.t());
        return (y + product_bias).tanh() * y;
      },
      [=](Tape& t, const TensorList& x) {
        const at::Tensor y = t.linear("layer", x[0].unsqueeze(0), w);
        return (t.shift("bias", y, product_bias).tanh() * y).squeeze(0);
      },
      [](ParameterIndex& i) {
        return std::map<std::string, BlockIndex>{{"layer", matrix(i["weight"])},
                                                 {"bias", column(i["bias"])}};
      },
      {numbers({5, 3}, 56)}));
  const at::Tensor wide = parameter({6, 3}, 57), short_bias = parameter({2}, 58);
  all.push_back(make_case(
      "a bias of some of the outputs", {{"weight", wide}, {"bias", short_bias}},
      [=](const TensorList& x) {
        return x[0].mm(wide.t()).view({-1, 3, 2}) + short_bias;
      },
      [=](Tape& t, const TensorList& x) {
        const at::Tensor y = t.linear("layer", x[0].unsqueeze(0), wide);
        return t.shift("bias", y.view({3, 2}), short_bias);
      },
      [](ParameterIndex& i) {
        return std::map<std::string, BlockIndex>{{"layer", matrix(i["weight"])},
                                                 {"bias", column(i["bias"])}};
      },
      {numbers({5, 3}, 59)}));
}

void add_linear(std::vector<LayerCase>& all) {
  const at::Tensor w = parameter({2, 3}, 1), b = parameter({2}, 2), v = parameter({3, 2}, 3);
  const std::vector<NamedTensor> both = {{"weight", w}, {"bias", b}};
  const Layer layer = [=](const TensorList& x) { return at::linear(x[0], w, b); };
  const HandLayer hand = [=](Tape& t, const TensorList& x) {
    const at::Tensor y = t.linear("layer", x[0].reshape({-1, 3}), w, b);
    Shape shape = x[0].sizes().vec();
    shape.back() = 2;
    return y.reshape(shape);
  };
  const auto plain = [&](const std::string& name, const Layer& f, at::IntArrayRef shape,
                         Head kind = Head::kOneTerm, bool classifies = false) {
    all.push_back(make_case(name, both, f, hand, kJoint, {numbers(shape, 4)}, kind, classifies));
  };
  plain("linear", layer, {5, 3});
  plain("linear, labels", layer, {5, 3}, Head::kOneTerm, true);
  plain("linear, one leading axis", layer, {4, 3, 3});
  plain("linear, two leading axes", layer, {3, 2, 2, 3});
  plain("linear, a term per position", layer, {4, 3, 3}, Head::kPositions);
  plain("linear, a label per position", layer, {4, 3, 3}, Head::kPositions, true);
  plain("linear, terms interact", layer, {4, 3, 3}, Head::kMixed);
  plain("linear, labels interact", layer, {4, 3, 3}, Head::kMixed, true);
  plain("linear, merged axes",
        [=](const TensorList& x) {
          return at::linear(x[0].reshape({-1, 3}), w, b).view({-1, x[0].size(1), 2});
        },
        {4, 3, 3});
  const Layer sequence_first = [=](const TensorList& x) {
    return at::linear(x[0].transpose(0, 1), w, b).transpose(0, 1);
  };
  plain("linear, sequence first", sequence_first, {4, 3, 3});
  plain("linear, sequence first, as long as a batch", sequence_first, {6, 4, 3});
  plain("linear, sequence first, twice a batch", sequence_first, {6, 8, 3});
  plain("linear, activation in place",
        [=](const TensorList& x) { return at::linear(x[0], w, b).mul_(2).sigmoid_(); }, {4, 3, 3});
  all.back().by_hand = [hand](Tape& t, const TensorList& x) {
    return head(Head::kOneTerm, (2 * hand(t, x)).sigmoid().unsqueeze(0)).squeeze(0);
  };
  plain("addmm", [=](const TensorList& x) { return at::addmm(b, x[0], w.t()); }, {5, 3});
  plain("expanded and permuted weight views",
        [=](const TensorList& x) { return at::linear(x[0], w.t().t(), b); }, {5, 3});

  all.push_back(make_case(
      "linear without bias", {{"weight", w}},
      [=](const TensorList& x) { return at::linear(x[0], w); },
      [=](Tape& t, const TensorList& x) { return t.linear("layer", x[0], w); }, kWeight,
      {numbers({4, 3, 3}, 5)}));
  for (const bool merged : {false, true}) {
    all.push_back(make_case(
        merged ? "mm with W" : "matmul with W", {{"weight", v}},
        [=](const TensorList& x) {
          return merged ? x[0].reshape({-1, 3}).mm(v).view({-1, 2, 2}) : x[0].matmul(v);
        },
        [=](Tape& t, const TensorList& x) { return t.linear("layer", x[0], v.t()); },
        kWeightTransposed, {numbers({4, 2, 3}, 6)}));
  }
  all.push_back(make_case(
      "addmm with W", {{"weight", v}, {"bias", b}},
      [=](const TensorList& x) { return at::addmm(b, x[0], v); },
      [=](Tape& t, const TensorList& x) {
        return t.linear("layer", x[0].unsqueeze(0), v.t(), b).squeeze(0);
      },
      [](ParameterIndex& i) {
        return std::map<std::string, BlockIndex>{{"layer", joint(i["weight"].t(), i["bias"])}};
      },
      {numbers({5, 3}, 7)}));
  all.push_back(make_case(
      "mm with W^T, then plus b", both, [=](const TensorList& x) { return x[0].mm(w.t()) + b; },
      [=](Tape& t, const TensorList& x) {
        return t.linear("layer", x[0].unsqueeze(0), w, b).squeeze(0);
      },
      kJoint, {numbers({5, 3}, 8)}));
  // The product is used a second time, without the bias: one layer with two uses.
  const at::Tensor product_bias = parameter({2}, 31);
  all.push_back(make_case(
      "mm with W^T, then plus b, and a second use of W", {{"weight", w}, {"bias", product_bias}},
      [=](const TensorList& x) {
        return (x[0].mm(w.t()) + product_bias).tanh() + x[0].square().mm(w.t());
      },
      [=](Tape& t, const TensorList& x) {
        const at::Tensor row = x[0].unsqueeze(0), square = row.square();
        const at::Tensor without = at::cat({square, at::zeros({1, 1}, square.options())}, 1);
        return (t.linear("layer", row, w, product_bias).tanh() +
                t.use("layer", without, square.matmul(w.t())))
            .squeeze(0);
      },
      kJoint, {numbers({5, 3}, 32)}));
  auto module = seeded(torch::nn::Linear(3, 2), 22);
  for (const bool sequence : {false, true}) {  // over more axes it is a product and a sum in place
    all.push_back(make_case(
        sequence ? "module over a sequence, then ReLU in place" : "module, then ReLU in place",
        named(module), [=](const TensorList& x) mutable { return module->forward(x[0]).relu_(); },
        [=](Tape& t, const TensorList& x) {
          const at::Tensor rows = sequence ? x[0] : x[0].unsqueeze(0);
          const at::Tensor y = t.linear("layer", rows, module->weight, module->bias).relu();
          return sequence ? y : y.squeeze(0);
        },
        kJoint, {sequence ? numbers({4, 2, 3}, 23) : numbers({6, 3}, 23)}));
  }
  add_other_orders(all);
  const at::Tensor frozen = numbers({2, 3}, 9);
  all.push_back(make_case(
      "frozen weight", {{"weight", frozen}, {"bias", b}},
      [=](const TensorList& x) { return at::linear(x[0], frozen, b); },
      [=](Tape& t, const TensorList& x) { return t.shift("layer", x[0].matmul(frozen.t()), b); },
      [](ParameterIndex& i) {
        return std::map<std::string, BlockIndex>{{"layer", column(i["bias"])}};
      },
      {numbers({4, 2, 3}, 10)}));
  all.push_back(make_case("unused parameter",
                          {{"weight", w}, {"spare", parameter({2, 2}, 11)}, {"bias", b}}, layer,
                          hand, kJoint, {numbers({4, 2, 3}, 12)}));

  const at::Tensor square = parameter({3, 3}, 13), c = parameter({3}, 14);
  all.push_back(make_case(
      "weight used twice", {{"weight", square}, {"bias", c}},
      [=](const TensorList& x) {
        return at::linear(at::linear(x[0], square, c).tanh(), square, c);
      },
      [=](Tape& t, const TensorList& x) {
        return t.linear("layer", t.linear("layer", x[0], square, c).tanh(), square, c);
      },
      kJoint, {numbers({4, 2, 3}, 15)}));
  all.push_back(make_case(
      "weight used at different lengths", {{"weight", square}, {"bias", c}},
      [=](const TensorList& x) {
        return at::linear(at::linear(x[0], square, c).tanh().sum(1), square, c);
      },
      [=](Tape& t, const TensorList& x) {
        const at::Tensor h = t.linear("layer", x[0], square, c).tanh().sum(0, true);
        return t.linear("layer", h, square, c).squeeze(0);
      },
      kJoint, {numbers({4, 2, 3}, 16)}));
  const at::Tensor one = parameter({1, 1}, 17), shift = parameter({1}, 18);
  all.push_back(make_case(
      "one input and one output", {{"weight", one}, {"bias", shift}},
      [=](const TensorList& x) { return at::linear(x[0], one, shift); },
      [=](Tape& t, const TensorList& x) { return t.linear("layer", x[0], one, shift); }, kJoint,
      {numbers({4, 3, 1}, 19)}));
}

std::vector<LayerCase> cases() {
  std::vector<LayerCase> all;
  add_linear(all);
  return all;
}

}  // namespace

CURVATURE_LAYER_RULE_CASES(cases)

BOOST_AUTO_TEST_SUITE_END()
