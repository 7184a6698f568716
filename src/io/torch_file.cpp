#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <curvature/io/torch_file.hpp>

#include "core/check.hpp"
#include "io/byte_source.hpp"
#include "io/pickle.hpp"
#include "io/tensor_bytes.hpp"
#include "io/text.hpp"
#include "io/zip_archive.hpp"

namespace curvature {
namespace {

using detail::PickleValue;
using detail::printable;
using detail::ZipArchive;
using Kind = PickleValue::Kind;

constexpr std::string_view kExpected = "expected one tensor, saved by torch.save(tensor, FILE)";

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 10> kStorages = {
    {{"torch.DoubleStorage", at::kDouble},
     {"torch.FloatStorage", at::kFloat},
     {"torch.HalfStorage", at::kHalf},
     {"torch.BFloat16Storage", at::kBFloat16},
     {"torch.LongStorage", at::kLong},
     {"torch.IntStorage", at::kInt},
     {"torch.ShortStorage", at::kShort},
     {"torch.CharStorage", at::kChar},
     {"torch.ByteStorage", at::kByte},
     {"torch.BoolStorage", at::kBool}}};

bool is_call_of(const PickleValue& value, std::string_view callable) {
  return value.kind == Kind::kCall && value.items[0]->kind == Kind::kGlobal &&
         value.items[0]->text == callable;
}

bool is_tensor(const PickleValue& value) {
  return is_call_of(value, "torch._utils._rebuild_tensor_v2");
}

/// What a pickle holds that is not a tensor, for people.
std::string describe(const PickleValue& value) {
  switch (value.kind) {
    case Kind::kDictionary:
      return "a dictionary (a state_dict?)";
    case Kind::kTuple:
    case Kind::kList:
      return fmt::format("a list of {} values", value.items.size());
    case Kind::kCall: {
      if (is_call_of(value, "collections.OrderedDict")) return "a dictionary (a state_dict?)";
      const std::string& name = value.items[0]->text;
      if (name.starts_with("__torch__.")) return "a TorchScript module";
      return fmt::format("a Python object made by {}", printable(name));
    }
    default:
      return "a plain value";
  }
}

/// The tensor in what Python or C++ saved: itself, a parameter, or a C++ archive with one entry.
const PickleValue& find_tensor(const std::string& who, const PickleValue& root) {
  if (is_tensor(root)) return root;
  if (is_call_of(root, "torch._utils._rebuild_parameter") && root.items[1]->kind == Kind::kTuple &&
      !root.items[1]->items.empty() && is_tensor(*root.items[1]->items[0])) {
    return *root.items[1]->items[0];
  }
  if (is_call_of(root, "__torch__.Module") && root.items.size() == 3 &&
      root.items[2]->kind == Kind::kDictionary && root.items[2]->items.size() == 2 &&
      root.items[2]->items[0]->text == "0" && is_tensor(*root.items[2]->items[1])) {
    return *root.items[2]->items[1];
  }
  throw FileError(fmt::format("{}: holds {}; {}", who, describe(root), kExpected));
}

/// A tensor as its pickle describes it.
struct Description {
  std::string key;  // of the storage
  at::ScalarType dtype = at::kDouble;
  int64_t num_stored = 0;
  int64_t offset = 0;
  Shape shape;
  Shape strides;
};

class DescriptionParser {
 public:
  explicit DescriptionParser(const std::string& who) : who_(who) {}

  /// Arguments of _rebuild_tensor_v2: storage, offset, shape, strides, requires_grad, hooks, and
  /// perhaps flags such as "negative".
  Description parse(const PickleValue& tensor) const {
    const auto& arguments = expect(*tensor.items[1], Kind::kTuple).items;
    check(arguments.size() == 6 || arguments.size() == 7);
    check(arguments.size() == 6 || arguments[6]->items.empty());
    Description result;
    parse_storage(expect(*arguments[0], Kind::kPersistent), result);
    result.offset = count(*arguments[1]);
    result.shape = counts(*arguments[2]);
    result.strides = counts(*arguments[3]);
    check_extent(result);
    return result;
  }

 private:
  /// ("storage", torch.FloatStorage, key, device, number of elements)
  void parse_storage(const PickleValue& storage, Description& result) const {
    const auto& identifier = expect(*storage.items[0], Kind::kTuple).items;
    check(identifier.size() == 5);
    const std::string& type = expect(*identifier[1], Kind::kGlobal).text;
    const auto known = std::find_if(kStorages.begin(), kStorages.end(),
                                    [&](const auto& entry) { return entry.first == type; });
    CURVATURE_CHECK(known != kStorages.end(), FileError,
                    "{}: unsupported storage {}; expected a real number, integer or boolean type",
                    who_, printable(type));
    result.dtype = known->second;
    result.key = expect(*identifier[2], Kind::kText).text;
    result.num_stored = count(*identifier[4]);
  }

  /// The elements that shape and strides reach must lie in the storage.
  void check_extent(const Description& tensor) const {
    check(tensor.shape.size() == tensor.strides.size());
    const int64_t num_bytes = detail::checked_num_bytes(who_, tensor.shape, tensor.dtype);
    int64_t last = tensor.offset;
    bool inside = true;
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      int64_t reach = 0;
      const int64_t steps = std::max<int64_t>(tensor.shape[i] - 1, 0);
      inside = inside && !__builtin_mul_overflow(steps, tensor.strides[i], &reach) &&
               !__builtin_add_overflow(last, reach, &last);
    }
    inside =
        inside && (num_bytes == 0 ? tensor.offset <= tensor.num_stored : last < tensor.num_stored);
    CURVATURE_CHECK(inside, FileError, "{}: damaged; shape {} reaches beyond {} stored elements",
                    who_, detail::to_string(tensor.shape), tensor.num_stored);
  }

  Shape counts(const PickleValue& value) const {
    Shape result;
    for (const PickleValue* item : expect(value, Kind::kTuple).items) {
      result.push_back(count(*item));
    }
    return result;
  }

  int64_t count(const PickleValue& value) const {
    const int64_t number = expect(value, Kind::kInteger).integer;
    check(number >= 0);
    return number;
  }

  const PickleValue& expect(const PickleValue& value, Kind kind) const {
    check(value.kind == kind);
    return value;
  }

  void check(bool condition) const {
    CURVATURE_CHECK(condition, FileError, "{}: damaged, or a kind of tensor that is not known; {}",
                    who_, kExpected);
  }

  const std::string& who_;
};

std::string read_text(const ZipArchive& archive, size_t entry, uint64_t longest) {
  const auto source = archive.open(entry);
  CURVATURE_CHECK(source->remaining() <= longest, FileError, "{}: has {} bytes; {}", source->name(),
                  source->remaining(), kExpected);
  std::string text(source->remaining(), '\0');
  source->read(text.data(), text.size());
  source->expect_end();
  return text;
}

void check_not_legacy(const std::filesystem::path& path) {
  detail::FileSource file(path);
  CURVATURE_CHECK(file.size() > 0, FileError, "{}: is empty; {}", file.name(), kExpected);
  unsigned char first = 0;
  file.read(&first, 1);
  constexpr unsigned char kPickle = 0x80;
  CURVATURE_CHECK(first != kPickle, FileError,
                  "{}: is a bare pickle, perhaps of torch < 1.6; expected torch.save's zip format; "
                  "save it again",
                  file.name());
}

/// The folder in the archive that holds data.pkl, with its slash.
std::string root_folder(const ZipArchive& archive) {
  constexpr std::string_view kPickle = "data.pkl";
  for (const std::string& entry : archive.entries()) {
    if (entry.ends_with(kPickle) && entry.find('/') == entry.size() - kPickle.size() - 1) {
      return entry.substr(0, entry.size() - kPickle.size());
    }
  }
  throw FileError(
      fmt::format("{}: a zip file, but not of torch.save; {}", archive.name(), kExpected));
}

void check_little_endian(const ZipArchive& archive, const std::string& root) {
  const auto entry = archive.find(root + "byteorder");
  if (!entry) return;  // files of older versions are little-endian
  const std::string order = read_text(archive, *entry, 16);
  CURVATURE_CHECK(order == "little", FileError, "{}: byte order is '{}'; expected 'little'",
                  archive.name(), printable(order));
}

at::Tensor read_storage(const ZipArchive& archive, const std::string& root,
                        const Description& tensor) {
  const auto entry = archive.find(root + "data/" + tensor.key);
  CURVATURE_CHECK(entry.has_value(), FileError, "{}: damaged; its numbers ('data/{}') are missing",
                  archive.name(), printable(tensor.key));
  const auto source = archive.open(*entry);
  at::Tensor storage = detail::read_tensor(*source, {tensor.num_stored}, tensor.dtype);
  source->expect_end();
  return storage;
}

}  // namespace

at::Tensor read_torch_tensor(const std::filesystem::path& path) {
  check_not_legacy(path);
  const ZipArchive archive(path);
  const std::string root = root_folder(archive);
  constexpr uint64_t kLongestPickle = 4 << 20;
  const std::string bytes = read_text(archive, *archive.find(root + "data.pkl"), kLongestPickle);
  const detail::Pickle pickle(archive.name(), bytes);
  const PickleValue& found = find_tensor(archive.name(), pickle.root());
  check_little_endian(archive, root);
  const Description tensor = DescriptionParser(archive.name()).parse(found);
  return read_storage(archive, root, tensor)
      .as_strided(tensor.shape, tensor.strides, tensor.offset);
}

}  // namespace curvature
