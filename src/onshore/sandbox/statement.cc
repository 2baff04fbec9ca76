#include "onshore/sandbox/statement.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace tidegate::onshore {
namespace {

constexpr std::string_view kFirstLine = "tidegate isolation statement 1";

// A step's name is one word in the text.
std::string OneWord(std::string_view text) {
  std::string word(text);
  std::replace(word.begin(), word.end(), ' ', '_');
  return word.empty() ? "-" : word;
}

class Lines {
 public:
  explicit Lines(std::string_view text) : rest_(text) {}

  // The words of the next line.
  Result<std::vector<std::string_view>> Next() {
    ++number_;
    const size_t end = rest_.find('\n');
    if (end == std::string_view::npos) return Bad("the text ends early");
    std::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    std::vector<std::string_view> words;
    while (true) {
      const size_t space = line.find(' ');
      words.push_back(line.substr(0, space));
      if (words.back().empty()) return Bad("a word is empty");
      if (space == std::string_view::npos) return words;
      line.remove_prefix(space + 1);
    }
  }
  bool AtEnd() const { return rest_.empty(); }
  bool NextStartsWith(std::string_view word) const { return rest_.starts_with(word); }
  Error Bad(std::string_view why) const {
    return InvalidArgument("isolation statement, line {}: {}", number_, why);
  }

 private:
  std::string_view rest_;
  size_t number_ = 0;
};

bool ParseInt(std::string_view text, int32_t& value) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
}

template <typename Enum>
bool ParseName(std::string_view text, std::string_view (*name)(Enum), int count, Enum& value) {
  for (int i = 0; i < count; ++i) {
    if (name(static_cast<Enum>(i)) != text) continue;
    value = static_cast<Enum>(i);
    return true;
  }
  return false;
}

template <size_t N>
bool StoreWord(std::string_view word, char (&out)[N]) {
  if (word.size() >= N) return false;
  std::memset(out, 0, N);
  word.copy(out, word.size());
  return true;
}

Status DecodeHead(Lines& lines, WallReport& report) {
  for (std::string_view key : {"role", "kernel", "landlock_abi", "passrights_error"}) {
    TG_ASSIGN_OR_RETURN(const auto words, lines.Next());
    if (words.size() != 2 || words[0] != key) return lines.Bad(fmt::format("no '{}'", key));
    bool ok = true;
    if (key == "role") ok = ParseName(words[1], RoleName, 4, report.role);
    if (key == "kernel") ok = StoreWord(words[1], report.kernel);
    if (key == "landlock_abi") ok = ParseInt(words[1], report.landlock_abi);
    if (key == "passrights_error") ok = ParseInt(words[1], report.passrights_error);
    if (!ok) return lines.Bad(fmt::format("'{}' has a bad value", key));
  }
  return OkStatus();
}

Status DecodeWalls(Lines& lines, WallReport& report) {
  for (int i = 0; i < kWallCount; ++i) {
    TG_ASSIGN_OR_RETURN(const auto words, lines.Next());
    WallRow& row = report.rows[static_cast<size_t>(i)];
    if (words.size() != 5 || words[0] != "wall" || words[1] != WallName(static_cast<Wall>(i)) ||
        !ParseName(words[2], WallStateName, 4, row.state) || !ParseInt(words[3], row.error) ||
        !StoreWord(words[4] == "-" ? "" : words[4], row.step)) {
      return lines.Bad(
          fmt::format("no 'wall {} STATE ERRNO STEP'", WallName(static_cast<Wall>(i))));
    }
  }
  return OkStatus();
}

Status DecodeTries(Lines& lines, std::vector<TryRow>& rows) {
  while (lines.NextStartsWith("try ")) {
    TG_ASSIGN_OR_RETURN(const auto words, lines.Next());
    TryRow row;
    if (words.size() != 5 || !StoreWord(words[1], row.name) || !ParseInt(words[2], row.control) ||
        !ParseInt(words[3], row.walled) || !ParseName(words[4], VerdictName, 3, row.verdict)) {
      return lines.Bad("no 'try NAME CONTROL WALLED VERDICT'");
    }
    if (rows.size() == kMaxTryRows) {
      return lines.Bad(fmt::format("more than {} tries", kMaxTryRows));
    }
    rows.push_back(row);
  }
  return OkStatus();
}

}  // namespace

std::string EncodeStatement(const IsolationStatement& statement) {
  const WallReport& report = statement.report;
  std::string text = fmt::format("{}\nrole {}\nkernel {}\nlandlock_abi {}\npassrights_error {}\n",
                                 kFirstLine, RoleName(report.role), OneWord(report.kernel),
                                 report.landlock_abi, report.passrights_error);
  for (int i = 0; i < kWallCount; ++i) {
    const Wall wall = static_cast<Wall>(i);
    const WallRow& row = report.row(wall);
    text += fmt::format("wall {} {} {} {}\n", WallName(wall), WallStateName(row.state), row.error,
                        OneWord(row.step));
  }
  for (const KeptFd& entry : statement.fds) {
    text += fmt::format("fd {} {}\n", entry.fd, FdKindName(entry.kind));
  }
  if (!statement.pinned_address.empty()) {
    text += fmt::format("pinned {}\n", OneWord(statement.pinned_address));
  }
  if (!statement.proxy.empty()) text += fmt::format("proxy {}\n", OneWord(statement.proxy));
  for (const std::string& device : statement.devices) {
    text += fmt::format("device {}\n", OneWord(device));
  }
  for (const TryRow& row : statement.rows) {
    text += fmt::format("try {} {} {} {}\n", row.name, row.control, row.walled,
                        VerdictName(row.verdict));
  }
  text += fmt::format("end {}\n", statement.rows.size());
  return text;
}

Result<IsolationStatement> DecodeStatement(std::string_view text) {
  if (text.size() > kMaxStatementBytes) {
    return InvalidArgument("isolation statement of {} bytes; at most {}", text.size(),
                           kMaxStatementBytes);
  }
  const std::string_view whole = text;
  if (!text.starts_with(kFirstLine) || text.size() <= kFirstLine.size()) {
    return InvalidArgument("isolation statement, line 1: not '{}'", kFirstLine);
  }
  text.remove_prefix(kFirstLine.size());
  if (text.front() != '\n') return InvalidArgument("isolation statement: another version");
  Lines lines(text.substr(1));
  IsolationStatement statement;
  TG_RETURN_IF_ERROR(DecodeHead(lines, statement.report));
  TG_RETURN_IF_ERROR(DecodeWalls(lines, statement.report));
  while (lines.NextStartsWith("fd ")) {
    TG_ASSIGN_OR_RETURN(const auto words, lines.Next());
    KeptFd entry;
    if (words.size() != 3 || !ParseInt(words[1], entry.fd) ||
        !ParseName(words[2], FdKindName, 4, entry.kind)) {
      return lines.Bad("no 'fd NUMBER KIND'");
    }
    statement.fds.push_back(entry);
  }
  if (lines.NextStartsWith("pinned ")) {
    TG_ASSIGN_OR_RETURN(const auto words, lines.Next());
    if (words.size() != 2) return lines.Bad("no 'pinned ADDRESS'");
    statement.pinned_address = std::string(words[1]);
  }
  if (lines.NextStartsWith("proxy ")) {
    TG_ASSIGN_OR_RETURN(const auto words, lines.Next());
    if (words.size() != 2) return lines.Bad("no 'proxy ADDRESS'");
    statement.proxy = std::string(words[1]);
  }
  while (lines.NextStartsWith("device ")) {
    TG_ASSIGN_OR_RETURN(const auto words, lines.Next());
    if (words.size() != 2) return lines.Bad("no 'device PATH'");
    statement.devices.emplace_back(words[1]);
  }
  TG_RETURN_IF_ERROR(DecodeTries(lines, statement.rows));
  TG_ASSIGN_OR_RETURN(const auto last, lines.Next());
  if (last.size() != 2 || last[0] != "end" || !lines.AtEnd()) return lines.Bad("no 'end COUNT'");
  if (EncodeStatement(statement) != whole) {
    return InvalidArgument(
        "isolation statement: not in its one form (a count, a number or a name)");
  }
  return statement;
}

}  // namespace tidegate::onshore
