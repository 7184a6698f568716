#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <CLI/Error.hpp>
#include <CLI/Validators.hpp>

namespace curvature::cli {

// Checks of option values, for `CLI::Option::transform`: a value is taken as a whole or not at all,
// and handed on in plain decimal form. Messages read "expected X, got 'Y'".

CLI::Validator whole_number(int64_t smallest,
                            int64_t largest = std::numeric_limits<int64_t>::max());
/// 0 to 2^64 - 1.
CLI::Validator seed_number();
/// A finite number, larger than `above`.
CLI::Validator real_number(double above = -std::numeric_limits<double>::infinity());
/// `4G`, `500M`, `0`: bytes, with k, M, G, T for powers of 1024. Hands on the number of bytes.
CLI::Validator byte_count();
CLI::Validator one_of(std::vector<std::string> names);
/// `cpu`, `cuda`, `cuda:1`.
CLI::Validator device_name();
/// A file that can be created: its extension is one of these, its folder is there and writable.
CLI::Validator output_file(std::vector<std::string> extensions);

/// `a`, `a or b`, `a, b or c`.
std::string enumerate(const std::vector<std::string>& names);

}  // namespace curvature::cli
