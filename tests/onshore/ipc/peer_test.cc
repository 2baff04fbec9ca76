#include "onshore/ipc/peer.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <memory>

namespace tidegate::onshore {
namespace {

struct Pair {
  Pair() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    kept = dup(fds[1]);
    a = std::make_unique<Peer>(Fd(fds[0]), 1);
    b = std::make_unique<Peer>(Fd(fds[1]), 7);
  }
  // Both sides read and flush until nothing moves; what each got is appended.
  void Pump() {
    for (bool moved = true; moved;) {
      moved = false;
      for (auto* p : {a.get(), b.get()}) {
        ASSERT_TRUE(p->Flush().ok());
        auto r = p->Receive();
        ASSERT_TRUE(r.has_value());
        if (*r) {
          (p == a.get() ? at_a : at_b).push_back(std::move(**r));
          moved = true;
        }
        moved = moved || p->WantsWrite();
      }
    }
  }
  void Meet() {
    ASSERT_TRUE(a->SendHello(false).ok());
    Pump();
    at_a.clear();
    at_b.clear();
  }
  int kept;
  std::unique_ptr<Peer> a, b;
  std::vector<Peer::Received> at_a, at_b;
};

TEST(Peer, DropsEverythingBeforeHello) {
  Pair pair;
  ASSERT_TRUE(pair.a->Send(IpcType::kKnown, Known{}).ok());
  pair.Pump();
  EXPECT_TRUE(pair.at_b.empty());
  EXPECT_EQ(pair.b->dropped(), 1u);
}

TEST(Peer, BulkLargerThanTheSocketBufferArrivesWhole) {
  Pair pair;
  pair.Meet();
  Bytes bytes(3u << 20);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 31 >> 3);
  ASSERT_TRUE(pair.a->SendBulk(BulkKind::kUpdate, {}, 5, bytes).ok());
  EXPECT_TRUE(pair.a->WantsWrite()) << "3 MiB do not fit the socket";
  pair.Pump();
  ASSERT_EQ(pair.at_b.size(), 1u);
  ASSERT_TRUE(pair.at_b[0].bulk.has_value());
  EXPECT_EQ(pair.at_b[0].bulk->index, 5u);
  EXPECT_EQ(pair.at_b[0].bulk->bytes, bytes);
}

TEST(Peer, ARestartedPeerIsHeardAndOldMessagesAreDropped) {
  Pair pair;
  pair.Meet();
  // b dies with a message of the old generation unread; its successor has generation 8.
  ASSERT_TRUE(pair.a->Send(IpcType::kKnown, Known{}).ok());
  pair.b = std::make_unique<Peer>(Fd(dup(pair.kept)), 8);
  ASSERT_TRUE(pair.b->SendHello(false).ok());
  pair.Pump();
  EXPECT_EQ(pair.b->dropped(), 1u) << "what was for generation 7 is not for 8";
  ASSERT_EQ(pair.at_a.size(), 1u);
  EXPECT_EQ(pair.at_a[0].type, IpcType::kHello);
  ASSERT_TRUE(pair.a->Send(IpcType::kKnown, Known{{}, 3, 2}).ok());
  pair.at_b.clear();
  pair.Pump();
  ASSERT_EQ(pair.at_b.size(), 1u);
  EXPECT_EQ(protocols::Decode<Known>(pair.at_b[0].body)->round, 3u);
}

TEST(Peer, ABrokenTransferIsDroppedAndTheNextOneWorks) {
  Pair pair;
  pair.Meet();
  BulkBegin huge{BulkKind::kBlock, {}, 0, 1u << 30};
  ASSERT_TRUE(pair.a->Send(IpcType::kBulkBegin, huge).ok());
  BulkData stray;
  stray.offset = 9;
  stray.bytes.items = {1};
  ASSERT_TRUE(pair.a->Send(IpcType::kBulkData, stray).ok());
  ASSERT_TRUE(pair.a->SendBulk(BulkKind::kBlock, {}, 1, Bytes(100, 2)).ok());
  pair.Pump();
  EXPECT_EQ(pair.b->dropped(), 2u);
  ASSERT_EQ(pair.at_b.size(), 1u);
  EXPECT_EQ(pair.at_b[0].bulk->bytes, Bytes(100, 2));
}

}  // namespace
}  // namespace tidegate::onshore
