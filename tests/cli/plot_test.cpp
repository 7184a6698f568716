// Pictures: what is in them, and what happens to the file.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include <curvature/core/error.hpp>

#include "cli/fixture.hpp"
#include "cli/gnuplot.hpp"
#include "cli/plot.hpp"

BOOST_AUTO_TEST_SUITE(plot_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

std::string contents(const std::string& file) {
  std::ostringstream bytes;
  bytes << std::ifstream(file, std::ios::binary).rdbuf();
  return bytes.str();
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

size_t count(const std::string& text, const std::string& part) {
  size_t number = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++number;
  return number;
}

/// A bulk of width 0.1 around zero and a single peak at 10.
cli::DensityCurve bulk_and_outlier() {
  cli::DensityCurve curve{"It's $x_1$ `ls`", {}, {}, {10.0, 9.0}};
  for (int i = -100; i <= 1200; ++i) {
    const double x = 0.01 * i;
    curve.grid.push_back(x);
    curve.values.push_back(4 * std::exp(-50 * x * x) + 1e-4 * std::exp(-20 * (x - 10) * (x - 10)));
  }
  return curve;
}

/// The environment with another PATH, until the end of the scope.
class OtherPath {
 public:
  explicit OtherPath(const std::string& path) : before_(std::getenv("PATH")) {
    setenv("PATH", path.c_str(), 1);
  }
  ~OtherPath() { setenv("PATH", before_.c_str(), 1); }

 private:
  std::string before_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(densities_are_drawn_with_labels_as_they_are) {
  const Scratch scratch;
  cli::plot_densities(scratch / "a.svg", "Title: 100 % \"quoted\"", {bulk_and_outlier()});
  const std::string svg = contents(scratch / "a.svg");
  BOOST_TEST(svg.starts_with("<?xml"));
  BOOST_TEST(holds(svg, "</svg>"));
  BOOST_TEST(holds(svg, "It's $x_1$ `ls`"));
  BOOST_TEST(holds(svg, "Title: 100 % \"quoted\""));
  BOOST_TEST(holds(svg, "2 extreme eigenvalues"));
  BOOST_TEST(!holds(svg, "NaN"));
  // The axis is labelled on both sides of the bulk's edge, up to the outlier.
  for (const std::string tic : {"0.2", "1", "10", "-0.5"}) {
    BOOST_TEST(count(svg, ">" + tic + "<") >= 1u, tic);
  }
}

BOOST_AUTO_TEST_CASE(the_extension_chooses_png) {
  const Scratch scratch;
  cli::plot_densities(scratch / "a.png", "Title", {bulk_and_outlier()});
  BOOST_TEST(contents(scratch / "a.png").starts_with("\x89PNG"));
}

BOOST_AUTO_TEST_CASE(lines_are_drawn_in_panels) {
  const Scratch scratch;
  const cli::LineSeries falling{"falling", {0, 1, 2}, {100, 10, 1}};
  const cli::LineSeries rising{"rising", {0, 1, 2}, {1, 2, 3}};
  cli::plot_lines(scratch / "a.svg", "Title", "step",
                  {{"upper", false, {rising}}, {"lower", true, {falling, rising}}});
  const std::string svg = contents(scratch / "a.svg");
  for (const std::string label : {"upper", "lower", "step", "Title", "falling"}) {
    BOOST_TEST(count(svg, ">" + label + "<") == 1u, label);
  }
  BOOST_TEST(count(svg, ">rising<") == 2u);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_drawn_is_refused_and_leaves_no_file) {
  const Scratch scratch;
  const auto curve = bulk_and_outlier();
  BOOST_CHECK_THROW(cli::plot_densities(scratch / "a.pdf", "Title", {curve}), OptionError);
  BOOST_CHECK_THROW(cli::check_plot("a.pdf"), OptionError);
  BOOST_CHECK_THROW(cli::plot_densities(scratch / "a.svg", "Title", {}), OptionError);
  auto uneven = curve;
  uneven.values.pop_back();
  BOOST_CHECK_THROW(cli::plot_densities(scratch / "a.svg", "Title", {uneven}), OptionError);
  BOOST_CHECK_THROW(
      cli::plot_lines(scratch / "a.svg", "Title", "x", {{"y", false, {{"", {1}, {}}}}}),
      OptionError);
  BOOST_CHECK_EXCEPTION(cli::draw(scratch / "a.svg", {100, 100}, "plot nothing(x)\n"), Error,
                        [](const Error& error) { return holds(error.what(), "nothing"); });
  BOOST_TEST(std::filesystem::is_empty(scratch.folder()));
}

BOOST_AUTO_TEST_CASE(without_gnuplot_the_package_is_named) {
  const Scratch scratch;
  const OtherPath nowhere(scratch.folder());
  const auto names_package = [](const Error& error) { return holds(error.what(), "gnuplot-nox"); };
  BOOST_CHECK_EXCEPTION(cli::check_plot("a.svg"), Error, names_package);
  BOOST_CHECK_EXCEPTION(cli::plot_densities(scratch / "a.svg", "Title", {bulk_and_outlier()}),
                        Error, names_package);
  BOOST_TEST(std::filesystem::is_empty(scratch.folder()));
}

BOOST_AUTO_TEST_SUITE_END()
