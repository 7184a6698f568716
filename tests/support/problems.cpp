#include "support/problems.hpp"

#include "support/tensor_close.hpp"

namespace curvature::testing {
namespace {

namespace F = torch::nn::functional;

const auto kReal = at::TensorOptions(at::kDouble).device(test_device());

/// Numbers in [-1, 1] that depend on `seed` only; the global generator is not touched.
at::Tensor numbers(at::IntArrayRef shape, uint64_t seed) {
  const at::Tensor unit = RandomSource(seed).uniform(0, c10::multiply_integers(shape));
  return (2 * unit.to(test_device()) - 1).view(shape);
}

at::Tensor labels(at::IntArrayRef shape, int64_t num_classes, uint64_t seed) {
  return ((numbers(shape, seed) + 1) / 2 * static_cast<double>(num_classes)).floor().to(at::kLong);
}

/// A module in float64 whose parameters depend on `seed` only.
template <class Holder>
Holder seeded(Holder module, uint64_t seed) {
  const at::NoGradGuard no_grad;
  module->to(test_device(), at::kDouble);
  module->eval();
  for (at::Tensor& parameter : module->parameters()) {
    parameter.copy_(0.6 * numbers(parameter.sizes(), seed++));
  }
  for (auto& buffer : module->named_buffers()) {
    if (buffer.value().is_floating_point()) {
      buffer.value().copy_(1 + 0.3 * numbers(buffer.value().sizes(), seed++));
    }
  }
  return module;
}

torch::enumtype::kMean mean_tag;
torch::enumtype::kSum sum_tag;

auto cross_entropy_reference(F::CrossEntropyFuncOptions options = {}) {
  return [options](const at::Tensor& output, const at::Tensor& targets, Reduction reduction) {
    F::CrossEntropyFuncOptions chosen = options;
    if (reduction == Reduction::kMean) {
      chosen.reduction(mean_tag);
    } else {
      chosen.reduction(sum_tag);
    }
    // PyTorch wants the classes on axis 1; those of the problems are on axis 1 or last.
    const bool last = output.dim() > 2 && targets.sizes() != output.select(1, 0).sizes() &&
                      !targets.is_floating_point();
    return F::cross_entropy(last ? output.movedim(-1, 1) : output, targets, chosen);
  };
}

at::Tensor mse_reference(const at::Tensor& output, const at::Tensor& targets, Reduction reduction) {
  const at::Tensor squares = (output - targets).square();
  return reduction == Reduction::kMean ? squares.mean() : squares.sum();
}

auto bce_reference(at::Tensor positive_weights = {}) {
  return
      [positive_weights](const at::Tensor& output, const at::Tensor& targets, Reduction reduction) {
        return at::binary_cross_entropy_with_logits(
            output, targets, {},
            positive_weights.defined() ? std::optional(positive_weights) : std::nullopt,
            reduction == Reduction::kMean ? at::Reduction::Mean : at::Reduction::Sum);
      };
}

// A convex loss without a closed form in the library: log cosh.
at::Tensor log_cosh(const at::Tensor& output, const at::Tensor& targets) {
  return (output - targets).cosh().log().flatten(1).sum(1);
}

torch::nn::Sequential mlp(int64_t in, int64_t hidden, int64_t out, uint64_t seed) {
  return seeded(torch::nn::Sequential(torch::nn::Linear(in, hidden), torch::nn::Tanh(),
                                      torch::nn::Linear(hidden, out)),
                seed);
}

/// Embedding, layer norm, single-head attention through the fused entry point, tied output weights.
struct TinyTransformerImpl : torch::nn::Module {
  TinyTransformerImpl()
      : token(register_module("token", torch::nn::Embedding(5, 4))),
        norm(register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({4})))),
        qkv(register_module("qkv", torch::nn::Linear(4, 12))) {}
  at::Tensor forward(const at::Tensor& tokens) {
    const at::Tensor x = token(tokens);
    const auto parts = qkv(norm(x)).chunk(3, -1);
    const at::Tensor mixed = at::scaled_dot_product_attention(parts[0], parts[1], parts[2]);
    return (x + mixed).matmul(token->weight.t());
  }
  torch::nn::Embedding token;
  torch::nn::LayerNorm norm;
  torch::nn::Linear qkv;
};
TORCH_MODULE(TinyTransformer);

/// A GRU whose last state is classified; one parameter is never used.
struct RecurrentImpl : torch::nn::Module {
  RecurrentImpl()
      : gru(register_module("gru", torch::nn::GRU(torch::nn::GRUOptions(2, 3).batch_first(true)))),
        head(register_module("head", torch::nn::Linear(3, 2))),
        spare(register_module("spare", torch::nn::Linear(2, 2))) {}
  at::Tensor forward(const at::Tensor& x) { return head(std::get<0>(gru(x)).select(1, -1)); }
  torch::nn::GRU gru;
  torch::nn::Linear head, spare;
};
TORCH_MODULE(Recurrent);

/// Two inputs and a weight used twice.
struct TwoInputsImpl : torch::nn::Module {
  TwoInputsImpl() : shared(register_module("shared", torch::nn::Linear(3, 3))) {}
  at::Tensor forward(const at::Tensor& a, const at::Tensor& b) {
    return shared(at::silu(shared(a))) * b.sigmoid();
  }
  torch::nn::Linear shared;
};
TORCH_MODULE(TwoInputs);

torch::nn::Sequential convolutional(uint64_t seed) {
  return seeded(
      torch::nn::Sequential(
          torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 4, 3).padding(1).groups(2)),
          torch::nn::BatchNorm2d(4), torch::nn::ReLU(torch::nn::ReLUOptions().inplace(true)),
          torch::nn::MaxPool2d(2), torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 3, 1))),
      seed);
}

std::vector<Problem> make_problems() {
  std::vector<Problem> all;
  const auto add = [&](std::string name, Model model, LossPtr loss, TensorList inputs,
                       at::Tensor targets, auto reference, int64_t class_axis = -1) {
    all.push_back({std::move(name), std::move(model), std::move(loss), std::move(inputs),
                   std::move(targets), reference, class_axis});
  };

  add("mlp, labels", Model::from_module(mlp(3, 4, 3, 1)), cross_entropy(), {numbers({7, 3}, 2)},
      labels({7}, 3, 3), cross_entropy_reference());
  add("mlp, class probabilities", Model::from_module(mlp(3, 4, 3, 4)), cross_entropy(),
      {numbers({5, 3}, 5)}, numbers({5, 3}, 6).softmax(1), cross_entropy_reference());
  {
    const at::Tensor weights = at::tensor({0.5, 2.0, 1.25}, kReal);
    add("mlp, weights and smoothing", Model::from_module(mlp(2, 4, 3, 7)),
        cross_entropy({.class_weights = weights, .label_smoothing = 0.2}), {numbers({6, 2}, 8)},
        labels({6}, 3, 9),
        cross_entropy_reference(F::CrossEntropyFuncOptions().weight(weights).label_smoothing(0.2)));
    at::Tensor some = labels({6}, 3, 10);
    some[1] = -7;
    some[4] = -7;
    add("mlp, weights and ignored labels", Model::from_module(mlp(2, 4, 3, 11)),
        cross_entropy({.class_weights = weights, .ignore_index = -7}), {numbers({6, 2}, 12)}, some,
        cross_entropy_reference(F::CrossEntropyFuncOptions().weight(weights).ignore_index(-7)));
  }
  add("transformer, label per position", Model::from_module(seeded(TinyTransformer(), 13)),
      cross_entropy(), {labels({4, 3}, 5, 14)}, labels({4, 3}, 5, 15), cross_entropy_reference());
  add("convolutions, label per pixel", Model::from_module(convolutional(16)),
      cross_entropy({.class_axis = 1}), {numbers({5, 2, 4, 4}, 17)}, labels({5, 2, 2}, 3, 18),
      cross_entropy_reference(), 1);
  add("recurrent with unused weights, MSE", Model::from_module(seeded(Recurrent(), 19)),
      mean_squared_error(), {numbers({5, 4, 2}, 20)}, numbers({5, 2}, 21), mse_reference);
  add("two inputs, shared weights, BCE", Model::from_module(seeded(TwoInputs(), 22)),
      binary_cross_entropy_with_logits(), {numbers({6, 3}, 23), numbers({6, 3}, 24)},
      (numbers({6, 3}, 25) + 1) / 2, bce_reference());
  {
    const at::Tensor weights = at::tensor({3.0, 0.5}, kReal);
    add("mlp, weighted BCE", Model::from_module(mlp(2, 3, 2, 26)),
        binary_cross_entropy_with_logits({.positive_weights = weights}), {numbers({5, 2}, 27)},
        (numbers({5, 2}, 28) + 1) / 2, bce_reference(weights));
  }
  {
    const at::Tensor w = numbers({4}, 29).requires_grad_();
    const at::Tensor scale = numbers({1}, 30).requires_grad_();
    add("lambda with output [B], MSE",
        Model([w, scale](const TensorList& x) { return x[0].matmul(w).tanh() * scale.squeeze(0); },
              {{"w", w}, {"scale", scale}}),
        mean_squared_error(), {numbers({6, 4}, 31)}, numbers({6}, 32), mse_reference);
  }
  add("mlp over positions, MSE", Model::from_module(mlp(2, 3, 2, 33)), mean_squared_error(),
      {numbers({4, 3, 2}, 34)}, numbers({4, 3, 2}, 35), mse_reference);
  add(
      "mlp, log cosh", Model::from_module(mlp(2, 3, 2, 36)), differentiable_loss(log_cosh),
      {numbers({5, 2}, 37)}, numbers({5, 2}, 38),
      [](const at::Tensor& output, const at::Tensor& targets, Reduction reduction) {
        const at::Tensor terms = log_cosh(output, targets);
        return reduction == Reduction::kMean ? terms.mean() : terms.sum();
      },
      0);
  return all;
}

at::Tensor flat(const TensorList& list, const TensorList& like) {
  TensorList parts;
  for (size_t i = 0; i < list.size(); ++i) {
    parts.push_back((list[i].defined() ? list[i] : at::zeros_like(like[i])).detach().reshape(-1));
  }
  return at::cat(parts);
}

/// Row i is the gradient of entry i of `values` (flattened).
at::Tensor rows_of_gradients(const at::Tensor& values, const TensorList& inputs) {
  const at::Tensor entries = values.reshape(-1);
  TensorList rows;
  for (int64_t i = 0; i < entries.size(0); ++i) {
    TensorList gradient(inputs.size());
    if (entries.requires_grad()) {
      gradient = torch::autograd::grad({entries[i]}, inputs, {}, true, false, true);
    }
    rows.push_back(flat(gradient, inputs));
  }
  return at::stack(rows);
}

at::Tensor hessian_of(const at::Tensor& scalar, const TensorList& inputs) {
  TensorList gradient = torch::autograd::grad({scalar}, inputs, {}, true, true, true);
  TensorList parts;
  for (size_t i = 0; i < gradient.size(); ++i) {
    parts.push_back((gradient[i].defined() ? gradient[i] : at::zeros_like(inputs[i])).reshape(-1));
  }
  return rows_of_gradients(at::cat(parts), inputs);
}

/// Attention by matrix products: the fused kernel has no second derivative.
struct PlainAttention {
  PlainAttention() { at::globalContext().setSDPUseFlash(false); }
  ~PlainAttention() { at::globalContext().setSDPUseFlash(true); }
};

at::Tensor decay(const EmpiricalRisk& risk) {
  return risk.options().weight_decay * at::eye(risk.space().size(), kReal);
}

}  // namespace

const std::vector<Problem>& problems() {
  static const std::vector<Problem> all = make_problems();
  return all;
}

at::Tensor dense_hessian(const Problem& problem, const EmpiricalRisk& risk) {
  const PlainAttention plain;
  const at::Tensor loss =
      problem.reference(problem.model(problem.inputs), problem.targets, risk.options().reduction);
  return hessian_of(loss, risk.parameters()) + decay(risk);
}

at::Tensor dense_jacobian(const Problem& problem, const EmpiricalRisk& risk) {
  const PlainAttention plain;
  return rows_of_gradients(problem.model(problem.inputs), risk.parameters());
}

at::Tensor dense_ggn(const Problem& problem, const EmpiricalRisk& risk) {
  const at::Tensor output = problem.model(problem.inputs).detach().requires_grad_();
  const at::Tensor h =
      hessian_of(problem.reference(output, problem.targets, risk.options().reduction), {output});
  const at::Tensor j = dense_jacobian(problem, risk);
  return j.t().mm(h).mm(j) + decay(risk);
}

at::Tensor dense_empirical_fisher(const Problem& problem, const EmpiricalRisk& risk) {
  // The gradient of the summed loss with respect to the output holds the terms' gradients side by
  // side.
  const at::Tensor output = problem.model(problem.inputs).detach().requires_grad_();
  const at::Tensor g = torch::autograd::grad(
      {problem.reference(output, problem.targets, Reduction::kSum)}, {output})[0];
  const at::Tensor rows_g = problem.loss->rows(g);
  const at::Tensor index = problem.loss->rows(
      at::arange(output.numel(), output.options().dtype(at::kLong)).view(output.sizes()));
  const at::Tensor j = dense_jacobian(problem, risk);
  at::Tensor fisher = at::zeros({j.size(1), j.size(1)}, kReal);
  for (int64_t r = 0; r < rows_g.size(0); ++r) {
    const at::Tensor h = j.index_select(0, index[r]).t().mv(rows_g[r]);
    fisher += at::outer(h, h);
  }
  // k: the reduced loss over the summed loss.
  const double k = (problem.reference(output, problem.targets, risk.options().reduction) /
                    problem.reference(output, problem.targets, Reduction::kSum))
                       .item<double>();
  return k * fisher;
}

at::Tensor dense_example_gradients(const Problem& problem, const EmpiricalRisk& risk) {
  TensorList rows;
  for (int64_t n = 0; n < problem.num_examples(); ++n) {
    TensorList inputs;
    for (const at::Tensor& input : problem.inputs) inputs.push_back(input.narrow(0, n, 1));
    const at::Tensor loss = problem
                                .reference(problem.model(inputs), problem.targets.narrow(0, n, 1),
                                           risk.options().reduction)
                                .nan_to_num(0);  // an example without a term that counts
    rows.push_back(rows_of_gradients(loss, risk.parameters())[0].nan_to_num(0));
  }
  return at::stack(rows);
}

at::Tensor dense_gradient_covariance(const Problem& problem, const EmpiricalRisk& risk) {
  const at::Tensor g = dense_example_gradients(problem, risk);
  const at::Tensor centred = g - g.mean(0, true);
  const at::Tensor sum = centred.t().mm(centred);
  return risk.options().reduction == Reduction::kMean
             ? sum / static_cast<double>(problem.num_examples())
             : sum;
}

at::Tensor keep_blocks(const at::Tensor& matrix, const Space& space, bool by_layer) {
  const auto owner = [&](const std::string& name) {
    const size_t dot = name.rfind('.');
    return !by_layer ? name : dot == std::string::npos ? "" : name.substr(0, dot);
  };
  at::Tensor kept = at::zeros_like(matrix);
  for (const SpaceEntry& a : space.entries()) {
    for (const SpaceEntry& b : space.entries()) {
      if (owner(a.name) != owner(b.name)) continue;
      const auto cut = [&](const at::Tensor& m) {
        return m.narrow(0, a.offset, a.size).narrow(1, b.offset, b.size);
      };
      cut(kept).copy_(cut(matrix));
    }
  }
  return kept;
}

}  // namespace curvature::testing
