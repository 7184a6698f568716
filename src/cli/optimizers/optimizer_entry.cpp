#include "cli/optimizers/optimizer_entry.hpp"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "cli/options.hpp"
#include "cli/validators.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

bool is_word(const OptimizerOption& option, const std::string& text) {
  return std::find(option.words.begin(), option.words.end(), text) != option.words.end();
}

/// What is wrong with a value, or nothing; gives the value its one spelling.
std::string complaint_about(const OptimizerOption& option, std::string& text) {
  if (is_word(option, text)) return {};
  const std::string instead =
      option.words.empty() ? "" : fmt::format("{} or ", fmt::join(option.words, ", "));
  switch (option.kind) {
    case OptionKind::kNumber: {
      const std::string given = text;
      return real_number()(text).empty()
                 ? std::string()
                 : fmt::format("expected {}a finite number, got '{}'", instead, given);
    }
    case OptionKind::kInteger: {
      const std::string given = text;
      return whole_number(std::numeric_limits<int64_t>::min())(text).empty()
                 ? std::string()
                 : fmt::format("expected {}a whole number, got '{}'", instead, given);
    }
    case OptionKind::kFlag:
      return one_of({"true", "false"})(text);
    case OptionKind::kChoice:
      return one_of(option.words)(text);
  }
  throw std::logic_error("complaint_about: unknown kind of option");
}

/// Of a text that is one: `std::stod` refuses numbers that are subnormal.
double to_number(const std::string& text) { return std::strtod(text.c_str(), nullptr); }

std::string names_of(const std::vector<OptimizerOption>& options) {
  std::vector<std::string> names;
  for (const OptimizerOption& option : options) names.push_back(option.name);
  return enumerate(names);
}

}  // namespace

OptimizerOption number_option(std::string name, double default_value, std::string description) {
  return {std::move(name), OptionKind::kNumber, fmt::format("{}", default_value),
          std::move(description)};
}

OptimizerOption integer_option(std::string name, int64_t default_value, std::string description) {
  return {std::move(name), OptionKind::kInteger, std::to_string(default_value),
          std::move(description)};
}

OptimizerOption flag_option(std::string name, bool default_value, std::string description) {
  return {std::move(name), OptionKind::kFlag, default_value ? "true" : "false",
          std::move(description)};
}

OptimizerOption choice_option(std::string name, std::vector<std::string> words,
                              std::string description) {
  std::string first = words.front();
  return {std::move(name), OptionKind::kChoice, std::move(first), std::move(description),
          std::move(words)};
}

OptimizerOption number_or_word(std::string name, std::string word, std::string description) {
  return {std::move(name), OptionKind::kNumber, word, std::move(description), {word}};
}

std::string type_of(const OptimizerOption& option) {
  std::vector<std::string> alternatives_of_it = option.words;
  if (option.kind == OptionKind::kNumber) alternatives_of_it.push_back("X");
  if (option.kind == OptionKind::kInteger) alternatives_of_it.push_back("N");
  if (option.kind == OptionKind::kFlag) alternatives_of_it = {"true", "false"};
  return alternatives(alternatives_of_it);
}

OptionValues::OptionValues(const std::string& optimizer,
                           const std::vector<OptimizerOption>& options,
                           const std::vector<std::string>& assignments) {
  for (const OptimizerOption& option : options) {
    std::string text = option.default_value;
    const std::string wrong = complaint_about(option, text);
    if (!wrong.empty() || !texts_.emplace(option.name, text).second) {
      throw std::logic_error("OptionValues: '" + option.name + "' is declared wrongly");
    }
  }
  for (const std::string& assignment : assignments) {
    const size_t equals = assignment.find('=');
    CURVATURE_CHECK(equals != std::string::npos, OptionError,
                    "--option: expected NAME=VALUE with a name of {}, got '{}'", names_of(options),
                    assignment);
    const std::string name = assignment.substr(0, equals);
    const auto option = std::find_if(options.begin(), options.end(),
                                     [&](const OptimizerOption& o) { return o.name == name; });
    CURVATURE_CHECK(option != options.end(), OptionError,
                    "--option: {} has no such option; expected {}, got '{}'", optimizer,
                    names_of(options), name);
    std::string text = assignment.substr(equals + 1);
    const std::string wrong = complaint_about(*option, text);
    CURVATURE_CHECK(wrong.empty(), OptionError, "--option {}: {}", name, wrong);
    texts_[name] = text;
  }
}

double OptionValues::number(const std::string& name) const { return to_number(word(name)); }

std::optional<double> OptionValues::number_unless_word(const std::string& name) const {
  std::string text = word(name);
  if (!real_number()(text).empty()) return std::nullopt;
  return to_number(text);
}

int64_t OptionValues::integer(const std::string& name) const { return std::stoll(word(name)); }

bool OptionValues::flag(const std::string& name) const { return word(name) == "true"; }

const std::string& OptionValues::word(const std::string& name) const { return texts_.at(name); }

}  // namespace curvature::cli
