// What libzmq 4.3.4 does badly by itself, from strangers and from an enrolled site gone bad: each
// costs little, and the honest site is served throughout.
#include <sys/resource.h>
#include <sys/wait.h>
#include <zmq.h>

#include <algorithm>
#include <csignal>
#include <thread>

#include "tests/transport/wire_fixture.h"

namespace tidegate::transport {
namespace {

constexpr long kAllowedKb = 96 * 1024;

// A DEALER of libzmq that says what it is told: an enrolled site that does not run our program.
class RawPeer {
 public:
  RawPeer(const std::string& address, const CurveKey& server, const crypto::CurveKeyPair& own) {
    const int no_wait = 0, timeout = 5000, few = 1;
    zmq_setsockopt(socket_, ZMQ_RCVHWM, &few, sizeof(few));
    zmq_setsockopt(socket_, ZMQ_LINGER, &no_wait, sizeof(no_wait));
    zmq_setsockopt(socket_, ZMQ_SNDTIMEO, &timeout, sizeof(timeout));
    zmq_setsockopt(socket_, ZMQ_CURVE_SERVERKEY, server.data(), 32);
    zmq_setsockopt(socket_, ZMQ_CURVE_PUBLICKEY, own.public_key().data(), 32);
    zmq_setsockopt(socket_, ZMQ_CURVE_SECRETKEY, own.secret().reveal().data(), 32);
    EXPECT_EQ(zmq_connect(socket_, address.c_str()), 0);
  }
  ~RawPeer() {
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }
  bool Send(ByteSpan frame, bool more = false) {
    return zmq_send(socket_, frame.data(), frame.size(), more ? ZMQ_SNDMORE : 0) >= 0;
  }
  bool Answered() {
    char bytes[256];
    answered_ = answered_ || zmq_recv(socket_, bytes, sizeof(bytes), ZMQ_DONTWAIT) >= 0;
    return answered_;
  }

 private:
  void* context_ = zmq_ctx_new();
  void* socket_ = zmq_socket(context_, ZMQ_DEALER);
  bool answered_ = false;
};

Bytes HelloFrame(Channel channel, uint8_t stripe = 0) {
  protocols::Hello hello;
  std::copy_n("north", 5, hello.site.begin());
  hello.channel = channel;
  hello.stripe = stripe;
  return protocols::Frame(MessageType::kHello, Federation(), 1, protocols::Encode(hello));
}

class HostileTest : public WireTest {
 protected:
  void SetUp() override {
    honest_ = Connect(other_, "south");
    server_->Allow("south", PublicOf(other_));
    ASSERT_TRUE(UntilConnected(*honest_));
    at_server_.clear();
    rss_ = ResidentKb();
    refused_ = server_->refused();
  }
  void ExpectHonestServed() {
    at_server_.clear();
    ASSERT_TRUE(honest_->Send(Channel::kControl, MessageType::kLease, Bytes{1, 2}).ok());
    ASSERT_TRUE(Until(honest_.get(), [&] {
      return std::any_of(at_server_.begin(), at_server_.end(), [](const auto& event) {
        return event.site == "south" && event.type == MessageType::kLease;
      });
    }));
  }
  std::unique_ptr<RawPeer> Enrolled() const {
    return std::make_unique<RawPeer>(server_->address(), PublicOf(key_), north_);
  }
  long GrownKb() const { return ResidentKb() - rss_; }
  bool UntilRefused() {
    return Until(honest_.get(), [&] { return server_->refused() > refused_; });
  }

  std::unique_ptr<Client> honest_;
  long rss_ = 0;
  uint64_t refused_ = 0;
};

// ZMTP 3.0's greeting for CURVE: signature, version, mechanism, as-server, padding to 64 bytes.
Bytes Greeting() {
  Bytes greeting(64, 0);
  const Bytes start = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'C', 'U', 'R', 'V', 'E'};
  std::copy(start.begin(), start.end(), greeting.begin());
  return greeting;
}

TEST_F(HostileTest, AStrangersClaimOfEightGibibytesIsNotBelieved) {
  const Fd fd = Dial();
  Bytes bytes = Greeting();
  const Bytes header = {2, 0, 0, 0, 2, 0, 0, 0, 0};  // a long frame of 2^33 bytes
  bytes.insert(bytes.end(), header.begin(), header.end());
  ASSERT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
  const Bytes body(1 << 20, 7);
  uint64_t taken = 0;
  // 300 MB of body, as far as they are taken.
  for (int i = 0; i < 300 && !Ended(fd); ++i) {
    const ssize_t n = ::send(fd.get(), body.data(), body.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) taken += static_cast<uint64_t>(n);
    ASSERT_TRUE(server_->Poll(2, {}, &at_server_).ok());
  }
  EXPECT_TRUE(Ended(fd));
  EXPECT_LT(taken, 20u << 20);
  EXPECT_LT(GrownKb(), kAllowedKb);
  ExpectHonestServed();
}

// Within libzmq's limit for a frame, but more than a handshake needs.
TEST_F(HostileTest, AStrangerIsCutAfterAFewBytes) {
  const Fd fd = Dial();
  const Bytes greeting = Greeting();
  ASSERT_GT(::send(fd.get(), greeting.data(), greeting.size(), MSG_NOSIGNAL), 0);
  const Bytes header = {2, 0, 0, 0, 0, 0, 0x10, 0, 0};  // 1 MiB
  ASSERT_GT(::send(fd.get(), header.data(), header.size(), MSG_NOSIGNAL), 0);
  const Bytes body(200'000, 7);
  ASSERT_GT(::send(fd.get(), body.data(), body.size(), MSG_NOSIGNAL | MSG_DONTWAIT), 0);
  EXPECT_TRUE(UntilRefused());
  EXPECT_TRUE(Until(
      honest_.get(), [&] { return Ended(fd); }, 1000))
      << "long before the 5 s";
  ExpectHonestServed();
}

TEST_F(HostileTest, GarbageAndSilenceFromStrangersCostLittle) {
  std::vector<Fd> fds;
  for (int i = 0; i < 50; ++i) {
    fds.push_back(Dial());
    const Bytes bytes = i % 3 == 0 ? Bytes(2000, 0xee) : i % 3 == 1 ? Greeting() : Bytes();
    [[maybe_unused]] const ssize_t n =
        ::send(fds.back().get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  ExpectHonestServed();
  EXPECT_LT(GrownKb(), 16 * 1024);
}

// Idle connections up to the cap keep no site out: the oldest stranger makes room.
TEST_F(HostileTest, StrangersThatHoldTheCapKeepNoSiteOut) {
  std::vector<Fd> fds;
  for (size_t i = 0; i < 2 * kCap; ++i) fds.push_back(Dial());
  auto north = Connect(north_, "north");
  EXPECT_TRUE(UntilConnected(*north));
  ExpectHonestServed();
  const auto ended = static_cast<size_t>(std::count_if(fds.begin(), fds.end(), Ended));
  EXPECT_GE(ended, kCap);
  EXPECT_GE(server_->refused(), refused_ + kCap);
}

// 300 MB in one message of many frames: MAXMSGSIZE and RCVHWM do not see it.
void SendEndlessMultipart(RawPeer& peer) {
  const Bytes part(500'000, 1);
  for (int i = 0; i < 600; ++i) {
    if (!peer.Send(part, true)) return;
  }
  peer.Send(part);
}

// The attacker is a child, so that this process' memory is the server's alone, and forked before
// the server makes its threads. `pause`: nobody polls meanwhile.
void RunMultipartAttack(bool after_hello, bool pause) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  const auto key = *crypto::CurveKeyPair::Generate(), north = *crypto::CurveKeyPair::Generate();
  const pid_t attacker = ::fork();
  if (attacker == 0) {
    char address[128] = {};
    if (::read(fds[0], address, sizeof(address) - 1) <= 0) ::_exit(1);
    RawPeer peer(address, PublicOf(key), north);
    if (after_hello) {
      peer.Send(HelloFrame(Channel::kBulk));
      while (!peer.Answered()) ::usleep(1000);
    }
    SendEndlessMultipart(peer);
    ::sleep(20);
    ::_exit(0);
  }
  ServerOptions options;
  options.address = "tcp://127.0.0.1:*";
  options.federation = Federation();
  options.sites = {{"north", PublicOf(north)}};
  auto server = std::move(*Server::Bind(options, key));
  ASSERT_GT(::write(fds[1], server->address().data(), server->address().size()), 0);
  std::vector<Server::Event> events;
  const long before = ResidentKb();
  long most = 0;
  for (const int64_t end = SystemClock().MonotonicMillis() + 10'000;
       server->refused() == 0 && SystemClock().MonotonicMillis() < end;) {
    ASSERT_TRUE(server->Poll(10, {}, &events).ok());
    most = std::max(most, ResidentKb() - before);
    if (pause && server->Connected("north", Channel::kBulk)) {
      for (int i = 0; i < 50; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        most = std::max(most, ResidentKb() - before);
      }
      pause = false;
    }
  }
  ::kill(attacker, SIGKILL);
  ::waitpid(attacker, nullptr, 0);
  testing::Test::RecordProperty("most_kb", std::to_string(most));
  EXPECT_GT(server->refused(), 0u);
  EXPECT_LT(most, kAllowedKb);
  for (const auto& event : events) EXPECT_NE(event.kind, Server::Event::Kind::kMessage);
}

TEST(HostileSite, AnEndlessMultipartMessageInsteadOfHelloIsCut) {
  RunMultipartAttack(false, false);
}
TEST(HostileSite, AnEndlessMultipartMessageAfterHelloIsCut) { RunMultipartAttack(true, false); }
TEST(HostileSite, AnEndlessMultipartMessageIsCutWhileNobodyPolls) {
  RunMultipartAttack(true, true);
}

TEST_F(HostileTest, AMessageOfTwoFramesCutsThePeer) {
  auto peer = Enrolled();
  ASSERT_TRUE(peer->Send(HelloFrame(Channel::kControl)));
  ASSERT_TRUE(Until(honest_.get(), [&] { return peer->Answered(); }));
  const Bytes lease =
      protocols::Frame(MessageType::kLease, Federation(), 2, protocols::Encode(protocols::Lease{}));
  ASSERT_TRUE(peer->Send(lease, true));
  ASSERT_TRUE(peer->Send(lease));
  EXPECT_TRUE(UntilRefused());
  EXPECT_TRUE(
      Until(honest_.get(), [&] { return !server_->Connected("north", Channel::kControl); }));
  for (const auto& event : at_server_) EXPECT_NE(event.kind, Server::Event::Kind::kMessage);
  ExpectHonestServed();
}

TEST_F(HostileTest, AMessageBeforeHelloCutsThePeer) {
  auto peer = Enrolled();
  ASSERT_TRUE(peer->Send(protocols::Frame(MessageType::kLease, Federation(), 1,
                                          protocols::Encode(protocols::Lease{}))));
  EXPECT_TRUE(UntilRefused());
  for (const auto& event : at_server_) EXPECT_NE(event.kind, Server::Event::Kind::kMessage);
  ExpectHonestServed();
}

// Each stripe has a queue, and the site reads none of them.
TEST_F(HostileTest, ASiteThatReadsNoneOfItsStripesFillsOneQueueForAll) {
  std::vector<std::unique_ptr<RawPeer>> lines;
  for (size_t i = 0; i < 5; ++i) {
    lines.push_back(Enrolled());
    ASSERT_TRUE(lines[i]->Send(i == 0 ? HelloFrame(Channel::kControl)
                                      : HelloFrame(Channel::kBulk, static_cast<uint8_t>(i - 1))));
    ASSERT_TRUE(Until(honest_.get(), [&] { return lines[i]->Answered(); }));
  }
  const auto until_full = [&](Channel channel, size_t bytes) {
    const Bytes body(bytes, 1);
    Status status;
    for (int i = 0; status.ok() && i < 1500; ++i) {
      status = server_->Send("north", channel, MessageType::kChunk, body);
    }
    EXPECT_EQ(status.code(), Code::kResourceExhausted);
  };
  until_full(Channel::kBulk, protocols::kBlockBytes);
  const size_t bulk = server_->Queued("north", Channel::kBulk);
  EXPECT_LE(bulk, protocols::kMaxQueuedForSite - protocols::kQueuedControlShare);
  until_full(Channel::kControl, protocols::kMaxControlBody);
  const size_t control = server_->Queued("north", Channel::kControl);
  EXPECT_GT(control, protocols::kQueuedControlShare / 2) << "bulk leaves it a share";
  EXPECT_LE(bulk + control, protocols::kMaxQueuedForSite);
  const auto another = Enrolled();
  ASSERT_TRUE(another->Send(HelloFrame(Channel::kBulk, 4)));
  EXPECT_TRUE(Until(honest_.get(), [&] { return another->Answered(); })) << "all the same";
  // What waits for a connection goes with it.
  lines.pop_back();
  ASSERT_TRUE(
      Until(honest_.get(), [&] { return server_->Queued("north", Channel::kBulk) < bulk; }));
  ExpectHonestServed();
}

// One connection that says HELLO for both channels, then another for one of them: the server must
// not believe the first to be connected still.
TEST_F(HostileTest, ASecondHelloOnAConnectionCutsIt) {
  auto peer = Enrolled();
  ASSERT_TRUE(peer->Send(HelloFrame(Channel::kControl)));
  ASSERT_TRUE(peer->Send(HelloFrame(Channel::kBulk)));
  EXPECT_TRUE(UntilRefused());
  auto other = Enrolled();
  ASSERT_TRUE(other->Send(HelloFrame(Channel::kControl)));
  ASSERT_TRUE(Until(honest_.get(), [&] { return other->Answered(); }));
  EXPECT_FALSE(server_->Connected("north", Channel::kBulk));
  EXPECT_EQ(server_->Queued("north", Channel::kBulk), 0u);
  EXPECT_EQ(server_->Send("north", Channel::kBulk, MessageType::kChunk, {}).code(),
            Code::kUnavailable);
  ExpectHonestServed();
}

// CURVE keeps strangers from altering anything; this is the enrolled peer itself.
TEST_F(HostileTest, EveryFlippedByteOfAValidMessageIsRefused) {
  const Bytes lease = protocols::Frame(MessageType::kLease, Federation(), 2,
                                       protocols::Encode(protocols::Lease{1, {}, 2, 3, 4}));
  {
    auto peer = Enrolled();
    ASSERT_TRUE(peer->Send(HelloFrame(Channel::kControl)));
    ASSERT_TRUE(peer->Send(lease));
    ASSERT_TRUE(Until(honest_.get(), [&] {
      return !at_server_.empty() && at_server_.back().kind == Server::Event::Kind::kMessage;
    })) << "as it is, it is served";
  }
  at_server_.clear();
  for (size_t i = 0; i < lease.size(); ++i) {
    Bytes flipped = lease;
    flipped[i] ^= static_cast<uint8_t>(1u << i % 8);
    refused_ = server_->refused();
    auto peer = Enrolled();
    ASSERT_TRUE(peer->Send(HelloFrame(Channel::kControl)));
    ASSERT_TRUE(peer->Send(flipped));
    ASSERT_TRUE(UntilRefused()) << "byte " << i;
  }
  for (const auto& event : at_server_) {
    ASSERT_NE(event.kind, Server::Event::Kind::kMessage) << event.site;
  }
  ExpectHonestServed();
}

// A server with few descriptors, in a child: it has a lower cap, does not spin, serves its site.
TEST(FewDescriptors, AreKeptFromRunningOutAndNothingSpins) {
  const auto key = *crypto::CurveKeyPair::Generate(), north = *crypto::CurveKeyPair::Generate();
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(fds[0]);
    rlimit limit{96, 96};
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) ::_exit(2);
    ServerOptions options;
    options.address = "tcp://127.0.0.1:*";
    options.federation = Federation();
    options.sites = {{"north", PublicOf(north)}};
    auto server = Server::Bind(options, key);
    if (!server) ::_exit(3);
    if (::write(fds[1], (*server)->address().data(), (*server)->address().size()) < 0) ::_exit(4);
    std::vector<Server::Event> events;
    for (const int64_t end = SystemClock().MonotonicMillis() + 20'000;
         SystemClock().MonotonicMillis() < end;) {
      if (!(*server)->Poll(1000, {}, &events).ok()) ::_exit(5);
      for (const auto& event : std::exchange(events, {})) {
        if (event.kind != Server::Event::Kind::kMessage) continue;
        if (event.type == MessageType::kCommit) {
          rusage used{};
          ::getrusage(RUSAGE_SELF, &used);
          const int64_t millis = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
                                 (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
          // Half of one core over the time of the attack would be a spin.
          ::_exit(millis < 700 ? 0 : 6);
        }
        [[maybe_unused]] const Status status =
            (*server)->Send("north", Channel::kControl, MessageType::kLease, event.body);
      }
    }
    ::_exit(7);
  }
  ::close(fds[1]);
  char address[128] = {};
  ASSERT_GT(::read(fds[0], address, sizeof(address) - 1), 0);
  ClientOptions options;
  options.address = address;
  options.server_key = PublicOf(key);
  options.site = "north";
  options.federation = Federation();
  auto client = std::move(*Client::Connect(options, north));
  std::vector<Client::Event> events;
  const auto poll_until = [&](const std::function<bool()>& done, int millis) {
    const int64_t end = SystemClock().MonotonicMillis() + millis;
    while (!done() && SystemClock().MonotonicMillis() < end) {
      EXPECT_TRUE(client->Poll(10, {}, &events).ok());
    }
    return done();
  };
  ASSERT_TRUE(poll_until([&] { return client->connected(); }, 5000));
  std::vector<Fd> idle;
  for (int i = 0; i < 154; ++i) idle.push_back(DialPort(PortOf(address)));
  poll_until([] { return false; }, 1500);
  events.clear();
  ASSERT_TRUE(client->Send(Channel::kControl, MessageType::kLease, Bytes{9}).ok());
  EXPECT_TRUE(poll_until([&] { return !events.empty(); }, 5000));
  ASSERT_TRUE(client->Send(Channel::kControl, MessageType::kCommit, Bytes{9}).ok());
  poll_until([&] { return !client->connected(); }, 5000);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace tidegate::transport
