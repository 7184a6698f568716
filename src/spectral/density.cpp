#include <algorithm>
#include <cmath>
#include <limits>

#include <curvature/spectral/density.hpp>
#include <curvature/spectral/lanczos.hpp>

#include "core/check.hpp"
#include "spectral/lockstep_lanczos.hpp"
#include "spectral/quadrature.hpp"
#include "spectral/sampling.hpp"

namespace curvature {
namespace {

void check_smoothing(const std::vector<Quadrature>& quadratures, const SmoothingOptions& options) {
  CURVATURE_CHECK(!quadratures.empty(), OptionError, "smooth: there are no quadratures");
  CURVATURE_CHECK(options.num_points >= 2, OptionError,
                  "smooth: expected num_points of at least 2, got {}", options.num_points);
  CURVATURE_CHECK(!options.kappa || *options.kappa > 1, OptionError,
                  "smooth: expected kappa > 1, got {}", *options.kappa);
  CURVATURE_CHECK(options.margin >= 0, OptionError, "smooth: margin must not be negative; got {}",
                  options.margin);
  CURVATURE_CHECK(options.epsilon > 0, OptionError, "smooth: epsilon must be positive; got {}",
                  options.epsilon);
}

/// The evenly spaced coordinates x in which a density is smoothed, and the grid g(x).
class Axis {
 public:
  Axis(const std::vector<Quadrature>& quadratures, const SmoothingOptions& options)
      : logarithmic_(options.scale == DensityScale::kLog), epsilon_(options.epsilon) {
    double lowest = std::numeric_limits<double>::infinity();
    double highest = -lowest;
    for (const Quadrature& quadrature : quadratures) {
      for (const double node : quadrature.nodes) {
        lowest = std::min(lowest, coordinate(node));
        highest = std::max(highest, coordinate(node));
      }
    }
    const double centre = (lowest + highest) / 2;
    half_width_ = (highest - lowest) * (0.5 + options.margin);
    if (highest - lowest <= 1e-10 * std::abs(centre)) {  // one eigenvalue
      half_width_ = logarithmic_ || centre == 0 ? 1 : 0.05 * std::abs(centre);
    }
    const auto num_points = static_cast<size_t>(options.num_points);
    for (size_t i = 0; i < num_points; ++i) {
      const double mapped = 2 * static_cast<double>(i) / static_cast<double>(num_points - 1) - 1;
      coordinates_.push_back(centre + half_width_ * mapped);
      grid_.push_back(logarithmic_ ? std::exp(coordinates_.back()) : coordinates_.back());
    }
  }

  const std::vector<double>& grid() const { return grid_; }
  double half_width() const { return half_width_; }
  double spacing() const { return coordinates_[1] - coordinates_[0]; }

  /// Adds `mass` times a Gaussian around `node` to `density`; its area on the grid is `mass`.
  void add_kernel(double node, double mass, double width, std::vector<double>& density) const {
    const double centre = coordinate(node);
    std::vector<double> kernel;
    for (size_t i = 0; i < grid_.size(); ++i) {
      const double distance = (coordinates_[i] - centre) / width;
      const double per_coordinate = std::exp(-distance * distance / 2);
      kernel.push_back(logarithmic_ ? per_coordinate / grid_[i] : per_coordinate);
    }
    const double factor = mass / area(kernel);
    for (size_t i = 0; i < grid_.size(); ++i) density[i] += factor * kernel[i];
  }

 private:
  double coordinate(double node) const {
    return logarithmic_ ? std::log(std::abs(node) + epsilon_) : node;
  }

  /// By the trapezoidal rule.
  double area(const std::vector<double>& values) const {
    double sum = 0;
    for (size_t i = 1; i < grid_.size(); ++i) {
      sum += (grid_[i] - grid_[i - 1]) * (values[i] + values[i - 1]) / 2;
    }
    return sum;
  }

  bool logarithmic_;
  double epsilon_;
  double half_width_ = 0;
  std::vector<double> coordinates_;
  std::vector<double> grid_;
};

/// Standard deviation of the kernel in the coordinates of `axis`.
double kernel_width(const std::vector<Quadrature>& quadratures, const SmoothingOptions& options,
                    const Axis& axis) {
  constexpr size_t kExactNodes = 80;
  size_t num_nodes = 2;
  bool exact = true;
  for (const Quadrature& quadrature : quadratures) {
    num_nodes = std::max(num_nodes, quadrature.nodes.size());
    exact = exact && quadrature.exact;
  }
  if (exact) num_nodes = std::max(num_nodes, kExactNodes);
  const double kappa = options.kappa.value_or(options.scale == DensityScale::kLog ? 1.04 : 3.0);
  const double mapped = 2 / (static_cast<double>(num_nodes - 1) * std::sqrt(8 * std::log(kappa)));
  return std::max(mapped * axis.half_width(), axis.spacing());
}

}  // namespace

namespace detail {

Quadrature to_quadrature(const LanczosResult& run) {
  const RitzPairs ritz = ritz_pairs(run);
  return {ritz.values, to_host_vector(ritz.coefficients[0].square()), run.breakdown};
}

}  // namespace detail

std::vector<Quadrature> lanczos_quadratures(const LinearOperator& a,
                                            const QuadratureOptions& options,
                                            const RandomSource& source) {
  CURVATURE_CHECK(options.num_probes > 0, OptionError,
                  "lanczos_quadratures: num_probes must be positive; got {}", options.num_probes);
  CURVATURE_CHECK(options.probes_at_once > 0, OptionError,
                  "lanczos_quadratures: probes_at_once must be positive; got {}",
                  options.probes_at_once);
  detail::check_not_empty(a, "lanczos_quadratures");
  const int64_t steps_per_probe = std::min(options.num_steps, a.rows());
  std::vector<Quadrature> quadratures;
  for (int64_t first = 0; first < options.num_probes; first += options.probes_at_once) {
    const int64_t count = std::min(options.probes_at_once, options.num_probes - first);
    LanczosOptions lanczos_options{.num_steps = options.num_steps,
                                   .reorthogonalize = options.reorthogonalize};
    if (options.observer) {
      lanczos_options.observer = [&](const Progress& progress) {
        options.observer({"Spectral density", first * steps_per_probe + progress.done,
                          options.num_probes * steps_per_probe});
      };
    }
    const at::Tensor probes =
        draw_probes(source, options.probe, a.cols(), first, count, detail::options_of(a));
    for (const LanczosResult& run : detail::lockstep_lanczos(a, probes, lanczos_options)) {
      quadratures.push_back(detail::to_quadrature(run));
    }
  }
  return quadratures;
}

Density smooth(const std::vector<Quadrature>& quadratures, const SmoothingOptions& options) {
  check_smoothing(quadratures, options);
  const Axis axis(quadratures, options);
  const double width = kernel_width(quadratures, options, axis);
  const size_t num_points = axis.grid().size();

  Density density{.grid = axis.grid(), .values = std::vector<double>(num_points)};
  std::vector<double> squares(num_points);  // of the deviations from the mean, by Welford's update
  double num_probes = 0;
  for (const Quadrature& quadrature : quadratures) {
    std::vector<double> values(num_points);
    for (size_t k = 0; k < quadrature.nodes.size(); ++k) {
      axis.add_kernel(quadrature.nodes[k], quadrature.weights[k], width, values);
    }
    ++num_probes;
    for (size_t i = 0; i < num_points; ++i) {
      const double deviation = values[i] - density.values[i];
      density.values[i] += deviation / num_probes;
      squares[i] += deviation * (values[i] - density.values[i]);
    }
  }
  if (num_probes > 1) {
    for (const double square : squares) {
      density.standard_errors.push_back(std::sqrt(square / (num_probes - 1) / num_probes));
    }
  }
  return density;
}

CumulativeDistribution cumulative_distribution(const std::vector<Quadrature>& quadratures,
                                               const std::vector<double>& points) {
  CURVATURE_CHECK(!quadratures.empty(), OptionError,
                  "cumulative_distribution: there are no quadratures");
  std::vector<detail::SampleMean> means(points.size());
  for (const Quadrature& quadrature : quadratures) {
    std::vector<double> sums{0};
    for (const double weight : quadrature.weights) sums.push_back(sums.back() + weight);
    for (size_t i = 0; i < points.size(); ++i) {
      const auto above =
          std::upper_bound(quadrature.nodes.begin(), quadrature.nodes.end(), points[i]);
      means[i].add(sums[static_cast<size_t>(above - quadrature.nodes.begin())]);
    }
  }
  CumulativeDistribution distribution;
  for (const detail::SampleMean& mean : means) {
    distribution.values.push_back(mean.mean());
    if (const auto error = mean.standard_error()) distribution.standard_errors.push_back(*error);
  }
  return distribution;
}

SpectralDensity spectral_density(const LinearOperator& a, const QuadratureOptions& options,
                                 const RandomSource& source, const SmoothingOptions& smoothing) {
  SpectralDensity result;
  result.quadratures = lanczos_quadratures(a, options, source);
  static_cast<Density&>(result) = smooth(result.quadratures, smoothing);
  for (const Quadrature& quadrature : result.quadratures) {
    result.products += static_cast<int64_t>(quadrature.nodes.size());
  }
  return result;
}

SpectralDensity spectral_density(const OperatorPtr& a, const QuadratureOptions& options,
                                 const RandomSource& source, const SmoothingOptions& smoothing) {
  CURVATURE_CHECK(a != nullptr, OptionError, "spectral_density: the operator is null");
  return spectral_density(*a, options, source, smoothing);
}

}  // namespace curvature
