#include "onshore/gate_process/gate_core.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "gate_core_fixture.h"
#include "protocols/header.h"
#include "protocols/seal_binding.h"
#include "tests/crypto/open_body.h"

namespace tidegate::onshore {
namespace {

TEST_F(GateCoreTest, ARoundFromJobToReceipt) {
  Start(false);
  EXPECT_TRUE(Tells(Bulk(To::kLink, BulkKind::kJob, JobBytes()), ControlType::kNeedTrainer));
  GateEffects effects = OpenRound(1);
  EXPECT_NE(MessageOf(effects, IpcType::kWantBlocks), nullptr);
  effects = *core_->OnHello(To::kTrainer);
  EXPECT_EQ(BulkOf(effects, BulkKind::kJob), nullptr) << "before its isolation statement: nothing";
  effects = *core_->OnIsolation(To::kTrainer, Statement(Role::kTrainer));
  EXPECT_EQ(BulkOf(effects, BulkKind::kJob)->bytes, protocols::Encode(job_));
  EXPECT_EQ(BulkOf(effects, BulkKind::kParameters)->bytes, parameters_);
  const auto start = *protocols::Decode<RoundStart>(MessageOf(effects, IpcType::kRoundStart)->body);
  EXPECT_EQ(start.round, 1u);
  EXPECT_EQ(start.norm_clip, 10.0);
  EXPECT_TRUE(start.train_loss && start.heldout_loss);

  const Bytes update = Update(1);
  effects = Bulk(To::kTrainer, BulkKind::kUpdate, update);
  const SendBulkTo* offer = BulkOf(effects, BulkKind::kOffer);
  ASSERT_NE(offer, nullptr);
  const protocols::ReleaseManifest manifest = ManifestIn(*offer);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 1);
  Bytes sealed;
  std::vector<Bytes> blocks;
  for (uint32_t i = 0; i < manifest.blocks.size(); ++i) {
    effects = *core_->OnNeedBlock({manifest.content, i});
    blocks.push_back(BulkOf(effects, BulkKind::kBlock)->bytes);
  }
  std::vector<ByteSpan> chunks(blocks.begin(), blocks.end());
  const crypto::SealHeader header{crypto::Suite::kTg1, manifest.encapsulated, manifest.commitment};
  EXPECT_EQ(
      *crypto::OpenBody(
          header, chunks, recipient_, protocols::SealInfo(gate::Federation(), job_.suite),
          protocols::SealAad(manifest.key, job_.base_hash, gate::LayoutDigest(job_), job_.codec)),
      update);

  Bulk(To::kLink, BulkKind::kReceipt, ReceiptFor(manifest));
  EXPECT_EQ(Leaves(gate::LeafType::kReceipt), 1);
  EXPECT_TRUE(core_->OnNeedBlock({manifest.content, 0})->empty()) << "the spool is empty";
  EXPECT_TRUE(fs::exists(dir_ / "receipts" / (GateSpool::NameOf(manifest.key) + ".receipt")));
  const auto verified = audit::VerifyLedger(*ReadFile(dir_ / "ledger", 1 << 30), "ledger",
                                            CoordinatorKey().verify_key(), std::nullopt);
  EXPECT_TRUE(verified.has_value()) << verified.error().ToString();
}

// No document of the other shore is held against this site's clock, and its own may be set back.
TEST_F(GateCoreTest, AClockThatIsMinutesOffHarmsNothing) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  uint32_t round = 1;
  for (const int64_t off : {-600'000, 1'200'000}) {
    clock_.Advance(off);
    OpenRound(round);
    const auto effects = Bulk(To::kTrainer, BulkKind::kUpdate, Update(round));
    const SendBulkTo* offer = BulkOf(effects, BulkKind::kOffer);
    ASSERT_NE(offer, nullptr) << LastRefusal();
    Bulk(To::kLink, BulkKind::kReceipt, ReceiptFor(ManifestIn(*offer)));
    EXPECT_EQ(Leaves(gate::LeafType::kReceipt), static_cast<int>(round));
    ++round;
  }
  Start();
  const auto verified = audit::VerifyLedger(*ReadFile(dir_ / "ledger", 1 << 30), "ledger",
                                            CoordinatorKey().verify_key(), std::nullopt);
  EXPECT_TRUE(verified.has_value()) << verified.error().ToString();
}

// Without the key none may go along, and the trainer is told so: it sends zeros, and they pass.
TEST_F(GateCoreTest, MetricsThatPolicyDoesNotNameAreNotAskedFor) {
  const size_t at = policy_.find("metrics = ");
  policy_.erase(at, policy_.find('\n', at) + 1 - at);
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  const GateEffects effects = OpenRound(1);
  const auto start = *protocols::Decode<RoundStart>(MessageOf(effects, IpcType::kRoundStart)->body);
  EXPECT_FALSE(start.train_loss || start.heldout_loss);
}

// The round is over for the site, the processes live on, and it is said once in the ledger.
TEST_F(GateCoreTest, ATrainerWithoutAnUpdateRefusesTheRoundOnce) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  ASSERT_NE(MessageOf(OpenRound(1), IpcType::kRoundStart), nullptr);
  const NoUpdate none{id_, 1, static_cast<uint8_t>(Code::kFailedPrecondition)};
  EXPECT_TRUE(core_->OnNoUpdate({id_, 2, none.code})->empty()) << "another round";
  EXPECT_TRUE(core_->OnNoUpdate({{}, 1, none.code})->empty()) << "another job";
  EXPECT_FALSE(core_->OnNoUpdate(none)->empty());
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 1);
  EXPECT_TRUE(core_->OnNoUpdate(none)->empty());
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), 1);
  EXPECT_EQ(MessageOf(Start(), IpcType::kRoundStart), nullptr) << "not asked for again";
  EXPECT_NE(MessageOf(OpenRound(2), IpcType::kRoundStart), nullptr) << "the next one is";
}

// Killed after any message: the restarted gate offers the same bytes, counts one export a round.
// Link asks the coordinator upon it: what was pushed before the gate could hear comes again at
// once.
TEST_F(GateCoreTest, WithoutAJobLinkIsToldThatNoneIsKnown) {
  const GateEffects effects = Start(false);
  const auto* known = Find<SendMessage>(effects, [](const SendMessage& message) {
    return message.to == To::kLink && message.type == IpcType::kKnown;
  });
  ASSERT_NE(known, nullptr);
  EXPECT_EQ(protocols::Decode<Known>(known->body)->job, protocols::Id16{});
}

TEST_F(GateCoreTest, RestartedAfterEveryMessageItOffersTheSameBytesOnce) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  EXPECT_NE(MessageOf(OpenRound(1), IpcType::kRoundStart), nullptr);
  EXPECT_NE(MessageOf(Start(), IpcType::kRoundStart), nullptr) << "said again after a restart";
  const GateEffects released = Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  const protocols::ReleaseManifest manifest = ManifestIn(*BulkOf(released, BulkKind::kOffer));
  const Bytes block = BulkOf(*core_->OnNeedBlock({manifest.content, 0}), BulkKind::kBlock)->bytes;
  for (int i = 0; i < 3; ++i) {
    const GateEffects effects = Start();
    EXPECT_EQ(ManifestIn(*BulkOf(effects, BulkKind::kOffer)), manifest);
    EXPECT_EQ(MessageOf(effects, IpcType::kRoundStart), nullptr) << "the round's export is made";
    EXPECT_EQ(BulkOf(*core_->OnNeedBlock({manifest.content, 0}), BulkKind::kBlock)->bytes, block);
  }
  // The trainer sends it once more: the same answer, no second debit.
  const GateEffects again = Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  EXPECT_EQ(protocols::Decode<RoundResult>(MessageOf(again, IpcType::kRoundResult)->body)->outcome,
            RoundOutcome::kReleased);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 1);
  Bulk(To::kLink, BulkKind::kReceipt, ReceiptFor(manifest));
  Bulk(To::kLink, BulkKind::kReceipt, ReceiptFor(manifest));
  EXPECT_EQ(BulkOf(Start(), BulkKind::kOffer), nullptr);
  EXPECT_EQ(Leaves(gate::LeafType::kReceipt), 1);
  EXPECT_EQ(Leaves(gate::LeafType::kJob), 1);
}

// A crash between spool and ledger: the orphan is removed, the update is sealed anew.
TEST_F(GateCoreTest, ASpooledUpdateWithoutIntentIsAnOrphan) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const Bytes ledger_before = *ReadFile(dir_ / "ledger", 1 << 30);
  const auto released = Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  const auto manifest = ManifestIn(*BulkOf(released, BulkKind::kOffer));
  core_.reset();
  ASSERT_TRUE(WriteFileDurably(dir_ / "ledger", ledger_before).ok());
  const GateEffects effects = Start();
  EXPECT_EQ(BulkOf(effects, BulkKind::kOffer), nullptr);
  EXPECT_NE(MessageOf(effects, IpcType::kRoundStart), nullptr);
  EXPECT_TRUE(core_->OnNeedBlock({manifest.content, 0})->empty());
  EXPECT_TRUE(fs::is_empty(dir_ / "releases"));
}

TEST_F(GateCoreTest, ACrashBetweenAnAdaptersLastBlockAndItsLeafLosesNoLeaf) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, AdapterOf(0)));
  const Bytes ledger_before = *ReadFile(dir_ / "ledger", 1 << 30);
  GiveBlock(0);
  EXPECT_EQ(Leaves(gate::LeafType::kAdapter), 1);
  core_.reset();
  ASSERT_TRUE(WriteFileDurably(dir_ / "ledger", ledger_before).ok());
  for (int i = 0; i < 2; ++i) {
    Start();
    EXPECT_EQ(Leaves(gate::LeafType::kAdapter), 1);
  }
}

TEST_F(GateCoreTest, ATrainerThatStartsAgainAtTheEndOfItsJobIsToldAllOfItAgain) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, AdapterOf(3)));
  EXPECT_NE(MessageOf(GiveBlock(3), IpcType::kStop), nullptr);
  ASSERT_TRUE(core_->OnHello(To::kTrainer).has_value());
  const GateEffects again = *core_->OnIsolation(To::kTrainer, Statement(Role::kTrainer));
  EXPECT_NE(BulkOf(again, BulkKind::kJob), nullptr);
  EXPECT_NE(BulkOf(again, BulkKind::kParameters), nullptr);
  EXPECT_NE(MessageOf(again, IpcType::kStop), nullptr);
  EXPECT_TRUE(Tells(again, ControlType::kJobEnded));
}

TEST_F(GateCoreTest, ATrainerThatStartsAgainAfterItsJobWasGivenUpIsToldToStop) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const protocols::AbandonNotice notice{id_, 0, protocols::AbandonReason::kStopped, 1};
  EXPECT_NE(MessageOf(Bulk(To::kLink, BulkKind::kAbandon, Sign(crypto::domains::kAbandon, notice)),
                      IpcType::kStop),
            nullptr);
  ASSERT_TRUE(core_->OnHello(To::kTrainer).has_value());
  const GateEffects again = *core_->OnIsolation(To::kTrainer, Statement(Role::kTrainer));
  EXPECT_EQ(BulkOf(again, BulkKind::kJob), nullptr);
  EXPECT_NE(MessageOf(again, IpcType::kStop), nullptr);
  EXPECT_TRUE(Tells(again, ControlType::kJobEnded));
}

TEST_F(GateCoreTest, AHostileCoordinatorIsRefusedAndInTheLedger) {
  Start();
  protocols::Signed unsigned_job = *protocols::Decode<protocols::Signed>(JobBytes());
  unsigned_job.signature[3] ^= 1;
  Bulk(To::kLink, BulkKind::kJob, protocols::Encode(unsigned_job));
  EXPECT_NE(LastRefusal().find("what=job"), std::string::npos) << LastRefusal();
  EXPECT_NE(LastRefusal().find("rule=signature"), std::string::npos) << LastRefusal();
  auto wrong = job_;
  wrong.base_hash[5] ^= 1;
  Bulk(To::kLink, BulkKind::kJob, Sign(crypto::domains::kJob, wrong));
  EXPECT_NE(LastRefusal().find("rule=base"), std::string::npos);
  wrong = job_;
  wrong.lora_r = 999;
  Bulk(To::kLink, BulkKind::kJob, Sign(crypto::domains::kJob, wrong));
  EXPECT_NE(LastRefusal().find("rule=layout"), std::string::npos);
  EXPECT_FALSE(Tells({}, ControlType::kNeedTrainer));
  // Said again: no second leaf.
  const int refusals = Leaves(gate::LeafType::kRefusal);
  Bulk(To::kLink, BulkKind::kJob, Sign(crypto::domains::kJob, wrong));
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), refusals);

  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  auto adapter = AdapterOf(0);
  adapter.base_hash[1] ^= 1;
  Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, adapter));
  EXPECT_NE(LastRefusal().find("rule=version"), std::string::npos) << LastRefusal();
  adapter.version = 1;
  Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, adapter));
  EXPECT_NE(LastRefusal().find("rule=base"), std::string::npos) << LastRefusal();
  adapter = AdapterOf(1);
  adapter.content_bytes = 1ull << 40;
  Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, adapter));
  EXPECT_NE(LastRefusal().find("rule=layout"), std::string::npos);
  auto round = RoundOf(2);
  round.round = 1;
  round.deadline_unix_millis = 5;
  Bulk(To::kLink, BulkKind::kRound, Sign(crypto::domains::kRound, round));
  EXPECT_NE(LastRefusal().find("what=round"), std::string::npos) << "a round number again";
  Bulk(To::kLink, BulkKind::kRound, Sign(crypto::domains::kAdapter, RoundOf(2)));
  EXPECT_NE(LastRefusal().find("rule=signature"), std::string::npos) << "another domain";
  Bulk(To::kLink, BulkKind::kJob, Bytes(100, 7));
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 0);
}

// Codes of a coordinator that will never take the update, and of one that can not now.
TEST_F(GateCoreTest, AnUpdateRefusedForGoodIsClosedAndTheJobEnds) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const auto manifest =
      ManifestIn(*BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(1)), BulkKind::kOffer));
  const auto refused = [&](Code code, protocols::MessageType about) {
    return *core_->OnOfferRefused(
        {manifest.content, static_cast<uint16_t>(about), static_cast<uint8_t>(code)});
  };
  using protocols::MessageType;
  const int refusals = Leaves(gate::LeafType::kRefusal);
  for (const Code code :
       {Code::kResourceExhausted, Code::kUnavailable, Code::kInternal, static_cast<Code>(200)}) {
    EXPECT_TRUE(refused(code, MessageType::kOffer).empty());
  }
  EXPECT_TRUE(refused(Code::kNotFound, MessageType::kCommit).empty()) << "to be offered again";
  OfferRefused other{manifest.content, static_cast<uint16_t>(MessageType::kOffer),
                     static_cast<uint8_t>(Code::kAlreadyExists)};
  other.content[0] ^= 1;
  EXPECT_TRUE(core_->OnOfferRefused(other)->empty());
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), refusals);
  EXPECT_EQ(BulkOf(*core_->OnTick(), BulkKind::kOffer), nullptr) << "not at once";
  clock_.Advance(30'000);
  EXPECT_EQ(ManifestIn(*BulkOf(*core_->OnTick(), BulkKind::kOffer)), manifest);
  EXPECT_EQ(BulkOf(*core_->OnTick(), BulkKind::kOffer), nullptr) << "once";

  // The job's last adapter: it waits for the open update.
  Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, AdapterOf(job_.rounds)));
  EXPECT_FALSE(Tells(GiveBlock(job_.rounds), ControlType::kJobEnded));
  const GateEffects closed = refused(Code::kAlreadyExists, MessageType::kOffer);
  EXPECT_TRUE(Tells(closed, ControlType::kJobEnded));
  EXPECT_NE(MessageOf(closed, IpcType::kStop), nullptr);
  EXPECT_NE(LastRefusal().find("what=release"), std::string::npos) << LastRefusal();
  EXPECT_NE(LastRefusal().find(ToHex(manifest.content)), std::string::npos) << LastRefusal();
  EXPECT_NE(LastRefusal().find("ALREADY_EXISTS"), std::string::npos) << LastRefusal();
  EXPECT_TRUE(core_->OnNeedBlock({manifest.content, 0})->empty()) << "the spool is empty";
  EXPECT_TRUE(fs::is_empty(dir_ / "releases"));
  EXPECT_TRUE(refused(Code::kAlreadyExists, MessageType::kOffer).empty()) << "closed once";
  EXPECT_EQ(Leaves(gate::LeafType::kRefusal), refusals + 1);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 1) << "the debit stands";
  EXPECT_EQ(BulkOf(Start(), BulkKind::kOffer), nullptr);
  EXPECT_TRUE(audit::VerifyLedger(*ReadFile(dir_ / "ledger", 1 << 30), "ledger",
                                  CoordinatorKey().verify_key(), std::nullopt)
                  .has_value());
}

TEST_F(GateCoreTest, WhichCodesAreFinal) {
  const auto final = [](Code code, protocols::MessageType about) {
    return IsFinal({{}, static_cast<uint16_t>(about), static_cast<uint8_t>(code)});
  };
  for (const auto about : {protocols::MessageType::kOffer, protocols::MessageType::kCommit}) {
    for (const Code code :
         {Code::kInvalidArgument, Code::kAlreadyExists, Code::kFailedPrecondition,
          Code::kPermissionDenied, Code::kUnauthenticated, Code::kDataLoss, Code::kUnsupported}) {
      EXPECT_TRUE(final(code, about)) << CodeName(code);
    }
    for (const Code code :
         {Code::kOk, Code::kResourceExhausted, Code::kUnavailable, Code::kDeadlineExceeded,
          Code::kCancelled, Code::kInternal, static_cast<Code>(99)}) {
      EXPECT_FALSE(final(code, about)) << static_cast<int>(code);
    }
  }
  EXPECT_TRUE(final(Code::kNotFound, protocols::MessageType::kOffer));
  EXPECT_FALSE(final(Code::kNotFound, protocols::MessageType::kCommit));
}

TEST_F(GateCoreTest, ARefusedUpdateIsInTheLedgerAndTheTrainerIsTold) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const Bytes loud = gate::SampleUpdate(job_, gate::SampleHeader(job_, 1), 1.0f);
  const GateEffects effects = Bulk(To::kTrainer, BulkKind::kUpdate, loud);
  const auto result =
      *protocols::Decode<RoundResult>(MessageOf(effects, IpcType::kRoundResult)->body);
  EXPECT_EQ(result.outcome, RoundOutcome::kRefused);
  EXPECT_NE(result.reason.text.find("norm"), std::string::npos);
  EXPECT_EQ(BulkOf(effects, BulkKind::kOffer), nullptr);
  EXPECT_NE(LastRefusal().find("what=update"), std::string::npos);
  EXPECT_EQ(MessageOf(Start(), IpcType::kRoundStart), nullptr) << "not asked for again";
}

TEST_F(GateCoreTest, WithoutADemandedWallNothingIsTrainedOrOffered) {
  Start(false);
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  core_->OnHello(To::kTrainer).value();
  const GateEffects effects = *core_->OnIsolation(To::kTrainer, Statement(Role::kTrainer, false));
  EXPECT_EQ(MessageOf(effects, IpcType::kRoundStart), nullptr);
  EXPECT_EQ(BulkOf(effects, BulkKind::kJob), nullptr);
  EXPECT_NE(LastRefusal().find("landlock_fs"), std::string::npos) << LastRefusal();
}

TEST_F(GateCoreTest, AnUpdateOfATrainerThatIsNotWalledIsRefusedAndTheRoundStaysOpen) {
  Start(false);
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  core_->OnHello(To::kTrainer).value();
  EXPECT_EQ(BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(1)), BulkKind::kOffer), nullptr);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 0);
  EXPECT_NE(LastRefusal().find("what=walls"), std::string::npos) << LastRefusal();
  EXPECT_NE(MessageOf(Start(), IpcType::kRoundStart), nullptr) << "walled now, asked for again";
}

TEST_F(GateCoreTest, ALinkThatIsNotWalledGetsNoOfferAndNoBlock) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const GateEffects released = Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  const auto manifest = ManifestIn(*BulkOf(released, BulkKind::kOffer));
  EXPECT_EQ(BulkOf(*core_->OnHello(To::kLink), BulkKind::kOffer), nullptr);
  EXPECT_TRUE(core_->OnNeedBlock({manifest.content, 0})->empty());
  const auto bad = *core_->OnIsolation(To::kLink, Statement(Role::kLink, false));
  EXPECT_EQ(BulkOf(bad, BulkKind::kOffer), nullptr);
  // Once a generation: a second statement is not heard.
  const int leaves = Leaves(gate::LeafType::kIsolation);
  EXPECT_TRUE(core_->OnIsolation(To::kLink, Statement(Role::kLink))->empty());
  EXPECT_EQ(Leaves(gate::LeafType::kIsolation), leaves);
  EXPECT_TRUE(core_->OnNeedBlock({manifest.content, 0})->empty());
  core_->OnHello(To::kLink).value();
  const auto good = *core_->OnIsolation(To::kLink, Statement(Role::kLink));
  EXPECT_EQ(ManifestIn(*BulkOf(good, BulkKind::kOffer)), manifest);
}

// No room: nothing is debited, nothing is left behind, and the round is asked for again later.
TEST_F(GateCoreTest, AFullDiskPutsTheUpdateOff) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const GateEffects full = Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(BulkOf(full, BulkKind::kOffer), nullptr);
  EXPECT_EQ(MessageOf(full, IpcType::kRoundStart), nullptr) << "not in a tight loop";
  EXPECT_EQ(MessageOf(full, IpcType::kRoundResult), nullptr);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 0);
  EXPECT_TRUE(fs::is_empty(dir_ / "releases"));
  EXPECT_NE(MessageOf(*core_->OnTick(), IpcType::kRoundStart), nullptr);
  EXPECT_NE(BulkOf(Bulk(To::kTrainer, BulkKind::kUpdate, Update(1)), BulkKind::kOffer), nullptr);
  EXPECT_EQ(Leaves(gate::LeafType::kIntent), 1);
}

// A crash after the receipt is in the ledger and before the spool is empty.
TEST_F(GateCoreTest, AReceivedUpdateThatIsStillSpooledIsRemovedAndNotOffered) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const GateEffects released = Bulk(To::kTrainer, BulkKind::kUpdate, Update(1));
  const auto manifest = ManifestIn(*BulkOf(released, BulkKind::kOffer));
  const fs::path kept = dir_.native() + "_kept";
  fs::remove_all(kept);
  for (const char* name : {"releases", "spool"}) {
    fs::create_directories(kept);
    fs::copy(dir_ / name, kept / name, fs::copy_options::recursive);
  }
  Bulk(To::kLink, BulkKind::kReceipt, ReceiptFor(manifest));
  core_.reset();
  for (const char* name : {"releases", "spool"}) {
    fs::remove_all(dir_ / name);
    fs::copy(kept / name, dir_ / name, fs::copy_options::recursive);
  }
  fs::remove_all(kept);
  EXPECT_EQ(BulkOf(Start(), BulkKind::kOffer), nullptr);
  EXPECT_TRUE(core_->OnNeedBlock({manifest.content, 0})->empty());
  EXPECT_TRUE(fs::is_empty(dir_ / "releases"));
  EXPECT_EQ(Leaves(gate::LeafType::kReceipt), 1);
}

TEST_F(GateCoreTest, ATrainerThatIsWantedIsAskedForUntilItIsThere) {
  Start(false);
  EXPECT_FALSE(Tells(*core_->OnTick(), ControlType::kNeedTrainer)) << "no job, no trainer";
  EXPECT_TRUE(Tells(Bulk(To::kLink, BulkKind::kJob, JobBytes()), ControlType::kNeedTrainer));
  EXPECT_FALSE(Tells(OpenRound(1), ControlType::kNeedTrainer));
  EXPECT_TRUE(Tells(*core_->OnTick(), ControlType::kNeedTrainer));
  core_->OnHello(To::kTrainer).value();
  EXPECT_FALSE(Tells(*core_->OnTick(), ControlType::kNeedTrainer));
}

TEST_F(GateCoreTest, OneTryThatWentThroughStopsTrainingAndIsNamed) {
  Start(false);
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  core_->OnHello(To::kTrainer).value();
  IsolationStatement statement = *DecodeStatement(Statement(Role::kTrainer));
  TryRow row;
  std::strncpy(row.name, "socket_udp", sizeof(row.name) - 1);
  row.verdict = Verdict::kOpen;
  statement.rows.push_back(row);
  const auto effects = *core_->OnIsolation(To::kTrainer, EncodeStatement(statement));
  EXPECT_EQ(BulkOf(effects, BulkKind::kJob), nullptr);
  EXPECT_NE(LastRefusal().find("socket_udp"), std::string::npos) << LastRefusal();
  EXPECT_EQ(Leaves(gate::LeafType::kIsolation), 3) << "gate, link and trainer";
}

TEST_F(GateCoreTest, StatementsWithoutEndDoNotFillTheLedgerNorKeepTheOtherPeerOut) {
  Start(false);
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  OpenRound(1);
  const int before = Leaves(gate::LeafType::kIsolation);
  for (int i = 0; i < 150; ++i) {
    IsolationStatement statement = *DecodeStatement(Statement(Role::kLink));
    statement.pinned_address = fmt::format("192.0.2.1:{}", 1000 + i);
    core_->OnHello(To::kLink).value();
    core_->OnIsolation(To::kLink, EncodeStatement(statement)).value();
  }
  EXPECT_EQ(Leaves(gate::LeafType::kIsolation), before + 99) << "100 with the first";
  // A trainer that is started over and over says the same each time.
  for (int i = 0; i < 150; ++i) {
    core_->OnHello(To::kTrainer).value();
    const auto effects = core_->OnIsolation(To::kTrainer, Statement(Role::kTrainer));
    ASSERT_NE(MessageOf(*effects, IpcType::kRoundStart), nullptr) << i;
  }
  EXPECT_EQ(Leaves(gate::LeafType::kIsolation), before + 100);
}

TEST_F(GateCoreTest, WhatIsMissingOfAnAdapterIsWantedAgainAfterEachReconnect) {
  Start();
  const auto wanted = [this](bool connected) {
    return MessageOf(*core_->OnLinkState(connected), IpcType::kWantBlocks) != nullptr;
  };
  EXPECT_FALSE(wanted(false)) << "nothing is known yet";
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  EXPECT_NE(
      MessageOf(Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, AdapterOf(0))),
                IpcType::kWantBlocks),
      nullptr);
  EXPECT_TRUE(wanted(true)) << "connected for the first time";
  EXPECT_TRUE(wanted(true)) << "one connection of several was lost, and what was under way on it";
  EXPECT_FALSE(wanted(false));
  const GateEffects effects = *core_->OnLinkState(true);
  const auto want = protocols::Decode<WantBlocks>(MessageOf(effects, IpcType::kWantBlocks)->body);
  EXPECT_EQ(want->content, AdapterOf(0).content);
  EXPECT_EQ(want->count, 1u);
  GiveBlock(0);
  EXPECT_FALSE(wanted(false));
  EXPECT_FALSE(wanted(true)) << "nothing is missing";
  // A link that was started again is told with its HELLO; its first word is no reconnect.
  core_->OnHello(To::kLink).value();
  EXPECT_FALSE(wanted(true));
}

TEST_F(GateCoreTest, ADamagedAdapterBlockIsRefusedAndTheFinalVersionEndsTheJob) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, AdapterOf(3)));
  Bulk(To::kLink, BulkKind::kBlock, Bytes(parameters_.size(), 9), AdapterOf(3).content, 0);
  EXPECT_NE(LastRefusal().find("rule=block"), std::string::npos);
  const GateEffects effects = GiveBlock(3);
  EXPECT_NE(BulkOf(effects, BulkKind::kParameters), nullptr);
  EXPECT_NE(MessageOf(effects, IpcType::kStop), nullptr);
  EXPECT_TRUE(Tells(effects, ControlType::kJobEnded));
  // The next job is taken, by a trainer of its own.
  job_.name = "triage";
  job_.seed = 77;
  id_ = gate::IdOf(job_);
  EXPECT_TRUE(Tells(Bulk(To::kLink, BulkKind::kJob, JobBytes()), ControlType::kNeedTrainer));
}

// The ledger says what an export was made of: once a change, and once a start of the trainer.
TEST_F(GateCoreTest, WhatATrainerOpensIsInTheLedgerBeforeItsUpdates) {
  Start();
  Bulk(To::kLink, BulkKind::kJob, JobBytes());
  Dataset dataset;
  dataset.job = id_;
  dataset.records[0] = 7;
  dataset.records_bytes = 1234;
  Dataset foreign = dataset;
  foreign.job[0] ^= 1;
  ASSERT_TRUE(core_->OnDataset(foreign).has_value());
  EXPECT_EQ(Leaves(gate::LeafType::kDataset), 0) << "of another job";
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(core_->OnDataset(dataset).has_value());
    dataset.records[1] = static_cast<uint8_t>(i + 1);
  }
  EXPECT_EQ(Leaves(gate::LeafType::kDataset), 1) << "a hostile trainer does not fill the ledger";
  dataset.records[1] = 0;
  Start();
  ASSERT_TRUE(core_->OnDataset(dataset).has_value());
  EXPECT_EQ(Leaves(gate::LeafType::kDataset), 1) << "the same again is nothing new";
  Start();
  dataset.records[0] = 8;
  ASSERT_TRUE(core_->OnDataset(dataset).has_value());
  EXPECT_EQ(Leaves(gate::LeafType::kDataset), 2);
}

}  // namespace
}  // namespace tidegate::onshore
