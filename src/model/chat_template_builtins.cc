#include "model/chat_template_builtins.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <initializer_list>

#include "base/limits.h"
#include "base/utf8.h"

namespace tidegate::model::chat {
namespace {

using Bound = std::vector<const Value*>;

// The arguments under the parameters' names; null where one is not given.
Result<Bound> Bind(std::string_view callee, const Arguments& arguments,
                   std::initializer_list<std::string_view> names) {
  if (arguments.values.size() > names.size()) {
    return InvalidArgument("{} takes at most {} arguments", callee, names.size());
  }
  Bound bound(names.size(), nullptr);
  for (size_t i = 0; i < arguments.values.size(); ++i) bound[i] = &arguments.values[i];
  for (const auto& [keyword, value] : arguments.keywords) {
    const auto* at = std::find(names.begin(), names.end(), keyword);
    if (at == names.end()) {
      return Unsupported("the argument '{}' of {} is not supported", keyword, callee);
    }
    const Value*& slot = bound[static_cast<size_t>(at - names.begin())];
    if (slot != nullptr) return InvalidArgument("the argument '{}' is given twice", keyword);
    slot = &value;
  }
  return bound;
}

Status CheckNoArguments(std::string_view callee, const Arguments& arguments) {
  const Result<Bound> bound = Bind(callee, arguments, {});
  return bound ? OkStatus() : bound.error();
}

Result<const Text*> NeedText(std::string_view callee, const Value* value) {
  if (value == nullptr) return InvalidArgument("{} needs a text", callee);
  if (value->text() == nullptr) {
    return InvalidArgument("{} needs a text, not {}", callee, KindName(*value));
  }
  return value->text();
}

// strip's argument: null for whitespace.
Result<const std::string*> Characters(std::string_view callee, const Value* value) {
  if (value == nullptr || value->none()) return nullptr;
  TG_ASSIGN_OR_RETURN(const Text* text, NeedText(callee, value));
  return &text->bytes;
}

// Python changes case by Unicode's full mappings, which may change lengths; only ASCII is built.
Result<Value> ChangeCase(std::string_view callee, Text text, bool upper) {
  for (char& c : text.bytes) {
    if ((c & 0x80) != 0) {
      return Unsupported("{} of text that is not ASCII is not supported", callee);
    }
    if (upper ? (c >= 'a' && c <= 'z') : (c >= 'A' && c <= 'Z')) c = static_cast<char>(c ^ 0x20);
  }
  return Value::OfText(std::move(text));
}

Result<Value> Length(const Value& value) {
  if (const Text* text = value.text()) {
    return Value{static_cast<int64_t>(CountCharacters(text->bytes))};
  }
  if (const List* list = value.list()) return Value{static_cast<int64_t>(list->items.size())};
  if (const Dict* dict = value.dict()) return Value{static_cast<int64_t>(dict->items.size())};
  if (value.undefined()) return Value{int64_t{0}};
  return InvalidArgument("{} has no length", KindName(value));
}

Result<Value> Join(const Value& value, const Value* between) {
  Text separator;
  if (between != nullptr) {
    TG_ASSIGN_OR_RETURN(separator, ToText(*between));
  }
  if (value.undefined()) return Value::OfString("");
  const List* list = value.list();
  if (list == nullptr) return Unsupported("join of {} is not supported", KindName(value));
  Text out;
  for (size_t i = 0; i < list->items.size(); ++i) {
    if (i > 0) out.Append(separator);
    TG_ASSIGN_OR_RETURN(const Text item, ToText(list->items[i]));
    out.Append(item);
    if (out.bytes.size() > kMaxTemplateOutputBytes) {
      return ResourceExhausted("join makes a text of more than {} bytes", kMaxTemplateOutputBytes);
    }
  }
  return Value::OfText(std::move(out));
}

Result<Value> Default(const Value& value, const Bound& bound) {
  const bool falsy_too = bound[1] != nullptr && Truth(*bound[1]);
  if (!value.undefined() && (!falsy_too || Truth(value))) return value;
  return bound[0] != nullptr ? *bound[0] : Value::OfString("");
}

Result<Value> End(std::string_view name, const Value& value) {
  if (value.undefined()) return Value{};
  if (value.text() == nullptr && value.list() == nullptr) {
    return Unsupported("{} of {} is not supported", name, KindName(value));
  }
  return GetIndex(value, Value{int64_t{name == "first" ? 0 : -1}});
}

// Python's split(): at every run of whitespace, without empty parts.
Result<Value> SplitAtSpace(const Text& text) {
  std::vector<Value> parts;
  const std::string_view bytes = text.bytes;
  size_t begin = 0;
  for (size_t i = 0; i <= bytes.size() && parts.size() <= kMaxListItems;) {
    const bool end = i == bytes.size();
    const Utf8Step step = end ? Utf8Step{Utf8Step::kValid, 1, U' '} : NextUtf8(bytes.substr(i));
    if (IsSpace(step.codepoint)) {
      if (begin < i) parts.push_back(Value::OfText(text.Slice(begin, i)));
      begin = i + step.size;
    }
    i += step.size;
  }
  return MakeList(std::move(parts));
}

Result<Value> Split(const Text& text, const Bound& bound) {
  int64_t most = -1;
  if (bound[1] != nullptr && !bound[1]->number(most)) {
    return InvalidArgument("split needs a number as maxsplit");
  }
  if (bound[0] == nullptr || bound[0]->none()) {
    if (most >= 0) return Unsupported("split with maxsplit and no separator is not supported");
    return SplitAtSpace(text);
  }
  TG_ASSIGN_OR_RETURN(const Text* separator, NeedText("split", bound[0]));
  if (separator->bytes.empty()) return InvalidArgument("split needs a separator of some length");
  std::vector<Value> parts;
  size_t begin = 0;
  while (most != 0) {
    const size_t at = text.bytes.find(separator->bytes, begin);
    if (at == std::string::npos) break;
    parts.push_back(Value::OfText(text.Slice(begin, at)));
    begin = at + separator->bytes.size();
    if (most > 0) --most;
    if (parts.size() > kMaxListItems) break;  // MakeList says so
  }
  parts.push_back(Value::OfText(text.Slice(begin, text.bytes.size())));
  return MakeList(std::move(parts));
}

// YYYY-MM-DD.
Result<std::chrono::year_month_day> ParseDate(std::string_view date) {
  const auto part = [&](size_t at, size_t size) {
    int number = -1;
    const char* begin = date.data() + at;
    const auto [end, error] = std::from_chars(begin, begin + size, number);
    return error == std::errc() && end == begin + size ? number : -1;
  };
  const bool shaped = date.size() == 10 && date[4] == '-' && date[7] == '-';
  const std::chrono::year_month_day day =
      shaped
          ? std::chrono::year(part(0, 4)) / std::chrono::month(static_cast<unsigned>(part(5, 2))) /
                std::chrono::day(static_cast<unsigned>(part(8, 2)))
          : std::chrono::year_month_day();
  if (!shaped || part(0, 4) < 1 || !day.ok()) {
    return InvalidArgument("the date '{}' is no day: write YYYY-MM-DD", date.substr(0, 40));
  }
  return day;
}

}  // namespace

Result<Value> ApplyFilter(std::string_view name, const Value& value, const Arguments& arguments) {
  if (name == "trim") {
    TG_ASSIGN_OR_RETURN(const Bound bound, Bind(name, arguments, {"chars"}));
    TG_ASSIGN_OR_RETURN(const std::string* chars, Characters(name, bound[0]));
    TG_ASSIGN_OR_RETURN(const Text text, ToText(value));
    return Value::OfText(Strip(text, chars, true, true));
  }
  if (name == "tojson") {
    TG_ASSIGN_OR_RETURN(const Bound bound, Bind(name, arguments, {"indent"}));
    if (bound[0] != nullptr && !bound[0]->none()) {
      return Unsupported("tojson with an indent is not supported");
    }
    TG_ASSIGN_OR_RETURN(Text text, ToJson(value));
    return Value::OfText(std::move(text));
  }
  if (name == "default" || name == "d") {
    TG_ASSIGN_OR_RETURN(const Bound bound, Bind(name, arguments, {"default_value", "boolean"}));
    return Default(value, bound);
  }
  if (name == "join") {
    TG_ASSIGN_OR_RETURN(const Bound bound, Bind(name, arguments, {"d"}));
    return Join(value, bound[0]);
  }
  const bool known = name == "length" || name == "count" || name == "upper" || name == "lower" ||
                     name == "first" || name == "last" || name == "string";
  if (!known) {
    return Unsupported(
        "the filter '{}' is not supported: there are trim, length, tojson, upper, lower, default, "
        "join, first, last, string",
        name);
  }
  TG_RETURN_IF_ERROR(CheckNoArguments(name, arguments));
  if (name == "length" || name == "count") return Length(value);
  if (name == "first" || name == "last") return End(name, value);
  TG_ASSIGN_OR_RETURN(Text text, ToText(value));
  if (name == "string") return Value::OfText(std::move(text));
  return ChangeCase(name, std::move(text), name == "upper");
}

Result<bool> ApplyTest(std::string_view name, const Value& value) {
  const bool sequence =
      value.text() != nullptr || value.list() != nullptr || value.dict() != nullptr;
  int64_t number = 0;
  if (name == "defined") return !value.undefined();
  if (name == "undefined") return value.undefined();
  if (name == "string") return value.text() != nullptr;
  if (name == "mapping") return value.dict() != nullptr;
  // Jinja's undefined value can be iterated over: it has no items.
  if (name == "iterable") return sequence || value.undefined();
  if (name == "sequence") return sequence || value.undefined();
  if (name == "none") return value.none();
  if (name == "boolean") return value.boolean();
  if (name == "false") return value.boolean() && !Truth(value);
  if (name == "true") return value.boolean() && Truth(value);
  if (name == "number") return value.number(number);
  if (name == "integer") return value.number(number) && !value.boolean();
  return Unsupported(
      "the test '{}' is not supported: there are defined, undefined, string, mapping, iterable, "
      "sequence, none, boolean, false, true, number, integer",
      name);
}

Result<Value> CallMethod(std::string_view name, const Value& self, const Arguments& arguments) {
  if (self.text() == nullptr) {
    return Unsupported("calling '{}' of {} is not supported", name, KindName(self));
  }
  const Text& text = *self.text();
  if (name == "startswith" || name == "endswith") {
    TG_ASSIGN_OR_RETURN(const Bound bound, Bind(name, arguments, {"prefix"}));
    TG_ASSIGN_OR_RETURN(const Text* part, NeedText(name, bound[0]));
    return Value{name == "startswith" ? text.bytes.starts_with(part->bytes)
                                      : text.bytes.ends_with(part->bytes)};
  }
  if (name == "split") {
    TG_ASSIGN_OR_RETURN(const Bound bound, Bind(name, arguments, {"sep", "maxsplit"}));
    return Split(text, bound);
  }
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    TG_ASSIGN_OR_RETURN(const Bound bound, Bind(name, arguments, {"chars"}));
    TG_ASSIGN_OR_RETURN(const std::string* chars, Characters(name, bound[0]));
    return Value::OfText(Strip(text, chars, name != "rstrip", name != "lstrip"));
  }
  if (name == "upper" || name == "lower") {
    TG_RETURN_IF_ERROR(CheckNoArguments(name, arguments));
    return ChangeCase(name, text, name == "upper");
  }
  return Unsupported(
      "the method '{}' of texts is not supported: there are startswith, endswith, split, strip, "
      "lstrip, rstrip, upper, lower",
      name);
}

Result<std::string> FormatDate(std::string_view date, std::string_view format) {
  TG_ASSIGN_OR_RETURN(const std::chrono::year_month_day day, ParseDate(date));
  static constexpr std::string_view kMonths[] = {"January",   "February", "March",    "April",
                                                 "May",       "June",     "July",     "August",
                                                 "September", "October",  "November", "December"};
  static constexpr std::string_view kDays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                               "Thursday", "Friday", "Saturday"};
  const std::string_view month = kMonths[static_cast<unsigned>(day.month()) - 1];
  const std::string_view weekday = kDays[std::chrono::weekday(day).c_encoding()];
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    const char c = ++i < format.size() ? format[i] : '\0';
    switch (c) {
      case 'd':
        out += date.substr(8, 2);
        break;
      case 'm':
        out += date.substr(5, 2);
        break;
      case 'Y':
        out += date.substr(0, 4);
        break;
      case 'y':
        out += date.substr(2, 2);
        break;
      case 'b':
        out += month.substr(0, 3);
        break;
      case 'B':
        out += month;
        break;
      case 'a':
        out += weekday.substr(0, 3);
        break;
      case 'A':
        out += weekday;
        break;
      case 'H':
      case 'M':
      case 'S':
        out += "00";
        break;
      case '%':
        out += '%';
        break;
      default:
        return Unsupported("strftime_now: only %d %m %Y %y %b %B %a %A %H %M %S %% are supported");
    }
  }
  return out;
}

}  // namespace tidegate::model::chat
