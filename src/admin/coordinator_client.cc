#include "admin/coordinator_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/subprocess.h"

namespace tidegate::admin {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kStartMillis = 5'000;
constexpr int kAskAgainMillis = 20;
constexpr size_t kMaxAnswerBytes = 4u << 20;
constexpr size_t kMaxRequestBytes = 96u << 10;

// Invalid when nobody listens there.
Result<Fd> Connect(const fs::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.native().size() >= sizeof(address.sun_path)) return Fd();
  path.native().copy(address.sun_path, sizeof(address.sun_path) - 1);
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Unexpected(ErrnoStatus("make a socket for", path.native(), errno));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return fd;
  }
  if (errno == ENOENT || errno == ECONNREFUSED) return Fd();
  return Unexpected(ErrnoStatus("connect to", path.native(), errno));
}

Result<std::string> Exchange(const Fd& fd, const std::string& request, const Asking& asking) {
  const int64_t millis = asking.millis;
  if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return Unexpected(ErrnoStatus("ask", "the coordinator", errno));
  }
  const int64_t end = SystemClock().MonotonicMillis() + millis;
  std::string answer;
  std::vector<char> packet(64u << 10);
  while (true) {
    pollfd p[] = {{fd.get(), POLLIN, 0}, {asking.cancel, POLLIN, 0}};
    const int64_t left = std::min<int64_t>(end - SystemClock().MonotonicMillis(), INT32_MAX);
    const int ready = left > 0 ? ::poll(p, 2, static_cast<int>(left)) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready > 0 && p[1].revents != 0) return Cancelled("the call was cancelled");
    if (ready <= 0)
      return DeadlineExceeded("the coordinator did not answer in {} s", millis / 1000);
    const ssize_t n = ::recv(fd.get(), packet.data(), packet.size(), 0);
    if (n < 0) return Unexpected(ErrnoStatus("hear", "the coordinator", errno));
    if (n == 0) break;
    answer.append(packet.data(), static_cast<size_t>(n));
    if (answer.size() > kMaxAnswerBytes)
      return ResourceExhausted("the coordinator's answer is too long");
  }
  if (answer.empty()) {
    return Unavailable(
        "the coordinator closed the connection; it answers its own user and root only");
  }
  return answer;
}

Result<std::string> OneShot(const fs::path& dir, const std::string& request, const Asking& asking) {
  if (asking.program.empty()) {
    return Unavailable("no coordinator runs on {}; start it with tidegate-coordinator --dir {}",
                       dir.native(), dir.native());
  }
  TG_ASSIGN_OR_RETURN(
      const CommandResult result,
      RunCommand({asking.program.native(), "--dir", dir.native(), "--request", request},
                 static_cast<int>(std::min<int64_t>(asking.millis, INT32_MAX)), kMaxAnswerBytes));
  if (!result.output.empty()) return result.output;
  return Unavailable("tidegate-coordinator ended with {}: {}", result.exit_code, result.errors);
}

Result<ordered_json> ReadAnswer(const std::string& answer) {
  JsonLimits limits;
  limits.max_bytes = kMaxAnswerBytes;
  TG_ASSIGN_OR_RETURN(ordered_json json,
                      ParseStrictOrderedJson(answer, limits, "the coordinator's answer"));
  if (json.contains("ok")) return json["ok"];
  const auto& failure = json["error"];
  if (!failure.is_object() || !failure["code"].is_number_integer() ||
      !failure["message"].is_string()) {
    return Internal("the coordinator's answer has neither ok nor error");
  }
  return MakeError(static_cast<Code>(failure["code"].get<int>()), "{}",
                   failure["message"].get<std::string>());
}

}  // namespace

Result<ordered_json> AskCoordinator(const fs::path& dir, const ordered_json& request,
                                    const Asking& asking) {
  std::error_code error;
  if (!fs::exists(dir / "coordinator.toml", error)) {
    return NotFound("{} is no coordinator's folder; `tidegate coordinator init` makes one",
                    dir.native());
  }
  const std::string text = request.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  if (text.size() > kMaxRequestBytes) {
    return ResourceExhausted("the request has {} bytes, the limit is {}; make the file shorter",
                             text.size(), kMaxRequestBytes);
  }
  // A coordinator that starts holds its folder for a moment before it can be asked.
  const int64_t end = SystemClock().MonotonicMillis() + kStartMillis;
  for (;;) {
    TG_ASSIGN_OR_RETURN(const Fd fd, Connect(dir / "admin.sock"));
    const auto answer = fd.valid() ? Exchange(fd, text, asking) : OneShot(dir, text, asking);
    if (!answer) return Unexpected(answer.error());
    auto read = ReadAnswer(*answer);
    const bool starting = !fd.valid() && !read && read.error().code() == Code::kUnavailable;
    if (!starting || SystemClock().MonotonicMillis() > end) return read;
    ::poll(nullptr, 0, kAskAgainMillis);
  }
}

}  // namespace tidegate::admin
