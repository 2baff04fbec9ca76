// The programs of Tidegate, for what the library leaves to them.
#include <dlfcn.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/json.h"
#include "sdk/abi.h"
#include "sdk/process.h"

namespace tidegate::sdk {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxAnswerBytes = 256u << 20;

// What there is now into `text`; false at the pipe's end.
Result<bool> ReadSome(const Fd& from, std::string* text) {
  char buffer[64 << 10];
  const ssize_t n = ::read(from.get(), buffer, sizeof(buffer));
  if (n < 0 && errno != EINTR) return Unexpected(ErrnoStatus("read", "what it says", errno));
  if (n == 0) return false;
  if (n > 0) text->append(buffer, static_cast<size_t>(n));
  if (text->size() > kMaxAnswerBytes) return ResourceExhausted("the answer is too long");
  return true;
}

Status ReadBoth(Process& process, const Call& call, std::string* output, std::string* errors) {
  while (process.output().valid() || process.errors().valid()) {
    pollfd fds[] = {{process.output().get(), POLLIN, 0},
                    {process.errors().get(), POLLIN, 0},
                    {call.cancel(), POLLIN, 0}};
    const int ready = ::poll(fds, 3, static_cast<int>(std::min<int64_t>(call.left(), 60'000)));
    if (ready < 0 && errno != EINTR) return ErrnoStatus("wait for", "the program", errno);
    if (ready > 0 && fds[2].revents != 0) return Cancelled("the call was cancelled");
    if (ready <= 0 && call.left() == 0) return DeadlineExceeded("it did not end in time");
    for (int i = 0; ready > 0 && i < 2; ++i) {
      if (fds[i].revents == 0) continue;
      Fd& from = i == 0 ? process.output() : process.errors();
      TG_ASSIGN_OR_RETURN(const bool more, ReadSome(from, i == 0 ? output : errors));
      if (!more) from.reset();
    }
  }
  return OkStatus();
}

// What `tidegate --format json` says to standard error when it fails.
std::string MessageOf(const std::string& errors, int code) {
  const size_t line = errors.rfind("{\"error\"");
  if (line != std::string::npos) {
    const auto json =
        nlohmann::json::parse(errors.substr(line, errors.find('\n', line) - line), nullptr, false);
    if (json.is_object() && json["error"].is_object() && json["error"]["message"].is_string()) {
      return json["error"]["message"].get<std::string>();
    }
  }
  constexpr size_t kEnd = 800;
  if (errors.empty()) return fmt::format("it ended with exit code {}", code);
  return errors.substr(errors.size() > kEnd ? errors.size() - kEnd : 0);
}

}  // namespace

Result<fs::path> FindProgram(const std::string& name) {
  std::error_code error;
  if (const char* dir = std::getenv("TIDEGATE_PROGRAMS"); dir != nullptr && *dir != '\0') {
    return fs::path(dir) / name;
  }
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&tg_abi_version), &info) != 0 &&
      info.dli_fname != nullptr) {
    const fs::path beside =
        fs::canonical(info.dli_fname, error).parent_path().parent_path() / "bin" / name;
    if (!error && fs::exists(beside, error)) return beside;
  }
  const char* path = std::getenv("PATH");
  for (std::string_view rest = path == nullptr ? "" : path; !rest.empty();) {
    const size_t colon = rest.find(':');
    const fs::path found = fs::path(rest.substr(0, colon)) / name;
    if (::access(found.c_str(), X_OK) == 0) return found;
    rest = colon == std::string_view::npos ? "" : rest.substr(colon + 1);
  }
  return NotFound(
      "the program {} is neither in TIDEGATE_PROGRAMS nor in the PATH; install it, or say where it "
      "is",
      name);
}

Result<std::string> RunTidegate(std::vector<std::string> words, const Call& call) {
  TG_ASSIGN_OR_RETURN(const fs::path program, FindProgram("tidegate"));
  words.insert(words.begin(), program.native());
  words.insert(words.end(), {"--format", "json"});
  TG_ASSIGN_OR_RETURN(Process process, Process::Start(words));
  std::string output, errors;
  TG_RETURN_IF_ERROR(ReadBoth(process, call, &output, &errors));
  const int status = process.Reap();
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : static_cast<int>(Code::kInternal);
  // Others are no codes (docs/exit-codes.md); with an answer they are about it.
  const bool known = code <= static_cast<int>(Code::kInternal);
  if (code == 0 || (!known && !output.empty())) return output;
  return MakeError(known ? static_cast<Code>(code) : Code::kInvalidArgument, "{}",
                   MessageOf(errors, code));
}

}  // namespace tidegate::sdk
