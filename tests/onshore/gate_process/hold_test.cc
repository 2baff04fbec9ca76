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

// Over the local API: counted for the user that policy names, about the very bytes, and in the
// ledger before the export; anything else is an event and no leaf.
TEST_F(HoldTest, AUsersWordOverTheLocalApiIsCountedAndInTheLedger) {
  policy_ += "[approval]\nhold = \"always\"\nneeded = 1\napprovers = { clerk = \"uid:1001\" }\n";
  Begin();
  const Bytes update = Update(1);
  const Digest plaintext = crypto::Sha256::Of(update);
  const auto said = [this](uint32_t uid, ByteSpan digest, Decision decision = Decision::kRelease) {
    GateEffects out;
    Add(&out, core_->OnDecision(uid, decision, digest, "looked \n at it"));
    return out;
  };
  said(1001, plaintext);  // nothing is held yet
  Bulk(To::kTrainer, BulkKind::kUpdate, update);
  Digest other = plaintext;
  other[0] ^= 1;
  said(1001, other);
  said(0, plaintext);
  said(1002, plaintext);
  EXPECT_EQ(Leaves(gate::LeafType::kDecision), 0);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 0);

  // As much of the digest as the supervisor can carry.
  const GateEffects asked = said(1001, ByteSpan(plaintext).first(kDecisionDigestBytes));
  EXPECT_EQ(Leaves(gate::LeafType::kDecision), 1);
  EXPECT_NE(MessageOf(asked, IpcType::kRoundStart), nullptr) << "the trainer sends it again";
  Bulk(To::kTrainer, BulkKind::kUpdate, update);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 1);
  for (const gate::LedgerLeaf& leaf : core_->ledger().leaves()) {
    if (leaf.entry.type != gate::LeafType::kDecision) continue;
    const auto decision = protocols::Decode<gate::DecisionLeaf>(leaf.entry.body.items);
    ASSERT_TRUE(decision);
    EXPECT_EQ(decision->approver.text, "clerk");
    EXPECT_EQ(decision->uid, 1001u);
    EXPECT_EQ(decision->reason.text, "looked ? at it");
  }
}

// Minds may change, not without end.
TEST_F(HoldTest, AUserWhoChangesItsMindDoesNotFillTheLedger) {
  policy_ +=
      "[approval]\nhold = \"always\"\nneeded = 2\napprovers = { a = \"uid:1\", b = "
      "\"uid:2\" }\n";
  Begin();
  const Bytes update = Update(1);
  const Digest plaintext = crypto::Sha256::Of(update);
  Bulk(To::kTrainer, BulkKind::kUpdate, update);
  for (int i = 0; i < 100; ++i) {
    GateEffects out;
    Add(&out, core_->OnDecision(1, Decision::kRelease, plaintext, ""));
  }
  EXPECT_EQ(Leaves(gate::LeafType::kDecision), 64);
}

// What the gate is told of an update that came from outside stands before its intent.
TEST_F(HoldTest, AnUpdateFromOutsideIsMarked) {
  Begin();
  GateEffects out;
  Add(&out, core_->OnOutside(1003));
  Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  EXPECT_EQ(Leaves(gate::LeafType::kOutside), 1);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 1);
}

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
