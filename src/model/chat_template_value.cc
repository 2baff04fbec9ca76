#include "model/chat_template_value.h"

#include <algorithm>

#include "base/limits.h"
#include "base/utf8.h"

namespace tidegate::model::chat {

void Text::Append(const Text& other) {
  const size_t shift = bytes.size();
  bytes += other.bytes;
  for (const Mark& mark : other.marks) {
    const size_t begin = mark.begin + shift;
    if (!marks.empty() && marks.back().message == mark.message && marks.back().end == begin) {
      marks.back().end = mark.end + shift;
    } else {
      marks.push_back({begin, mark.end + shift, mark.message});
    }
  }
}

Text Text::Slice(size_t begin, size_t end) const {
  Text out;
  out.bytes = bytes.substr(begin, end - begin);
  for (const Mark& mark : marks) {
    const size_t from = std::max(begin, mark.begin);
    const size_t to = std::min(end, mark.end);
    // An empty piece is kept where it is all that is left of its message: it still has a place.
    const bool empty_piece = from == to && ((mark.begin <= begin && end <= mark.end) ||
                                            (mark.begin == mark.end && begin <= to && to <= end));
    if (from < to || empty_piece) out.marks.push_back({from - begin, to - begin, mark.message});
  }
  return out;
}

const Value* Dict::Find(std::string_view key) const {
  for (const auto& [name, value] : items) {
    if (name == key) return &value;
  }
  return nullptr;
}

void Dict::Set(std::string_view key, Value value) {
  for (auto& [name, old] : items) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  items.emplace_back(std::string(key), std::move(value));
}

const Text* Value::text() const {
  const auto* p = std::get_if<std::shared_ptr<const Text>>(&data);
  return p != nullptr ? p->get() : nullptr;
}

const List* Value::list() const {
  const auto* p = std::get_if<std::shared_ptr<const List>>(&data);
  return p != nullptr ? p->get() : nullptr;
}

const Dict* Value::dict() const {
  const auto* p = std::get_if<std::shared_ptr<const Dict>>(&data);
  return p != nullptr ? p->get() : nullptr;
}

bool Value::number(int64_t& out) const {
  if (const auto* n = std::get_if<int64_t>(&data)) {
    out = *n;
    return true;
  }
  if (const auto* b = std::get_if<bool>(&data)) {
    out = *b ? 1 : 0;
    return true;
  }
  return false;
}

Result<Value> MakeList(std::vector<Value> items) {
  if (items.size() > kMaxListItems) {
    return ResourceExhausted("a list of {} items: a template may make lists of at most {}",
                             items.size(), kMaxListItems);
  }
  auto list = std::make_shared<List>();
  for (const Value& item : items) {
    if (std::holds_alternative<Namespace>(item.data)) {
      return Unsupported("a namespace inside a list is not supported");
    }
    if (const List* inner = item.list()) list->depth = std::max(list->depth, inner->depth + 1);
  }
  if (list->depth > kMaxTemplateDepth) {
    return ResourceExhausted("lists nested more than {} deep", kMaxTemplateDepth);
  }
  list->items = std::move(items);
  return Value{std::shared_ptr<const List>(std::move(list))};
}

bool Truth(const Value& value) {
  int64_t number = 0;
  if (value.number(number)) return number != 0;
  if (const Text* text = value.text()) return !text->bytes.empty();
  if (const List* list = value.list()) return !list->items.empty();
  if (const Dict* dict = value.dict()) return !dict->items.empty();
  return !value.undefined() && !value.none();
}

bool Equal(const Value& a, const Value& b) {
  int64_t x = 0;
  int64_t y = 0;
  if (a.number(x) && b.number(y)) return x == y;
  if (a.text() != nullptr && b.text() != nullptr) return a.text()->bytes == b.text()->bytes;
  if (a.list() != nullptr && b.list() != nullptr) {
    return std::equal(a.list()->items.begin(), a.list()->items.end(), b.list()->items.begin(),
                      b.list()->items.end(), Equal);
  }
  if (a.dict() != nullptr && b.dict() != nullptr) {
    if (a.dict()->items.size() != b.dict()->items.size()) return false;
    return std::all_of(a.dict()->items.begin(), a.dict()->items.end(), [&](const auto& item) {
      const Value* other = b.dict()->Find(item.first);
      return other != nullptr && Equal(item.second, *other);
    });
  }
  if (const auto* space = std::get_if<Namespace>(&a.data)) {
    const auto* other = std::get_if<Namespace>(&b.data);
    return other != nullptr && space->dict == other->dict;
  }
  if (const auto* function = std::get_if<Function>(&a.data)) {
    const auto* other = std::get_if<Function>(&b.data);
    return other != nullptr && *function == *other;
  }
  return (a.undefined() && b.undefined()) || (a.none() && b.none());
}

std::string_view KindName(const Value& value) {
  static constexpr std::string_view kNames[] = {"an undefined value", "none",        "a boolean",
                                                "a number",           "a text",      "a list",
                                                "a mapping",          "a namespace", "a function"};
  return kNames[value.data.index()];
}

Result<Text> ToText(const Value& value) {
  if (const Text* text = value.text()) return *text;
  if (value.undefined()) return Text{};
  if (value.none()) return Text{"None", {}};
  if (const auto* b = std::get_if<bool>(&value.data)) return Text{*b ? "True" : "False", {}};
  if (const auto* n = std::get_if<int64_t>(&value.data)) return Text{std::to_string(*n), {}};
  return Unsupported("{} as text is not supported: use the filter tojson", KindName(value));
}

namespace {

void AppendJsonString(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

Status CheckOutput(const Text& out) {
  if (out.bytes.size() <= kMaxTemplateOutputBytes) return OkStatus();
  return ResourceExhausted("JSON of more than {} bytes", kMaxTemplateOutputBytes);
}

Status AppendJson(Text& out, const Value& value) {
  if (const Text* text = value.text()) {
    const size_t begin = out.bytes.size();
    AppendJsonString(out.bytes, text->bytes);
    if (!text->marks.empty()) {
      out.marks.push_back({begin, out.bytes.size(), text->marks.front().message});
    }
  } else if (const List* list = value.list()) {
    out.bytes += '[';
    for (size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out.bytes += ", ";
      TG_RETURN_IF_ERROR(AppendJson(out, list->items[i]));
    }
    out.bytes += ']';
  } else if (const Dict* dict = value.dict()) {
    out.bytes += '{';
    for (size_t i = 0; i < dict->items.size(); ++i) {
      if (i > 0) out.bytes += ", ";
      AppendJsonString(out.bytes, dict->items[i].first);
      out.bytes += ": ";
      TG_RETURN_IF_ERROR(AppendJson(out, dict->items[i].second));
    }
    out.bytes += '}';
  } else if (const auto* b = std::get_if<bool>(&value.data)) {
    out.bytes += *b ? "true" : "false";
  } else if (const auto* n = std::get_if<int64_t>(&value.data)) {
    out.bytes += std::to_string(*n);
  } else if (value.none()) {
    out.bytes += "null";
  } else {
    return InvalidArgument("{} cannot be written as JSON", KindName(value));
  }
  return CheckOutput(out);
}

}  // namespace

Result<Text> ToJson(const Value& value) {
  Text out;
  TG_RETURN_IF_ERROR(AppendJson(out, value));
  return out;
}

bool IsSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

size_t CountCharacters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::vector<size_t> CharacterOffsets(std::string_view text) {
  std::vector<size_t> offsets;
  offsets.reserve(text.size() + 1);
  for (size_t i = 0; i < text.size(); ++i) {
    if ((text[i] & 0xC0) != 0x80) offsets.push_back(i);
  }
  offsets.push_back(text.size());
  return offsets;
}

namespace {

bool Strips(std::string_view character, const std::string* chars) {
  if (chars == nullptr) return IsSpace(NextUtf8(character).codepoint);
  // No UTF-8 character's bytes occur inside another's, so a byte search finds whole ones.
  return chars->find(character) != std::string::npos;
}

}  // namespace

Text Strip(const Text& text, const std::string* chars, bool left, bool right) {
  const std::string_view bytes = text.bytes;
  size_t begin = 0;
  size_t end = bytes.size();
  while (left && begin < end) {
    size_t next = begin + 1;
    while (next < end && (bytes[next] & 0xC0) == 0x80) ++next;
    if (!Strips(bytes.substr(begin, next - begin), chars)) break;
    begin = next;
  }
  while (right && end > begin) {
    size_t last = end - 1;
    while (last > begin && (bytes[last] & 0xC0) == 0x80) --last;
    if (!Strips(bytes.substr(last, end - last), chars)) break;
    end = last;
  }
  return text.Slice(begin, end);
}

}  // namespace tidegate::model::chat
