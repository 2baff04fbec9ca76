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

Status ApplyKey(CLI::App& verb, const Where& at, const toml::node& node, const fs::path& folder,
                const FlagsFileRules& rules, std::map<const CLI::Option*, uint32_t>& taken) {
  const std::string key(at.key.str());
  CLI::Option* option = key.size() < 2 ? nullptr : verb.get_option_no_throw("--" + key);
  if (option == nullptr || key == "help") {
    return Bad(at, fmt::format("is no flag of {}; its --help lists them", verb.get_name()));
  }
  const std::string name = option->get_lnames().front();
  if (rules.excluded.contains(name)) return Bad(at, "can be given on the command line alone");
  const auto [first, is_new] = taken.emplace(option, at.line());
  if (!is_new) return Bad(at, fmt::format("is the flag of line {} again", first->second));
  const bool is_flag = option->get_expected_max() == 0;
  const Kind kind{is_flag ? "BOOLEAN" : option->get_type_name(), rules.lists.contains(name),
                  rules.tables.contains(name)};
  auto value = Spelled(node, kind);
  if (!value) return Bad(at, fmt::format("must be {}", kind.Name()));
  if (option->count() > 0) return OkStatus();  // the command line wins
  if (rules.paths.contains(name) && !value->empty()) *value = (folder / *value).native();
  try {
    option->add_result(*value);
    option->run_callback();
  } catch (const CLI::ParseError&) {
    return Bad(at, fmt::format("must be {} that the flag can hold", kind.Name()));
  }
  return OkStatus();
}

}  // namespace

namespace {

Status ApplyText(CLI::App& verb, const std::string& text, const std::string& file,
                 const fs::path& folder, const FlagsFileRules& rules) {
  std::map<const CLI::Option*, uint32_t> taken;
  try {
    const toml::table table = toml::parse(text, file);
    // In order, for messages that name the first line with a mistake.
    for (const auto& [key, node] : InOrder(table)) {
      TG_RETURN_IF_ERROR(ApplyKey(verb, {file, *key}, *node, folder, rules, taken));
    }
  } catch (const toml::parse_error& e) {
    return InvalidArgument("{} line {}: {}", file, e.source().begin.line,
                           std::string(e.description()));
  }
  return OkStatus();
}

}  // namespace

Status ApplyFlagsFile(CLI::App& verb, const fs::path& path, const FlagsFileRules& rules) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  return ApplyText(verb, text, path.native(), path.parent_path(), rules);
}

Status ApplyFlagsDescriptor(CLI::App& verb, int descriptor, const fs::path& folder,
                            const FlagsFileRules& rules) {
  TG_ASSIGN_OR_RETURN(const Fd fd, OpenToRead(fmt::format("/dev/fd/{}", descriptor)));
  std::string text(kMaxConfigBytes + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t n =
        ::pread(fd.get(), text.data() + size, text.size() - size, static_cast<off_t>(size));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("read", "the flags", errno);
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > kMaxConfigBytes) {
    return ResourceExhausted("the flags have more than {} bytes; make them shorter",
                             kMaxConfigBytes);
  }
  text.resize(size);
  return ApplyText(verb, text, "flags", folder, rules);
}

}  // namespace tidegate::trainer
