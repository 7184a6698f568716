#include "io/pickle.hpp"

#include <cstring>
#include <unordered_map>

#include "core/check.hpp"

namespace curvature::detail {
namespace {

using Kind = PickleValue::Kind;
using Values = std::vector<std::unique_ptr<PickleValue>>;

/// The stack machine of Python's pickle module (see its `pickletools` for the operations), with
/// values in place of objects.
class Machine {
 public:
  Machine(std::string_view who, std::string_view bytes, Values& values)
      : who_(who), bytes_(bytes), values_(values) {}

  const PickleValue* run() {
    for (unsigned char code = read_number<uint8_t>(); code != '.'; code = read_number<uint8_t>()) {
      step(code);
    }
    check(position_ == bytes_.size() && stack_.size() == 1 && marks_.empty());
    return stack_.back();
  }

 private:
  // clang-format off
  void step(unsigned char code) {
    switch (code) {
      // Framing and the stack.
      case 0x80: return check(read_number<uint8_t>() <= 5);
      case 0x95: return check(read_number<uint64_t>() <= bytes_.size());
      case '(': return marks_.push_back(stack_.size());
      case '0': return drop();
      // Plain values.
      case 'N': return collect(Kind::kNone, {});
      case 0x88: return push_integer(Kind::kBool, 1);
      case 0x89: return push_integer(Kind::kBool, 0);
      case 'J': return push_integer(Kind::kInteger, read_number<int32_t>());
      case 'K': return push_integer(Kind::kInteger, read_number<uint8_t>());
      case 'M': return push_integer(Kind::kInteger, read_number<uint16_t>());
      case 0x8a: return push_long(read_number<uint8_t>());
      case 'G': return push_other(sizeof(double));
      case 'X': return push_text(read_number<uint32_t>());
      case 0x8c: return push_text(read_number<uint8_t>());
      case 0x8d: return push_text(read_number<uint64_t>());
      case 'B': return push_other(read_number<uint32_t>());
      case 'C': return push_other(read_number<uint8_t>());
      case 0x8e: return push_other(read_number<uint64_t>());
      // Containers.
      case ')': return collect(Kind::kTuple, {});
      case ']': case 0x8f: return collect(Kind::kList, {});
      case '}': return collect(Kind::kDictionary, {});
      case 't': return collect(Kind::kTuple, pop_to_mark());
      case 0x85: return collect(Kind::kTuple, pop_several(1));
      case 0x86: return collect(Kind::kTuple, pop_several(2));
      case 0x87: return collect(Kind::kTuple, pop_several(3));
      case 'a': return append(pop_several(1));
      case 's': return append(pop_several(2));
      case 'e': case 0x90: case 'u': return append(pop_to_mark());
      // The memo.
      case 'q': return memorize(read_number<uint8_t>());
      case 'r': return memorize(read_number<uint32_t>());
      case 0x94: return memorize(static_cast<uint32_t>(memo_.size()));
      case 'h': return recall(read_number<uint8_t>());
      case 'j': return recall(read_number<uint32_t>());
      // Names and calls.
      case 'c': return push_global();
      case 0x93: return push_stack_global();
      case 'R': case 0x81: return collect(Kind::kCall, pop_several(2));
      case 0x92: return collect(Kind::kCall, pop_several(3));
      case 'b': return append(pop_several(1));
      case 'Q': return collect(Kind::kPersistent, pop_several(1));
      default: return refuse(code);
    }
  }
  // clang-format on

  void refuse(unsigned char code) const {
    throw FileError(
        fmt::format("{}: damaged, or not made by torch.save; unknown operation {:#04x} at byte {} "
                    "of its pickle",
                    who_, code, position_ - 1));
  }

  void check(bool condition) const {
    CURVATURE_CHECK(condition, FileError, "{}: damaged pickle, at byte {} of {}", who_, position_,
                    bytes_.size());
  }

  std::string_view read_bytes(uint64_t size) {
    check(size <= bytes_.size() - position_);
    const std::string_view bytes = bytes_.substr(position_, size);
    position_ += size;
    return bytes;
  }

  template <typename Number>
  Number read_number() {
    Number number;
    std::memcpy(&number, read_bytes(sizeof(Number)).data(), sizeof(Number));
    return number;
  }

  std::string_view read_line() {
    const size_t end = bytes_.find('\n', position_);
    check(end != std::string_view::npos);
    const std::string_view line = read_bytes(end - position_);
    ++position_;
    return line;
  }

  PickleValue& push(Kind kind) {
    values_.push_back(std::make_unique<PickleValue>());
    values_.back()->kind = kind;
    stack_.push_back(values_.back().get());
    return *stack_.back();
  }

  void push_integer(Kind kind, int64_t value) { push(kind).integer = value; }

  /// A little-endian two's complement number of `size` bytes.
  void push_long(size_t size) {
    const std::string_view bytes = read_bytes(size);
    if (size > sizeof(int64_t)) {
      push(Kind::kOther);
      return;
    }
    int64_t value = size > 0 && static_cast<signed char>(bytes.back()) < 0 ? -1 : 0;
    std::memcpy(&value, bytes.data(), size);
    push_integer(Kind::kInteger, value);
  }

  void push_text(uint64_t size) { push(Kind::kText).text = read_bytes(size); }

  void push_other(uint64_t size) {
    read_bytes(size);
    push(Kind::kOther);
  }

  void push_global(std::string_view module, std::string_view name) {
    push(Kind::kGlobal).text = fmt::format("{}.{}", module, name);
  }

  void push_global() {
    const std::string_view module = read_line();
    push_global(module, read_line());
  }

  void push_stack_global() {
    const auto names = pop_several(2);
    check(names[0]->kind == Kind::kText && names[1]->kind == Kind::kText);
    push_global(names[0]->text, names[1]->text);
  }

  PickleValue* top() const {
    check(stack_.size() > floor());
    return stack_.back();
  }

  void drop() {
    top();
    stack_.pop_back();
  }

  void memorize(uint32_t number) { memo_[number] = top(); }

  std::vector<const PickleValue*> pop_several(size_t count) {
    check(stack_.size() >= floor() + count);
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    std::vector<const PickleValue*> values(first, stack_.end());
    stack_.erase(first, stack_.end());
    return values;
  }

  std::vector<const PickleValue*> pop_to_mark() {
    check(!marks_.empty());
    auto values = pop_several(stack_.size() - marks_.back());
    marks_.pop_back();
    return values;
  }

  /// What lies below the last mark is out of reach.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  void collect(Kind kind, std::vector<const PickleValue*> items) {
    push(kind).items = std::move(items);
  }

  void append(const std::vector<const PickleValue*>& items) {
    PickleValue* container = top();
    check(container->kind == Kind::kList || container->kind == Kind::kDictionary ||
          container->kind == Kind::kCall);
    check(container->kind != Kind::kDictionary || items.size() % 2 == 0);
    container->items.insert(container->items.end(), items.begin(), items.end());
  }

  void recall(uint32_t number) {
    const auto found = memo_.find(number);
    check(found != memo_.end());
    stack_.push_back(found->second);
  }

  std::string_view who_;
  std::string_view bytes_;
  size_t position_ = 0;
  Values& values_;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, PickleValue*> memo_;
};

}  // namespace

Pickle::Pickle(std::string_view who, std::string_view bytes)
    : root_(Machine(who, bytes, values_).run()) {}

}  // namespace curvature::detail
