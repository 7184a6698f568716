#pragma once

// The only header that brings in fmt, as LibTorch has it; format.cpp is its compiled part.
#include <c10/util/ArrayRef.h>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <curvature/core/error.hpp>

/// Throws `error` with a formatted message unless `condition` holds.
#define CURVATURE_CHECK(condition, error, ...)                 \
  do {                                                         \
    if (!(condition)) throw error(::fmt::format(__VA_ARGS__)); \
  } while (false)

namespace curvature::detail {

/// `[3, 4]`, as PyTorch prints shapes.
inline std::string to_string(c10::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

}  // namespace curvature::detail
