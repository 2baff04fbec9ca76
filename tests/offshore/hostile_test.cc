// What a hostile or broken site may offer, and what the job file may say.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "blocks/content.h"
#include "crypto/checkpoint_note.h"
#include "federation/job/job_file.h"
#include "federation_fixture.h"
#include "offshore/enrolment.h"
#include "tests/permit/played_gate.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;
using protocols::Channel;
using protocols::MessageType;
using protocols::ReleaseManifest;

fs::path TestDir() {
  return fs::path(::testing::TempDir()) /
         ("hostile_" +
          std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
}

class HostileTest : public ::testing::Test {
 protected:
  HostileTest() : federation(TestDir()) {
    for (const char* name : {"north", "south", "west"}) {
      federation.Enrol(name).silent = true;
      federation.Connect(name);
    }
    federation.Submit("codec = \"int8\"\nsites = [\"north\", \"south\"]\n");
    federation.Settle();
  }
  ~HostileTest() override { fs::remove_all(TestDir()); }

  // Offers what `change` makes of north's good release, signed by north, over `via`'s connection;
  // returns the error's text.
  std::string Refusal(const std::function<void(ReleaseManifest&)>& change,
                      const std::string& via = "north") {
    FakeSite& north = federation.site("north");
    ReleaseManifest release = north.Make(1).release;
    change(release);
    protocols::Offer offer = north.Make(1).offer;
    offer.release = gate::Sealing::Sign(north.gate(), release);
    return Send(via, offer);
  }
  std::string Send(const std::string& via, const protocols::Offer& offer) {
    FakeSite& site = federation.site(via);
    site.errors.clear();
    federation.Say(via, {Channel::kControl, MessageType::kOffer, protocols::Encode(offer)});
    federation.Settle();
    return site.errors.empty() ? "" : site.errors[0].text.text;
  }
  TestFederation federation;
};

TEST_F(HostileTest, EveryFieldThatTheJobFixesIsChecked) {
  const struct {
    const char* reason;
    std::function<void(ReleaseManifest&)> change;
  } cases[] = {
      {"the job is not known", [](auto& r) { r.key.job[0] ^= 1; }},
      {"federation or job", [](auto& r) { r.federation[0] ^= 1; }},
      {"round 2 was never announced", [](auto& r) { r.key.round = 2; }},
      {"round or phase", [](auto& r) { r.key.phase = 1; }},
      {"round or phase", [](auto& r) { r.key.round = 0; }},
      {"another site", [](auto& r) { r.key.site = "south"; }},
      {"base", [](auto& r) { r.base_hash[0] ^= 1; }},
      {"layout", [](auto& r) { r.layout_digest[0] ^= 1; }},
      {"codec", [](auto& r) { r.codec = protocols::Codec::kFixed32; }},
      {"another key", [](auto& r) { r.recipient[0] ^= 1; }},
      {"an update of this job has", [](auto& r) { r.ciphertext_bytes += 1; }},
      {"an update of this job has",
       [](auto& r) {
         r.blocks.items.push_back(r.blocks.items[0]);
         r.content = blocks::ContentId(r.blocks.items);
       }},
      {"content id", [](auto& r) { r.content[0] ^= 1; }},
      {"does not cover leaf", [](auto& r) { r.ledger_index = 1; }},
  };
  for (const auto& c : cases) {
    EXPECT_NE(Refusal(c.change).find(c.reason), std::string::npos)
        << c.reason << " but: " << Refusal(c.change);
  }
  EXPECT_TRUE(federation.site("north").receipts.empty());
  federation.site("north").silent = false;
  EXPECT_EQ(Refusal([](auto&) {}), "") << "the good one is still taken";
  EXPECT_TRUE(federation.site("north").receipts.contains(1));
}

TEST_F(HostileTest, ASignatureOfAnotherKeyOrAnotherSitesConnectionIsRefused) {
  FakeSite& north = federation.site("north");
  protocols::Offer offer = north.Make(1).offer;
  EXPECT_NE(Send("south", offer).find("another site"), std::string::npos);
  offer.release.signature[5] ^= 1;
  EXPECT_NE(Send("north", offer).find("signature"), std::string::npos);
  // A site that is enrolled, and that the job does not name.
  FakeSite& west = federation.site("west");
  ReleaseManifest release = north.Make(1).release;
  release.key.site = "west";
  offer.release = gate::Sealing::Sign(west.gate(), release);
  EXPECT_NE(Send("west", offer).find("does not name site west"), std::string::npos);
  // A ledger head of another site's key.
  offer = north.Make(1).offer;
  offer.ledger_head =
      crypto::SignCheckpoint({"tidegate/test/north", 9, Digest{}}, "north", west.gate()).value();
  EXPECT_NE(Send("north", offer).find("the ledger head"), std::string::npos);
}

TEST_F(HostileTest, SealedBytesThatAreNotWhatTheReleaseSaysAreRefusedAndForgotten) {
  federation.site("north").silent = false;
  EXPECT_NE(Refusal([](auto& r) { r.plaintext[0] ^= 1; }).find("not what its release says"),
            std::string::npos);
  EXPECT_NE(Refusal([](auto& r) { r.commitment[0] ^= 1; }), "");
  EXPECT_NE(Refusal([](auto& r) { r.encapsulated[0] ^= 1; }), "");
  EXPECT_EQ(Refusal([](auto&) {}), "");
  EXPECT_TRUE(federation.site("north").receipts.contains(1));
}

TEST_F(HostileTest, BlocksThatAreWrongAreDroppedAndTheTransferGoesOn) {
  FakeSite& north = federation.site("north");
  const FakeSite::Spool& spool = north.Make(1);
  const auto chunk = [&](uint32_t index, ByteSpan bytes) {
    north.errors.clear();
    federation.Say("north", {Channel::kBulk, MessageType::kChunk,
                             protocols::EncodeChunk({spool.release.content, index, bytes})});
    return north.errors.empty() ? "" : north.errors[0].text.text;
  };
  EXPECT_EQ(chunk(0, spool.blocks[0]), "") << "of no offer: dropped without a word";
  // Offered, but north's answers are thrown away: the blocks come by hand.
  federation.Say("north", FakeSite::OfferOf(spool));
  Bytes wrong = spool.blocks[0];
  wrong[3] ^= 1;
  EXPECT_NE(chunk(0, wrong).find("does not have the bytes of its id"), std::string::npos);
  EXPECT_NE(chunk(7, spool.blocks[0]).find("not of this content"), std::string::npos);
  wrong.pop_back();
  EXPECT_NE(chunk(0, wrong).find("not of this content"), std::string::npos);
  federation.Settle();
  EXPECT_TRUE(north.receipts.contains(1));
}

TEST_F(HostileTest, ABlockThatTheDiskDamagedBeforeTheCommitIsFetchedAgain) {
  FakeSite& north = federation.site("north");
  const FakeSite::Spool& spool = north.Make(1);
  const std::string hex = ToHex(spool.release.blocks.items[0]);
  const fs::path file = TestDir() / "blocks" / hex.substr(0, 2) / hex.substr(2);
  bool damaged = false;
  federation.Say("north", FakeSite::OfferOf(spool));
  federation.Settle([&](int) {
    if (damaged || !fs::exists(file)) return true;
    Bytes bytes = ReadFile(file, 1 << 20).value();
    bytes[10] ^= 1;
    damaged = WriteFileDurably(file, bytes).ok();
    return true;
  });
  EXPECT_TRUE(damaged);
  ASSERT_TRUE(north.receipts.contains(1));
  EXPECT_EQ(north.receipts[1].outcome, protocols::ReceiptOutcome::kCounted);
}

// The ids of an adapter's blocks are known to every site that was told of it, and its blocks lie in
// the same store as those of updates.
TEST_F(HostileTest, ARefusedUpdateThatNamesAnAdaptersBlocksLeavesThemWhereTheyAre) {
  FakeSite& north = federation.site("north");
  const Digest block = north.adapter->blocks.items.at(0);
  Digest content{};
  EXPECT_EQ(Refusal([&](ReleaseManifest& r) {
              std::fill(r.blocks.items.begin(), r.blocks.items.end(), block);
              content = r.content = blocks::ContentId(r.blocks.items);
            }),
            "");
  federation.Say("north", {Channel::kControl, MessageType::kCommit,
                           protocols::Encode(protocols::Commit{content})});
  ASSERT_EQ(north.errors.size(), 1u) << "it does not open";
  EXPECT_TRUE(federation.coordinator().BlockOf(block).has_value());
  for (const char* name : {"north", "south"}) {
    FakeSite& site = federation.site(name);
    site.silent = false;
    federation.Say(name, FakeSite::OfferOf(site.Make(1)));
  }
  federation.Settle();
  EXPECT_TRUE(north.adapter->final) << "each round is summed on the adapter that it began with";
}

TEST_F(HostileTest, ASiteThatTheRoundDoesNotAskIsRefused) {
  federation.Request({{"verb", "job_stop"}, {"job", "triage"}});
  federation.Settle();
  federation.Submit("sites = [\"north\", \"south\"]\nsites_per_round = 1\n");
  for (const char* name : {"north", "south"}) {
    federation.Disconnect(name);
    federation.Connect(name);
  }
  federation.Settle();
  const bool north_is_asked = !federation.site("north").rounds.empty();
  FakeSite& asked = federation.site(north_is_asked ? "north" : "south");
  FakeSite& other = federation.site(north_is_asked ? "south" : "north");
  ASSERT_TRUE(asked.rounds.contains(1));
  ASSERT_FALSE(other.rounds.contains(1));
  // A friend has told it of the round's key.
  other.rounds = asked.rounds;
  EXPECT_NE(Send(other.name(), other.Make(1).offer).find("does not ask"), std::string::npos);
  EXPECT_TRUE(other.receipts.empty());
  asked.silent = false;
  EXPECT_EQ(Send(asked.name(), asked.Make(1).offer), "");
  EXPECT_TRUE(asked.receipts.contains(1));
}

// Each offer takes the place of the one before, or its connection ends; none is committed.
TEST_F(HostileTest, OffersThatAreNeverEndedDoNotFillTheStore) {
  FakeSite& north = federation.site("north");
  const ReleaseManifest good = north.Make(1).release;
  ASSERT_EQ(good.blocks.size(), 1u);
  const auto blocks = [] {
    size_t count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(TestDir() / "blocks")) {
      count += entry.is_regular_file() ? 1 : 0;
    }
    return count;
  };
  const size_t before = blocks();
  for (uint8_t i = 0; i < 12; ++i) {
    const Bytes block(good.ciphertext_bytes, i);
    Digest content{};
    EXPECT_EQ(Refusal([&](ReleaseManifest& r) {
                r.blocks.items[0] = blocks::BlockId(block);
                content = r.content = blocks::ContentId(r.blocks.items);
              }),
              "");
    federation.Say("north", {Channel::kBulk, MessageType::kChunk,
                             protocols::EncodeChunk({content, 0, block})});
    if (i % 2 == 0) continue;
    federation.Disconnect("north");
    federation.Connect("north");
  }
  EXPECT_GT(blocks(), before) << "the newest can be gone on with";
  EXPECT_LE(blocks(), before + kMaxOffersPerSite);
  // The round ends, and with it what was left of it.
  federation.Request({{"verb", "job_stop"}, {"job", "triage"}});
  EXPECT_EQ(blocks(), before);
}

// A coordinator that was started anew does not know whose they were: a site may go on with them,
// but not after the rounds that were open.
TEST_F(HostileTest, BlocksThatAnOfferLeftBeforeARestartGoWithTheRoundsThatWereOpen) {
  const std::string other = federation.Submit("name = \"other\"\nsites = [\"west\"]\n");
  const Bytes block(federation.site("north").Make(1).release.ciphertext_bytes, 7);
  const Digest id = blocks::BlockId(block);
  Digest content{};
  EXPECT_EQ(Refusal([&](ReleaseManifest& r) {
              r.blocks.items[0] = id;
              content = r.content = blocks::ContentId(r.blocks.items);
            }),
            "");
  federation.Say(
      "north", {Channel::kBulk, MessageType::kChunk, protocols::EncodeChunk({content, 0, block})});
  const auto there = [&] { return federation.coordinator().BlockOf(id).has_value(); };
  ASSERT_TRUE(there());
  federation.Crash();
  federation.Open();
  for (const char* name : {"north", "south", "west"}) federation.Connect(name);
  federation.Settle();
  EXPECT_TRUE(there()) << "it can be gone on with";
  for (const char* name : {"north", "south"}) {
    federation.Say(name, FakeSite::OfferOf(federation.site(name).Make(1)));
  }
  federation.Settle();
  ASSERT_EQ(federation.site("north").adapter->version, 1u);
  EXPECT_TRUE(there()) << "it may be of the other job's round";
  federation.Request({{"verb", "job_stop"}, {"job", other}});
  EXPECT_FALSE(there()) << "while a job is open";
  for (const char* name : {"north", "south"}) {
    federation.Say(name, FakeSite::OfferOf(federation.site(name).Make(2)));
  }
  federation.Settle();
  EXPECT_EQ(federation.site("south").adapter->version, 2u) << "nothing else went";
}

// A WANT of 60 bytes is answered with megabytes, and many come in one turn.
TEST_F(HostileTest, ATurnSaysNoMoreToASiteThanItsBound) {
  const protocols::AdapterManifest adapter = *federation.site("north").adapter;
  const Bytes want = protocols::Encode(protocols::Want{adapter.content, 0, 1, 1 << 20});
  const uint64_t wants =
      2 * kMaxTurnBytes / std::min(adapter.content_bytes, protocols::kBlockBytes);
  Coordinator& coordinator = federation.coordinator();
  const auto said = [&](const std::function<void()>& what) {
    EXPECT_TRUE(coordinator.BeginTurn().ok());
    what();
    uint64_t bytes = 0;
    const auto out = coordinator.EndTurn();
    EXPECT_TRUE(out.has_value());
    for (const Outgoing& message : out.value()) bytes += message.size();
    return bytes;
  };
  const uint64_t first = said([&] {
    for (uint64_t i = 0; i < wants; ++i) {
      EXPECT_TRUE(coordinator.OnMessage("north", MessageType::kWant, want).ok());
    }
  });
  EXPECT_GE(first, kMaxTurnBytes);
  EXPECT_LE(first, kMaxTurnBytes + protocols::kMaxChunkBody);
  // What it asked for last is not lost.
  EXPECT_GT(said([&] { EXPECT_TRUE(coordinator.OnTime().ok()); }), 0u);
}

TEST_F(HostileTest, NoBodyCrashesAndNoSiteMaySayWhatOnlyTheCoordinatorSays) {
  FakeSite& north = federation.site("north");
  const Bytes junk(77, 0xff);
  for (uint16_t type = 2; type <= 16; ++type) {
    for (size_t size : {size_t{0}, size_t{1}, junk.size()}) {
      federation.Say("north", {Channel::kControl, static_cast<MessageType>(type),
                               Bytes(junk.begin(), junk.begin() + static_cast<long>(size))});
    }
  }
  EXPECT_GE(north.errors.size(), 30u);
  protocols::Want want{north.adapter->content, 0, 9000, 1 << 20};
  north.errors.clear();
  federation.Say("north", {Channel::kControl, MessageType::kWant, protocols::Encode(want)});
  want.content[0] ^= 1;
  federation.Say("north", {Channel::kControl, MessageType::kWant, protocols::Encode(want)});
  EXPECT_EQ(north.errors.size(), 2u);
  // An adapter of a job that does not name the site is not given out.
  FakeSite& west = federation.site("west");
  want = {north.adapter->content, 0, 1, 1 << 20};
  federation.Say("west", {Channel::kControl, MessageType::kWant, protocols::Encode(want)});
  ASSERT_EQ(west.errors.size(), 1u);
  EXPECT_EQ(west.errors[0].code, static_cast<uint8_t>(Code::kNotFound));
}

TEST_F(HostileTest, ARequestIsApprovedOnlyUnderItsOwnSignatureAndAGoodName) {
  FakeSite stranger("east", federation.key());
  std::string text = stranger.Request();
  const size_t middle = text.size() / 2;
  text[middle] = text[middle] == 'A' ? 'B' : 'A';
  EXPECT_FALSE(federation.Request({{"verb", "site_approve"}, {"request", text}}).has_value());
  for (const char* name : {"East", "../east", "", "-east", "ea st"}) {
    FakeSite bad(name, federation.key());
    EXPECT_FALSE(
        federation.Request({{"verb", "site_approve"}, {"request", bad.Request()}}).has_value())
        << name;
  }
  FakeSite other("north", federation.key());
  EXPECT_EQ(
      federation.Request({{"verb", "site_approve"}, {"request", other.Request()}}).error().code(),
      Code::kAlreadyExists);
}

TEST_F(HostileTest, AJobFilesMistakesAreNamedWithTheirLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"round = 3\n", "line 2: round is not known"},
      {"rounds = 0\n", "line 2: rounds must be a whole number, 1"},
      {"rounds = \"3\"\n", "line 2: rounds must be a whole number"},
      {"[lora]\nr = 4\nrank_pattern = { q_proj = 8 }\n", "line 4: rank_pattern is not for jobs"},
      {"[lora]\nalpha_pattern = { q_proj = 8 }\n", "line 3: alpha_pattern is not for jobs"},
      {"[lora]\nlayers_to_transform = [0]\n", "line 3: layers_to_transform is not for jobs"},
      {"[train]\nlearning_rates = 1\n", "line 3: learning_rates is not known"},
      {"[train]\nscheduler = \"step\"\n", "constant, linear, cosine"},
      {"[lora]\ntargets = [\"q_prj\"]\n", "line 3: targets is not good"},
      {"codec = \"fixed32\"\nnorm_clip = 1.0\n", "fixed32 is exact"},
      {"codec = \"fixed32\"\nrounding = \"nearest\"\n", "nothing is rounded"},
      {"codec = \"fixed32\"\nerror_feedback = false\n",
       "leave out rounding, error_feedback and late"},
      {"codec = \"int4\"\n", "say error_feedback = true"},
      {"codec = \"int2\"\n", "line 2: codec must be one of: fixed32, int8, bf16, int4"},
      {"rounding = \"up\"\n", "line 2: rounding must be one of: nearest, stochastic"},
      {"error_feedback = 1\n", "line 2: error_feedback must be true or false"},
      {"codec = \"fixed32\"\nlate = \"carry\"\n", "nothing is left to carry over"},
      {"late = \"average\"\n", "line 2: late must be one of: discard, carry"},
      {"strategy = \"flora\"\n", "one of: fedit, ffa-lora, rolora, fedsa-lora"},
      {"server_optimizer = \"sgd\"\n", "one of: fedavg, fedavgm, fedadam, fedyogi"},
      {"server_momentum = 0.5\n", "server_momentum is fedavgm's"},
      {"beta_1 = 0.5\n", "beta_1, beta_2 and tau are fedadam's"},
      {"server_optimizer = \"fedavgm\"\nserver_momentum = 1.0\n", "beta1 1 is not in [0, 1)"},
      {"server_optimizer = \"fedadam\"\ntau = 0\n", "line 3: tau must be a number"},
      {"proximal_mu = -1\n", "line 2: proximal_mu must be a number"},
      {"sites_per_round = 2\nsites = [\"north\"]\n", "sites_per_round 2 is more than the job's 1"},
      {"target_updates = 2\nquorum = 1\nsites = [\"north\"]\n", "target_updates 2 is not in 1"},
      {"[lora]\nlocal_r = 5000\n", "line 3: local_r must be a whole number"},
      {"[train]\nbase = \"2bit\"\n", "one of: as-is, 8bit, 4bit"},
      {"quorum = 4\nsites = [\"north\"]\n", "quorum 4 is more than the 1 sites that a round asks"},
      {"sites = [\"nowhere\"]\n", "nowhere is not enrolled"},
      {"sites = [\"north\", \"north\"]\n", "twice"},
      {"rounds = \n", "line 2"},
  };
  for (const auto& [text, reason] : cases) {
    const auto answer = federation.Request(SubmitRequest(text));
    ASSERT_FALSE(answer.has_value()) << text;
    EXPECT_NE(answer.error().message().find(reason), std::string::npos) << answer.error().message();
  }
  EXPECT_EQ(federation.Request({{"verb", "job_list"}})->size(), 1u) << "nothing of them is kept";
}

}  // namespace
}  // namespace tidegate::offshore
