#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include <curvature/io/atomic_file.hpp>
#include <curvature/io/safetensors.hpp>

#include "core/check.hpp"
#include "io/byte_source.hpp"
#include "io/tensor_bytes.hpp"
#include "io/text.hpp"

namespace curvature {
namespace {

using detail::FileSource;
using detail::printable;
using nlohmann::json;

constexpr std::string_view kMetadata = "__metadata__";

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 10> kDtypes = {
    {{"F64", at::kDouble},
     {"F32", at::kFloat},
     {"F16", at::kHalf},
     {"BF16", at::kBFloat16},
     {"I64", at::kLong},
     {"I32", at::kInt},
     {"I16", at::kShort},
     {"I8", at::kChar},
     {"U8", at::kByte},
     {"BOOL", at::kBool}}};

/// One tensor as the header describes it; offsets count from the end of the header.
struct Entry {
  std::string dtype_name;
  std::optional<at::ScalarType> dtype;  // none if it is not supported
  Shape shape;
  int64_t begin = 0;
  int64_t end = 0;
};

struct Header {
  std::map<std::string, Entry> entries;
  std::map<std::string, std::string> metadata;
  uint64_t data_position = 0;
};

// --- reading ------------------------------------------------------------------------------------

/// Parses JSON; refuses repeated keys, which parsers usually merge, and nesting the format has not.
json parse_json(const std::string& who, const std::string& text) {
  constexpr int kDeepest = 3;  // file / tensor / list
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start) {
      CURVATURE_CHECK(depth < kDeepest, FileError, "{}: damaged header; it is nested too deeply",
                      who);
      keys.resize(static_cast<size_t>(depth) + 1);
      keys.back().clear();
    } else if (event == json::parse_event_t::key) {
      const auto name = value.get<std::string>();
      CURVATURE_CHECK(keys.at(static_cast<size_t>(depth) - 1).insert(name).second, FileError,
                      "{}: damaged header; the key '{}' occurs twice", who, printable(name));
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& error) {
    throw FileError(
        fmt::format("{}: damaged header; it is not JSON: {}", who, printable(error.what())));
  }
}

int64_t to_integer(const std::string& who, const json& value) {
  const bool fits = value.is_number_unsigned() &&
                    value.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
  CURVATURE_CHECK(fits, FileError, "{}: damaged header; expected a count, got {}", who,
                  printable(value.dump(-1, ' ', true, json::error_handler_t::replace)));
  return value.get<int64_t>();
}

Entry parse_entry(const std::string& who, const json& description) {
  const bool complete = description.is_object() && description.contains("dtype") &&
                        description["dtype"].is_string() && description.contains("shape") &&
                        description["shape"].is_array() && description.contains("data_offsets") &&
                        description["data_offsets"].is_array() &&
                        description["data_offsets"].size() == 2;
  CURVATURE_CHECK(complete, FileError,
                  "{}: damaged header; expected dtype, shape and two data_offsets", who);
  Entry entry;
  entry.dtype_name = description["dtype"].get<std::string>();
  for (const auto& [name, dtype] : kDtypes) {
    if (name == entry.dtype_name) entry.dtype = dtype;
  }
  for (const json& extent : description["shape"]) entry.shape.push_back(to_integer(who, extent));
  entry.begin = to_integer(who, description["data_offsets"][0]);
  entry.end = to_integer(who, description["data_offsets"][1]);
  CURVATURE_CHECK(entry.begin <= entry.end, FileError,
                  "{}: damaged header; it ends at {}, before it begins at {}", who, entry.end,
                  entry.begin);
  if (entry.dtype) {
    const int64_t expected = detail::checked_num_bytes(who, entry.shape, *entry.dtype);
    CURVATURE_CHECK(entry.end - entry.begin == expected, FileError,
                    "{}: damaged header; expected {} bytes for {} {}, got {}", who, expected,
                    entry.dtype_name, detail::to_string(entry.shape), entry.end - entry.begin);
  }
  return entry;
}

void parse_metadata(const std::string& who, const json& values, Header& header) {
  CURVATURE_CHECK(values.is_object(), FileError, "{}: damaged header; __metadata__ is no object",
                  who);
  for (const auto& [key, value] : values.items()) {
    CURVATURE_CHECK(value.is_string(), FileError, "{}: damaged header; metadata '{}' is not text",
                    who, printable(key));
    header.metadata[key] = value.get<std::string>();
  }
}

/// The tensors, in the order of their offsets, must fill the data exactly.
void check_layout(const FileSource& file, const Header& header) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const auto& [name, entry] : header.entries) ranges.emplace_back(entry.begin, entry.end);
  std::sort(ranges.begin(), ranges.end());
  int64_t position = 0;
  for (const auto& [begin, end] : ranges) {
    CURVATURE_CHECK(begin == position, FileError, "{}: damaged header; {} at byte {} of the data",
                    file.name(), begin < position ? "tensors overlap" : "there is a gap",
                    std::min(begin, position));
    position = end;
  }
  CURVATURE_CHECK(static_cast<uint64_t>(position) == file.remaining(), FileError,
                  "{}: expected {} bytes of data, got {}; the file may be truncated", file.name(),
                  position, file.remaining());
}

Header read_header(FileSource& file) {
  constexpr uint64_t kLongestHeader = 100'000'000;  // the format's own limit
  uint64_t size = 0;
  CURVATURE_CHECK(file.size() >= sizeof(size), FileError,
                  "{}: {}; expected a safetensors file, got {} bytes", file.name(),
                  file.size() == 0 ? "is empty" : "truncated", file.size());
  file.read(&size, sizeof(size));
  CURVATURE_CHECK(size <= kLongestHeader && size <= file.remaining(), FileError,
                  "{}: not a safetensors file; its header claims {} bytes, expected at most {}",
                  file.name(), size, std::min(kLongestHeader, file.remaining()));
  std::string text(size, '\0');
  file.read(text.data(), size);
  const json parsed = parse_json(file.name(), text);
  CURVATURE_CHECK(parsed.is_object(), FileError, "{}: damaged header; expected a JSON object",
                  file.name());
  Header header;
  header.data_position = file.position();
  for (const auto& [name, value] : parsed.items()) {
    if (name == kMetadata) {
      parse_metadata(file.name(), value, header);
    } else {
      const std::string who = fmt::format("{}: tensor '{}'", file.name(), printable(name));
      header.entries.emplace(name, parse_entry(who, value));
    }
  }
  check_layout(file, header);
  return header;
}

at::Tensor read_entry(FileSource& file, const Header& header, const std::string& name) {
  const Entry& entry = header.entries.at(name);
  CURVATURE_CHECK(entry.dtype.has_value(), FileError,
                  "{}: tensor '{}' has dtype {}; expected F64, F32, F16, BF16, I64, I32, I16, I8, "
                  "U8 or BOOL",
                  file.name(), printable(name), printable(entry.dtype_name));
  file.seek(header.data_position + static_cast<uint64_t>(entry.begin));
  return detail::read_tensor(file, entry.shape, *entry.dtype);
}

std::vector<std::string> names_of(const Header& header) {
  std::vector<std::string> names;
  for (const auto& [name, entry] : header.entries) names.push_back(name);
  return names;
}

// --- writing ------------------------------------------------------------------------------------

using WrittenTensor = std::pair<std::string, at::Tensor>;

/// The tensors as they are written: those with wide elements first, so that each is aligned.
std::vector<WrittenTensor> in_file_order(const Archive& archive) {
  std::vector<WrittenTensor> tensors;
  for (const auto& [name, tensor] : archive.tensors) {
    CURVATURE_CHECK(name != kMetadata, OptionError,
                    "write_safetensors: a tensor cannot be called __metadata__; rename it");
    const std::string who = fmt::format("write_safetensors: tensor '{}'", printable(name));
    tensors.emplace_back(name, detail::as_written(who, tensor));
  }
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const WrittenTensor& a, const WrittenTensor& b) {
                     return a.second.element_size() > b.second.element_size();
                   });
  return tensors;
}

std::string_view dtype_name(at::ScalarType dtype) {
  return std::find_if(kDtypes.begin(), kDtypes.end(),
                      [&](const auto& known) { return known.second == dtype; })
      ->first;
}

/// The length of the header and the header, padded so that the data begins at a multiple of 8
/// bytes.
std::string make_header(const Archive& archive, const std::vector<WrittenTensor>& tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!archive.metadata.empty()) header[std::string(kMetadata)] = archive.metadata;
  size_t position = 0;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", dtype_name(tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {position, position + tensor.nbytes()}}};
    position += tensor.nbytes();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception&) {
    throw OptionError("write_safetensors: a name or metadata is not UTF-8 text");
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t size = text.size();
  std::string prefix(sizeof(size), '\0');
  std::memcpy(prefix.data(), &size, sizeof(size));
  return prefix + text;
}

}  // namespace

Archive read_safetensors(const std::filesystem::path& path) {
  FileSource file(path);
  Header header = read_header(file);
  Archive archive;
  archive.metadata = std::move(header.metadata);
  for (const auto& [name, entry] : header.entries) {
    archive.tensors[name] = read_entry(file, header, name);
  }
  return archive;
}

at::Tensor read_safetensors(const std::filesystem::path& path, std::string_view name) {
  FileSource file(path);
  const Header header = read_header(file);
  CURVATURE_CHECK(header.entries.contains(std::string(name)), OptionError,
                  "{}: no tensor '{}'; it has {}", file.name(), printable(name),
                  detail::printable_list(names_of(header)));
  return read_entry(file, header, std::string(name));
}

std::vector<std::string> list_safetensors(const std::filesystem::path& path) {
  FileSource file(path);
  return names_of(read_header(file));
}

void write_safetensors(const std::filesystem::path& path, const Archive& archive) {
  const std::vector<WrittenTensor> tensors = in_file_order(archive);
  const std::string header = make_header(archive, tensors);
  write_file_atomically(path, [&](const ByteSink& sink) {
    sink(header.data(), header.size());
    for (const auto& [name, tensor] : tensors) sink(tensor.const_data_ptr(), tensor.nbytes());
  });
}

}  // namespace curvature
