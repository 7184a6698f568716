#include "io/npy_format.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "core/check.hpp"
#include "io/tensor_bytes.hpp"
#include "io/text.hpp"

namespace curvature::detail {
namespace {

constexpr std::string_view kSupported =
    "expected float16, float32, float64, int8, int16, int32, int64, uint8 or bool";

/// Why an array of this type (the letter of NumPy's type string) cannot be read.
std::string_view unsupported_kind(char letter) {
  switch (letter) {
    case 'O':
      return "Python objects";
    case 'U':
    case 'S':
    case 'a':
      return "text";
    case 'V':
      return "a structure or a type NumPy does not know (bfloat16, for example)";
    case 'c':
      return "complex numbers";
    case 'M':
    case 'm':
      return "dates or durations";
    default:
      return "an unsupported type";
  }
}

std::optional<at::ScalarType> dtype_of(std::string_view letter_and_size) {
  constexpr std::array<std::pair<std::string_view, at::ScalarType>, 9> kDtypes = {
      {{"f2", at::kHalf},
       {"f4", at::kFloat},
       {"f8", at::kDouble},
       {"i1", at::kChar},
       {"i2", at::kShort},
       {"i4", at::kInt},
       {"i8", at::kLong},
       {"u1", at::kByte},
       {"b1", at::kBool}}};
  for (const auto& [name, dtype] : kDtypes) {
    if (name == letter_and_size) return dtype;
  }
  return std::nullopt;
}

/// Parses the header's text, a Python dictionary such as
/// `{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }`; three keys, each once.
class HeaderParser {
 public:
  HeaderParser(std::string_view who, std::string_view text) : who_(who), text_(text) {}

  NpyHeader parse() {
    expect('{');
    while (!accept('}')) {
      parse_entry();
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    check(position_ == text_.size(), "nothing after the dictionary");
    check(has_dtype_ && has_order_ && has_shape_, "the keys descr, fortran_order and shape");
    return header_;
  }

 private:
  void parse_entry() {
    const std::string_view key = parse_string();
    expect(':');
    if (key == "descr" && !has_dtype_) {
      has_dtype_ = true;
      parse_dtype();
    } else if (key == "fortran_order" && !has_order_) {
      has_order_ = true;
      header_.fortran_order = parse_bool();
    } else if (key == "shape" && !has_shape_) {
      has_shape_ = true;
      parse_shape();
    } else {
      check(false, "the keys descr, fortran_order and shape, each once");
    }
  }

  void parse_dtype() {
    skip_space();
    CURVATURE_CHECK(peek() != '[', FileError, "{}: holds structured records; {}", who_, kSupported);
    const std::string_view descr = parse_string();
    const bool has_order =
        !descr.empty() && std::string_view("<>|").find(descr[0]) != std::string_view::npos;
    const std::string_view type = has_order ? descr.substr(1) : descr;
    const auto dtype = dtype_of(type);
    CURVATURE_CHECK(dtype.has_value(), FileError, "{}: holds {} (dtype '{}'); {}", who_,
                    unsupported_kind(type.empty() ? '?' : type[0]), printable(descr), kSupported);
    header_.dtype = *dtype;
    header_.swap_bytes = descr[0] == '>' && c10::elementSize(*dtype) > 1;
  }

  void parse_shape() {
    expect('(');
    while (!accept(')')) {
      header_.shape.push_back(parse_extent());
      if (!accept(',')) {
        check(header_.shape.size() > 1, "a comma after the only extent");
        expect(')');
        break;
      }
    }
  }

  int64_t parse_extent() {
    skip_space();
    int64_t value = 0;
    const char* first = text_.data() + position_;
    const auto [last, error] = std::from_chars(first, text_.data() + text_.size(), value);
    check(error == std::errc() && value >= 0, "an extent of the shape");
    position_ += static_cast<size_t>(last - first);
    return value;
  }

  bool parse_bool() {
    skip_space();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(position_, word.size()) != word) continue;
      position_ += word.size();
      return value;
    }
    check(false, "True or False");
    return false;
  }

  std::string_view parse_string() {
    skip_space();
    const char quote = peek();
    check(quote == '\'' || quote == '"', "a quoted string");
    const size_t first = position_ + 1;
    const size_t last = text_.find(quote, first);
    check(last != std::string_view::npos, "the end of a quoted string");
    position_ = last + 1;
    return text_.substr(first, last - first);
  }

  void expect(char c) { check(accept(c), std::string_view(&c, 1)); }

  bool accept(char c) {
    skip_space();
    if (peek() != c) return false;
    ++position_;
    return true;
  }

  char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }

  void skip_space() {
    position_ = std::min(text_.find_first_not_of(" \n", position_), text_.size());
  }

  void check(bool condition, std::string_view expected) const {
    CURVATURE_CHECK(condition, FileError, "{}: damaged npy header; expected {} at byte {} of '{}'",
                    who_, expected, position_, printable(text_));
  }

  std::string_view who_;
  std::string_view text_;
  size_t position_ = 0;
  NpyHeader header_;
  bool has_dtype_ = false;
  bool has_order_ = false;
  bool has_shape_ = false;
};

/// The length of the header's text: two bytes in version 1, four later.
uint32_t read_header_size(ByteSource& source, int version) {
  std::array<unsigned char, 4> bytes = {};
  source.read(bytes.data(), version == 1 ? 2 : 4);
  uint32_t size;
  std::memcpy(&size, bytes.data(), sizeof(size));
  return size;
}

std::string type_string(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return "<f2";
    case at::kFloat:
      return "<f4";
    case at::kDouble:
      return "<f8";
    case at::kChar:
      return "|i1";
    case at::kShort:
      return "<i2";
    case at::kInt:
      return "<i4";
    case at::kLong:
      return "<i8";
    case at::kByte:
      return "|u1";
    case at::kBool:
      return "|b1";
    default:
      throw DtypeDeviceError(
          fmt::format("npy has no dtype {}; convert the tensor or write a .safetensors file",
                      c10::toString(dtype)));
  }
}

}  // namespace

NpyHeader read_npy_header(ByteSource& source) {
  constexpr std::string_view kMagic = "\x93NUMPY";
  constexpr uint32_t kLongestHeader = 1 << 20;
  std::array<char, 8> start;
  CURVATURE_CHECK(source.remaining() >= start.size(), FileError,
                  "{}: {}; expected a npy file, got {} bytes", source.name(),
                  source.remaining() == 0 ? "is empty" : "truncated", source.remaining());
  source.read(start.data(), start.size());
  CURVATURE_CHECK(std::string_view(start.data(), kMagic.size()) == kMagic, FileError,
                  "{}: not a npy file; it does not begin with \\x93NUMPY", source.name());
  const int version = static_cast<unsigned char>(start[6]);
  CURVATURE_CHECK(version >= 1 && version <= 3 && start[7] == 0, FileError,
                  "{}: unknown npy format version {}.{}; expected 1.0, 2.0 or 3.0", source.name(),
                  version, static_cast<int>(static_cast<unsigned char>(start[7])));
  const uint32_t size = read_header_size(source, version);
  CURVATURE_CHECK(size <= kLongestHeader && size <= source.remaining(), FileError,
                  "{}: the npy header claims {} bytes; expected at most {}", source.name(), size,
                  std::min<uint64_t>(kLongestHeader, source.remaining()));
  std::string text(size, '\0');
  source.read(text.data(), size);
  return HeaderParser(source.name(), text).parse();
}

at::Tensor read_npy(ByteSource& source) {
  NpyHeader header = read_npy_header(source);
  if (header.fortran_order) std::reverse(header.shape.begin(), header.shape.end());
  const at::Tensor tensor = read_tensor(source, header.shape, header.dtype, header.swap_bytes);
  source.expect_end();
  if (!header.fortran_order) return tensor;
  Shape axes(header.shape.size());
  for (size_t i = 0; i < axes.size(); ++i) axes[i] = static_cast<int64_t>(axes.size() - 1 - i);
  return tensor.permute(axes).contiguous();
}

std::string npy_header(const at::Tensor& tensor) {
  std::string shape;
  for (const int64_t extent : tensor.sizes()) shape += fmt::format("{}, ", extent);
  // Python's tuples: (3,) and (3, 4)
  if (!shape.empty()) shape.resize(shape.size() - (tensor.dim() == 1 ? 1 : 2));
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}",
                                 type_string(tensor.scalar_type()), shape);
  constexpr size_t kPrefix = 10, kAlignment = 64;
  const size_t unpadded = kPrefix + text.size() + 1;
  text.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  text.push_back('\n');
  std::string header("\x93NUMPY\x01\x00", 8);
  header.push_back(static_cast<char>(text.size() & 0xff));
  header.push_back(static_cast<char>(text.size() >> 8));
  return header + text;
}

}  // namespace curvature::detail
