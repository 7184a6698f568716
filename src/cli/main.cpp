#include "cli/tool.hpp"

int main(int argc, char* argv[]) { return curvature::cli::run_tool(argc, argv); }
