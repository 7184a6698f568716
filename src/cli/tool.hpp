#pragma once

namespace curvature::cli {

/// The whole tool: reads the command line, does the job, reports errors as one line on standard
/// error. Returns the exit status: 0 done, 1 the job failed, 2 the command line is wrong.
int run_tool(int argc, const char* const* argv);

}  // namespace curvature::cli
