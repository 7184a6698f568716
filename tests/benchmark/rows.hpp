#pragma once

#include <filesystem>
#include <vector>

#include <nlohmann/json.hpp>

namespace curvature::benchmark {

using Json = nlohmann::ordered_json;

/// A row: {library, workload, operation, phase, threads, median_s, min_s, repeats, peak_rss_mb},
/// where measured `value` and `note` too. A row that could not be measured has null figures and a
/// note.
using Rows = std::vector<Json>;

/// A row without figures.
Json failed_row(Json identity, const std::string& note);

/// Adds rows to a file, which need not exist. A row replaces the one of the same workload,
/// operation, phase and threads, and what tells of an earlier failure of its operation.
void merge_rows(const std::filesystem::path& file, const Rows& rows);

}  // namespace curvature::benchmark
