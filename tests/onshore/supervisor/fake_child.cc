// Plays gate, link or trainer, by the name that it is started under, without walls: says READY,
// waits for GO, and obeys files in the site's folder. What it sees goes, a line each, to
// SITE/trace-NAME; SITE/mode-NAME says how it behaves from the start; the test puts one command at
// a time in SITE/do-NAME, which is removed when it is taken.
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <sstream>

#include "base/clock.h"
#include "base/file.h"
#include "onshore/ipc/control.h"
#include "onshore/ipc/peer.h"
#include "onshore/sandbox/address_pin.h"

namespace tidegate::onshore {
namespace {

class FakeChild {
 public:
  explicit FakeChild(int argc, char** argv) {
    const std::string program = argv[0];
    name_ = program.substr(program.rfind('-') + 1);
    std::string line = "start";
    for (int i = 1; i < argc; ++i) {
      line += std::string(" ") + argv[i];
      if (std::strcmp(argv[i], "--dir") == 0 || std::strcmp(argv[i], "--site") == 0)
        site_ = argv[i + 1];
      if (std::strcmp(argv[i], "--generation") == 0) {
        generation_ = static_cast<uint32_t>(std::stoul(argv[i + 1]));
      }
    }
    Trace(fmt::format("pid {}", ::getpid()));
    Trace(line);
    // A local job: no pair, no control; what it was given it tells on its own output.
    local_ = argc > 1 && std::strcmp(argv[1], "federated") != 0 && name_ == "trainer";
    auto mode = ReadTextFile(site_ / ("mode-" + name_), 100);
    if (mode) mode_ = *mode;
  }

  int Run() {
    if (local_) return RunLocal();
    if (mode_.starts_with("exit ")) {
      const char words[] = "the reason, and no newline";
      [[maybe_unused]] const ssize_t n = ::write(2, words, sizeof(words) - 1);
      return std::stoi(mode_.substr(5));
    }
    Peer peer(Fd(kFirstPeerFd), generation_);
    if (mode_ != "never_ready") SendControl(ControlType::kReady, generation_, 5, {});
    // A gate's second descriptor is the pair to link.
    Peer second(name_ == "gate" ? Fd(kSecondPeerFd) : Fd(), generation_);
    for (;;) {
      pollfd control{kControlFd, POLLIN, 0};
      ::poll(&control, 1, 20);
      if (control.revents != 0 && !OnControl(name_ == "gate" ? second : peer)) return 0;
      if (mode_ != "deaf") {
        Hear(peer);
        if (name_ == "gate") Hear(second);
      }
      if (const auto command = Command()) Obey(*command);
    }
  }

 private:
  void Trace(const std::string& line) {
    const Fd fd(::open((site_ / ("trace-" + name_)).c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600));
    const std::string text = line + "\n";
    [[maybe_unused]] const Status status = WriteAll(fd.get(), AsBytes(text), "trace");
  }

  // Says what its descriptors hold, then waits for its input's end, or for a signal.
  int RunLocal() {
    std::signal(
        SIGTERM, mode_ == "local deaf" ? SIG_IGN : [](int) { ::_exit(11); });
    std::string said;
    for (const int fd : {3, 4, 5}) {
      char text[200];
      const ssize_t n = ::pread(fd, text, sizeof(text), 0);
      if (n >= 0)
        said += fmt::format("{}: {}\n", fd, std::string_view(text, static_cast<size_t>(n)));
    }
    [[maybe_unused]] const Status status = WriteAll(1, AsBytes(said), "output");
    [[maybe_unused]] const Status errors = WriteAll(2, AsBytes(std::string("words\n")), "errors");
    if (mode_.starts_with("local exit ")) return std::stoi(mode_.substr(11));
    char byte = 0;
    struct stat info {};
    if (::fstat(0, &info) == 0 && S_ISFIFO(info.st_mode)) {
      while (::read(0, &byte, 1) > 0) {
      }
      return 0;
    }
    for (;;) ::pause();
  }

  void SendControl(ControlType type, uint32_t generation, uint32_t code,
                   std::array<int64_t, 4> arguments) {
    ControlMessage message;
    message.type = type;
    message.generation = generation;
    message.code = code;
    message.arguments = arguments;
    while (::send(kControlFd, &message, sizeof(message), MSG_NOSIGNAL) < 0 && errno == EINTR) {
    }
  }

  // False: end. HELLO is said once, at GO, to the one who is restarted in the tests.
  bool OnControl(Peer& hello) {
    ControlMessage message;
    if (::recv(kControlFd, &message, sizeof(message), 0) != static_cast<ssize_t>(sizeof(message))) {
      Trace("control closed");
      return false;
    }
    if (message.generation != generation_) Trace("a generation that is not ours");
    if (message.type == ControlType::kGo) {
      Trace("go");
      [[maybe_unused]] const Status status = hello.SendHello(false);
    }
    if (message.type == ControlType::kStop) Trace("stop");
    if (message.type == ControlType::kTrainerGone) Trace("trainer gone");
    if (message.type == ControlType::kReason) {
      char text[sizeof(message.arguments) + 1] = {};
      std::memcpy(text, message.arguments.data(), sizeof(message.arguments));
      Trace(fmt::format("reason {} '{}'", message.code, text));
    }
    if (message.type == ControlType::kDecision) Trace(fmt::format("decision {}", message.code));
    return message.type != ControlType::kStop || mode_ == "ignore_stop";
  }

  void Hear(Peer& peer) {
    for (;;) {
      auto received = peer.Receive();
      if (!received || !*received) return;
      if ((*received)->type == IpcType::kHello) {
        Trace(fmt::format("hello {}", peer.peer_generation()));
      }
    }
  }

  std::optional<std::string> Command() {
    const std::filesystem::path file = site_ / ("do-" + name_);
    auto text = ReadTextFile(file, 4096);
    if (!text) return std::nullopt;
    ::unlink(file.c_str());
    return *text;
  }

  void Obey(const std::string& command) {
    std::istringstream words(command);
    std::string verb;
    words >> verb;
    if (verb == "need_trainer") SendControl(ControlType::kNeedTrainer, generation_, 0, {});
    if (verb == "stale_need_trainer") {
      SendControl(ControlType::kNeedTrainer, generation_ + 1, 0, {});
      [[maybe_unused]] const ssize_t n = ::send(kControlFd, "short", 5, MSG_NOSIGNAL);
    }
    if (verb == "job_ended") SendControl(ControlType::kJobEnded, generation_, 0, {7, 0, 0, 0});
    if (verb == "job_is") {  // the sixteen bytes of its id are one letter; its name
      std::string letter, name;
      words >> letter >> name;
      std::array<int64_t, 4> a{};
      std::memset(a.data(), letter[0], 16);
      a[2] = 9;
      SendControl(ControlType::kJobIs, generation_, 0, a);
      a = {};
      std::memcpy(a.data(), name.data(), std::min<size_t>(name.size(), 32));
      SendControl(ControlType::kJobName, generation_, 0, a);
      SendControl(ControlType::kJobName, generation_, 99, a);  // there is no such part
    }
    if (verb == "gate_state") SendControl(ControlType::kGateState, generation_, 2, {4, 3, 777, -1});
    if (verb == "event") {
      uint32_t code = 0;
      std::array<int64_t, 4> a{};
      words >> code >> a[0] >> a[1] >> a[2] >> a[3];
      SendControl(ControlType::kEvent, generation_, code, a);
    }
    if (verb == "flood") {
      for (int i = 0; i < 3000; ++i) SendControl(ControlType::kEvent, generation_, 8, {});
    }
    if (verb == "say") {
      std::string rest;
      std::getline(words >> std::ws, rest, '\0');
      [[maybe_unused]] const ssize_t n = ::write(2, rest.data(), rest.size());
    }
    if (verb == "pin") {
      // The third pair of a link. From here on its sockets are made by the supervisor.
      ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
      Trace(PinAddress(kSecondPeerFd).ok() ? "pinned" : "not pinned");
    }
    if (verb == "dial") {
      const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
      const sockaddr_in anywhere{AF_INET, htons(9), {htonl(0x0a090909)}, {}};
      const int failed =
          ::connect(fd, reinterpret_cast<const sockaddr*>(&anywhere), sizeof(anywhere));
      Trace(fmt::format("dialled {}", failed == 0 ? 0 : errno));
    }
    if (verb == "exit") {
      int status = 0;
      words >> status;
      ::_exit(status);
    }
    if (verb == "sigsys") ::raise(SIGSYS);
    Trace("did " + verb);
  }

  std::string name_;
  std::filesystem::path site_;
  std::string mode_;
  bool local_ = false;
  uint32_t generation_ = 0;
};

}  // namespace
}  // namespace tidegate::onshore

int main(int argc, char** argv) { return tidegate::onshore::FakeChild(argc, argv).Run(); }
