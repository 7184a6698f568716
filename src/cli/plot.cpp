#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "cli/gnuplot.hpp"
#include "cli/plot.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

/// Okabe and Ito's colours, which colour-blind readers can tell apart.
constexpr std::array<const char*, 5> kColours = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                                 "#E69F00"};
const char* colour(size_t i) { return kColours[i % kColours.size()]; }

constexpr const char* kStyle =
    "set border 3 linewidth 0.8 linecolor rgb '#444444'\n"
    "set tics nomirror out scale 0.6 textcolor rgb '#222222'\n"
    "set grid linecolor rgb '#e6e6e6' linewidth 0.6 linetype 1\n"
    "set samples 2\n";

/// An axis that is linear up to about `width` around zero and logarithmic beyond: asinh(x / width).
class SymmetricLogAxis {
 public:
  explicit SymmetricLogAxis(double width) : width_(width) {}

  double operator()(double x) const { return std::asinh(x / width_); }

  /// `set xtics` between `lowest` and `highest`: 0, and 1, 2 and 5 times powers of ten of both
  /// signs (powers alone where there are many), as far as there is room near 0.
  std::string tics(double lowest, double highest) const {
    constexpr double kRoom = 0.4, kManyTics = 12;
    const bool powers_only = (*this)(highest) - (*this)(lowest) > kManyTics;
    const int first = static_cast<int>(std::floor(std::log10(width_)));
    const int last = static_cast<int>(std::floor(std::log10(std::max(-lowest, highest))));
    std::string result = "'0' 0";
    for (int exponent = first; exponent <= last; ++exponent) {
      for (const int digit : {1, 2, 3, 4, 5, 6, 7, 8, 9}) {
        const double size = digit * std::pow(10.0, exponent);
        const bool round = digit == 1 || (!powers_only && (digit == 2 || digit == 5));
        const bool labelled = round && size >= kRoom * width_;
        for (const double x : {-size, size}) {
          if (x < lowest || x > highest) continue;
          result += labelled ? fmt::format(", '{:g}' {}", x, (*this)(x))
                             : fmt::format(", '' {} 1", (*this)(x));
        }
      }
    }
    return fmt::format("set xtics ({})\n", result);
  }

 private:
  double width_;
};

/// The widest curve's bulk: how far from zero its density is at least a hundredth of its peak.
double bulk_width(const std::vector<DensityCurve>& curves) {
  double width = 0;
  for (const DensityCurve& curve : curves) {
    const double peak = *std::max_element(curve.values.begin(), curve.values.end());
    for (size_t i = 0; i < curve.grid.size(); ++i) {
      if (curve.values[i] >= peak / 100) width = std::max(width, std::abs(curve.grid[i]));
    }
  }
  return width > 0 ? width : 1;
}

struct Range {
  double lowest = std::numeric_limits<double>::infinity();
  double highest = -std::numeric_limits<double>::infinity();

  void include(double x) {
    lowest = std::min(lowest, x);
    highest = std::max(highest, x);
  }
};

void check_curves(const std::vector<DensityCurve>& curves) {
  CURVATURE_CHECK(!curves.empty(), OptionError, "plot: there is nothing to draw");
  for (const DensityCurve& curve : curves) {
    CURVATURE_CHECK(curve.grid.size() >= 2 && curve.grid.size() == curve.values.size(), OptionError,
                    "plot: {}: expected one value for each of 2 or more grid points, "
                    "got {} values for {} points",
                    curve.label, curve.values.size(), curve.grid.size());
  }
}

std::string point(double x, double y) { return fmt::format("{:.8g} {:.8g}\n", x, y); }

std::string data_block(const std::string& name, const std::string& points) {
  return fmt::format("${} << END\n{}END\n", name, points);
}

/// The curve where it is above `floor`; an empty line is a gap.
std::string visible_part(const DensityCurve& curve, const SymmetricLogAxis& axis, double floor) {
  std::string points;
  const size_t size = curve.grid.size();
  for (size_t i = 0; i < size; ++i) {
    const auto is_visible = [&](size_t j) { return j < size && curve.values[j] > floor; };
    const bool visible = is_visible(i) || is_visible(i + 1) || (i > 0 && is_visible(i - 1));
    points += visible ? point(axis(curve.grid[i]), std::max(curve.values[i], floor)) : "\n";
  }
  return points;
}

}  // namespace

void check_plot(const std::string& path) { check_gnuplot(path); }

void plot_densities(const std::string& path, const std::string& title,
                    const std::vector<DensityCurve>& curves) {
  check_curves(curves);
  const SymmetricLogAxis axis(bulk_width(curves));
  Range eigenvalues;
  double peak = 0;
  for (const DensityCurve& curve : curves) {
    for (const double x : curve.grid) eigenvalues.include(x);
    for (const double x : curve.eigenvalues) eigenvalues.include(x);
    peak = std::max(peak, *std::max_element(curve.values.begin(), curve.values.end()));
  }
  constexpr double kDecades = 8;  // below that, densities are tails of the smoothing kernel
  const double floor = peak * std::pow(10.0, -kDecades);

  // The eigenvalues stand in rows of strokes under the densities.
  constexpr double kRow = 0.6;  // decades
  const auto num_rows = static_cast<double>(curves.size());
  const double bottom = floor * std::pow(10.0, -kRow * (num_rows + 0.3));
  std::string script = kStyle;
  std::string plots;
  for (size_t i = 0; i < curves.size(); ++i) {
    const DensityCurve& curve = curves[i];
    script += data_block(fmt::format("curve{}", i), visible_part(curve, axis, floor));
    plots += fmt::format(
        "{}$curve{} using 1:({:.8g}):2 with filledcurves fillstyle transparent solid 0.15 "
        "noborder fillcolor rgb '{}' notitle, "
        "$curve{} with lines linewidth 1.6 linecolor rgb '{}' title {}",
        plots.empty() ? "" : ", ", i, floor, colour(i), i, colour(i), quoted(curve.label));
    if (curve.eigenvalues.empty()) continue;
    const double row = floor * std::pow(10.0, -kRow * (static_cast<double>(i) + 0.55));
    std::string marks;
    for (const double x : curve.eigenvalues) marks += point(axis(x), row);
    script += data_block(fmt::format("marks{}", i), marks);
    plots += fmt::format(
        ", $marks{} with points pointtype 9 pointsize 0.7 linecolor rgb '{}' title {}", i,
        colour(i), quoted(fmt::format("{} extreme eigenvalues", curve.eigenvalues.size())));
  }
  script += fmt::format(
      "set title {}\nset xlabel 'eigenvalue (linear around 0, logarithmic beyond)'\n"
      "set ylabel 'spectral density'\n"
      "set logscale y\nset format y '%.0e'\nset ytics {:.8g},10\nset yrange [{:.8g}:{:.8g}]\nset "
      "xrange [{}:{}]\n"
      "set key top right Left reverse samplen 2 spacing 1.2\n",
      quoted(title), std::pow(10.0, std::ceil(std::log10(floor))), bottom, peak * 3,
      axis(eigenvalues.lowest), axis(eigenvalues.highest));
  script += axis.tics(eigenvalues.lowest, eigenvalues.highest);
  draw(path, {.width = 760, .height = 470}, script + "plot " + plots + "\n");
}

void plot_lines(const std::string& path, const std::string& title, const std::string& x_label,
                const std::vector<LinePanel>& panels) {
  CURVATURE_CHECK(!panels.empty(), OptionError, "plot: there is nothing to draw");
  constexpr int kPanelHeight = 230;
  std::string script = kStyle;
  // Common margins keep the panels' axes in line.
  script += fmt::format(
      "set multiplot layout {},1 margins 0.12,0.955,{},{} spacing 0,0.06 title {}\n", panels.size(),
      panels.size() == 1 ? 0.22 : 0.14, panels.size() == 1 ? 0.88 : 0.92, quoted(title));
  for (size_t i = 0; i < panels.size(); ++i) {
    const LinePanel& panel = panels[i];
    std::string plots;
    for (size_t j = 0; j < panel.series.size(); ++j) {
      const LineSeries& series = panel.series[j];
      CURVATURE_CHECK(series.x.size() == series.y.size() && !series.x.empty(), OptionError,
                      "plot: {}: expected as many x as y and at least one, got {} and {}",
                      series.label, series.x.size(), series.y.size());
      std::string points;
      for (size_t k = 0; k < series.x.size(); ++k) points += point(series.x[k], series.y[k]);
      const std::string name = fmt::format("panel{}line{}", i, j);
      script += data_block(name, points);
      plots += fmt::format(
          "{}${} with linespoints linewidth 1.6 pointtype 7 pointsize 0.45 linecolor rgb '{}' "
          "title {}",
          plots.empty() ? "" : ", ", name, colour(i + j), quoted(series.label));
    }
    const bool last = i + 1 == panels.size();
    script += fmt::format("{}\n{}\nset ylabel {}\nset xlabel {}\n",
                          panel.logarithmic ? "set logscale y" : "unset logscale y",
                          last ? "set format x" : "set format x ''", quoted(panel.y_label),
                          quoted(last ? x_label : ""));
    script += "set key top right samplen 2\nplot " + plots + "\n";
  }
  draw(path, {.width = 760, .height = kPanelHeight * static_cast<int>(panels.size()) + 60},
       script + "unset multiplot\n");
}

}  // namespace curvature::cli
