#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <curvature/core/random.hpp>
#include <curvature/model/empirical_risk.hpp>
#include <curvature/optim/minimizer.hpp>
#include <curvature/optim/preconditioned.hpp>

namespace curvature::cli {

/// What an option of an optimizer takes.
enum class OptionKind {
  kNumber,   ///< a finite number
  kInteger,  ///< a whole number
  kFlag,     ///< `true` or `false`
  kChoice,   ///< one of some words
};

/// An option of an optimizer, `--option NAME=VALUE`.
struct OptimizerOption {
  std::string name;           ///< `beta1`
  OptionKind kind;            ///< see there
  std::string default_value;  ///< as it would be typed
  std::string description;    ///< one line
  /// Of a choice; or what may stand for a number (`auto`).
  std::vector<std::string> words = {};
};

OptimizerOption number_option(std::string name, double default_value, std::string description);
OptimizerOption integer_option(std::string name, int64_t default_value, std::string description);
OptimizerOption flag_option(std::string name, bool default_value, std::string description);
/// The first word is the default.
OptimizerOption choice_option(std::string name, std::vector<std::string> words,
                              std::string description);
/// A number, or a word in its place, which is the default.
OptimizerOption number_or_word(std::string name, std::string word, std::string description);

/// What an option takes, as help shows it: `NUMBER`, `N`, `true|false`, `auto|NUMBER`.
std::string type_of(const OptimizerOption& option);

/// The values of all options of an optimizer.
class OptionValues {
 public:
  /// Defaults, replaced by what `assignments`, each `NAME=VALUE`, say; the last of a name counts.
  /// @throws OptionError that lists what `optimizer` knows, for an unknown name or value
  OptionValues(const std::string& optimizer, const std::vector<OptimizerOption>& options,
               const std::vector<std::string>& assignments);

  bool has(const std::string& name) const { return texts_.contains(name); }
  double number(const std::string& name) const;
  /// Empty if a word stands for the number.
  std::optional<double> number_unless_word(const std::string& name) const;
  int64_t integer(const std::string& name) const;
  bool flag(const std::string& name) const;
  const std::string& word(const std::string& name) const;
  /// All, in one spelling for each value.
  const std::map<std::string, std::string>& texts() const { return texts_; }

 private:
  std::map<std::string, std::string> texts_;
};

/// What optimizers are made with besides their options.
struct OptimizerContext {
  RandomSource random;                           ///< of everything random
  std::optional<int64_t> memory_budget;          ///< for what is kept between products
  std::function<void(const std::string&)> warn;  ///< hears of trouble that was overcome
};

/// An optimizer that the tool knows. It has one of `from_gradients` and `from_risk`.
struct OptimizerEntry {
  std::string name;                      ///< of `--optimizer`
  std::string description;               ///< one line
  std::vector<OptimizerOption> options;  ///< all it takes

  /// Makes it for parameters, where gradients are all that it needs: for `train` and `replay`.
  std::function<std::unique_ptr<optim::Preconditioned>(
      std::vector<NamedTensor> parameters, const OptionValues&, const OptimizerContext&)>
      from_gradients = {};
  /// Makes it for the parameters of a risk, where it needs the model: for `train`.
  std::function<std::unique_ptr<optim::Minimizer>(const EmpiricalRisk&, const OptionValues&,
                                                  const OptimizerContext&)>
      from_risk = {};
};

}  // namespace curvature::cli
