// The bounds of the local API that take time, with a clock that the test moves; and the ring.
#include "onshore/supervisor/api_server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "onshore/api/packet.h"

namespace tidegate::onshore {
namespace {

class Handler final : public ApiHandler {
 public:
  ApiAnswer OnRequest(uint64_t client, const ApiPeer&, const api::Request&,
                      std::vector<Fd>) override {
    last_client = client;
    ++requests;
    return {api::Reason::kNone, Bytes(body_bytes)};
  }
  void OnClientGone(uint64_t) override { ++gone; }
  void OnClientRefused(const ApiPeer&) override { ++refused; }
  int requests = 0, gone = 0, refused = 0;
  uint64_t last_client = 0;
  size_t body_bytes = 0;
};

class ApiServerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tidegate-api-XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    auto server = ApiServer::Open(dir_ / "api.sock", {}, 77);
    ASSERT_TRUE(server) << server.error().ToString();
    server_ = std::move(*server);
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(dir_);
  }
  Fd Connect() {
    Fd fd = Dial();
    Turn();
    return fd;
  }
  Fd Dial() {
    Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (dir_ / "api.sock").native().copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
  void Say(const Fd& fd, api::Type type) {
    api::Header header;
    header.type = static_cast<uint16_t>(type);
    // One that was refused is cut off already.
    [[maybe_unused]] const Status sent = api::SendPacket(fd.get(), api::EncodeHeader(header));
    Turn();
  }
  // One turn of the supervisor's loop, at `now_`.
  void Turn() {
    std::vector<pollfd> fds;
    server_->AppendPolls(ring_, now_, &fds);
    ASSERT_GE(::poll(fds.data(), fds.size(), 0), 0);
    server_->Serve(fds, ring_, now_, handler_);
  }
  void After(int64_t millis) {
    now_ += millis;
    Turn();
  }

  std::filesystem::path dir_;
  std::unique_ptr<ApiServer> server_;
  EventRing ring_;
  Handler handler_;
  int64_t now_ = 1'000'000;
};

// Those who may use the API do not keep out who runs the site.
TEST_F(ApiServerTest, OtherUsersLeaveRoomForTheSitesOwn) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to connect as other users";
  constexpr uid_t kUsers[] = {61'001, 61'002};
  server_.reset();
  server_ = ApiServer::Open(dir_ / "api.sock", {{kUsers[0], kUsers[1]}, 0}, 77).value();
  std::filesystem::permissions(dir_, std::filesystem::perms::all);
  std::filesystem::permissions(dir_ / "api.sock", std::filesystem::perms::all);
  std::vector<Fd> held;
  for (const uid_t user : kUsers) {
    for (size_t i = 0; i < ApiServer::kMaxClientsOfUser; ++i) {
      ASSERT_EQ(::seteuid(user), 0);
      Fd fd = Dial();
      ASSERT_EQ(::seteuid(0), 0);
      Turn();
      Say(fd, api::Type::kHello);
      held.push_back(std::move(fd));
    }
  }
  const int before = handler_.requests;
  EXPECT_EQ(before, static_cast<int>(ApiServer::kMaxClients - ApiServer::kReserved));
  const Fd own = Connect();
  Say(own, api::Type::kHello);
  EXPECT_EQ(handler_.requests, before + 1);
}

TEST_F(ApiServerTest, OneThatSaysNothingIsCutOff) {
  const Fd silent = Connect();
  EXPECT_EQ(server_->NextDeadline(now_), now_ + ApiServer::kHelloMillis);
  After(ApiServer::kHelloMillis - 1);
  EXPECT_EQ(handler_.gone, 0);
  After(1);
  EXPECT_EQ(handler_.gone, 1);
  EXPECT_EQ(server_->NextDeadline(now_), std::nullopt);
}

TEST_F(ApiServerTest, AnIdleOneIsCutOffUnlessItsJobRuns) {
  const Fd idle = Connect(), busy = Connect();
  Say(idle, api::Type::kHello);
  Say(busy, api::Type::kHello);
  server_->SetBusy(handler_.last_client, true);
  After(ApiServer::kIdleMillis);
  EXPECT_EQ(handler_.gone, 1);
  server_->SetBusy(handler_.last_client, false);
  After(ApiServer::kIdleMillis);
  EXPECT_EQ(handler_.gone, 2);
}

TEST_F(ApiServerTest, OneThatDoesNotTakeItsAnswersIsReadFromNoMoreAndThenCutOff) {
  handler_.body_bytes = 10'000;
  const Fd greedy = Connect();
  Say(greedy, api::Type::kHello);
  const auto ask = [&] {
    api::Header header;
    header.type = static_cast<uint16_t>(api::Type::kStatus);
    [[maybe_unused]] const Status sent = api::SendPacket(greedy.get(), api::EncodeHeader(header));
    After(1000);  // so that its budget is not what stops it
  };
  for (int i = 0; i < 100; ++i) ask();
  const int answered = handler_.requests;
  EXPECT_LT(answered, 60) << "a pair holds some 200 kB";
  for (int i = 0; i < 3; ++i) ask();
  EXPECT_EQ(handler_.requests, answered);
  After(ApiServer::kStallMillis);
  EXPECT_EQ(handler_.gone, 1);
}

TEST_F(ApiServerTest, ABudgetOfRequestsIsGivenAndComesBack) {
  const Fd client = Connect();
  const auto ask = [&](int times) {
    for (int i = 0; i < times; ++i) {
      api::Header header;
      header.type = static_cast<uint16_t>(api::Type::kHello);
      [[maybe_unused]] const Status sent = api::SendPacket(client.get(), api::EncodeHeader(header));
      Turn();
      while (auto packet = api::ReceivePacket(client.get(), api::kMaxPacket, 0)) {
        if (!*packet) break;
      }
    }
  };
  ask(LineBudget::kBurst + 50);
  EXPECT_EQ(handler_.requests, LineBudget::kBurst);
  EXPECT_TRUE(server_->NextDeadline(now_).has_value()) << "it is looked at again";
  After(1000);
  ask(LineBudget::kPerSecond);
  EXPECT_GT(handler_.requests, LineBudget::kBurst);
  EXPECT_LE(handler_.requests, LineBudget::kBurst + LineBudget::kPerSecond + 1);
}

TEST(EventRingTest, WhoComesTooLateIsToldHowManyAreLost) {
  EventRing ring;
  EXPECT_EQ(ring.oldest(), 1u);
  EXPECT_FALSE(ring.After(0));
  const auto add = [&ring](uint64_t times) {
    for (uint64_t i = 0; i < times; ++i) {
      ring.Add(5, Source::kGate, 1, {static_cast<int64_t>(ring.last() + 1), 0, 0, 0});
    }
  };
  add(EventRing::kKept);
  EXPECT_EQ(ring.After(0)->sequence, 1u);
  EXPECT_EQ(ring.After(0)->lost, 0u);
  add(10);
  EXPECT_EQ(ring.oldest(), 11u);
  EXPECT_EQ(ring.After(3)->sequence, 11u);
  EXPECT_EQ(ring.After(3)->lost, 7u);
  EXPECT_EQ(ring.After(3)->arguments[0], 11);
  EXPECT_EQ(ring.After(11)->sequence, 12u);
  EXPECT_FALSE(ring.After(ring.last()));
  EXPECT_FALSE(ring.After(UINT64_MAX));
}

}  // namespace
}  // namespace tidegate::onshore
