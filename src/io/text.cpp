#include "io/text.hpp"

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace curvature::detail {

std::string printable(std::string_view text) {
  constexpr size_t kLongest = 300;
  std::string line(text.substr(0, kLongest));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (text.size() > kLongest) line += "...";
  return line;
}

std::string printable_list(const std::vector<std::string>& names) {
  constexpr size_t kMost = 20;
  if (names.empty()) return "none";
  std::string list;
  for (size_t i = 0; i < std::min(names.size(), kMost); ++i) {
    list += (i > 0 ? ", '" : "'") + printable(names[i]) + "'";
  }
  if (names.size() > kMost) list += " and " + std::to_string(names.size() - kMost) + " more";
  return list;
}

std::string system_message(int error_number) {
  return std::generic_category().message(error_number);
}

std::string open_failure(const std::filesystem::path& path, int error_number) {
  const bool missing = error_number == ENOENT || error_number == ENOTDIR;
  return printable(path.native()) + ": " +
         (missing ? "no such file" : system_message(error_number));
}

}  // namespace curvature::detail
