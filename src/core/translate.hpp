#pragma once

#include <string>

#include <c10/util/Exception.h>

namespace curvature::detail {

/// The reason in an exception of LibTorch or the TorchScript interpreter, as one line: without
/// backtrace, interpreter stack and source excerpt.
std::string one_line_reason(const std::exception& error);

}  // namespace curvature::detail
