// The coordinator without sockets: whole jobs, crashes in every turn, late updates, quorums.
#include "offshore/coordinator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "blocks/content.h"
#include "federation/shared/grid.h"
#include "federation_fixture.h"
#include "model/adapter.h"
#include "tests/permit/played_gate.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJob =
    "rounds = 3\ncodec = \"fixed32\"\ndeadline_seconds = 60\n[lora]\nr = 4\nalpha = 8\n"
    "[train]\nlocal_steps = 1\n";

fs::path TestDir() {
  std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
  std::replace(name.begin(), name.end(), '/', '_');
  return fs::path(::testing::TempDir()) / ("offshore_" + name);
}

// FedAvg over these sites by its equation, in double.
std::vector<float> Expected(std::vector<float> parameters, const std::vector<std::string>& sites,
                            uint32_t rounds) {
  for (uint32_t round = 1; round <= rounds; ++round) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      const auto start = static_cast<double>(parameters[i]);
      double sum = 0;
      for (const std::string& site : sites) {
        const auto result = static_cast<double>(
            federation::SnapToGrid(start + static_cast<double>(FakeSite::Delta(site, round, i))));
        sum += result - start;
      }
      parameters[i] = federation::SnapToGrid(start + sum / static_cast<double>(sites.size()));
    }
  }
  return parameters;
}

class CoordinatorTest : public ::testing::Test {
 protected:
  CoordinatorTest() : federation(TestDir()) {
    federation.Enrol("north");
    federation.Enrol("south");
  }
  ~CoordinatorTest() override { fs::remove_all(TestDir()); }
  void ConnectBoth() {
    federation.Connect("north");
    federation.Connect("south");
    federation.Settle();
  }
  nlohmann::ordered_json Job(const std::string& id) {
    const auto answer = federation.Request({{"verb", "job_show"}, {"job", id}});
    EXPECT_TRUE(answer.has_value());
    return answer.value_or(nlohmann::ordered_json());
  }
  TestFederation federation;
};

TEST_F(CoordinatorTest, AJobOfTwoSitesEndsWithTheMeansOfTheirDeltas) {
  for (const char* name : {"north", "south"}) federation.site(name).silent = true;
  ConnectBoth();
  const std::string id = federation.Submit(kJob);
  federation.Settle();
  FakeSite& north = federation.site("north");
  ASSERT_TRUE(north.adapter.has_value());
  EXPECT_EQ(north.adapter->version, 0u);
  const std::vector<float> start = north.parameters;
  for (const char* name : {"north", "south"}) federation.site(name).silent = false;
  federation.Disconnect("north");
  federation.Disconnect("south");
  ConnectBoth();
  EXPECT_EQ(Job(id)["state"], "finished");
  for (const char* name : {"north", "south"}) {
    FakeSite& site = federation.site(name);
    ASSERT_TRUE(site.adapter.has_value());
    EXPECT_EQ(site.adapter->version, 3u);
    EXPECT_TRUE(site.adapter->final);
    EXPECT_EQ(site.parameters, Expected(start, {"north", "south"}, 3));
    EXPECT_EQ(site.receipts.size(), 3u);
    EXPECT_EQ(site.receipts[2].outcome, protocols::ReceiptOutcome::kCounted);
    EXPECT_EQ(site.receipts[2].ledger_head.text, site.Make(2).offer.ledger_head.text);
    EXPECT_EQ(site.bad, 0);
    EXPECT_TRUE(site.errors.empty());
  }
}

// A site may send up to 64 for a value: of two sites one gets any value past the grid's end.
TEST_F(CoordinatorTest, ASiteThatPushesAParameterPastTheGridSpoilsItAndTheJobGoesOn) {
  federation.site("north").push = 7.5f;
  ConnectBoth();
  testing::internal::CaptureStderr();
  const std::string id = federation.Submit(kJob);
  federation.Settle();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(Job(id)["state"], "finished") << log;
  const FakeSite& south = federation.site("south");
  ASSERT_TRUE(south.adapter.has_value());
  EXPECT_TRUE(south.adapter->final);
  EXPECT_EQ(south.adapter->version, 3u);
  EXPECT_EQ(south.parameters[0], federation::kLargestOnGrid);
  EXPECT_EQ(south.parameters[1], -federation::kLargestOnGrid);
  std::vector<float> snapped = south.parameters;
  EXPECT_TRUE(federation::SnapAllToGrid(snapped).ok());
  EXPECT_EQ(snapped, south.parameters) << "sites take it";
  EXPECT_EQ(log.find("parameters_saturated job=triage round=1"), std::string::npos) << log;
  EXPECT_NE(log.find("parameters_saturated job=triage round=2 values=2 limit=3.9999"),
            std::string::npos)
      << log;
}

class CrashTest : public CoordinatorTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(CrashTest, InAnyTurnChangesNoBitOfTheResult) {
  const std::string job_text = std::string(GetParam()) + kJob;
  ConnectBoth();
  const std::string id = federation.Submit(job_text);
  federation.Settle();
  ASSERT_EQ(Job(id)["state"], "finished");
  const int turns = federation.turns();
  ASSERT_GT(turns, 20);
  // One of the turns crashes, then another one soon after.
  for (int at = 0; at < turns; at += job_text == kJob ? 1 : 4) {
    fs::remove_all(TestDir() / "again");
    TestFederation again(TestDir() / "again");
    again.Enrol("north");
    again.Enrol("south");
    const auto fine = [&](int turn) { return turn != at && turn != at + 3; };
    again.Connect("north");
    again.Connect("south");
    const std::string job = again.Submit(job_text);
    for (int tries = 0; tries < 5; ++tries) {
      again.Settle(fine);
      if (again.open()) break;
      again.Open();
      again.Connect("north");
      again.Connect("south");
      again.Settle(fine);
      if (!again.open()) again.Open();
      for (const char* name : {"north", "south"}) {
        again.Connect(name);
        again.Say(name, again.site(name).Lease());
      }
    }
    for (const char* name : {"north", "south"}) {
      FakeSite& site = again.site(name);
      ASSERT_TRUE(site.adapter.has_value()) << at;
      EXPECT_EQ(site.adapter->version, 3u) << at;
      EXPECT_EQ(site.parameters, federation.site(name).parameters) << at;
      EXPECT_EQ(site.receipts.size(), 3u) << at;
      EXPECT_EQ(site.bad, 0);
    }
  }
}

// The moments of the one are on disk between rounds, the other shares half of the adapter by turns.
INSTANTIATE_TEST_SUITE_P(
    Jobs, CrashTest,
    ::testing::Values("", "server_optimizer = \"fedadam\"\nstrategy = \"rolora\"\n"));

TEST_F(CoordinatorTest, AtTheDeadlineAQuorumIsSummedAndTheLateUpdateIsReceiptedAsLate) {
  federation.site("south").silent = true;
  ConnectBoth();
  const std::string id = federation.Submit("quorum = 1\nrounds = 2\n");
  federation.Settle();
  FakeSite& south = federation.site("south");
  ASSERT_TRUE(south.adapter.has_value());
  const FakeSite::Spool late = south.Make(1);
  EXPECT_EQ(Job(id)["version"], 0);
  EXPECT_EQ(federation.coordinator().MillisToDeadline(), 60'000);  // an hour, looked at each minute
  federation.clock.Advance(3'600'000);
  EXPECT_EQ(federation.coordinator().MillisToDeadline(), 0);
  federation.Time();
  federation.Settle();
  EXPECT_EQ(Job(id)["version"], 1);
  federation.Say("south", FakeSite::OfferOf(late));
  ASSERT_TRUE(south.receipts.contains(1));
  EXPECT_EQ(south.receipts[1].outcome, protocols::ReceiptOutcome::kLate);
  const Bytes first = south.receipt_bytes[1];
  federation.clock.Advance(1000);
  federation.Say("south", FakeSite::OfferOf(late));
  EXPECT_EQ(south.receipt_bytes[1], first) << "one receipt for ever";
}

// Its blocks are still coming when the round ends: the site must not wait for a receipt for ever.
TEST_F(CoordinatorTest, AnUpdateUnderWayWhenItsRoundEndsIsReceiptedAsLate) {
  federation.site("south").silent = true;
  ConnectBoth();
  federation.Submit("quorum = 1\nrounds = 2\ndeadline_seconds = 10\n");
  federation.Settle();
  FakeSite& south = federation.site("south");
  federation.Say("south", FakeSite::OfferOf(south.Make(1)));
  ASSERT_TRUE(south.receipts.empty());
  federation.clock.Advance(10'000);
  federation.Time();
  ASSERT_TRUE(south.receipts.contains(1));
  EXPECT_EQ(south.receipts[1].outcome, protocols::ReceiptOutcome::kLate);
  const Bytes first = south.receipt_bytes[1];
  federation.Settle();
  EXPECT_TRUE(south.errors.empty())
      << "its chunks and its COMMIT come too late, and are no offence";
  EXPECT_EQ(south.receipt_bytes[1], first);
}

TEST_F(CoordinatorTest, AJobStoppedWhileAnUpdateIsUnderWayEndsForItsSite) {
  federation.site("south").silent = true;
  ConnectBoth();
  const std::string id = federation.Submit(kJob);
  federation.Settle();
  FakeSite& south = federation.site("south");
  federation.Say("south", FakeSite::OfferOf(south.Make(1)));
  ASSERT_TRUE(federation.Request({{"verb", "job_stop"}, {"job", id}}).has_value());
  federation.Settle();
  ASSERT_TRUE(federation.open()) << "the coordinator goes on";
  EXPECT_EQ(Job(id)["state"], "stopped");
  ASSERT_TRUE(south.receipts.contains(1));
  EXPECT_EQ(south.receipts[1].outcome, protocols::ReceiptOutcome::kLate);
  EXPECT_TRUE(south.errors.empty());
  EXPECT_EQ((*federation.Request({{"verb", "status"}}))["block_bytes"],
            south.adapter->content_bytes)
      << "the spools of the stopped round are gone";
}

TEST_F(CoordinatorTest, BelowQuorumNothingIsAppliedAndThreeInARowEndTheJob) {
  federation.site("south").silent = true;
  ConnectBoth();
  const std::string id = federation.Submit("deadline_seconds = 10\n");
  federation.Settle();
  for (int i = 0; i < 3; ++i) {
    federation.clock.Advance(10'000);
    federation.Time();
    federation.Settle();
  }
  EXPECT_EQ(Job(id)["state"], "stopped");
  EXPECT_EQ(Job(id)["version"], 0);
  FakeSite& north = federation.site("north");
  ASSERT_EQ(north.notices.size(), 4u);
  EXPECT_EQ(north.notices[0].round, 1u);
  EXPECT_EQ(north.notices[0].reason, protocols::AbandonReason::kBelowQuorum);
  EXPECT_EQ(north.notices[3].round, 0u) << "the whole job";
  EXPECT_EQ(Job(id)["ended"], true);
  const auto status = federation.Request({{"verb", "status"}});
  ASSERT_TRUE(status.has_value());
  const uint64_t adapter = north.adapter->content_bytes;
  EXPECT_EQ((*status)["block_bytes"], adapter) << "the spools of abandoned rounds are gone";
}

TEST_F(CoordinatorTest, ASecondUpdateUnderAKeyIsRefusedAndLogged) {
  federation.site("south").silent = true;
  ConnectBoth();
  federation.Submit(kJob);
  federation.Settle();
  FakeSite& north = federation.site("north");
  ASSERT_TRUE(north.receipts.contains(1));
  // The same site, its keys and all, with another delta: a site that was cloned.
  protocols::ReleaseManifest other = north.Make(1).release;
  other.plaintext.fill(9);
  other.blocks.items[0].fill(9);
  other.content = blocks::ContentId(other.blocks.items);
  protocols::Offer offer = north.Make(1).offer;
  offer.release = gate::Sealing::Sign(north.gate(), other);
  federation.Say("north", {protocols::Channel::kControl, protocols::MessageType::kOffer,
                           protocols::Encode(offer)});
  ASSERT_EQ(north.errors.size(), 1u);
  EXPECT_EQ(north.errors[0].code, static_cast<uint8_t>(Code::kAlreadyExists));
  EXPECT_EQ(north.errors[0].text.text.substr(0, 12), "equivocation");
  EXPECT_EQ((*federation.Request({{"verb", "status"}}))["equivocations"], 1);
}

TEST_F(CoordinatorTest, AWeightOverTheJobsIsRefusedAndTheRoundGoesOn) {
  federation.site("south").weight = 2;
  ConnectBoth();
  const std::string id = federation.Submit(kJob);
  federation.Settle();
  FakeSite& south = federation.site("south");
  ASSERT_FALSE(south.errors.empty());
  EXPECT_NE(south.errors[0].text.text.find("weight 2"), std::string::npos);
  EXPECT_TRUE(south.receipts.empty());
  EXPECT_EQ(Job(id)["open_round"]["accepted"], nlohmann::json::array({"north"}));
}

TEST_F(CoordinatorTest, ASiteThatWasAwayWhenTheJobEndedGetsTheFinalAdapter) {
  federation.Connect("north");
  const std::string id = federation.Submit("quorum = 1\nrounds = 1\ndeadline_seconds = 5\n");
  federation.Settle();
  federation.clock.Advance(5000);
  federation.Time();
  federation.Settle();
  ASSERT_EQ(Job(id)["state"], "finished");
  federation.Crash();
  federation.Open();
  federation.Connect("south");
  FakeSite& south = federation.site("south");
  EXPECT_FALSE(south.job.has_value());
  federation.Say("south", south.Lease());
  federation.Settle();
  ASSERT_TRUE(south.adapter.has_value());
  EXPECT_TRUE(south.adapter->final);
  EXPECT_EQ(south.parameters, federation.site("north").parameters);
}

TEST_F(CoordinatorTest, AStoppedJobTellsItsSitesAndCanNotBeStoppedTwice) {
  federation.site("south").silent = true;
  ConnectBoth();
  const std::string id = federation.Submit(kJob);
  federation.Settle();
  ASSERT_TRUE(federation.Request({{"verb", "job_stop"}, {"job", "triage"}}).has_value());
  EXPECT_EQ(Job(id.substr(0, 8))["state"], "stopped");
  EXPECT_TRUE(federation.site("north").ended);
  EXPECT_EQ(federation.Request({{"verb", "job_stop"}, {"job", id}}).error().code(),
            Code::kFailedPrecondition);
}

TEST_F(CoordinatorTest, ARevokedSiteIsShutOutAndItsMessagesAreDropped) {
  ConnectBoth();
  federation.coordinator().TakeAccessChanges();
  ASSERT_TRUE(federation.Request({{"verb", "site_revoke"}, {"site", "south"}}).has_value());
  const auto changes = federation.coordinator().TakeAccessChanges();
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_FALSE(changes[0].allowed);
  EXPECT_EQ(changes[0].site, "south");
  federation.Say("south", federation.site("south").Lease());
  EXPECT_EQ(federation.Request({{"verb", "site_list"}})->size(), 1u);
  EXPECT_EQ(federation.Request(SubmitRequest("sites = [\"south\"]")).error().code(),
            Code::kNotFound);
}

TEST_F(CoordinatorTest, AnExportIsAPeftFolderOfTheAskedVersion) {
  ConnectBoth();
  const std::string id = federation.Submit(kJob);
  federation.Settle();
  const fs::path out = TestDir() / "export";
  const auto answer =
      federation.Request({{"verb", "job_export"}, {"job", id}, {"out", out.native()}});
  ASSERT_TRUE(answer.has_value()) << answer.error().ToString();
  EXPECT_EQ((*answer)["version"], 3);
  const auto base = model::ParseHfConfig(TinyModelConfig(), "tiny");
  ASSERT_TRUE(base.has_value());
  const auto adapter = model::LoadPeft(out, *base);
  ASSERT_TRUE(adapter.has_value()) << adapter.error().ToString();
  const auto& expected = federation.site("north").parameters;
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), adapter->parameters().begin(),
                         adapter->parameters().end()));
  const auto ask = [&](unsigned version) {
    return federation.Request(
        {{"verb", "job_export"}, {"job", id}, {"out", out.native()}, {"version", version}});
  };
  EXPECT_TRUE(ask(2).has_value());
  EXPECT_NE(ask(1).error().message().find("keep_versions"), std::string::npos);
  EXPECT_EQ(ask(4).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace tidegate::offshore
