// Attributes, indices, slices and operators: Python's meaning of them.
#include <algorithm>

#include "base/limits.h"
#include "model/chat_template_builtins.h"

namespace tidegate::model::chat {
namespace {

// Methods of Python's str and dict: as attributes that are not called they would be objects.
bool IsPythonMethod(const Value& value, std::string_view name) {
  static constexpr std::string_view kOfTexts[] = {
      "capitalize", "count",   "endswith", "find",  "format",     "index", "join",  "lower",
      "lstrip",     "replace", "rstrip",   "split", "startswith", "strip", "title", "upper"};
  static constexpr std::string_view kOfMappings[] = {"clear",      "copy",   "fromkeys", "get",
                                                     "items",      "keys",   "pop",      "popitem",
                                                     "setdefault", "update", "values"};
  const auto among = [&](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  return (value.text() != nullptr && among(kOfTexts)) ||
         (value.dict() != nullptr && among(kOfMappings));
}

// The places begin, begin + step, ... that Python's slice takes of `size` items.
struct Places {
  int64_t begin;
  int64_t step;
  int64_t count;
};

Result<Places> SlicePlaces(int64_t size, const Value* begin, const Value* end, const Value* step) {
  const auto whole = [](const Value* value, int64_t& out) {
    return value == nullptr || value->none() || value->number(out);
  };
  const auto given = [](const Value* value) { return value != nullptr && !value->none(); };
  int64_t stride = 1;
  int64_t from = 0;
  int64_t to = 0;
  if (!whole(step, stride) || !whole(begin, from) || !whole(end, to)) {
    return InvalidArgument("a slice needs whole numbers");
  }
  if (stride == 0) return InvalidArgument("a slice needs a step that is not 0");
  const bool back = stride < 0;
  const auto clamp = [&](int64_t at) {
    if (at < 0) at = at < -size ? -1 : at + size;
    return std::clamp(at, back ? int64_t{-1} : int64_t{0}, back ? size - 1 : size);
  };
  from = given(begin) ? clamp(from) : (back ? size - 1 : 0);
  to = given(end) ? clamp(to) : (back ? -1 : size);
  stride = std::clamp(stride, -size - 1, size + 1);
  const int64_t distance = back ? from - to : to - from;
  const int64_t pace = back ? -stride : stride;
  return Places{from, stride, distance > 0 ? (distance + pace - 1) / pace : 0};
}

Error WrongOperands(std::string_view op, const Value& a, const Value& b) {
  return InvalidArgument("'{}' does not take {} and {}", op, KindName(a), KindName(b));
}

Result<Value> Arithmetic(std::string_view op, int64_t x, int64_t y) {
  int64_t out = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(x, y, &out);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(x, y, &out);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(x, y, &out);
  } else {
    if (y == 0) return InvalidArgument("division by zero");
    if (x == INT64_MIN && y == -1) return InvalidArgument("a number beyond 64 bits");
    // Python rounds down, C++ towards zero.
    const int64_t rest = x % y;
    const bool down = rest != 0 && (rest < 0) != (y < 0);
    out = op == "%" ? rest + (down ? y : 0) : x / y - (down ? 1 : 0);
  }
  if (overflow) return InvalidArgument("a number beyond 64 bits");
  return Value{out};
}

Result<Value> Concatenate(const Text& a, const Text& b) {
  if (a.bytes.size() + b.bytes.size() > kMaxTemplateOutputBytes) {
    return ResourceExhausted("a text of more than {} bytes", kMaxTemplateOutputBytes);
  }
  Text out;
  out.bytes.reserve(a.bytes.size() + b.bytes.size());
  out.Append(a);
  out.Append(b);
  return Value::OfText(std::move(out));
}

}  // namespace

Result<Value> GetAttribute(const Value& value, std::string_view name) {
  if (const auto* space = std::get_if<Namespace>(&value.data)) {
    const Value* found = space->dict->Find(name);
    return found != nullptr ? *found : Value{};
  }
  if (value.undefined()) {
    return InvalidArgument("an undefined value has no attribute '{}'", name);
  }
  if (IsPythonMethod(value, name)) {
    return Unsupported("'{}' of {} without calling it is not supported", name, KindName(value));
  }
  if (const Dict* dict = value.dict()) {
    const Value* found = dict->Find(name);
    return found != nullptr ? *found : Value{};
  }
  return Value{};
}

Result<Value> GetIndex(const Value& value, const Value& index) {
  if (value.undefined()) return InvalidArgument("an undefined value has no items");
  if (const Text* key = index.text()) {
    const Dict* dict = value.dict();
    const Value* found = dict != nullptr ? dict->Find(key->bytes) : nullptr;
    return found != nullptr ? *found : Value{};
  }
  int64_t at = 0;
  if (!index.number(at)) return Value{};
  if (const List* list = value.list()) {
    const auto size = static_cast<int64_t>(list->items.size());
    if (at < 0) at += size;
    return at >= 0 && at < size ? list->items[static_cast<size_t>(at)] : Value{};
  }
  if (const Text* text = value.text()) {
    const std::vector<size_t> offsets = CharacterOffsets(text->bytes);
    const auto size = static_cast<int64_t>(offsets.size()) - 1;
    if (at < 0) at += size;
    if (at < 0 || at >= size) return Value{};
    return Value::OfText(
        text->Slice(offsets[static_cast<size_t>(at)], offsets[static_cast<size_t>(at) + 1]));
  }
  return Value{};
}

Result<Value> GetSlice(const Value& value, const Value* begin, const Value* end,
                       const Value* step) {
  if (const List* list = value.list()) {
    TG_ASSIGN_OR_RETURN(const Places places,
                        SlicePlaces(static_cast<int64_t>(list->items.size()), begin, end, step));
    std::vector<Value> items;
    for (int64_t i = 0; i < places.count; ++i) {
      items.push_back(list->items[static_cast<size_t>(places.begin + i * places.step)]);
    }
    return MakeList(std::move(items));
  }
  const Text* text = value.text();
  if (text == nullptr) return InvalidArgument("{} has no slices", KindName(value));
  const std::vector<size_t> offsets = CharacterOffsets(text->bytes);
  TG_ASSIGN_OR_RETURN(const Places places,
                      SlicePlaces(static_cast<int64_t>(offsets.size()) - 1, begin, end, step));
  const auto first = static_cast<size_t>(places.begin < 0 ? 0 : places.begin);
  if (places.count == 0) return Value::OfText(text->Slice(offsets[first], offsets[first]));
  if (places.step == 1) {
    return Value::OfText(
        text->Slice(offsets[first], offsets[first + static_cast<size_t>(places.count)]));
  }
  Text out;
  for (int64_t i = 0; i < places.count; ++i) {
    const auto at = static_cast<size_t>(places.begin + i * places.step);
    out.Append(text->Slice(offsets[at], offsets[at + 1]));
  }
  return Value::OfText(std::move(out));
}

Result<Value> Operate(std::string_view op, const Value& a, const Value& b) {
  int64_t x = 0;
  int64_t y = 0;
  if (op == "~") {
    TG_ASSIGN_OR_RETURN(const Text left, ToText(a));
    TG_ASSIGN_OR_RETURN(const Text right, ToText(b));
    return Concatenate(left, right);
  }
  if (a.number(x) && b.number(y)) return Arithmetic(op, x, y);
  if (op == "+" && a.text() != nullptr && b.text() != nullptr) {
    return Concatenate(*a.text(), *b.text());
  }
  if (op == "+" && a.list() != nullptr && b.list() != nullptr) {
    std::vector<Value> items = a.list()->items;
    items.insert(items.end(), b.list()->items.begin(), b.list()->items.end());
    return MakeList(std::move(items));
  }
  if (op == "*" && a.text() != nullptr && b.number(y)) {
    const Text& text = *a.text();
    const auto times = static_cast<size_t>(std::max<int64_t>(y, 0));
    if (!text.bytes.empty() && times > kMaxTemplateOutputBytes / text.bytes.size()) {
      return ResourceExhausted("a text of more than {} bytes", kMaxTemplateOutputBytes);
    }
    Text out;
    for (size_t i = 0; i < (text.bytes.empty() ? 0 : times); ++i) out.Append(text);
    return Value::OfText(std::move(out));
  }
  return WrongOperands(op, a, b);
}

Result<bool> Compare(std::string_view op, const Value& a, const Value& b) {
  if (op == "==") return Equal(a, b);
  if (op == "!=") return !Equal(a, b);
  if (op == "in" || op == "not in") {
    const bool wanted = op == "in";
    if (b.undefined()) return !wanted;
    if (const List* list = b.list()) {
      const bool found = std::any_of(list->items.begin(), list->items.end(),
                                     [&](const Value& item) { return Equal(a, item); });
      return found == wanted;
    }
    if (a.text() != nullptr && b.text() != nullptr) {
      return (b.text()->bytes.find(a.text()->bytes) != std::string::npos) == wanted;
    }
    if (a.text() != nullptr && b.dict() != nullptr) {
      return (b.dict()->Find(a.text()->bytes) != nullptr) == wanted;
    }
    return WrongOperands(op, a, b);
  }
  int64_t x = 0;
  int64_t y = 0;
  int order = 0;
  if (a.number(x) && b.number(y)) {
    order = x < y ? -1 : x > y ? 1 : 0;
  } else if (a.text() != nullptr && b.text() != nullptr) {
    order = a.text()->bytes.compare(b.text()->bytes);  // UTF-8 sorts as its code points do
  } else {
    return WrongOperands(op, a, b);
  }
  if (op == "<") return order < 0;
  if (op == "<=") return order <= 0;
  if (op == ">") return order > 0;
  return order >= 0;
}

}  // namespace tidegate::model::chat
