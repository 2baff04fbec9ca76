// Which walls each process of a site can have here: raised and tried in a child for each role,
// while this process plays the supervisor.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/clock.h"
#include "base/file.h"
#include "cli/machine.h"
#include "onshore/sandbox/address_pin.h"
#include "onshore/sandbox/self_test.h"
#include "onshore/sandbox/spawn.h"
#include "onshore/sandbox/statement.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;
using onshore::Role;
using onshore::Wall;
using onshore::WallState;

constexpr int kChannelFd = 3, kPinFd = 4;
constexpr int kProbeMillis = 30'000;  // a start takes some 20 ms
constexpr uid_t kNobody = 65534;
// Nothing is ever dialled there: link's socket is made and not connected.
constexpr std::string_view kPinned = "127.0.0.1:9";
constexpr std::string_view kWorks = "the last step went well";

// What a child said: its statement, and then whether it could do what its role lives by.
struct Told {
  std::string statement, last;
};

// Folders for the children's roots, removed at the end.
class ProbeFolders {
 public:
  static Result<ProbeFolders> Make() {
    std::error_code error;
    std::string name = (std::filesystem::temp_directory_path(error) / "tidegate-doctor-XXXXXX");
    if (error || ::mkdtemp(name.data()) == nullptr) {
      return Unexpected(ErrnoStatus("make a folder for", "the wall probe", errno));
    }
    ProbeFolders folders(name);
    for (const Role role : {Role::kGate, Role::kLink, Role::kCarrier}) {
      std::filesystem::create_directory(folders.Of(role), error);
      if (error) {
        return Unexpected(ErrnoStatus("make", folders.Of(role).native(), error.value()));
      }
    }
    return folders;
  }
  ProbeFolders(ProbeFolders&& other) noexcept : root_(std::exchange(other.root_, {})) {}
  ProbeFolders& operator=(ProbeFolders&&) = delete;
  ~ProbeFolders() {
    std::error_code ignored;
    if (!root_.empty()) std::filesystem::remove_all(root_, ignored);
  }
  std::filesystem::path Of(Role role) const { return root_ / onshore::RoleName(role); }

 private:
  explicit ProbeFolders(std::filesystem::path root) : root_(std::move(root)) {}
  std::filesystem::path root_;
};

void Tell(std::string_view text) {
  if (::send(kChannelFd, text.data(), text.size(), MSG_NOSIGNAL) < 0) ::_exit(1);
}

// As the role's program asks for them (onshore/gate_process, onshore/link, onshore/trainer).
onshore::WallSpec SpecOf(Role role, const ProbeFolders& folders, pid_t parent) {
  onshore::WallSpec spec;
  spec.role = role;
  spec.kept_fds = {{kChannelFd, onshore::FdKind::kChannel}};
  if (role == Role::kGate || role == Role::kCarrier) spec.read_write = {folders.Of(role)};
  if (role != Role::kTrainer) spec.chroot = folders.Of(role);
  if (role == Role::kLink) {
    spec.kept_fds.push_back({kPinFd, onshore::FdKind::kChannel});
    spec.pin_channel = kPinFd;
  }
  if (::geteuid() == 0) spec.uid = spec.gid = kNobody;
  spec.expected_parent = parent;
  return spec;
}

Status RaiseAndTry(Role role, const ProbeFolders& folders, pid_t parent) {
  const onshore::WallSpec spec = SpecOf(role, folders, parent);
  onshore::TryContext tries;
  tries.role = role;
  tries.sibling = parent;
  tries.chrooted = !spec.chroot.empty();
  TG_ASSIGN_OR_RETURN(std::vector<onshore::TryRow> rows, onshore::RunControl(tries));
  TG_ASSIGN_OR_RETURN(const onshore::WallReport report, onshore::RaiseWalls(spec));
  tries.chrooted = report.row(Wall::kChroot).state == WallState::kUp;
  TG_RETURN_IF_ERROR(onshore::RunWalled(tries, rows));
  Tell(onshore::EncodeStatement({report, spec.kept_fds, "", std::move(rows)}));
  TG_RETURN_IF_ERROR(onshore::LockDown(role));
  if (role != Role::kLink) return OkStatus();
  const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return socket.valid() ? OkStatus()
                        : ErrnoStatus("get from the supervisor", "a socket for link", errno);
}

[[noreturn]] void BeProbe(Role role, const ProbeFolders& folders, int channel, int pin,
                          pid_t parent) {
  // The descriptor audit wants /dev/null at 0, 1 and 2, and closes the rest.
  constexpr int kHigh = 64;
  const int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  const int high_channel = ::fcntl(channel, F_DUPFD_CLOEXEC, kHigh);
  const int high_pin = ::fcntl(pin, F_DUPFD_CLOEXEC, kHigh);
  if (null_fd < 0 || high_channel < 0 || high_pin < 0) ::_exit(1);
  for (int fd = 0; fd <= 2; ++fd) {
    if (::dup2(null_fd, fd) < 0) ::_exit(1);
  }
  if (::dup2(high_channel, kChannelFd) < 0 || ::dup2(high_pin, kPinFd) < 0) ::_exit(1);
  const Status status = RaiseAndTry(role, folders, parent);
  Tell(status.ok() ? kWorks : status.message());
  ::_exit(0);
}

// Hears the child out, and answers link's calls for a socket.
Status Serve(int channel, Fd pin_channel, Told& told) {
  TG_ASSIGN_OR_RETURN(const sockaddr_storage address, onshore::ParsePinnedAddress(kPinned));
  onshore::AddressPin pin(address);
  Fd listener;
  const int64_t end = SystemClock().MonotonicMillis() + kProbeMillis;
  while (true) {
    const int64_t left = end - SystemClock().MonotonicMillis();
    if (left <= 0) return DeadlineExceeded("it did not end within {} s", kProbeMillis / 1000);
    pollfd waits[2] = {{channel, POLLIN, 0},
                       {listener.valid() ? listener.get() : pin_channel.get(), POLLIN, 0}};
    if (::poll(waits, 2, static_cast<int>(left)) < 0 && errno != EINTR) {
      return ErrnoStatus("poll", "the wall probe", errno);
    }
    if (waits[1].revents != 0 && listener.valid()) {
      if (!pin.HandleNotification(listener.get()).ok()) listener.reset();
    } else if (waits[1].revents != 0) {
      Result<Fd> received = onshore::ReceiveListener(pin_channel.get(), 0);
      pin_channel.reset();
      if (received) listener = std::move(*received);
    }
    if (waits[0].revents == 0) continue;
    std::string text(onshore::kMaxStatementBytes, '\0');
    const ssize_t got = ::recv(channel, text.data(), text.size(), 0);
    if (got <= 0) return OkStatus();
    text.resize(static_cast<size_t>(got));
    (text.starts_with("tidegate isolation") ? told.statement : told.last) = std::move(text);
  }
}

Result<Told> AskChild(Role role, const ProbeFolders& folders) {
  TG_ASSIGN_OR_RETURN(onshore::Channel channel, onshore::MakeChannel());
  TG_ASSIGN_OR_RETURN(onshore::Channel pin, onshore::MakeChannel());
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) return Unexpected(ErrnoStatus("start", "the wall probe", errno));
  if (child == 0) BeProbe(role, folders, channel.child.get(), pin.child.get(), parent);
  channel.child.reset();
  pin.child.reset();
  Told told;
  const Status served = Serve(channel.supervisor.get(), std::move(pin.supervisor), told);
  if (!served.ok()) ::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!served.ok()) return Unexpected(served);
  if (told.last.empty()) told.last = fmt::format("it ended without a word (status {})", status);
  return told;
}

ordered_json TriesOf(const onshore::IsolationStatement& statement) {
  size_t counts[3] = {};
  ordered_json open = ordered_json::array();
  for (const onshore::TryRow& row : statement.rows) {
    ++counts[static_cast<size_t>(row.verdict)];
    const bool named = onshore::IsLeftOpen(statement.report, row.name);
    if (row.verdict == onshore::Verdict::kOpen && !named) open.push_back(row.name);
  }
  return {{"refused", counts[0]}, {"absent", counts[1]}, {"open", open}};
}

ordered_json WallsOf(const onshore::WallReport& report) {
  ordered_json walls = ordered_json::array();
  for (int i = 0; i < onshore::kWallCount; ++i) {
    const Wall wall = static_cast<Wall>(i);
    const WallState state = report.row(wall).state;
    if (state == WallState::kNotForRole) continue;
    ordered_json entry = {{"name", onshore::WallName(wall)},
                          {"state", onshore::WallStateName(state)},
                          {"demanded", onshore::kDefaultDemanded.Has(wall)}};
    if (state != WallState::kUp) {
      entry["reason"] = report.Reason(wall);
      entry["remedy"] = report.Remedy(wall);
    }
    walls.push_back(std::move(entry));
  }
  return walls;
}

Result<ordered_json> ProbeRole(Role role, const ProbeFolders& folders) {
  TG_ASSIGN_OR_RETURN(const Told told, AskChild(role, folders));
  ordered_json out = {{"role", onshore::RoleName(role)}};
  out["walls"] = ordered_json::array();
  if (told.last != kWorks) out["error"] = told.last;
  if (told.statement.empty()) return out;
  TG_ASSIGN_OR_RETURN(const auto statement, onshore::DecodeStatement(told.statement));
  out["walls"] = WallsOf(statement.report);
  out["tries"] = TriesOf(statement);
  out["statement"] = told.statement;
  return out;
}

}  // namespace

Result<ordered_json> ProbeWalls() {
  TG_ASSIGN_OR_RETURN(const ProbeFolders folders, ProbeFolders::Make());
  ordered_json roles = ordered_json::array();
  for (const Role role : {Role::kTrainer, Role::kGate, Role::kLink, Role::kCarrier}) {
    TG_ASSIGN_OR_RETURN(ordered_json probed, ProbeRole(role, folders));
    roles.push_back(std::move(probed));
  }
  return roles;
}

}  // namespace tidegate::cli
