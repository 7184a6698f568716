#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/kernels.hpp"
#include "core/pieces.hpp"

namespace curvature::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::Variable;
using torch::autograd::variable_list;

/// x, [m, n], of which every row is normalised by its mean and its scale r = (variance +
/// epsilon)^-1/2, both [m, 1]: z = (x - mean) r.
struct NormalisedRows {
  at::Tensor x, mean, scale;

  static NormalisedRows of(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                           int64_t width) {
    return {x.reshape({-1, width}), mean.reshape({-1, 1}), scale.reshape({-1, 1})};
  }

  NormalisedRows piece(int64_t begin, int64_t count) const {
    return {x.narrow(0, begin, count), mean.narrow(0, begin, count), scale.narrow(0, begin, count)};
  }

  /// The same numbers, but mean and scale are functions of x, as they were where they come from.
  NormalisedRows differentiable() const {
    const at::Tensor variance = x.var(-1, /*unbiased=*/false, /*keepdim=*/true);
    const at::Tensor epsilon = (scale.pow(-2) - variance).detach();
    return {x, x.mean(-1, /*keepdim=*/true), (variance + epsilon).rsqrt()};
  }

  at::Tensor normalised() const { return (x - mean) * scale; }

  /// r P(h w), P h = h - mean h - z mean h z: what a gradient h becomes.
  at::Tensor pull_back(const at::Tensor& h, const at::Tensor& weight) const {
    return std::get<0>(at::native_layer_norm_backward(h, x, x.sizes().slice(1), mean, scale, weight,
                                                      {}, {true, false, false}));
  }
};

at::Tensor row_means(const at::Tensor& x) { return x.mean(-1, /*keepdim=*/true); }

/// Directions of the three results of a gradient (undefined: none), and what they are wanted for.
struct LayerNormDirections {
  at::Tensor of_input, of_weight, of_bias;
  bool for_input = true, for_weight = true;

  bool any() const { return of_input.defined() || of_weight.defined() || of_bias.defined(); }
};

struct LayerNormDerivatives {
  at::Tensor of_gradient, of_input, of_weight;
};

at::Tensor plus(const at::Tensor& a, const at::Tensor& b) { return a.defined() ? a + b : b; }

/// What becomes of the directions u, s, t, where w is the weight, a = r P u and b = r P (g w):
///   of g  a w + z s + t
///   of x  r P (g s) - r (z mean u b + a mean g w z + b mean u z)
///   of w  sum over rows of g a
LayerNormDerivatives derivatives(const LayerNormDirections& direction, const at::Tensor& g,
                                 const NormalisedRows& rows, const at::Tensor& w) {
  const at::Tensor &u = direction.of_input, &s = direction.of_weight, &t = direction.of_bias;
  const at::Tensor z = rows.normalised();
  LayerNormDerivatives result;
  if (s.defined()) result.of_gradient = z * s;
  if (t.defined()) result.of_gradient = plus(result.of_gradient, t.expand_as(g));
  if (s.defined() && direction.for_input) result.of_input = rows.pull_back(g, s);
  if (!u.defined()) return result;
  const at::Tensor a = rows.pull_back(u, {});
  result.of_gradient = plus(result.of_gradient, w.defined() ? a * w : a);
  if (direction.for_weight) result.of_weight = (g * a).sum(0);
  if (!direction.for_input) return result;
  const at::Tensor b = rows.pull_back(g, w), gw = w.defined() ? g * w : g;
  const at::Tensor of_statistics =
      z * row_means(u * b) + a * row_means(gw * z) + b * row_means(u * z);
  result.of_input = plus(result.of_input, of_statistics * -rows.scale);
  return result;
}

LayerNormDerivatives derivatives_by_pieces(const LayerNormDirections& direction,
                                           const at::Tensor& g, const NormalisedRows& rows,
                                           const at::Tensor& w) {
  const at::Tensor &u = direction.of_input, &s = direction.of_weight;
  const int64_t m = g.size(0), n = g.size(1);
  const auto empty = [&](bool exists, int64_t num_rows) {
    return exists ? at::empty({num_rows, n}, g.options()) : at::Tensor();
  };
  LayerNormDerivatives all = {empty(true, m),
                              empty(direction.for_input && (u.defined() || s.defined()), m),
                              empty(direction.for_weight && u.defined(), num_pieces(m, n))};
  by_pieces(m, n, [&](int64_t piece, int64_t begin, int64_t count) {
    const auto rows_of = [&](const at::Tensor& x) {
      return x.defined() ? x.narrow(0, begin, count) : x;
    };
    LayerNormDirections here = direction;
    here.of_input = rows_of(u);
    const LayerNormDerivatives part = derivatives(here, rows_of(g), rows.piece(begin, count), w);
    rows_of(all.of_gradient).copy_(part.of_gradient);
    if (all.of_input.defined()) rows_of(all.of_input).copy_(part.of_input);
    if (all.of_weight.defined()) all.of_weight.select(0, piece).copy_(part.of_weight);
  });
  if (all.of_weight.defined()) all.of_weight = all.of_weight.sum(0);
  return all;
}

/// (g, x, w) -> (r P (g w), sum over rows of g z, sum over rows of g).
struct LayerNormGradient : Function<LayerNormGradient> {
  static variable_list forward(AutogradContext* context, const Variable& g, const Variable& x,
                               const std::optional<at::Tensor>& w, const at::Tensor& mean,
                               const at::Tensor& scale, at::IntArrayRef shape,
                               const std::optional<at::Tensor>& bias) {
    context->set_materialize_grads(false);
    context->save_for_backward({g, x, w.value_or(at::Tensor()), mean, scale});
    context->saved_data["width"] = c10::multiply_integers(shape);
    auto [of_x, of_w, of_b] = at::native_layer_norm_backward(
        g, x, shape, mean, scale, w, bias, {true, is_defined(w), is_defined(bias)});
    variable_list results = {of_x};
    if (is_defined(w)) results.push_back(of_w);
    if (is_defined(bias)) results.push_back(of_b);
    return results;
  }

  static variable_list backward(AutogradContext* context, variable_list given) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &g = saved[0], &x = saved[1], &w = saved[2];
    const int64_t width = context->saved_data["width"].toInt();
    const auto flat = [](const at::Tensor& a, at::IntArrayRef shape) {
      return a.defined() ? a.reshape(shape) : a;
    };
    given.resize(3);
    if (!w.defined()) std::swap(given[1], given[2]);  // the second of two is the bias's
    const LayerNormDirections direction = {flat(given[0], {-1, width}), flat(given[1], -1),
                                           flat(given[2], -1), context->needs_input_grad(1),
                                           w.defined() && context->needs_input_grad(2)};
    variable_list result(7);
    if (!direction.any()) return result;
    const NormalisedRows rows = NormalisedRows::of(x, saved[3], saved[4], width);
    const LayerNormDerivatives of =
        at::GradMode::is_enabled()
            ? derivatives(direction, g.reshape({-1, width}), rows.differentiable(), flat(w, -1))
            : derivatives_by_pieces(direction, g.reshape({-1, width}), rows, flat(w, -1));
    result[0] = flat(of.of_gradient, g.sizes());
    result[1] = flat(of.of_input, x.sizes());
    if (w.defined()) result[2] = flat(of.of_weight, w.sizes());
    return result;
  }
};

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> layer_norm_backward_kernel(
    c10::DispatchKeySet keys, const at::Tensor& output_gradient, const at::Tensor& input,
    c10::SymIntArrayRef shape, const at::Tensor& mean, const at::Tensor& scale,
    const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
    std::array<bool, 3> wanted) {
  const auto is_of_dtype = [&](const at::Tensor& x) {
    return x.scalar_type() == input.scalar_type();
  };
  const auto or_none = [](const std::optional<at::Tensor>& x) {
    return is_defined(x) ? x : std::nullopt;
  };
  if (is_differentiated_by_ours(output_gradient, input) && is_of_dtype(scale) &&
      (!is_defined(weight) || is_of_dtype(*weight))) {
    const variable_list results =
        LayerNormGradient::apply(output_gradient, input, or_none(weight), mean, scale,
                                 C10_AS_INTARRAYREF_SLOW(shape), or_none(bias));
    size_t next = 0;
    const auto take = [&](bool exists, bool is_wanted) {
      if (!exists) return at::Tensor();
      const at::Tensor& result = results[next++];
      return is_wanted ? result : at::Tensor();
    };
    at::Tensor of_input = take(true, wanted[0]);
    at::Tensor of_weight = take(is_defined(weight), wanted[1]);
    return {of_input, of_weight, take(is_defined(bias), wanted[2])};
  }
  return at::_ops::native_layer_norm_backward::redispatch(by_libtorch(keys), output_gradient, input,
                                                          shape, mean, scale, weight, bias, wanted);
}

}  // namespace curvature::detail
