#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <c10/core/ScalarType.h>

#include <curvature/optim/factor_structure.hpp>

#include "cli/optimizers/optimizer_entry.hpp"

namespace curvature::cli {

/// Enumerators by the words that choose them; the first is the default.
template <class Enum>
using Words = std::vector<std::pair<std::string, Enum>>;

/// An option that takes one of the words.
template <class Enum>
OptimizerOption choice(const std::string& name, const Words<Enum>& table,
                       const std::string& description) {
  std::vector<std::string> words;
  for (const auto& [word, value] : table) words.push_back(word);
  return choice_option(name, words, description);
}

/// The enumerator that was chosen.
template <class Enum>
Enum chosen(const OptionValues& values, const std::string& name, const Words<Enum>& table) {
  for (const auto& [word, value] : table) {
    if (word == values.word(name)) return value;
  }
  throw std::logic_error("chosen: '" + values.word(name) + "' is not in the table of " + name);
}

/// Dtypes of what an optimizer keeps or multiplies.
inline const Words<std::optional<at::ScalarType>> kDtypes = {{"parameters", std::nullopt},
                                                             {"float32", at::kFloat},
                                                             {"float64", at::kDouble},
                                                             {"bfloat16", at::kBFloat16}};

/// Structures of factors.
inline const Words<optim::FactorStructure> kStructures = {
    {"dense", optim::FactorStructure::kDense},
    {"diagonal", optim::FactorStructure::kDiagonal},
    {"block-diagonal", optim::FactorStructure::kBlockDiagonal},
    {"lower-triangular", optim::FactorStructure::kLowerTriangular},
    {"upper-triangular", optim::FactorStructure::kUpperTriangular},
    {"lower-toeplitz", optim::FactorStructure::kLowerToeplitz},
    {"upper-toeplitz", optim::FactorStructure::kUpperToeplitz},
    {"hierarchical", optim::FactorStructure::kHierarchical}};

}  // namespace curvature::cli
