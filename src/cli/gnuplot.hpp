#pragma once

#include <string>

namespace curvature::cli {

/// A size in points of the svg terminal, pixels of the png terminal at scale 1.
struct PictureSize {
  int width = 0;
  int height = 0;
};

/// Runs `script` by gnuplot and writes the picture to `path` (`.svg` or `.png`), atomically. The
/// script draws and sets neither terminal nor output; it reaches gnuplot on its standard input, and
/// the picture comes back on its standard output, so that no file name is ever interpreted.
/// @throws OptionError for another extension, Error if gnuplot is missing or fails
void draw(const std::string& path, PictureSize size, const std::string& script);

/// Whether `path` has an extension that can be drawn, and gnuplot runs.
/// @throws as `draw`
void check_gnuplot(const std::string& path);

/// `text` as a string of gnuplot's language, printed as it is.
std::string quoted(const std::string& text);

}  // namespace curvature::cli
