#include "onshore/supervisor/api_server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "onshore/api/packet.h"

namespace tidegate::onshore {
namespace {

constexpr int kBacklog = 16;
constexpr int kAcceptsAtOnce = 8;
constexpr int kEventsAtOnce = 64;
constexpr int64_t kBudgetPauseMillis = 100;
constexpr size_t kMaxGroups = 1024;

Status CheckPath(const std::filesystem::path& path) {
  if (path.native().size() > api::kMaxSocketPath) {
    return InvalidArgument(
        "the local API's socket {} has a path of {} bytes, the limit is {}; give a shorter one as "
        "api_socket in site.toml",
        path.native(), path.native().size(), api::kMaxSocketPath);
  }
  return OkStatus();
}

// What an earlier supervisor left; it held the lock that we hold now.
Status RemoveStale(const std::filesystem::path& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? OkStatus() : ErrnoStatus("look at", path.native(), errno);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return AlreadyExists("{} is in the way of the local API's socket and is none; move it away",
                         path.native());
  }
  if (::unlink(path.c_str()) != 0) return ErrnoStatus("remove", path.native(), errno);
  return OkStatus();
}

bool InGroup(const Fd& socket, uint32_t primary, uint32_t group) {
  if (primary == group) return true;
  std::vector<gid_t> groups(kMaxGroups);
  socklen_t size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  // ERANGE of one with more groups than that: refused.
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) != 0) {
    return false;
  }
  groups.resize(size / sizeof(gid_t));
  return std::find(groups.begin(), groups.end(), group) != groups.end();
}

std::optional<ApiPeer> PeerOf(const Fd& socket) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return std::nullopt;
  return ApiPeer{peer.uid, peer.gid, peer.pid};
}

Bytes Reply(const api::Header& request, const ApiAnswer& answer) {
  api::Header header;
  header.type = static_cast<uint16_t>(request.type | api::kReplyBit);
  header.request = request.request;
  header.code = static_cast<uint32_t>(api::CodeOf(answer.reason));
  header.reason = static_cast<uint32_t>(answer.reason);
  Bytes packet = api::EncodeHeader(header);
  packet.insert(packet.end(), answer.body.begin(), answer.body.end());
  return packet;
}

// Root, or the site's own user.
bool IsOwn(const ApiPeer& peer) { return peer.uid == 0 || peer.uid == ::geteuid(); }

// To one that is cut off at once: told if there is room.
void Refuse(const Fd& socket, api::Reason reason) {
  [[maybe_unused]] const Status sent =
      api::SendPacket(socket.get(), Reply(api::Header{}, ApiAnswer{reason}));
}

}  // namespace

Result<std::unique_ptr<ApiServer>> ApiServer::Open(const std::filesystem::path& path,
                                                   ApiAccess access, uint64_t epoch) {
  TG_RETURN_IF_ERROR(CheckPath(path));
  TG_RETURN_IF_ERROR(RemoveStale(path));
  std::unique_ptr<ApiServer> server(new ApiServer(path, std::move(access), epoch));
  TG_RETURN_IF_ERROR(server->Listen());
  return server;
}

// Nobody gets in before the modes are right: until listen() a connect is refused.
Status ApiServer::Listen() {
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus("make a socket for", path_.native(), errno);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path_.native().copy(address.sun_path, sizeof(address.sun_path) - 1);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoStatus("bind", path_.native(), errno);
  }
  socket_ = std::move(fd);
  if (access_.group && ::lchown(path_.c_str(), static_cast<uid_t>(-1), *access_.group) != 0) {
    return ErrnoStatus("give to api_group", path_.native(), errno);
  }
  if (::chmod(path_.c_str(), 0660) != 0) return ErrnoStatus("chmod", path_.native(), errno);
  if (::listen(socket_.get(), kBacklog) != 0) return ErrnoStatus("listen", path_.native(), errno);
  return OkStatus();
}

ApiServer::~ApiServer() {
  if (socket_.valid()) ::unlink(path_.c_str());
}

bool ApiServer::MayConnect(const Fd& socket, const ApiPeer& peer) const {
  if (IsOwn(peer)) return true;
  if (!access_.users.empty()) {
    return std::find(access_.users.begin(), access_.users.end(), peer.uid) != access_.users.end();
  }
  return access_.group && InGroup(socket, peer.gid, *access_.group);
}

void ApiServer::AppendPolls(const EventRing& ring, int64_t now, std::vector<pollfd>* fds) const {
  fds->push_back({socket_.get(), POLLIN, 0});
  for (const Client& client : clients_) {
    const bool owed = !client.queue.empty() || (client.watching && client.seen < ring.last());
    const bool reads = client.queue.empty() && client.not_before <= now;
    const short events = static_cast<short>((owed ? POLLOUT : 0) | (reads ? POLLIN : 0));
    fds->push_back({client.socket.get(), events, 0});
  }
}

void ApiServer::Serve(std::span<const pollfd> fds, const EventRing& ring, int64_t now,
                      ApiHandler& handler) {
  for (size_t i = 0; i < clients_.size() && i + 1 < fds.size(); ++i) {
    Client& client = clients_[i];
    const short ready = fds[i + 1].revents;
    if ((ready & POLLIN) != 0 && !client.gone) Receive(client, ring, now, handler);
    if (!client.gone) Send(client, ring, now);
    // Nobody is at the other end, and all that it said has been read.
    if ((ready & (POLLHUP | POLLERR)) != 0 && (ready & POLLIN) == 0) client.gone = true;
    if (const auto deadline = DeadlineOf(client); deadline && *deadline <= now) client.gone = true;
  }
  for (auto it = clients_.begin(); it != clients_.end();) {
    if (!it->gone) {
      ++it;
      continue;
    }
    const uint64_t id = it->id;
    it = clients_.erase(it);
    handler.OnClientGone(id);
  }
  if (!fds.empty() && fds[0].revents != 0) Accept(now, handler);
}

void ApiServer::Accept(int64_t now, ApiHandler& handler) {
  for (int i = 0; i < kAcceptsAtOnce; ++i) {
    Fd socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid()) return;
    const auto peer = PeerOf(socket);
    if (!peer) continue;
    if (!MayConnect(socket, *peer)) {
      handler.OnClientRefused(*peer);
      Refuse(socket, api::Reason::kNotAllowed);
      continue;
    }
    const auto of_user = std::count_if(clients_.begin(), clients_.end(), [&peer](const Client& c) {
      return c.peer.uid == peer->uid;
    });
    const size_t most = IsOwn(*peer) ? kMaxClients : kMaxClients - kReserved;
    if (clients_.size() >= most || static_cast<size_t>(of_user) >= kMaxClientsOfUser) {
      Refuse(socket, api::Reason::kTooManyClients);
      continue;
    }
    Client client;
    client.id = next_id_++;
    client.socket = std::move(socket);
    client.peer = *peer;
    client.since = now;
    clients_.push_back(std::move(client));
  }
}

// One request; the next one when its answer has been taken.
void ApiServer::Receive(Client& client, const EventRing& ring, int64_t now, ApiHandler& handler) {
  if (!client.budget.Take(now)) {
    client.not_before = now + kBudgetPauseMillis;
    return;
  }
  auto packet = api::ReceivePacket(client.socket.get(), api::kMaxPacket, api::kMaxDescriptors);
  if (!packet) {
    client.gone = true;
    return;
  }
  if (!*packet) return;
  client.since = now;
  api::Request request;
  ApiAnswer answer;
  answer.reason = api::ParseRequest((*packet)->bytes, (*packet)->descriptors.size(), &request);
  if ((*packet)->cut) answer.reason = api::Reason::kMalformed;
  if (answer.reason == api::Reason::kNone && request.type == api::Type::kHello) {
    client.greeted = true;
  }
  if (answer.reason == api::Reason::kNone && !client.greeted) {
    answer.reason = api::Reason::kHelloFirst;
  }
  if (answer.reason == api::Reason::kNone) {
    answer =
        request.type == api::Type::kWatch
            ? Watch(client, ring, request.watch)
            : handler.OnRequest(client.id, client.peer, request, std::move((*packet)->descriptors));
  }
  Queue(client, Reply(request.header, answer), std::move(answer.descriptor));
}

ApiAnswer ApiServer::Watch(Client& client, const EventRing& ring,
                           const api::WatchRequest& request) {
  if (client.watching) return {api::Reason::kAlready};
  client.watching = true;
  client.seen = 0;
  if (request.after == UINT64_MAX) {
    client.seen = ring.last();
  } else if (request.epoch == epoch_) {
    client.seen = std::min(request.after, ring.last());
  } else {
    // All that is kept; what is gone was never promised to this client.
    client.seen = ring.oldest() - 1;
  }
  return {api::Reason::kNone, api::BytesOf(api::WatchReply{epoch_, ring.oldest(), ring.last()})};
}

void ApiServer::Queue(Client& client, Bytes packet, Fd descriptor) {
  client.queued_bytes += packet.size();
  client.queue.push_back({std::move(packet), std::move(descriptor)});
  if (client.queued_bytes > kMaxQueuedBytes) client.gone = true;
}

// What waits first, then events straight from the ring: a slow watcher holds no memory here.
void ApiServer::Send(Client& client, const EventRing& ring, int64_t now) {
  const auto sent = [&client, now](const Bytes& packet, const Fd& along) {
    const int descriptor = along.get();
    const Status status = api::SendPacket(client.socket.get(), packet,
                                          {&descriptor, along.valid() ? size_t{1} : size_t{0}});
    if (status.ok()) {
      client.stalled_since = 0;
      return true;
    }
    client.gone = status.code() != Code::kDeadlineExceeded;
    if (client.stalled_since == 0) client.stalled_since = now;
    return false;
  };
  while (!client.queue.empty()) {
    if (!sent(client.queue.front().packet, client.queue.front().descriptor)) return;
    client.queued_bytes -= client.queue.front().packet.size();
    client.queue.pop_front();
  }
  for (int i = 0; client.watching && i < kEventsAtOnce; ++i) {
    const auto event = ring.After(client.seen);
    if (!event) return;
    api::Header header;
    header.type = static_cast<uint16_t>(api::Type::kEvent);
    if (!sent(api::Encode(header, *event), Fd())) return;
    client.seen = event->sequence;
  }
}

void ApiServer::Flush(const EventRing& ring, int64_t now) {
  for (Client& client : clients_) {
    if (!client.gone) Send(client, ring, now);
  }
}

std::optional<int64_t> ApiServer::DeadlineOf(const Client& client) {
  std::optional<int64_t> deadline;
  if (!client.greeted) deadline = client.since + kHelloMillis;
  if (client.greeted && !client.watching && !client.busy) deadline = client.since + kIdleMillis;
  if (client.stalled_since != 0) {
    deadline = std::min(deadline.value_or(INT64_MAX), client.stalled_since + kStallMillis);
  }
  return deadline;
}

std::optional<int64_t> ApiServer::NextDeadline(int64_t now) const {
  std::optional<int64_t> next;
  for (const Client& client : clients_) {
    const auto deadline = DeadlineOf(client);
    if (deadline) next = std::min(next.value_or(INT64_MAX), *deadline);
    if (client.not_before > now && client.queue.empty()) {
      next = std::min(next.value_or(INT64_MAX), client.not_before);
    }
  }
  return next;
}

void ApiServer::Tell(uint64_t client, Bytes packet) {
  for (Client& c : clients_) {
    if (c.id == client) Queue(c, std::move(packet));
  }
}

void ApiServer::SetBusy(uint64_t client, bool busy) {
  for (Client& c : clients_) {
    if (c.id == client) c.busy = busy;
  }
}

}  // namespace tidegate::onshore
