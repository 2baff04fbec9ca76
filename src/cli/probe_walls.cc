// Which walls the machine can raise, found by raising them in a child that then ends.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/file.h"
#include "cli/machine.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::cli {
namespace {

// What the child tells: whether RaiseWalls came to its end, and the report.
struct Answer {
  bool raised = false;
  char error[256] = {};
  onshore::WallReport report;
};
static_assert(std::is_trivially_copyable_v<Answer>);

[[noreturn]] void BeProbe(int out, pid_t parent) {
  // The descriptor audit wants pipes or /dev/null at 0, 1 and 2, and closes the rest.
  const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  Answer answer;
  if (::dup2(null.get(), 0) >= 0 && ::dup2(out, 1) >= 0 && ::dup2(null.get(), 2) >= 0) {
    onshore::WallSpec spec;
    spec.role = onshore::Role::kTrainer;
    spec.expected_parent = parent;
    const auto report = onshore::RaiseWalls(spec);
    answer.raised = report.has_value();
    if (report) answer.report = *report;
    if (!report) {
      const std::string& text = report.error().message();
      std::memcpy(answer.error, text.data(), std::min(text.size(), sizeof(answer.error) - 1));
    }
    const ByteSpan bytes(reinterpret_cast<const uint8_t*>(&answer), sizeof(answer));
    static_cast<void>(WriteAll(1, bytes, "the pipe"));
  }
  std::_Exit(0);
}

Result<Answer> AskChild() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return Unexpected(ErrnoStatus("make", "a pipe", errno));
  Fd read_end(fds[0]), write_end(fds[1]);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) return Unexpected(ErrnoStatus("start", "the wall probe", errno));
  if (child == 0) BeProbe(write_end.get(), parent);
  write_end.reset();
  Answer answer;
  size_t done = 0;
  auto* bytes = reinterpret_cast<char*>(&answer);
  while (done < sizeof(answer)) {
    const ssize_t n = ::read(read_end.get(), bytes + done, sizeof(answer) - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (done < sizeof(answer)) {
    return Unavailable("the wall probe ended without an answer (wait status {})", status);
  }
  return answer;
}

}  // namespace

Result<nlohmann::ordered_json> ProbeWalls() {
  TG_ASSIGN_OR_RETURN(const Answer answer, AskChild());
  nlohmann::ordered_json walls = nlohmann::ordered_json::array();
  for (const onshore::Wall wall :
       {onshore::Wall::kNetns, onshore::Wall::kSeccomp, onshore::Wall::kLandlockFs,
        onshore::Wall::kLandlockNet, onshore::Wall::kLandlockScope}) {
    const onshore::WallRow& row = answer.report.row(wall);
    const bool up = answer.raised && row.state == onshore::WallState::kUp;
    std::string reason;
    if (!up && !answer.raised) reason = answer.error;
    if (!up && answer.raised) {
      reason = fmt::format("{}: {}", row.step, std::strerror(row.error));
      for (const std::string& line : answer.report.Missing()) {
        if (line.starts_with(onshore::WallName(wall))) reason = line;
      }
    }
    walls.push_back({{"name", onshore::WallName(wall)},
                     {"up", up},
                     {"demanded", onshore::kDefaultDemanded.Has(wall)},
                     {"reason", reason}});
  }
  return walls;
}

}  // namespace tidegate::cli
