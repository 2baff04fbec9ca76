// A site whose ledger was set back, by a backup that was put in its place, is found by the next
// head that it offers with.
#include <gtest/gtest.h>

#include <filesystem>

#include "crypto/checkpoint_note.h"
#include "federation_fixture.h"
#include "tests/permit/played_gate.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;
using protocols::Channel;
using protocols::MessageType;

class LedgerHeadTest : public ::testing::Test {
 protected:
  LedgerHeadTest() : federation(Dir()) {
    for (const char* name : {"north", "south"}) {
      federation.Enrol(name);
      federation.Connect(name);
    }
    federation.site("south").silent = true;
    federation.Submit("rounds = 9\nquorum = 1\n");
    federation.Settle();
    // One leaf of north's ledger a round, its head countersigned in the round's receipt.
    Pass();
    Pass();
    EXPECT_EQ(north().receipts.size(), 3u);
    EXPECT_EQ(Leaves(), 3);
    north().silent = true;
    Pass();
  }
  ~LedgerHeadTest() override { fs::remove_all(Dir()); }
  static fs::path Dir() {
    return fs::path(::testing::TempDir()) /
           ("head_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
  }
  FakeSite& north() { return federation.site("north"); }
  void Pass() {
    federation.clock.Advance(3'600'000);
    federation.Time();
    federation.Settle();
  }
  nlohmann::ordered_json Site() {
    const auto sites = federation.Request({{"verb", "site_list"}});
    EXPECT_TRUE(sites.has_value());
    return sites ? (*sites)[0] : nlohmann::ordered_json();
  }
  int Leaves() { return Site()["ledger_leaves"].get<int>(); }
  bool SetBack() { return !Site()["ledger_set_back"].get<std::string>().empty(); }
  void Approve() {
    const auto answer =
        federation.Request({{"verb", "site_approve"}, {"request", north().Request()}});
    EXPECT_TRUE(answer.has_value()) << answer.error().ToString();
  }
  // The update of round 4, offered with a head over so many leaves; the error's text.
  std::string Offer(uint64_t leaves, const Digest& root = {}) {
    protocols::Offer offer = north().Make(4).offer;
    protocols::ReleaseManifest release = north().Make(4).release;
    release.ledger_index = 0;
    offer.release = gate::Sealing::Sign(north().gate(), release);
    offer.ledger_head =
        crypto::SignCheckpoint({"tidegate/test/north", leaves, root}, "north", north().gate())
            .value();
    north().errors.clear();
    federation.Say("north", {Channel::kControl, MessageType::kOffer, protocols::Encode(offer)});
    if (north().errors.empty()) return "";
    EXPECT_EQ(north().errors[0].code, static_cast<uint8_t>(Code::kFailedPrecondition));
    return north().errors[0].text.text;
  }
  TestFederation federation;
};

TEST_F(LedgerHeadTest, AShorterLedgerIsRefusedByNameWithTheRemedy) {
  const std::string text = Offer(2);
  EXPECT_EQ(text,
            "the ledger of north was set back: 2 leaves, 3 were countersigned; put its newest "
            "gate/ back or give it a new signing key, then approve it again");
  EXPECT_TRUE(SetBack());
}

TEST_F(LedgerHeadTest, AnotherLedgerOfTheSameLengthIsRefused) {
  EXPECT_NE(Offer(3, Digest{1}), "");
  EXPECT_TRUE(SetBack());
}

TEST_F(LedgerHeadTest, ALongerOneAndTheSameOneAreTaken) {
  EXPECT_EQ(Offer(3), "");
  EXPECT_EQ(Offer(4), "");
  EXPECT_FALSE(SetBack());
}

TEST_F(LedgerHeadTest, ItStaysRefusedWhileItGrowsUntilItIsApprovedAgain) {
  EXPECT_NE(Offer(2), "");
  EXPECT_NE(Offer(50), "") << "it grew past the old one";
  federation.Crash();
  federation.Open();
  federation.Connect("north");
  EXPECT_NE(Offer(51), "") << "after a restart too";
  Approve();
  EXPECT_FALSE(SetBack());
  EXPECT_NE(Offer(1), "") << "the shorter one again";
  Approve();
  EXPECT_EQ(Offer(4), "");
}

TEST_F(LedgerHeadTest, AReceiptThatWasGivenIsNotGivenToAShorterLedger) {
  protocols::Offer offer = north().Make(1).offer;
  north().receipts.clear();
  north().errors.clear();
  federation.Say("north", {Channel::kControl, MessageType::kOffer, protocols::Encode(offer)});
  EXPECT_TRUE(north().receipts.empty());
  ASSERT_EQ(north().errors.size(), 1u);
}

TEST_F(LedgerHeadTest, WhatIsCarriedByHandMayComeLateAndAccusesNobody) {
  federation.coordinator().OnConnected("north", true);
  EXPECT_NE(Offer(2), "");
  EXPECT_FALSE(SetBack());
  EXPECT_EQ(Offer(4), "");
}

}  // namespace
}  // namespace tidegate::offshore
