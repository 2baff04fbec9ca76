// An httplib server with the bounds that httplib 0.11 lacks. The library takes headers without end,
// and of a chunked body all that comes; it queues connections without end; it lets a peer take its
// time as long as a byte comes now and then; and where a request was answered before its body was
// read, it takes the body for the next request.
#pragma once

#include <httplib.h>

#include <chrono>
#include <functional>

namespace tidegate::web {

struct HttpLimits {
  size_t request_bytes = 64u << 10;                  // line, headers and body, as they come
  std::chrono::milliseconds request_within{10'000};  // from its first byte to its last
  std::chrono::milliseconds write_within{10'000};    // for a peer to take anything at all
  std::chrono::milliseconds idle_within{5'000};      // between two requests of a connection
  size_t requests = 100;                             // of a connection
  size_t threads = 2;                                // connections that are served at once
  size_t waiting = 16;                               // that wait for a thread; more are cut
};

// A connection over a limit is cut, where httplib sees it in the middle of a request with an error.
class HttpServer : public httplib::Server {
 public:
  explicit HttpServer(const HttpLimits& limits);

  // What is asked of each request before its body is read: false when `out` is its answer.
  using Admit = std::function<bool(const httplib::Request& in, httplib::Response& out)>;
  void SetAdmission(Admit admit);

  // In a handler: whether the peer is still there to take the answer.
  static bool PeerIsThere();

 private:
  bool process_and_close_socket(socket_t socket) override;

  HttpLimits limits_;
};

}  // namespace tidegate::web
