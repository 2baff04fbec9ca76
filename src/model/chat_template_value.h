// Values of the chat template interpreter. Internal to src/model.
//
// A text knows which of its bytes came from which message's content (marks), through
// concatenation, slices, trims and splits: that is how a render knows where the assistant speaks,
// whatever the template does to the content, and without looking for it in the output.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/status.h"

namespace tidegate::model::chat {

// Bytes [begin, end) are of message `message`'s content. Empty where the content is.
struct Mark {
  size_t begin;
  size_t end;
  int message;
};

struct Text {
  std::string bytes;
  std::vector<Mark> marks;  // ascending, disjoint

  void Append(const Text& other);
  // Bytes [begin, end) with their marks.
  Text Slice(size_t begin, size_t end) const;
};

struct Value;

struct List {
  std::vector<Value> items;
  int depth = 1;  // of lists in lists: bounded, for destructors recurse
};

// Insertion order, as in Python. Small: a message, loop, a namespace.
struct Dict {
  std::vector<std::pair<std::string, Value>> items;
  int message = -1;  // the place in the conversation, where it is a message

  const Value* Find(std::string_view key) const;
  void Set(std::string_view key, Value value);
};

struct Undefined {
  bool operator==(const Undefined&) const = default;
};
struct None {
  bool operator==(const None&) const = default;
};
// namespace(...): the one mutable thing. Never inside a list or another namespace, so no cycles.
struct Namespace {
  std::shared_ptr<Dict> dict;
};

enum class Function : uint8_t { kNamespace, kRaiseException, kStrftimeNow };

struct Value {
  std::variant<Undefined, None, bool, int64_t, std::shared_ptr<const Text>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, Namespace, Function>
      data;

  static Value OfText(Text text) { return {std::make_shared<const Text>(std::move(text))}; }
  static Value OfString(std::string text) { return OfText({std::move(text), {}}); }

  const Text* text() const;
  const List* list() const;
  const Dict* dict() const;
  bool undefined() const { return std::holds_alternative<Undefined>(data); }
  bool none() const { return std::holds_alternative<None>(data); }
  bool boolean() const { return std::holds_alternative<bool>(data); }
  // Whether it is a whole number or a boolean (which Python counts as one), and which.
  bool number(int64_t& out) const;
};

inline constexpr size_t kMaxListItems = 1 << 16;

// kResourceExhausted beyond kMaxListItems or kMaxTemplateDepth, kUnsupported for a namespace in it.
Result<Value> MakeList(std::vector<Value> items);

bool Truth(const Value& value);
// Python's ==.
bool Equal(const Value& a, const Value& b);
// "a string", "a list": for errors.
std::string_view KindName(const Value& value);
// Python's str(): the text itself, a number, True, None, nothing for undefined. kUnsupported for
// lists and dicts, whose str() is Python source.
Result<Text> ToText(const Value& value);
// json.dumps(ensure_ascii=False) with separators ", " and ": ". All of the result carries the
// marks of what went in.
Result<Text> ToJson(const Value& value);

// Python's str.isspace().
bool IsSpace(char32_t c);
// Characters, not bytes.
size_t CountCharacters(std::string_view text);
// The byte offset of every character, and text.size().
std::vector<size_t> CharacterOffsets(std::string_view text);
// str.strip(chars), on the sides asked for; whitespace where `chars` is null.
Text Strip(const Text& text, const std::string* chars, bool left, bool right);

}  // namespace tidegate::model::chat
