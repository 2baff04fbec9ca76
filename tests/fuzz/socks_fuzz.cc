// A SOCKS5 proxy's answers. The first byte says how the route is (a user, a name) and in pieces of
// what size the rest comes. The dial ends, within its bounds; what follows a grant is left in the
// socket; what it said goes to nobody else.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "fuzz.h"
#include "onshore/sandbox/socks_dial.h"

namespace tidegate::fuzz {
namespace {

using onshore::SocksDial;
using onshore::SocksFault;
using onshore::SocksRoute;

constexpr char kGrant[] = "\x05\x00\x00\x01\x7f\x00\x00\x01\x1d\x13";
constexpr size_t kGrantBytes = sizeof(kGrant) - 1;

SocksRoute Route(uint8_t how) {
  SocksRoute route;
  route.target.ss_family = (how & 4) != 0 ? AF_INET6 : AF_INET;
  if ((how & 1) != 0) {
    route.user = "me";
    route.password = "a-secret";
  }
  if ((how & 2) != 0) {
    route.target_name = "coordinator.example";
    route.target_port = 7443;
  }
  return route;
}

struct Pair {
  Fd ours, theirs;
};
Pair MakePair() {
  int fds[2];
  Require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0,
          "a pair can be made");
  return {Fd(fds[0]), Fd(fds[1])};
}

// How many bytes wait in a socket, and an end.
size_t Drain(int fd) {
  size_t all = 0;
  char part[4096];
  for (;;) {
    const ssize_t n = ::recv(fd, part, sizeof(part), MSG_DONTWAIT);
    if (n <= 0) return all;
    all += static_cast<size_t>(n);
  }
}

}  // namespace

Target Describe() {
  Target target;
  const std::string grant(kGrant, kGrantBytes);
  const std::string name = std::string("\x05\x00\x00\x03\x04", 5) + "host" + "\x1d\x13";
  target.seeds = {std::string("\x10\x05\x00", 3) + grant,
                  std::string("\x11\x05\x02\x01\x00", 5) + grant + "what follows",
                  std::string("\x02\x05\x00", 3) + name,
                  std::string("\x0c\x05\x00\x05\x00\x00\x04", 7) + std::string(18, 'v'),
                  std::string("\x09\x05\xff", 3),
                  std::string("\x01\x05\x02\x01\x01", 5),
                  std::string("\x00HTTP/1.1 400\r\n", 14)};
  for (char reply = 1; reply < 10; ++reply) {
    target.seeds.push_back(std::string("\x18\x05\x00\x05", 4) + reply + std::string("\x00\x01", 2));
  }
  return target;
}

void Dial(ByteSpan input) {
  if (input.empty()) return;
  const uint8_t how = input[0];
  const size_t piece = 1 + (how >> 3);
  input = input.subspan(1);
  const SocksRoute route = Route(how);
  Pair pair = MakePair();
  SocksDial dial(std::move(pair.ours), route);
  auto state = dial.Advance();
  size_t sent = 0, asked = 0;
  while (state == SocksDial::State::kPending && sent < input.size()) {
    const size_t size = std::min(piece, input.size() - sent);
    if (::send(pair.theirs.get(), input.data() + sent, size, MSG_NOSIGNAL | MSG_DONTWAIT) !=
        static_cast<ssize_t>(size)) {
      break;
    }
    sent += size;
    state = dial.Advance();
    asked += Drain(pair.theirs.get());
  }
  // Greeting, login and request: each once.
  Require(asked <= 4 + (3 + 2 * 255) + (4 + 1 + 255 + 2), "what it says is bounded");
  if (state == SocksDial::State::kPending) {
    pair.theirs.reset();
    state = dial.Advance();
  }
  Require(state != SocksDial::State::kPending, "a dial whose proxy is gone has ended");
  if (state == SocksDial::State::kFailed) {
    Require(dial.fault() != SocksFault::kNone && dial.error() != 0, "a failure has its reason");
    Require(!SocksFaultName(dial.fault()).empty() && !SocksFaultRemedy(dial.fault()).empty(),
            "and its words");
    return;
  }
  const Fd granted = dial.TakeSocket();
  const size_t rest = Drain(granted.get());
  // Two bytes of a method, two of a login, an answer: the rest of what was sent is the target's.
  const size_t head = 2 + ((how & 1) != 0 && input[1] == 2 ? 2 : 0);
  const size_t answer = input[head + 3] == 1   ? 10
                        : input[head + 3] == 4 ? 22
                                               : 7 + size_t{input[head + 4]};
  Require(sent - rest == head + answer, "not a byte of the target's is read");
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tidegate::fuzz::Dial({data, size});
  return 0;
}
