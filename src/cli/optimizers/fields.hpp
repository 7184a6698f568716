#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "cli/optimizers/optimizer_entry.hpp"
#include "cli/optimizers/words.hpp"

namespace curvature::cli {

/// An option of an optimizer with the field of the library's options that it sets: both are said
/// once, so that nothing is listed that is not read.
template <class Options>
struct Field {
  OptimizerOption option;
  std::function<void(Options&, const OptionValues&, const OptimizerContext&)> read;
};

template <class Options>
using Fields = std::vector<Field<Options>>;

/// A number; its default is the library's.
template <class Options>
Field<Options> number(double Options::*member, const std::string& name,
                      const std::string& description) {
  return {number_option(name, Options{}.*member, description),
          [member, name](Options& options, const OptionValues& values, const OptimizerContext&) {
            options.*member = values.number(name);
          }};
}

/// A whole number; its default is the library's.
template <class Options>
Field<Options> integer(int64_t Options::*member, const std::string& name,
                       const std::string& description) {
  return {integer_option(name, Options{}.*member, description),
          [member, name](Options& options, const OptionValues& values, const OptimizerContext&) {
            options.*member = values.integer(name);
          }};
}

/// `true` or `false`; its default is the library's.
template <class Options>
Field<Options> flag(bool Options::*member, const std::string& name,
                    const std::string& description) {
  return {flag_option(name, Options{}.*member, description),
          [member, name](Options& options, const OptionValues& values, const OptimizerContext&) {
            options.*member = values.flag(name);
          }};
}

/// One of the words; the first is the default.
template <class Options, class Value>
Field<Options> word(Value Options::*member, const std::string& name, const Words<Value>& table,
                    const std::string& description) {
  return {
      choice(name, table, description),
      [member, name, table](Options& options, const OptionValues& values, const OptimizerContext&) {
        options.*member = chosen(values, name, table);
      }};
}

/// One list after the other.
template <class Options>
Fields<Options> joined(std::initializer_list<Fields<Options>> lists) {
  Fields<Options> all;
  for (const Fields<Options>& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

}  // namespace curvature::cli
