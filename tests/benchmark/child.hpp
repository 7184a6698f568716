#pragma once

#include <cstdio>
#include <functional>
#include <string>

#include "rows.hpp"

namespace curvature::benchmark {

/// Runs `work(sink)` in a child process, so that its peak memory is its own and a crash is not
/// ours, and hands each line of JSON that it writes to `receive`. Returns what went wrong, in a
/// line; empty if nothing did. Must be called before this process starts threads: a fork copies
/// none.
std::string run_in_child(const std::function<void(std::FILE* sink)>& work,
                         const std::function<void(const Json&)>& receive);

/// Writes a line for `run_in_child`.
void send(std::FILE* sink, const Json& message);

}  // namespace curvature::benchmark
