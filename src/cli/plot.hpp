#pragma once

#include <string>
#include <vector>

namespace curvature::cli {

/// A spectral density and the eigenvalues known exactly, drawn in one colour.
struct DensityCurve {
  std::string label;
  std::vector<double> grid;         ///< increasing
  std::vector<double> values;       ///< of the density, one per grid point
  std::vector<double> eigenvalues;  ///< marked on the axis; may be empty
};

/// Draws densities on a logarithmic axis into `path`, `.svg` or `.png`, with gnuplot. The
/// eigenvalue axis is linear around zero, where the bulk of a spectrum lies, and logarithmic
/// beyond.
/// @throws OptionError for another extension, Error if gnuplot is missing or fails
void plot_densities(const std::string& path, const std::string& title,
                    const std::vector<DensityCurve>& curves);

/// A line through points.
struct LineSeries {
  std::string label;
  std::vector<double> x;
  std::vector<double> y;  ///< one per x
};

/// One of several axes above each other with a common horizontal axis.
struct LinePanel {
  std::string y_label;
  bool logarithmic = false;
  std::vector<LineSeries> series;
};

/// Draws panels of lines below each other, like `plot_densities`.
void plot_lines(const std::string& path, const std::string& title, const std::string& x_label,
                const std::vector<LinePanel>& panels);

/// Checks, before anything expensive is done, that `path` can be drawn to.
/// @throws OptionError for an extension other than `.svg` and `.png`, Error if gnuplot is missing
void check_plot(const std::string& path);

}  // namespace curvature::cli
