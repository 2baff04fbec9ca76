// The operator's door: a SOCK_SEQPACKET unix socket in the state folder. A request is one packet of
// JSON; the answer is packets that are JSON together, then the end. Only this process' user and
// root may ask. Bounded clients, bounded sizes, no client is waited for. Not thread-safe.
#pragma once

#include <poll.h>

#include <filesystem>
#include <functional>
#include <list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file.h"

namespace tidegate::offshore {

inline constexpr size_t kMaxRequestBytes = 96u << 10;
inline constexpr size_t kAnswerPacketBytes = 48u << 10;
inline constexpr size_t kMaxAnswerBytes = 4u << 20;
inline constexpr size_t kMaxAdminClients = 16;
inline constexpr int64_t kAdminClientMillis = 10'000;  // to ask, and to take the answer

// {"ok": …} or {"error": {"code": …, "message": …}}, as one text.
std::string AnswerText(const Result<nlohmann::ordered_json>& answer);

// A coordinator's folder has one process: holds COORD/lock for as long as the object lives.
class DirLock {
 public:
  // kUnavailable when another process has it.
  static Result<DirLock> Take(const std::filesystem::path& dir);

 private:
  explicit DirLock(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

class AdminSocket {
 public:
  // DIR/admin.sock; call with the DirLock held. bind → chmod → listen.
  static Result<AdminSocket> Listen(const std::filesystem::path& dir, const Clock& clock);

  // What to poll for.
  void AddPollFds(std::vector<pollfd>* fds) const;
  // Accepts, reads requests and writes answers as far as nobody has to be waited for. `handle`
  // makes the answer text of a request text.
  void Serve(const std::function<std::string(std::string_view)>& handle);

 private:
  struct Client {
    Fd fd;
    int64_t since = 0;
    bool asked = false;
    std::string answer;
    size_t sent = 0;
  };
  AdminSocket(Fd fd, const Clock& clock) : fd_(std::move(fd)), clock_(&clock) {}
  void Accept();
  // False when it is done with.
  bool ServeOne(Client& client, const std::function<std::string(std::string_view)>& handle) const;

  Fd fd_;
  const Clock* clock_;
  std::list<Client> clients_;
};

}  // namespace tidegate::offshore
