#include "layerwise/layer_chain.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "core/check.hpp"
#include "layerwise/assemble.hpp"

namespace curvature::detail {
namespace {

using torch::autograd::Edge;
using torch::autograd::Node;

/// Layers by the nodes of the graph that make their outputs.
using LayerNodes = std::map<const Node*, size_t>;

/// The layers from whose outputs `edges` come without another layer between.
std::set<size_t> nearest_layers(const std::vector<Edge>& edges, const LayerNodes& layers) {
  std::set<size_t> nearest;
  std::set<const Node*> seen;
  std::vector<const Node*> open;
  const auto visit = [&](const Edge& edge) {
    if (edge.is_valid() && seen.insert(edge.function.get()).second) {
      open.push_back(edge.function.get());
    }
  };
  std::for_each(edges.begin(), edges.end(), visit);
  while (!open.empty()) {
    const Node* node = open.back();
    open.pop_back();
    if (const auto layer = layers.find(node); layer != layers.end()) {
      nearest.insert(layer->second);
    } else {
      std::for_each(node->next_edges().begin(), node->next_edges().end(), visit);
    }
  }
  return nearest;
}

void check_dense(const std::string& name, const LayerBlock& block, const LayerPass& pass,
                 size_t index) {
  CURVATURE_CHECK(block.kind == "linear" || block.kind == "matmul", NotSupportedError,
                  "layers: '{}' does not fit into a chain; expected a linear layer, got {}", name,
                  block.kind);
  const size_t num_uses = pass.uses_of(index).size();
  CURVATURE_CHECK(
      num_uses == 1, NotSupportedError,
      "layers: '{}' does not fit into a chain; expected a layer that is used once, got {} uses",
      name, num_uses);
  const int64_t positions = pass.num_positions(index);
  CURVATURE_CHECK(positions == 1, NotSupportedError,
                  "layers: '{}' does not fit into a chain; expected one position for each example, "
                  "got {}",
                  name, positions);
}

}  // namespace

std::vector<size_t> layer_chain(const Space& space, const LayerPlan& plan, const Recorded& recorded,
                                const LayerPass& pass) {
  const auto name = [&](size_t block) { return layer_name(space, plan.blocks[block]); };
  std::map<size_t, size_t> block_of_use;
  LayerNodes nodes;
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    check_dense(name(i), plan.blocks[i], pass, i);
    const size_t use = pass.uses_of(i).front();
    block_of_use.insert({use, i});
    nodes.insert({recorded.uses[use]->output.function.get(), i});
  }
  const auto check_origin = [&](const std::string& what, const std::vector<Edge>& edges,
                                const std::vector<size_t>& before) {
    const std::set<size_t> expected = before.empty() ? std::set<size_t>() : std::set{before.back()};
    std::vector<std::string> got;
    const std::set<size_t> nearest = nearest_layers(edges, nodes);
    for (const size_t layer : nearest) got.push_back(fmt::format("'{}'", name(layer)));
    CURVATURE_CHECK(nearest == expected, NotSupportedError,
                    "layers: {} breaks the chain of layers; expected it to come from {}, got {}",
                    what,
                    before.empty() ? "no other" : fmt::format("'{}' alone", name(before.back())),
                    got.empty() ? "none" : fmt::format("{}", fmt::join(got, ", ")));
  };
  std::vector<size_t> chain;
  for (const auto& [use, block] : block_of_use) {
    check_origin(fmt::format("the input of '{}'", name(block)), recorded.uses[use]->argument_edges,
                 chain);
    chain.push_back(block);
  }
  check_origin("the output of the model", {torch::autograd::impl::gradient_edge(recorded.output)},
               chain);
  return chain;
}

}  // namespace curvature::detail
