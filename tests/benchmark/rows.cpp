#include <algorithm>
#include <fstream>

#include <curvature/core/error.hpp>
#include <curvature/io/atomic_file.hpp>

#include "rows.hpp"

namespace curvature::benchmark {
namespace {

bool same(const Json& a, const Json& b, std::initializer_list<const char*> names) {
  return std::all_of(names.begin(), names.end(),
                     [&](const char* name) { return a.at(name) == b.at(name); });
}

bool replaces(const Json& now, const Json& before) {
  return same(now, before, {"workload", "operation", "threads"}) &&
         (before.at("median_s").is_null() || same(now, before, {"phase"}));
}

Rows read_rows(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return {};
  try {
    return Json::parse(std::ifstream(file)).get<Rows>();
  } catch (const nlohmann::json::exception& error) {
    throw DataError(file.string() + ": expected an array of rows; " + error.what());
  }
}

}  // namespace

Json failed_row(Json identity, const std::string& note) {
  for (const char* figure : {"median_s", "min_s", "repeats", "peak_rss_mb"}) {
    identity[figure] = nullptr;
  }
  identity["note"] = note;
  return identity;
}

void merge_rows(const std::filesystem::path& file, const Rows& rows) {
  Rows all = read_rows(file);
  for (const Json& row : rows) {
    std::erase_if(all, [&](const Json& before) { return replaces(row, before); });
  }
  all.insert(all.end(), rows.begin(), rows.end());
  write_file_atomically(file, Json(all).dump(1) + "\n");
}

}  // namespace curvature::benchmark
