#include "problem.hpp"

namespace curvature::benchmark {

bool is_end(const std::string& parameter) {
  return parameter.find("embedding") != std::string::npos || parameter.starts_with("head.");
}

}  // namespace curvature::benchmark
