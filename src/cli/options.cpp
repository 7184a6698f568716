#include "cli/options.hpp"

#include <CLI/App.hpp>

#include "cli/operator_choice.hpp"
#include "cli/problem.hpp"
#include "cli/validators.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

constexpr const char* kProblem = "Problem";
constexpr const char* kOperator = "Operator";
constexpr const char* kLayerwise = "Layer-wise operators";

}  // namespace

std::string alternatives(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, "|"));
}

void add_problem_options(CLI::App& command, ProblemOptions& options) {
  const auto add = [&command](const std::string& name, auto& value, const std::string& type,
                              const std::string& description) {
    return command.add_option(name, value, description)->type_name(type)->group(kProblem);
  };
  const auto add_choice = [&add](const std::string& name, std::string& value,
                                 const std::vector<std::string>& names,
                                 const std::string& description) {
    return add(name, value, alternatives(names), description)->check(one_of(names));
  };
  add("--model", options.model, "FILE", "TorchScript archive (torch.jit.save)")->required();
  add("--inputs", options.inputs, "FILE",
      "array, example axis first; repeat it for a model that takes several")
      ->required()
      ->take_all()
      ->allow_extra_args(false);
  add("--targets", options.targets, "FILE",
      "class indices or probabilities, regression targets, or 0/1 labels")
      ->required();
  add("--batch-size", options.batch_size, "N", "examples per forward pass")
      ->transform(whole_number(1))
      ->capture_default_str();
  add_choice("--loss", options.loss, loss_names(), "PyTorch's losses")->capture_default_str();
  add("--class-axis", options.class_axis, "N", "axis of the output that holds the classes")
      ->transform(whole_number(std::numeric_limits<int64_t>::min()))
      ->capture_default_str();
  add("--ignore-index", options.ignore_index, "N", "cross-entropy label that does not count")
      ->transform(whole_number(std::numeric_limits<int64_t>::min()));
  add_choice("--reduction", options.reduction, {"mean", "sum"}, "of the loss terms")
      ->capture_default_str();
  add("--parameters", options.parameters, "GLOB",
      "parameters to differentiate, by name; may be repeated; the others are frozen")
      ->take_all()
      ->allow_extra_args(false);
  add_choice("--dtype", options.dtype, {"float32", "float64"},
             "casts model, inputs and real targets");
  add("--device", options.device, "NAME", "cpu, cuda or cuda:N")
      ->check(device_name())
      ->capture_default_str();
  add("--threads", options.threads, "N", "threads of LibTorch; its own choice by default")
      ->transform(whole_number(1, 4096));
  add("--seed", options.seed, "N", "of everything random")
      ->transform(seed_number())
      ->capture_default_str();
  add("--memory-budget", options.memory_budget, "BYTES",
      "for what is kept between products (4G, 500M, 0 to recompute); "
      "a quarter of the free memory by default")
      ->transform(byte_count());
  command.add_flag("--dry-run", options.dry_run, "say what would be done; run nothing")
      ->group(kProblem);
  command.add_flag("--json", options.json, "one JSON object on standard output")->group(kProblem);
}

void add_operator_options(CLI::App& command, OperatorOptions& options) {
  command.add_option("--operator", options.name, "which curvature matrix")
      ->required()
      ->type_name(alternatives(operator_names()))
      ->check(one_of(operator_names()))
      ->group(kOperator);
  command.add_option("--damping", options.damping, "adds X times the identity")
      ->type_name("X")
      ->transform(real_number())
      ->capture_default_str()
      ->group(kOperator);
  command.add_option("--block-diagonal", options.block_diagonal, "keep these diagonal blocks only")
      ->type_name("layer|parameter")
      ->check(one_of({"layer", "parameter"}))
      ->group(kOperator);
  command
      .add_option("--mc-samples", options.mc_samples, "draws per loss term, for ggn-mc and mc [1]")
      ->type_name("M")
      ->transform(whole_number(1))
      ->group(kOperator);
  const auto add_layerwise = [&command](const std::string& name, std::string& value,
                                        const std::vector<std::string>& names,
                                        const std::string& description) {
    command.add_option(name, value, description)
        ->type_name(alternatives(names))
        ->check(one_of(names))
        ->group(kLayerwise);
  };
  add_layerwise("--fisher", options.fisher, {"type-2", "mc", "empirical", "forward-only"},
                "vectors that are backpropagated [type-2]");
  add_layerwise("--weight-sharing", options.weight_sharing, {"expand", "reduce"},
                "positions of a layer, one by one or together [expand]");
  command.add_flag("--separate-bias", options.separate_bias, "a block of its own for each bias")
      ->group(kLayerwise);
  add_layerwise("--fallback", options.fallback, {"refuse", "diagonal", "block"},
                "for parameters without a layer rule [refuse]");
  command
      .add_option("--fit-damping", options.fit_damping,
                  "for kl-shampoo: fits X times the mean of the diagonal with it [0]")
      ->type_name("X")
      ->transform(real_number(0))
      ->group(kLayerwise);
}

CLI::Option* add_array_output(CLI::App& command, const std::string& name, std::string& file,
                              const std::string& description) {
  return command.add_option(name, file, description + " (.npy or .safetensors)")
      ->type_name("FILE")
      ->check(output_file({".npy", ".safetensors"}));
}

}  // namespace curvature::cli
