#include "onshore/start/start.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "base/clock.h"
#include "onshore/sandbox/spawn.h"
#include "onshore/sandbox/statement.h"
#include "onshore/start/stop.h"

namespace tidegate::onshore {
namespace {

constexpr int64_t kGoMillis = 60'000;

Status WaitForGo() {
  const int64_t deadline = SystemClock().MonotonicMillis() + kGoMillis;
  for (;;) {
    const int64_t left = deadline - SystemClock().MonotonicMillis();
    if (left <= 0) return DeadlineExceeded("the supervisor did not say GO within a minute");
    pollfd control{kControlFd, POLLIN, 0};
    TG_RETURN_IF_ERROR(WaitFor({&control, 1}, static_cast<int>(left)));
    if (StopSignalCame()) return Cancelled("a signal asked it to stop");
    TG_ASSIGN_OR_RETURN(const std::optional<ControlMessage> message, ReceiveControl());
    if (!message) continue;
    if (message->type == ControlType::kGo) return OkStatus();
    if (message->type == ControlType::kStop) return Cancelled("the supervisor said stop");
  }
}

}  // namespace

Status Own(const std::filesystem::path& path, uint32_t uid) {
  if (::chown(path.c_str(), uid, uid) != 0 || ::chmod(path.c_str(), S_IRWXU) != 0) {
    return ErrnoStatus("give a folder to its process:", path.native(), errno);
  }
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    if (::lchown(it->path().c_str(), uid, uid) != 0) {
      return ErrnoStatus("give a file to its process:", it->path().native(), errno);
    }
  }
  if (error) return Unavailable("cannot list {}: {}", path.native(), error.message());
  return OkStatus();
}

namespace {

// For the log and for who watches, whether they are demanded or not.
void TellMissing(const WallReport& report, uint32_t generation) {
  for (int i = 0; i < kWallCount; ++i) {
    const WallRow& row = report.rows[static_cast<size_t>(i)];
    if (row.state == WallState::kMissing) {
      SendEvent(EventCode::kWallMissing, generation, {i, row.error, 0, 0});
    }
  }
}

uint32_t WallBits(const WallReport& report) {
  uint32_t bits = 0;
  for (int i = 0; i < kWallCount; ++i) {
    if (report.rows[static_cast<size_t>(i)].state == WallState::kUp) bits |= 1u << i;
  }
  return bits;
}

}  // namespace

Result<Started> StartWalled(StartSpec spec) {
  if (spec.uid != 0) {
    spec.walls.uid = spec.walls.gid = spec.uid;
    for (const std::filesystem::path& path : spec.owned) TG_RETURN_IF_ERROR(Own(path, spec.uid));
  }
  TG_ASSIGN_OR_RETURN(const pid_t parent, ExpectedParent());
  spec.walls.expected_parent = parent;
  spec.walls.kept_fds.push_back({kControlFd, FdKind::kChannel});
  spec.tries.sibling = parent;
  TG_ASSIGN_OR_RETURN(TestedWalls tested,
                      RaiseTestedWalls({spec.walls, spec.tries, spec.demanded, false,
                                        [&spec](const WallReport& report) {
                                          TellMissing(report, spec.generation);
                                        }}));
  Started started;
  started.report = tested.report;
  std::vector<std::string> devices;
  for (const std::filesystem::path& device : spec.walls.devices) {
    devices.push_back(device.native());
  }
  started.statement = EncodeStatement({tested.report, spec.walls.kept_fds, spec.pinned_address,
                                       std::move(tested.rows), spec.proxy, std::move(devices)});
  TG_RETURN_IF_ERROR(SendControl(ControlType::kReady, spec.generation, WallBits(tested.report)));
  TG_RETURN_IF_ERROR(WaitForGo());
  return started;
}

Status SendControl(ControlType type, uint32_t generation, uint32_t code,
                   std::array<int64_t, 4> arguments) {
  ControlMessage message;
  message.type = type;
  message.generation = generation;
  message.code = code;
  message.arguments = arguments;
  for (;;) {
    const ssize_t n = ::send(kControlFd, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == static_cast<ssize_t>(sizeof(message))) return OkStatus();
    if (n < 0 && errno == EINTR) continue;
    return Unavailable("cannot tell the supervisor: {}", std::strerror(errno));
  }
}

void SendEvent(EventCode code, uint32_t generation, std::array<int64_t, 4> arguments) {
  // A log line that is lost must not stop the process.
  [[maybe_unused]] const Status status =
      SendControl(ControlType::kEvent, generation, static_cast<uint32_t>(code), arguments);
}

Result<std::optional<ControlMessage>> ReceiveControl() {
  ControlMessage message;
  for (;;) {
    const ssize_t n = ::recv(kControlFd, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == static_cast<ssize_t>(sizeof(message))) return message;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return std::nullopt;
    if (n > 0) continue;  // not a whole struct: not from the supervisor
    return Unavailable("the supervisor is gone");
  }
}

}  // namespace tidegate::onshore
