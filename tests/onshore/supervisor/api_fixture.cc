#include "tests/onshore/supervisor/api_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

namespace tidegate::onshore {

PipeEnds MakePipe() {
  int fds[2];
  EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

std::string ReadAll(const Fd& fd) {
  std::string all;
  for (;;) {
    pollfd p{fd.get(), POLLIN, 0};
    if (::poll(&p, 1, 60'000) <= 0) return all + " (nothing more came)";
    char part[4096];
    const ssize_t n = ::read(fd.get(), part, sizeof(part));
    if (n <= 0) return all;
    all.append(part, static_cast<size_t>(n));
  }
}

void ApiTest::StartReady(const std::vector<std::string>& more) {
  StartSite(more);
  ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
}

void ApiTest::StartTraining() {
  Do("gate", "job_is J summer");
  Do("gate", "need_trainer");
  ASSERT_TRUE(TraceGets("trainer", "go")) << Log();
}

api::ApiClient ApiTest::Connect() const {
  auto client = api::ApiClient::Connect(socket());
  if (!client) throw std::runtime_error(client.error().ToString() + "\n" + Log());
  return std::move(*client);
}

api::StatusReply ApiTest::Status(api::ApiClient& client) const {
  const auto status = client.Status();
  EXPECT_TRUE(status) << status.error().ToString();
  return status.value_or(api::StatusReply{});
}

Fd ApiTest::Raw() const {
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket().native().copy(address.sun_path, sizeof(address.sun_path) - 1);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0)
      << errno;
  return fd;
}

Fd ApiTest::FileWith(const std::string& name, const std::string& content, int flags) const {
  std::ofstream(root_ / name) << content;
  Fd fd(::open((root_ / name).c_str(), flags | O_CLOEXEC));
  EXPECT_TRUE(fd.valid());
  return fd;
}

api::EventMessage ApiTest::NextEvent(api::ApiClient& client, EventCode code) const {
  for (int i = 0; i < 10'000; ++i) {
    const auto told = client.Next(20'000);
    if (!told) {
      ADD_FAILURE() << told.error().ToString() << "\n" << Log();
      return {};
    }
    const auto* event = std::get_if<api::EventMessage>(&*told);
    if (event != nullptr && event->code == static_cast<uint32_t>(code)) return *event;
  }
  ADD_FAILURE() << "no such event";
  return {};
}

void ApiTest::ExpectServes() {
  api::ApiClient client = Connect();
  EXPECT_EQ(Status(client).processes[0].state, static_cast<uint32_t>(api::ProcessState::kRunning));
}

}  // namespace tidegate::onshore
