#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/core/random.hpp>

namespace curvature {

/// The spectral measure of one probe z: z^T f(A) z / z^T z = sum of weights[k] f(nodes[k]), exactly
/// for polynomials f of degree up to 2 m - 1 with m nodes, and for every f if `exact`.
struct Quadrature {
  std::vector<double> nodes;    ///< Ritz values, ascending
  std::vector<double> weights;  ///< positive, sum 1
  bool exact = false;           ///< the Krylov space was invariant
};

/// How much is spent on a density.
struct QuadratureOptions {
  int64_t num_steps = 80;            ///< Lanczos steps of a probe; clipped to n
  int64_t num_probes = 10;           ///< Lanczos runs
  Probe probe = Probe::kRademacher;  ///< distribution of the start vectors
  bool reorthogonalize = true;       ///< see `LanczosOptions`
  /// Lanczos runs that go step by step together, so that their columns are multiplied at once; each
  /// keeps a basis. Changes nothing beyond rounding.
  int64_t probes_at_once = 1;
  Observer observer = {};  ///< sees the steps of all probes
};

/// Gauss quadratures of the spectral measure, one for each probe, by Lanczos from that probe. Their
/// mean estimates (1/n) tr f(A) without bias. Costs `num_probes * num_steps` products at most.
/// Probe i depends on the seed and i only: more probes continue fewer. Golub, Meurant, "Matrices,
/// Moments and Quadrature with Applications", 2010; Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl.
/// 38(4), 2017.
/// @throws OptionError for counts that are not positive, and what `lanczos` throws
std::vector<Quadrature> lanczos_quadratures(const LinearOperator& a,
                                            const QuadratureOptions& options,
                                            const RandomSource& source);

enum class DensityScale {
  kLinear,  ///< grid of l, evenly spaced; smoothed in l
  kLog,     ///< grid of |l| + epsilon, evenly spaced in its logarithm; smoothed in the logarithm
};

/// How nodes become a curve.
struct SmoothingOptions {
  DensityScale scale = DensityScale::kLinear;  ///< of the grid
  int64_t num_points = 1024;                   ///< of the grid
  /// By what factor a kernel has fallen half-way between two of m evenly spaced nodes, > 1: the
  /// larger, the narrower. By default 3 on a linear and 1.04 on a logarithmic scale (Papyan's
  /// presets).
  std::optional<double> kappa = std::nullopt;
  /// Part of the range of the nodes that is added at each of its ends.
  double margin = 0.05;
  double epsilon = 1e-5;  ///< in units of l; logarithmic scale only
};

/// A smoothed spectral density on a grid.
struct Density {
  std::vector<double> grid;    ///< increasing: l, or |l| + epsilon on a logarithmic scale
  std::vector<double> values;  ///< per unit of the grid variable (never of its logarithm)
  /// Standard error of each value over the probes; empty with a single probe.
  std::vector<double> standard_errors = {};
};

/// Places a Gaussian on each node and averages over probes. The range of the grid is that of the
/// nodes and the margins. With the range mapped to [-1, 1] the kernel's standard deviation is 2 /
/// ((m - 1) sqrt(8 ln kappa)), but at least one grid spacing; m is the largest number of nodes of a
/// probe, and at least 80 if all quadratures are exact, since few nodes are no lack of resolution
/// then. Each kernel has an area of 1 by the trapezoidal rule on the grid, so the density has one
/// too, also where a kernel is cut off. A range of (numerically) zero is widened to make a peak.
/// Papyan, JMLR 21(252), 2020.
/// @throws OptionError for no quadratures, fewer than 2 points, kappa <= 1, negative margin, or
///   epsilon <= 0
Density smooth(const std::vector<Quadrature>& quadratures, const SmoothingOptions& options = {});

/// Number of eigenvalues up to a point, as a part of n.
struct CumulativeDistribution {
  std::vector<double> values;  ///< within 0 and 1, not decreasing for increasing points
  /// Standard error of each value over the probes; empty with a single probe.
  std::vector<double> standard_errors = {};
};

/// Estimates F(t) = (eigenvalues <= t) / n at each of `points`; needs no smoothing.
/// @throws OptionError for no quadratures
CumulativeDistribution cumulative_distribution(const std::vector<Quadrature>& quadratures,
                                               const std::vector<double>& points);

/// A density and what it was made of.
struct SpectralDensity : Density {
  std::vector<Quadrature> quadratures = {};  ///< one for each probe
  int64_t products = 0;                      ///< with the operator
};

/// Density of eigenvalues (1/n) sum_i delta(l - l_i), smoothed, by stochastic Lanczos quadrature:
/// `lanczos_quadratures` and `smooth` in one call. The range of the grid comes from the same Krylov
/// spaces, at no cost. Costs `num_probes * num_steps` products at most.
SpectralDensity spectral_density(const LinearOperator& a, const QuadratureOptions& options,
                                 const RandomSource& source,
                                 const SmoothingOptions& smoothing = {});
SpectralDensity spectral_density(const OperatorPtr& a, const QuadratureOptions& options,
                                 const RandomSource& source,
                                 const SmoothingOptions& smoothing = {});

}  // namespace curvature
