#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace curvature::detail {

/// `text` on one line and not too long, for messages: control characters become `?`.
std::string printable(std::string_view text);

/// `'a', 'b', 'c'`, for messages; long lists are cut.
std::string printable_list(const std::vector<std::string>& names);

/// What the system says of an error number: "Permission denied".
std::string system_message(int error_number);

/// `path: no such file`, or what else the error number of a failed open means.
std::string open_failure(const std::filesystem::path& path, int error_number);

}  // namespace curvature::detail
