#include "offshore/admin_socket.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>

#include "base/log.h"

namespace tidegate::offshore {

namespace fs = std::filesystem;

std::string AnswerText(const Result<nlohmann::ordered_json>& answer) {
  nlohmann::ordered_json json;
  if (answer) {
    json["ok"] = *answer;
  } else {
    json["error"] = {{"code", static_cast<int>(answer.error().code())},
                     {"message", answer.error().message()}};
  }
  std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() <= kMaxAnswerBytes) return text;
  return AnswerText(ResourceExhausted("the answer has {} bytes, the limit is {}; ask for less",
                                      text.size(), kMaxAnswerBytes));
}

Result<DirLock> DirLock::Take(const fs::path& dir) {
  const fs::path path = dir / "lock";
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return Unexpected(ErrnoStatus("open", path.native(), errno));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Unexpected(ErrnoStatus("lock", path.native(), errno));
    return Unavailable("{} is in use by another coordinator", dir.native());
  }
  return DirLock(std::move(fd));
}

Result<AdminSocket> AdminSocket::Listen(const fs::path& dir, const Clock& clock) {
  const fs::path path = dir / "admin.sock";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.native().size() >= sizeof(address.sun_path)) {
    return InvalidArgument(
        "the path {} is longer than the {} bytes a unix socket may have; take a shorter folder",
        path.native(), sizeof(address.sun_path) - 1);
  }
  path.native().copy(address.sun_path, sizeof(address.sun_path) - 1);
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Unexpected(ErrnoStatus("make a socket for", path.native(), errno));
  // The lock is ours, so whoever bound it before is dead.
  ::unlink(path.c_str());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Unexpected(ErrnoStatus("bind", path.native(), errno));
  }
  if (::chmod(path.c_str(), 0600) != 0) {
    return Unexpected(ErrnoStatus("chmod", path.native(), errno));
  }
  if (::listen(fd.get(), static_cast<int>(kMaxAdminClients)) != 0) {
    return Unexpected(ErrnoStatus("listen on", path.native(), errno));
  }
  return AdminSocket(std::move(fd), clock);
}

void AdminSocket::AddPollFds(std::vector<pollfd>* fds) const {
  fds->push_back({fd_.get(), POLLIN, 0});
  for (const Client& client : clients_) {
    fds->push_back({client.fd.get(), static_cast<short>(client.asked ? POLLOUT : POLLIN), 0});
  }
}

void AdminSocket::Accept() {
  while (true) {
    Fd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid()) return;
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) continue;
    if (peer.uid != ::geteuid() && peer.uid != 0) {
      LogWarning("admin_refused uid={}", peer.uid);
      continue;
    }
    if (clients_.size() >= kMaxAdminClients) continue;
    clients_.push_back({std::move(fd), clock_->MonotonicMillis(), false, {}, 0});
  }
}

bool AdminSocket::ServeOne(Client& client,
                           const std::function<std::string(std::string_view)>& handle) const {
  if (clock_->MonotonicMillis() - client.since > kAdminClientMillis) return false;
  if (!client.asked) {
    std::string request(kMaxRequestBytes + 1, '\0');
    const ssize_t n = ::recv(client.fd.get(), request.data(), request.size(), 0);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (n == 0) return false;
    request.resize(static_cast<size_t>(n));
    client.answer =
        request.size() > kMaxRequestBytes
            ? AnswerText(ResourceExhausted("a request has at most {} bytes", kMaxRequestBytes))
            : handle(request);
    client.asked = true;
    client.since = clock_->MonotonicMillis();
  }
  while (client.sent < client.answer.size()) {
    const size_t size = std::min(kAnswerPacketBytes, client.answer.size() - client.sent);
    const ssize_t n =
        ::send(client.fd.get(), client.answer.data() + client.sent, size, MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    client.sent += size;
  }
  return false;
}

void AdminSocket::Serve(const std::function<std::string(std::string_view)>& handle) {
  Accept();
  for (auto it = clients_.begin(); it != clients_.end();) {
    it = ServeOne(*it, handle) ? std::next(it) : clients_.erase(it);
  }
}

}  // namespace tidegate::offshore
