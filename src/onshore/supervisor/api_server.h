// The socket of the local API and its clients: who may connect, what they may hold and how long
// they may be silent. What requests mean is the handler's business.
//
// A client is a stranger: what it sends is parsed as fixed structs, it is read from only while it
// has taken the answer before, it has a budget of requests, and it is cut off when it does not
// take what it is owed. Nothing waits for it. For poll loops; not thread-safe.
#pragma once

#include <poll.h>

#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/file.h"
#include "base/status.h"
#include "onshore/api/messages.h"
#include "onshore/supervisor/event_ring.h"
#include "onshore/supervisor/line_budget.h"

namespace tidegate::onshore {

struct ApiPeer {
  uint32_t uid = 0, gid = 0;
  int32_t pid = 0;  // for logs, never for a permission
};

// Beside root and the supervisor's own user.
struct ApiAccess {
  std::vector<uint32_t> users;    // empty: the whole group
  std::optional<uint32_t> group;  // the socket's; none: nobody else gets to it
};

struct ApiAnswer {
  api::Reason reason = api::Reason::kNone;
  Bytes body{};
  Fd descriptor{};  // goes along where there is one
};

class ApiHandler {
 public:
  virtual ~ApiHandler() = default;
  virtual ApiAnswer OnRequest(uint64_t client, const ApiPeer& peer, const api::Request& request,
                              std::vector<Fd> descriptors) = 0;
  virtual void OnClientGone(uint64_t client) = 0;
  virtual void OnClientRefused(const ApiPeer& peer) = 0;
};

class ApiServer {
 public:
  static constexpr size_t kMaxClients = 16, kMaxClientsOfUser = 8;
  // Of all, kept for root and the site's own user: two others could hold the rest.
  static constexpr size_t kReserved = 2;
  static constexpr size_t kMaxQueuedBytes = 64u << 10;
  static constexpr int64_t kHelloMillis = 5'000;   // until the first request
  static constexpr int64_t kStallMillis = 10'000;  // with an answer that it does not take
  static constexpr int64_t kIdleMillis = 600'000;  // without a request, a watch or a job

  // To be called with the site's lock held: a socket that is left at `path` is removed.
  // `epoch` names this run of the supervisor.
  static Result<std::unique_ptr<ApiServer>> Open(const std::filesystem::path& path,
                                                 ApiAccess access, uint64_t epoch);
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;
  ~ApiServer();  // removes the socket

  // As many entries as the next Serve takes.
  void AppendPolls(const EventRing& ring, int64_t now, std::vector<pollfd>* fds) const;
  // The entries of AppendPolls, after poll.
  void Serve(std::span<const pollfd> fds, const EventRing& ring, int64_t now, ApiHandler& handler);
  // What can be sent now, before an end.
  void Flush(const EventRing& ring, int64_t now);
  // When something is to be done even if nobody says anything.
  std::optional<int64_t> NextDeadline(int64_t now) const;

  // For a client that may be gone: a message that no request asked for.
  void Tell(uint64_t client, Bytes packet);
  // One that runs a job is not cut off for silence.
  void SetBusy(uint64_t client, bool busy);

 private:
  struct Owed {
    Bytes packet;
    Fd descriptor;
  };
  struct Client {
    uint64_t id = 0;
    Fd socket;
    ApiPeer peer;
    int64_t since = 0;          // of the connection, or of the last request
    int64_t stalled_since = 0;  // of the front of the queue; 0: it is empty
    int64_t not_before = 0;     // no request is read earlier: its budget is used up
    bool greeted = false, watching = false, busy = false, gone = false;
    uint64_t seen = 0;  // the last event that was sent
    std::deque<Owed> queue;
    size_t queued_bytes = 0;
    LineBudget budget;
  };

  ApiServer(std::filesystem::path path, ApiAccess access, uint64_t epoch)
      : path_(std::move(path)), access_(std::move(access)), epoch_(epoch) {}
  Status Listen();
  bool MayConnect(const Fd& socket, const ApiPeer& peer) const;
  void Accept(int64_t now, ApiHandler& handler);
  void Receive(Client& client, const EventRing& ring, int64_t now, ApiHandler& handler);
  ApiAnswer Watch(Client& client, const EventRing& ring, const api::WatchRequest& request);
  void Send(Client& client, const EventRing& ring, int64_t now);
  static void Queue(Client& client, Bytes packet, Fd descriptor = Fd());
  static std::optional<int64_t> DeadlineOf(const Client& client);

  std::filesystem::path path_;
  ApiAccess access_;
  uint64_t epoch_;
  Fd socket_;
  std::vector<Client> clients_;
  uint64_t next_id_ = 1;
};

}  // namespace tidegate::onshore
