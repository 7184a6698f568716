#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

/// Samples against the laws they should follow.
namespace curvature::testing {

/// Mean and variance (unbiased) of numbers.
struct Moments {
  double mean = 0;
  double variance = 0;
};

inline Moments moments(const std::vector<double>& values) {
  Moments moments;
  const auto count = static_cast<double>(values.size());
  for (const double value : values) moments.mean += value / count;
  for (const double value : values) {
    moments.variance += (value - moments.mean) * (value - moments.mean) / (count - 1);
  }
  return moments;
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Root mean square.
inline double root_mean_square(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

}  // namespace curvature::testing
