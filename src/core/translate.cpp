#include "core/translate.hpp"

#include <sstream>
#include <vector>

namespace curvature::detail {
namespace {

std::string strip(const std::string& line) {
  const size_t begin = line.find_first_not_of(" \t\r");
  if (begin == std::string::npos) return {};
  return line.substr(begin, line.find_last_not_of(" \t\r") - begin + 1);
}

}  // namespace

std::string one_line_reason(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  std::istringstream text(torch_error ? torch_error->what_without_backtrace() : error.what());
  std::string first, last_named;
  for (std::string line; std::getline(text, line);) {
    line = strip(line);
    if (line.empty()) continue;
    if (first.empty()) first = line;
    // The interpreter prints its stack first and the reason at the end: "RuntimeError: reason".
    if (line.find("Error: ") != std::string::npos) last_named = line;
  }
  return last_named.empty() ? first : last_named;
}

}  // namespace curvature::detail
