#include "cluster/rendezvous.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <thread>

#include "cluster/rendezvous.h"
#include "tcp_fixture.h"

namespace tidegate::cluster {
namespace {

constexpr int kLong = 30'000;
constexpr size_t kHelloBytes = 40;
constexpr size_t kAnswerBytes = 80;

Fd Connected(const Loopback& place) {
  auto fd = TcpConnect(place.address, In(kLong));
  EXPECT_TRUE(fd.has_value());
  return std::move(*fd);
}

Bytes Hear(const Fd& fd, size_t size) {
  Bytes bytes(size);
  EXPECT_TRUE(ReceiveAll(fd, bytes, In(kLong), "rank 0").ok());
  return bytes;
}

// Rank 0 in a thread of its own.
std::future<Result<std::vector<RankChannel>>> Awaiting(const Loopback& place, int size,
                                                       int millis = kLong) {
  return std::async(std::launch::async, [&place, size, millis] {
    return AwaitRanks(place.listener, size, SecretOf(1), In(millis));
  });
}

TEST(Rendezvous, ARankOfAnotherSecretIsRefusedAndTheRightOneStillCannotBeKeptOut) {
  const Loopback place;
  auto host = Awaiting(place, 2);
  const auto stranger = MeetRankZero(place.address, 1, 2, SecretOf(2), In(kLong));
  ASSERT_FALSE(stranger.has_value());
  EXPECT_EQ(stranger.error().code(), Code::kUnauthenticated);
  EXPECT_NE(stranger.error().message().find("secret"), std::string::npos);
  EXPECT_TRUE(MeetRankZero(place.address, 1, 2, SecretOf(1), In(kLong)).has_value());
  EXPECT_TRUE(host.get().has_value());
}

TEST(Rendezvous, WhoListensWithoutTheSecretIsFoundOut) {
  const Loopback place;
  std::jthread impostor([&] {
    while (true) {
      auto fd = TcpAccept(place.listener);
      if (!fd || !fd->valid()) {
        std::this_thread::yield();
        continue;
      }
      Bytes hello(kHelloBytes, 7);
      std::copy_n("TGRENDZ1", 8, hello.begin());
      EXPECT_TRUE(SendAll(*fd, hello, In(kLong), "rank").ok());
      (void)Hear(*fd, kAnswerBytes);
      EXPECT_TRUE(SendAll(*fd, Bytes(33, 0), In(kLong), "rank").ok());
      return;
    }
  });
  const auto rank = MeetRankZero(place.address, 1, 2, SecretOf(1), In(kLong));
  ASSERT_FALSE(rank.has_value());
  EXPECT_EQ(rank.error().code(), Code::kUnauthenticated);
}

// A relay notes what a real rank answered; played again on a connection of its own it proves
// nothing.
TEST(Rendezvous, AnOldAnswerPlayedAgainIsRefused) {
  const Loopback place;
  const Loopback relay;
  auto host = Awaiting(place, 3);
  auto rank = std::async(std::launch::async,
                         [&] { return MeetRankZero(relay.address, 1, 3, SecretOf(1), In(kLong)); });
  Fd inner;
  while (!inner.valid()) inner = *TcpAccept(relay.listener);
  Bytes answer;
  {
    const Fd outer = Connected(place);
    EXPECT_TRUE(SendAll(inner, Hear(outer, kHelloBytes), In(kLong), "rank").ok());
    answer = Hear(inner, kAnswerBytes);
  }  // the host never saw it
  inner.reset();
  EXPECT_FALSE(rank.get().has_value());

  const Fd again = Connected(place);
  (void)Hear(again, kHelloBytes);
  EXPECT_TRUE(SendAll(again, answer, In(kLong), "rank 0").ok());
  Bytes verdict(1);
  EXPECT_EQ(ReceiveAll(again, verdict, In(kLong), "rank 0").code(), Code::kUnavailable);

  const auto one = MeetRankZero(place.address, 1, 3, SecretOf(1), In(kLong));
  const auto two = MeetRankZero(place.address, 2, 3, SecretOf(1), In(kLong));
  EXPECT_TRUE(one.has_value() && two.has_value());
  EXPECT_TRUE(host.get().has_value());
}

TEST(Rendezvous, SilentPeersHoldNobodyUp) {
  const Loopback place;
  auto host = Awaiting(place, 2);
  std::vector<Fd> silent;
  for (int i = 0; i < 8; ++i) silent.push_back(Connected(place));
  EXPECT_TRUE(MeetRankZero(place.address, 1, 2, SecretOf(1), In(kLong)).has_value());
  EXPECT_TRUE(host.get().has_value());
}

TEST(Rendezvous, MorePeersThanArePlacesAreClosedAtOnceAndARankComesInWhenOneIsFree) {
  const Loopback place;
  auto host = Awaiting(place, 2);
  std::vector<Fd> crowd;
  for (size_t i = 0; i < kMostPending; ++i) {
    crowd.push_back(Connected(place));
    (void)Hear(crowd.back(), kHelloBytes);
  }
  const Fd one_more = Connected(place);
  Bytes hello(kHelloBytes);
  EXPECT_EQ(ReceiveAll(one_more, hello, In(kLong), "rank 0").code(), Code::kUnavailable);
  auto rank = std::async(std::launch::async,
                         [&] { return MeetRankZero(place.address, 1, 2, SecretOf(1), In(kLong)); });
  crowd.pop_back();
  EXPECT_TRUE(rank.get().has_value());
  EXPECT_TRUE(host.get().has_value());
}

TEST(Rendezvous, ARankThatIsTakenAndAnotherSizeAreNamed) {
  const Loopback place;
  auto host = Awaiting(place, 3);
  const auto one = MeetRankZero(place.address, 1, 3, SecretOf(1), In(kLong));
  EXPECT_TRUE(one.has_value());
  const auto again = MeetRankZero(place.address, 1, 3, SecretOf(1), In(kLong));
  EXPECT_EQ(again.error().code(), Code::kAlreadyExists);
  const auto other = MeetRankZero(place.address, 2, 4, SecretOf(1), In(kLong));
  EXPECT_EQ(other.error().code(), Code::kInvalidArgument);
  EXPECT_TRUE(MeetRankZero(place.address, 2, 3, SecretOf(1), In(kLong)).has_value());
  EXPECT_TRUE(host.get().has_value());
}

TEST(Rendezvous, RanksThatDoNotComeAreNamedAtTheDeadline) {
  const Loopback place;
  auto host = Awaiting(place, 4, 1500);
  const auto one = MeetRankZero(place.address, 2, 4, SecretOf(1), In(kLong));
  EXPECT_TRUE(one.has_value());
  const auto found = host.get();
  ASSERT_FALSE(found.has_value());
  EXPECT_EQ(found.error().code(), Code::kDeadlineExceeded);
  EXPECT_NE(found.error().message().find("ranks 1, 3 did not come"), std::string::npos)
      << found.error().message();
}

TEST(Rendezvous, WhereNobodyListensTheDeadlineEndsIt) {
  std::string address;
  {
    const Loopback place;
    address = place.address;
  }
  const auto rank = MeetRankZero(address, 1, 2, SecretOf(1), In(300));
  EXPECT_EQ(rank.error().code(), Code::kDeadlineExceeded);
}

// Two ends of one pair of sockets, with the bytes between them in the hands of a test.
struct Wire {
  Wire() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    near = RankChannel(Fd(ends[0]), "rank 0", SecretOf(3), SecretOf(4));
    far = Fd(ends[1]);
  }
  RankChannel near;
  Fd far;
};

Bytes OneFrame(std::string_view content, RankChannel& from, const Fd& far) {
  EXPECT_TRUE(from.Send(1, AsBytes(content), In(kLong)).ok());
  Bytes bytes(8 + content.size() + 32);
  EXPECT_TRUE(ReceiveAll(far, bytes, In(kLong), "wire").ok());
  return bytes;
}

Result<RankChannel::Frame> Delivered(const std::vector<Bytes>& frames) {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
  RankChannel channel(Fd(ends[0]), "rank 1", SecretOf(4), SecretOf(3));
  const Fd far(ends[1]);
  Result<RankChannel::Frame> last = NotFound("no frame");
  for (const Bytes& frame : frames) {
    EXPECT_TRUE(SendAll(far, frame, In(kLong), "wire").ok());
    last = channel.Receive(In(kLong));
    if (!last) return last;
  }
  return last;
}

TEST(RankChannel, AnyChangeOnTheWayIsNoticed) {
  Wire wire;
  const Bytes first = OneFrame("step 1", wire.near, wire.far);
  const Bytes second = OneFrame("step 2", wire.near, wire.far);
  EXPECT_EQ(AsText(Delivered({first, second})->content), "step 2");
  EXPECT_EQ(Delivered({second}).error().code(), Code::kDataLoss) << "left out";
  EXPECT_EQ(Delivered({first, first}).error().code(), Code::kDataLoss) << "repeated";
  for (size_t i = 0; i < first.size(); ++i) {
    if (i >= 4 && i < 8) continue;  // the length: below
    Bytes changed = first;
    changed[i] ^= 1;
    EXPECT_EQ(Delivered({changed}).error().code(), Code::kDataLoss) << "byte " << i;
  }
  Bytes longer = first;
  longer[7] = 0x7f;
  EXPECT_NE(Delivered({longer}).error().message().find("at most"), std::string::npos);
}

class ClusterSecret : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tg-secret-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = folder_ / "secret";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void Write(size_t size, unsigned mode) {
    ASSERT_TRUE(WriteFileDurably(path_, Bytes(size, 'x'), mode).ok());
    ASSERT_EQ(::chmod(path_.c_str(), mode), 0);
  }
  std::filesystem::path folder_;
  std::filesystem::path path_;
};

TEST_F(ClusterSecret, IsReadWhenItIsTheOwnersAloneAndLongEnough) {
  Write(32, 0600);
  EXPECT_TRUE(ReadClusterSecret(path_).has_value());
  Write(31, 0600);
  EXPECT_EQ(ReadClusterSecret(path_).error().code(), Code::kInvalidArgument);
  Write(kMaxSecretBytes + 1, 0600);
  EXPECT_EQ(ReadClusterSecret(path_).error().code(), Code::kInvalidArgument);
  Write(32, 0640);
  EXPECT_EQ(ReadClusterSecret(path_).error().code(), Code::kPermissionDenied);
  EXPECT_FALSE(ReadClusterSecret(folder_ / "none").has_value());
  Write(32, 0600);
  std::filesystem::create_symlink(path_, folder_ / "link");
  EXPECT_FALSE(ReadClusterSecret(folder_ / "link").has_value());
}

}  // namespace
}  // namespace tidegate::cluster
