// Updates that policy holds for the site's own people.
#include <nlohmann/json.hpp>

#include "gate/approval.h"
#include "gate_core_fixture.h"

namespace tidegate::onshore {
namespace {

using gate::Decision;

crypto::SigningKey KeyNo(uint8_t number) {
  crypto::Secret<32> seed;
  seed.reveal_mutable()[0] = number;
  return *crypto::SigningKey::FromSeed(seed);
}

class HoldTest : public GateCoreTest {
 protected:
  void Hold(const std::string& which, int needed) {
    policy_ += fmt::format(
        "[approval]\nhold = \"{}\"\nneeded = {}\napprovers = {{ alice = \"{}\", bob = \"{}\" }}\n",
        which, needed, alice_.verify_key().ToText(), bob_.verify_key().ToText());
  }
  void Begin() {
    Start();
    Bulk(To::kLink, BulkKind::kJob, JobBytes());
    started_ = OpenRound(1);
  }
  fs::path HeldFile(uint32_t round) const {
    return dir_ / "held" / (GateSpool::NameOf({id_, round, 0, "north"}) + ".json");
  }
  void Say(const crypto::SigningKey& key, const std::string& name, ByteSpan update, uint32_t round,
           Decision decision = Decision::kRelease) {
    gate::Approval approval;
    approval.federation = gate::Federation();
    approval.key = {id_, round, 0, "north"};
    approval.plaintext = crypto::Sha256::Of(update);
    approval.decision = decision;
    approval.approver = name;
    approval.reason = "because";
    approval.unix_millis = clock_.UnixMillis();
    const auto document = *crypto::SignDocument(key, crypto::domains::kExportApproval, approval);
    const fs::path file =
        dir_ / "approvals" / fmt::format("{}-{}.approval", GateSpool::NameOf(approval.key), name);
    ASSERT_TRUE(WriteFileDurably(file, AsBytes(*crypto::EncodeArmor("EXPORT APPROVAL",
                                                                    protocols::Encode(document))))
                    .ok());
  }
  GateEffects Tick() {
    GateEffects out;
    Add(&out, core_->OnTick());
    return out;
  }

  crypto::SigningKey alice_ = KeyNo(31), bob_ = KeyNo(32);
  GateEffects started_;
};

TEST_F(HoldTest, LeavesOnceTwoHaveReleasedTheVeryBytes) {
  Hold("always", 2);
  Begin();
  ASSERT_NE(MessageOf(started_, IpcType::kRoundStart), nullptr);
  const Bytes update = Update(1);
  const GateEffects held = Bulk(To::kTrainer, BulkKind::kUpdate, update);
  EXPECT_EQ(BulkOf(held, BulkKind::kOffer), nullptr);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 0) << "nothing is debited";
  const auto shown = nlohmann::json::parse(*ReadTextFile(HeldFile(1), 1 << 20));
  EXPECT_EQ(shown["plaintext_sha256"], ToHex(crypto::Sha256::Of(update)));
  EXPECT_EQ(shown["tensors"].size(), 2u);
  EXPECT_EQ(shown["values"], 600);
  EXPECT_EQ(shown["approvers"], (nlohmann::json{"alice", "bob"}));

  Say(alice_, "alice", update, 1);
  Say(alice_, "bob", update, 1);  // not Bob's key
  EXPECT_EQ(MessageOf(Tick(), IpcType::kRoundStart), nullptr) << "one of two";
  Say(bob_, "bob", update, 1);
  ASSERT_NE(MessageOf(Tick(), IpcType::kRoundStart), nullptr) << "the trainer is asked again";
  const GateEffects released = Bulk(To::kTrainer, BulkKind::kUpdate, update);
  EXPECT_NE(BulkOf(released, BulkKind::kOffer), nullptr);
  EXPECT_EQ(Leaves(gate::LeafType::kApproval), 2);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 1);
  EXPECT_EQ(core_->ledger().leaves().back().entry.type, gate::LeafType::kIntent)
      << "who let it out stands before it";
}

TEST_F(HoldTest, OtherBytesThanThoseThatWereReleasedAreHeldAgain) {
  Hold("first", 1);
  Begin();
  const Bytes update = Update(1);
  Bulk(To::kTrainer, BulkKind::kUpdate, update);
  Say(alice_, "alice", update, 1);
  ASSERT_NE(MessageOf(Tick(), IpcType::kRoundStart), nullptr);
  auto header = gate::SampleHeader(job_, 1);
  header.metrics.train_loss_milli += 1;
  const Bytes other = gate::SampleUpdate(job_, header);
  ASSERT_NE(other, update);
  const GateEffects effects = Bulk(To::kTrainer, BulkKind::kUpdate, other);
  EXPECT_EQ(BulkOf(effects, BulkKind::kOffer), nullptr);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 0);
  const auto shown = nlohmann::json::parse(*ReadTextFile(HeldFile(1), 1 << 20));
  EXPECT_EQ(shown["plaintext_sha256"], ToHex(crypto::Sha256::Of(other)));
}

TEST_F(HoldTest, ARefusalIsARefusalLikeAnyOther) {
  Hold("always", 1);
  Begin();
  const Bytes update = Update(1);
  Bulk(To::kTrainer, BulkKind::kUpdate, update);
  Say(bob_, "bob", update, 1, Decision::kRefuse);
  ASSERT_NE(MessageOf(Tick(), IpcType::kRoundStart), nullptr);
  const GateEffects refused = Bulk(To::kTrainer, BulkKind::kUpdate, update);
  const SendMessage* result = MessageOf(refused, IpcType::kRoundResult);
  ASSERT_NE(result, nullptr);
  EXPECT_EQ(protocols::Decode<RoundResult>(result->body)->outcome, RoundOutcome::kRefused);
  EXPECT_NE(LastRefusal().find("bob refused it: because"), std::string::npos) << LastRefusal();
  EXPECT_EQ(MessageOf(Tick(), IpcType::kRoundStart), nullptr) << "the round is over for the site";
}

TEST_F(HoldTest, TheFirstExportAloneWaitsWherePolicySaysSo) {
  Hold("first", 1);
  Begin();
  const Bytes update = Update(1);
  Bulk(To::kTrainer, BulkKind::kUpdate, update);
  Say(alice_, "alice", update, 1);
  Tick();
  const GateEffects released = Bulk(To::kTrainer, BulkKind::kUpdate, update);
  const SendBulkTo* offer = BulkOf(released, BulkKind::kOffer);
  ASSERT_NE(offer, nullptr);
  Bulk(To::kLink, BulkKind::kReceipt, ReceiptFor(ManifestIn(*offer)));
  OpenRound(2);
  EXPECT_FALSE(fs::exists(HeldFile(1))) << "of a round that is over nothing is kept";
  EXPECT_NE(BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(2)), BulkKind::kOffer), nullptr);
}

TEST_F(HoldTest, ARestartedGateHoldsAndReleasesTheSame) {
  Hold("always", 1);
  Begin();
  const Bytes update = Update(1);
  Bulk(To::kTrainer, BulkKind::kUpdate, update);
  Say(alice_, "alice", update, 1);
  const GateEffects again = Start();
  ASSERT_NE(MessageOf(again, IpcType::kRoundStart), nullptr);
  EXPECT_NE(BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, update), BulkKind::kOffer), nullptr);
}

TEST_F(HoldTest, RubbishBesideTheApprovalsEndsNothing) {
  Hold("always", 1);
  Begin();
  const Bytes update = Update(1);
  Bulk(To::kTrainer, BulkKind::kUpdate, update);
  const std::string name = GateSpool::NameOf({id_, 1, 0, "north"});
  ASSERT_TRUE(WriteFileDurably(dir_ / "approvals" / (name + "-x.approval"), Bytes(5000, 9)).ok());
  fs::create_directory(dir_ / "approvals" / (name + "-y.approval"));
  fs::create_symlink("/nowhere", dir_ / "approvals" / (name + "-z.approval"));
  EXPECT_EQ(MessageOf(Tick(), IpcType::kRoundStart), nullptr);
  Say(alice_, "alice", update, 1);
  EXPECT_NE(MessageOf(Tick(), IpcType::kRoundStart), nullptr);
}

}  // namespace
}  // namespace tidegate::onshore
