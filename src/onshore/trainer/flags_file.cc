#include "onshore/trainer/flags_file.h"

#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/file.h"
#include "base/limits.h"
#include "onshore/trainer/as_user.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;

using Keys = std::vector<std::pair<const toml::key*, const toml::node*>>;

// The table's keys in the order of the lines.
Keys InOrder(const toml::table& table) {
  Keys keys;
  for (const auto& [key, node] : table) keys.emplace_back(&key, &node);
  std::sort(keys.begin(), keys.end(), [](const auto& a, const auto& b) {
    return a.first->source().begin < b.first->source().begin;
  });
  return keys;
}

struct Where {
  const std::string& file;
  const toml::key& key;
  uint32_t line() const { return key.source().begin.line; }
};

Error Bad(const Where& at, std::string_view why) {
  return InvalidArgument("{} line {}: {} {}", at.file, at.line(), at.key.str(), why);
}

// What a flag takes: CLI11's name of the type that holds it, and whether it may be a list.
struct Kind {
  std::string type;
  bool list = false;
  bool table = false;
  const char* Name() const {
    if (type == "BOOLEAN") return "true or false";
    if (type == "INT") return "a whole number";
    if (type == "UINT") return "a whole number, 0 or more";
    if (type == "FLOAT") return "a number";
    if (table) return "a table of numbers, its patterns in quotes: { \"q_proj\" = 8 }";
    return list ? "a text or a list" : "a text";
  }
};

std::optional<std::string> TextOfItem(const toml::node& node) {
  if (const auto text = node.value_exact<std::string>()) return *text;
  if (const auto whole = node.value_exact<int64_t>()) return fmt::format("{}", *whole);
  return std::nullopt;
}

// A list is what the flag writes with commas: "q_proj,v_proj".
std::optional<std::string> TextOfList(const toml::node& node) {
  const toml::array* list = node.as_array();
  if (list == nullptr) return TextOfItem(node);
  std::string text;
  for (const toml::node& item : *list) {
    const auto part = TextOfItem(item);
    if (!part || part->empty() || part->find(',') != std::string::npos) return std::nullopt;
    text += (text.empty() ? "" : ",") + *part;
  }
  return text;
}

// A table is the JSON object of the same entries, in their order.
std::optional<std::string> TextOfTable(const toml::node& node) {
  const toml::table* table = node.as_table();
  if (table == nullptr) return node.value_exact<std::string>();
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (const auto& [key, value] : InOrder(*table)) {
    if (const auto whole = value->value_exact<int64_t>()) {
      object[std::string(key->str())] = *whole;
    } else if (const auto real = value->value_exact<double>()) {
      object[std::string(key->str())] = *real;
    } else {
      return std::nullopt;
    }
  }
  return object.dump();
}

// The value as the command line would spell it; nothing where it is of another kind.
std::optional<std::string> Spelled(const toml::node& node, const Kind& kind) {
  const auto whole = node.value_exact<int64_t>();
  const auto real = node.value_exact<double>();
  if (kind.type == "BOOLEAN") {
    const auto value = node.value_exact<bool>();
    return value ? std::optional<std::string>(*value ? "true" : "false") : std::nullopt;
  }
  if (kind.type == "FLOAT" && real) return fmt::format("{}", *real);
  if (kind.type == "UINT" && whole && *whole < 0) return std::nullopt;
  if (kind.type == "INT" || kind.type == "UINT" || kind.type == "FLOAT") {
    return whole ? std::optional<std::string>(fmt::format("{}", *whole)) : std::nullopt;
  }
  if (kind.table) return TextOfTable(node);
  return kind.list ? TextOfList(node) : node.value_exact<std::string>();
}

Kind KindOf(const CLI::Option& option, const std::string& name, const FlagsFileRules& rules) {
  const bool is_flag = option.get_expected_max() == 0;
  return {is_flag ? "BOOLEAN" : option.get_type_name(), rules.lists.contains(name),
          rules.tables.contains(name)};
}

// A key of the file: its flag's first name, and the value as the command line would have it.
struct Given {
  std::string flag, key, value;
  uint32_t line = 0;
};

Result<Given> Spell(const CLI::App& verb, const Where& at, const toml::node& node,
                    const fs::path& folder, const FlagsFileRules& rules,
                    std::map<std::string, uint32_t>& taken) {
  const std::string key(at.key.str());
  const CLI::Option* option = key.size() < 2 ? nullptr : verb.get_option_no_throw("--" + key);
  if (option == nullptr || key == "help") {
    return Bad(at, fmt::format("is no flag of {}; its --help lists them", verb.get_name()));
  }
  const std::string name = option->get_lnames().front();
  if (rules.excluded.contains(name)) return Bad(at, "can be given on the command line alone");
  const auto [first, is_new] = taken.emplace(name, at.line());
  if (!is_new) return Bad(at, fmt::format("is the flag of line {} again", first->second));
  const Kind kind = KindOf(*option, name, rules);
  auto value = Spelled(node, kind);
  if (!value) return Bad(at, fmt::format("must be {}", kind.Name()));
  if (rules.paths.contains(name) && !value->empty()) *value = (folder / *value).native();
  return Given{name, key, std::move(*value), at.line()};
}

Result<std::vector<Given>> SpellAll(const CLI::App& verb, const std::string& text,
                                    const std::string& file, const fs::path& folder,
                                    const FlagsFileRules& rules) {
  std::map<std::string, uint32_t> taken;
  std::vector<Given> all;
  try {
    const toml::table table = toml::parse(text, file);
    // In order, for messages that name the first line with a mistake.
    for (const auto& [key, node] : InOrder(table)) {
      TG_ASSIGN_OR_RETURN(Given given, Spell(verb, {file, *key}, *node, folder, rules, taken));
      all.push_back(std::move(given));
    }
  } catch (const toml::parse_error& e) {
    return InvalidArgument("{} line {}: {}", file, e.source().begin.line,
                           std::string(e.description()));
  }
  return all;
}

// Whoever spelled them is not believed in what a file may say.
Status Apply(CLI::App& verb, const std::string& file, const std::vector<Given>& all,
             const FlagsFileRules& rules) {
  for (const Given& given : all) {
    CLI::Option* option = verb.get_option_no_throw("--" + given.flag);
    if (option == nullptr || given.flag == "help" || option->get_lnames().front() != given.flag ||
        rules.excluded.contains(given.flag)) {
      return InvalidArgument("{} line {}: {} is no flag that a file may give", file, given.line,
                             given.key);
    }
    if (option->count() > 0) continue;  // the command line wins
    try {
      option->add_result(given.value);
      option->run_callback();
    } catch (const CLI::ParseError&) {
      return InvalidArgument("{} line {}: {} must be {} that the flag can hold", file, given.line,
                             given.key, KindOf(*option, given.flag, rules).Name());
    }
  }
  return OkStatus();
}

Result<std::string> TextOf(int descriptor) {
  std::string text(kMaxConfigBytes + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t n =
        ::pread(descriptor, text.data() + size, text.size() - size, static_cast<off_t>(size));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unexpected(ErrnoStatus("read", "the flags", errno));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > kMaxConfigBytes) {
    return ResourceExhausted("the flags have more than {} bytes; make them shorter",
                             kMaxConfigBytes);
  }
  text.resize(size);
  return text;
}

Result<std::vector<Given>> SpellDescriptor(const CLI::App& verb, int descriptor,
                                           const fs::path& folder, const FlagsFileRules& rules) {
  TG_ASSIGN_OR_RETURN(const std::string text, TextOf(descriptor));
  return SpellAll(verb, text, "flags", folder, rules);
}

// What crosses between the two processes: a code and its message, or the flags; JSON would be
// another parser as root.
class Answer {
 public:
  static Bytes Encode(const Result<std::vector<Given>>& all) {
    Answer out;
    out.Number(static_cast<uint32_t>(all ? Code::kOk : all.error().code()));
    if (!all) out.Text(all.error().message());
    for (const Given& given : all ? *all : std::vector<Given>{}) {
      out.Text(given.flag);
      out.Text(given.key);
      out.Text(given.value);
      out.Number(given.line);
    }
    return std::move(out.bytes_);
  }
  static Result<std::vector<Given>> Decode(ByteSpan bytes) {
    Answer in;
    in.left_ = bytes;
    const auto code = in.Number();
    if (code && *code != 0 && *code <= static_cast<uint32_t>(Code::kInternal)) {
      const auto message = in.Text();
      return MakeError(static_cast<Code>(*code), "{}", message.value_or(""));
    }
    std::vector<Given> all;
    bool whole = code == 0u;
    while (whole && !in.left_.empty()) {
      auto flag = in.Text(), key = in.Text(), value = in.Text();
      const auto line = in.Number();
      whole = flag && key && value && line;
      if (whole) all.push_back({std::move(*flag), std::move(*key), std::move(*value), *line});
    }
    if (!whole) return Internal("the reader of a client's flags gave no answer");
    return all;
  }

 private:
  void Number(uint32_t number) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes_.push_back(static_cast<uint8_t>(number >> shift));
    }
  }
  void Text(const std::string& text) {
    Number(static_cast<uint32_t>(text.size()));
    bytes_.insert(bytes_.end(), text.begin(), text.end());
  }
  std::optional<uint32_t> Number() {
    if (left_.size() < sizeof(uint32_t)) return std::nullopt;
    uint32_t number = 0;
    for (size_t i = 0; i < sizeof(number); ++i) {
      number |= static_cast<uint32_t>(left_[i]) << (8 * i);
    }
    left_ = left_.subspan(sizeof(number));
    return number;
  }
  std::optional<std::string> Text() {
    const auto size = Number();
    if (!size || *size > left_.size()) return std::nullopt;
    std::string text(AsText(left_.first(*size)));
    left_ = left_.subspan(*size);
    return text;
  }

  Bytes bytes_;
  ByteSpan left_;
};

// Each byte of a file becomes at most so many of an answer, names and numbers included.
constexpr size_t kMaxAnswer = 16 * kMaxConfigBytes;

}  // namespace

Status ApplyFlagsFile(CLI::App& verb, const fs::path& path, const FlagsFileRules& rules) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  TG_ASSIGN_OR_RETURN(const std::vector<Given> all,
                      SpellAll(verb, text, path.native(), path.parent_path(), rules));
  return Apply(verb, path.native(), all, rules);
}

Status ApplyFlagsDescriptor(CLI::App& verb, int descriptor, const fs::path& folder,
                            const FlagsFileRules& rules, uint32_t uid) {
  Result<std::vector<Given>> all = std::vector<Given>{};
  if (uid == 0) {
    all = SpellDescriptor(verb, descriptor, folder, rules);
  } else {
    TG_ASSIGN_OR_RETURN(const Bytes answer, RunAsUser(uid, kMaxAnswer, [&] {
                          return Answer::Encode(SpellDescriptor(verb, descriptor, folder, rules));
                        }));
    all = Answer::Decode(answer);
  }
  return all ? Apply(verb, "flags", *all, rules) : all.error();
}

}  // namespace tidegate::trainer
