#include "cli/validators.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <optional>
#include <unistd.h>

#include "core/check.hpp"

namespace curvature::cli {
namespace {

std::string complaint(const std::string& expected, const std::string& value) {
  return fmt::format("expected {}, got '{}'", expected, value);
}

template <class Number>
std::optional<Number> parse(const std::string& text) {
  const char* begin = text.data();
  const char* end = begin + text.size();
  if (begin != end && *begin == '+') ++begin;
  Number number{};
  const auto [stop, error] = std::from_chars(begin, end, number);
  if (error != std::errc() || stop != end) return std::nullopt;
  return number;
}

/// What is wrong with the place of a file to be written; empty if nothing is.
std::string folder_complaint(const std::filesystem::path& file) {
  std::error_code status;
  const std::filesystem::path folder = file.has_parent_path() ? file.parent_path() : ".";
  if (!std::filesystem::is_directory(folder, status)) {
    return fmt::format("expected a file in an existing folder, got '{}'", file.string());
  }
  if (access(folder.c_str(), W_OK | X_OK) != 0) {
    return fmt::format("expected a file in a folder that can be written to, got '{}'",
                       file.string());
  }
  if (std::filesystem::is_directory(file, status)) {
    return fmt::format("expected a file, got the folder '{}'", file.string());
  }
  return {};
}

}  // namespace

std::string enumerate(const std::vector<std::string>& names) {
  if (names.size() < 2) return names.empty() ? "nothing" : names.front();
  return fmt::format("{} or {}", fmt::join(names.begin(), names.end() - 1, ", "), names.back());
}

CLI::Validator whole_number(int64_t smallest, int64_t largest) {
  const auto check = [smallest, largest](std::string& value) -> std::string {
    const auto number = parse<int64_t>(value);
    if (number && *number >= smallest && *number <= largest) {
      value = std::to_string(*number);
      return {};
    }
    const bool bounded_below = smallest > std::numeric_limits<int64_t>::min();
    return complaint(bounded_below ? fmt::format("a whole number from {} up", smallest)
                                   : std::string("a whole number"),
                     value);
  };
  return {check, ""};
}

CLI::Validator seed_number() {
  const auto check = [](std::string& value) -> std::string {
    const auto number = parse<uint64_t>(value);
    if (!number) return complaint("a whole number from 0 to 2^64 - 1", value);
    value = std::to_string(*number);
    return {};
  };
  return {check, ""};
}

CLI::Validator real_number(double above) {
  const auto check = [above](std::string& value) -> std::string {
    const auto number = parse<double>(value);
    if (number && std::isfinite(*number) && *number > above) {
      value = fmt::format("{}", *number);
      return {};
    }
    return complaint(
        std::isfinite(above) ? fmt::format("a number above {}", above) : "a finite number", value);
  };
  return {check, ""};
}

CLI::Validator byte_count() {
  const auto check = [](std::string& value) -> std::string {
    const std::string units = "kMGT";
    std::string digits = value;
    const size_t unit = value.empty() ? std::string::npos : units.find(value.back());
    if (unit != std::string::npos) digits.pop_back();
    const int shift = unit == std::string::npos ? 0 : 10 * static_cast<int>(unit + 1);
    const auto number = parse<int64_t>(digits);
    if (!number || *number < 0 || *number > std::numeric_limits<int64_t>::max() >> shift) {
      return complaint("bytes such as 0, 500M or 4G", value);
    }
    value = std::to_string(*number << shift);
    return {};
  };
  return {check, ""};
}

CLI::Validator one_of(std::vector<std::string> names) {
  const auto check = [names = std::move(names)](std::string& value) -> std::string {
    const bool known = std::find(names.begin(), names.end(), value) != names.end();
    return known ? std::string() : complaint(enumerate(names), value);
  };
  return {check, ""};
}

CLI::Validator device_name() {
  const auto check = [](std::string& value) -> std::string {
    constexpr std::string_view kNumbered = "cuda:";
    const bool numbered = value.starts_with(kNumbered) && value.size() <= kNumbered.size() + 2 &&
                          parse<uint64_t>(value.substr(kNumbered.size()));
    if (value == "cpu" || value == "cuda" || numbered) return {};
    return complaint("cpu, cuda or cuda:N", value);
  };
  return {check, ""};
}

CLI::Validator output_file(std::vector<std::string> extensions) {
  const auto check = [extensions = std::move(extensions)](std::string& value) -> std::string {
    const std::filesystem::path file(value);
    const bool known = std::find(extensions.begin(), extensions.end(), file.extension().string()) !=
                       extensions.end();
    if (!known) return complaint("a file name that ends in " + enumerate(extensions), value);
    return folder_complaint(file);
  };
  return {check, ""};
}

}  // namespace curvature::cli
