// The coordinator's half of the air gap: sites that are reached by a folder alone, folders with
// something wrong in them, and an exchange that is cut off at every turn.
#include "offshore/exchange.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "airgap/messages.h"
#include "crypto/hash.h"
#include "federation_fixture.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;
using airgap::Folder;
using airgap::Message;
using protocols::MessageType;

// Of so many parameters that updates and adapters have more than one block.
constexpr const char* kJob = "rounds = 2\n[lora]\nr = 64\n";

class ExchangeTest : public testing::Test {
 protected:
  ExchangeTest() {
    std::string made = (fs::temp_directory_path() / "tidegate-exchange-XXXXXX").native();
    EXPECT_NE(::mkdtemp(made.data()), nullptr);
    dir_ = made;
    fs::create_directory(medium());
    federation_.emplace(dir_ / "coordinator");
  }
  ~ExchangeTest() override {
    federation_.reset();
    fs::remove_all(dir_);
  }

  fs::path medium() const { return dir_ / "medium"; }
  Folder Open() const { return *Folder::Open(medium(), "FOLDER"); }
  const protocols::Id16& id() { return federation_->coordinator().config().federation; }

  // The report, or what the exchange ended with; turn `crash_at` (from 0) is not committed.
  Result<nlohmann::ordered_json> Run(int crash_at = -1) {
    turns_ = 0;
    Status fatal;
    auto report = Exchange(
        federation_->coordinator(), medium(),
        [&](const std::function<Status()>& what) -> Result<std::vector<Outgoing>> {
          TG_RETURN_IF_ERROR(federation_->coordinator().BeginTurn());
          TG_RETURN_IF_ERROR(what());
          if (turns_++ == crash_at) return Unavailable("killed");
          return federation_->coordinator().EndTurn();
        },
        [this](const Outgoing& message) { delivered_.push_back(message.site); }, &fatal);
    EXPECT_EQ(fatal.ok(), crash_at < 0 || crash_at >= turns_) << fatal.ToString();
    return report;
  }
  nlohmann::ordered_json RunWell() {
    const auto report = Run();
    EXPECT_TRUE(report.has_value()) << report.error().ToString();
    return report.value_or(nlohmann::ordered_json());
  }
  static nlohmann::ordered_json Of(const nlohmann::ordered_json& report, const std::string& site) {
    for (const auto& one : report["sites"]) {
      if (one["site"] == site) return one;
    }
    return {};
  }

  static std::vector<std::string> FilesOf(const Folder& folder, const airgap::Place& place) {
    return folder.List(place, 100).value();
  }
  // A carrier's trip, played: what lies there goes to the site, what it offers goes there.
  void Trip(const std::string& name) {
    Folder folder = Open();
    FakeSite& site = federation_->site(name);
    for (const std::string& file : FilesOf(folder, {"down", name})) {
      const auto message = airgap::ReadMessage(folder, {"down", name, file}, id());
      ASSERT_TRUE(message.has_value()) << message.error().ToString();
      Answer(folder, site, site.On(message->type, message->body));
    }
    for (const std::string& file : FilesOf(folder, {"up", name})) {
      ASSERT_TRUE(folder.Remove({"up", name, file}).ok());
    }
    for (const auto& [round, announcement] : site.rounds) {
      if (site.receipts.contains(round) || site.silent || !site.adapter ||
          announcement.adapter_version > site.adapter->version) {
        continue;
      }
      PutOffer(folder, site.Make(round));
    }
    ASSERT_TRUE(airgap::WriteMessage(folder, airgap::LeasePlace(name), id(),
                                     {MessageType::kLease, site.Lease().body})
                    .ok());
  }
  // Blocks that the site wants of an adapter.
  void Answer(Folder& folder, FakeSite& site, std::vector<SiteMessage> said) {
    while (!said.empty()) {
      const SiteMessage message = said.front();
      said.erase(said.begin());
      if (message.type != MessageType::kWant) continue;
      const auto want = *protocols::Decode<protocols::Want>(message.body);
      const auto& blocks = Newest(folder, site.name()).blocks.items;
      for (uint32_t i = want.first; i < want.first + want.count; ++i) {
        const auto block = folder.Block(blocks[i]);
        ASSERT_TRUE(block.has_value()) << block.error().ToString();
        site.On(MessageType::kChunk, protocols::EncodeChunk({want.content, i, *block}));
      }
    }
  }
  protocols::AdapterManifest Newest(Folder& folder, const std::string& name) {
    protocols::AdapterManifest newest;
    for (const std::string& file : FilesOf(folder, {"down", name})) {
      const auto message = *airgap::ReadMessage(folder, {"down", name, file}, id());
      if (message.type != MessageType::kAdapter) continue;
      const auto offer = *protocols::Decode<protocols::AdapterOffer>(message.body);
      newest = *protocols::Decode<protocols::AdapterManifest>(offer.manifest.body.items);
    }
    return newest;
  }
  void PutOffer(Folder& folder, const FakeSite::Spool& spool, const std::string& site = "") {
    for (size_t i = 0; i < spool.blocks.size(); ++i) {
      ASSERT_TRUE(folder.PutBlock(spool.release.blocks.items[i], spool.blocks[i]).ok());
    }
    airgap::Place place = airgap::OfferPlace(spool.release.key);
    if (!site.empty()) place = {"up", site, "other.offer"};
    ASSERT_TRUE(airgap::WriteMessage(folder, place, id(),
                                     {MessageType::kOffer, FakeSite::OfferOf(spool).body})
                    .ok());
  }
  // Both sites have the job and their updates of round 1 are in the folder.
  void TwoOffers() {
    federation_->Enrol("north");
    federation_->Enrol("south");
    federation_->Submit(kJob);
    RunWell();
    Trip("north");
    Trip("south");
  }
  fs::path PathOf(const Digest& block) const {
    const std::string hex = ToHex(block);
    return medium() / "blocks" / hex.substr(0, 2) / hex.substr(2);
  }
  // Every file of the folder with its bytes.
  std::map<std::string, std::string> Everything() const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(medium())) {
      if (!entry.is_regular_file()) continue;
      std::ifstream in(entry.path(), std::ios::binary);
      all[entry.path().lexically_relative(medium()).native()] = {std::istreambuf_iterator<char>(in),
                                                                 {}};
    }
    return all;
  }

  fs::path dir_;
  std::optional<TestFederation> federation_;
  std::vector<std::string> delivered_;
  int turns_ = 0;
};

TEST_F(ExchangeTest, AJobRunsByTripsAloneAndEndsAsOverANetwork) {
  federation_->Enrol("north");
  federation_->Enrol("south");
  federation_->Submit(kJob);
  const auto first = RunWell();
  EXPECT_EQ(Of(first, "north")["messages"], 3) << "JOB, ADAPTER, ROUND";
  EXPECT_GT(first["blocks"]["written"], 1);
  for (int round = 1; round <= 2; ++round) {
    Trip("north");
    // Half of the sites: the round goes on, and the exchange may be made as often as one likes.
    for (int times = 0; times < 2; ++times) {
      const auto half = RunWell();
      EXPECT_EQ(Of(half, "north")["receipts"], 1);
      EXPECT_EQ(Of(half, "south")["offers"], round - 1)
          << "the one that was taken still lies there";
    }
    Trip("south");
    const auto whole = RunWell();
    EXPECT_EQ(Of(whole, "south")["receipts"], 1);
    EXPECT_EQ(Of(whole, "north")["receipts"], 1) << "its offer still lies there";
  }
  Trip("north");
  Trip("south");
  TestFederation network(dir_ / "network");
  for (const char* name : {"north", "south"}) network.Enrol(name);
  for (const char* name : {"north", "south"}) network.Connect(name);
  network.Submit(kJob);
  network.Settle();
  for (const char* name : {"north", "south"}) {
    const FakeSite& site = federation_->site(name);
    EXPECT_TRUE(site.ended) << name;
    EXPECT_EQ(site.bad, 0) << name;
    EXPECT_EQ(site.receipts.size(), 2u) << name;
    ASSERT_TRUE(site.adapter.has_value()) << name;
    EXPECT_TRUE(site.adapter->final) << name;
    EXPECT_EQ(site.parameters, network.site(name).parameters) << name;
  }
  // Nothing is left but what the next reader needs.
  const auto last = RunWell();
  EXPECT_EQ(Of(last, "north")["offers"], 0);
  Folder folder = Open();
  EXPECT_EQ(folder.Blocks()->size(), Newest(folder, "north").blocks.size());
}

TEST_F(ExchangeTest, ItIsCutOffInEveryTurnAndMadeAgain) {
  TwoOffers();
  const auto before = Everything();
  int turn = 0;
  for (; turn < 200; ++turn) {
    const auto report = Run(turn);
    if (report) break;
    EXPECT_EQ(report.error().code(), Code::kUnavailable);
    federation_->Crash();
    federation_->Open();
  }
  EXPECT_GT(turn, 6) << "at least OFFER, CHUNKs and COMMIT of both were cut off once";
  const auto status = federation_->Request({{"verb", "status"}});
  EXPECT_EQ((*status)["jobs"][0]["version"], 1);
  EXPECT_EQ((*status)["equivocations"], 0);
  const auto once = Everything();
  RunWell();
  EXPECT_EQ(Everything(), once) << "a function of what lies there";
  EXPECT_NE(once, before);
  Trip("north");
  Trip("south");
  EXPECT_EQ(federation_->site("north").receipts.size(), 1u);
  EXPECT_EQ(federation_->site("south").adapter->version, 1u);
}

TEST_F(ExchangeTest, WhatIsWrongIsRefusedByNameAndTheRestIsDone) {
  TwoOffers();
  const auto& north = federation_->site("north").Make(1);
  const auto& south = federation_->site("south").Make(1);
  Folder folder = Open();
  // South's offer among north's, cut, damaged, foreign, another message, a link.
  PutOffer(folder, south, "north");
  const fs::path up = medium() / "up" / "north";
  const std::string good = airgap::OfferPlace(north.release.key).back();
  fs::copy(up / good, up / "cut.offer");
  fs::resize_file(up / "cut.offer", 1000);
  auto theirs = id();
  theirs[5] ^= 1;
  ASSERT_TRUE(airgap::WriteMessage(folder, {"up", "north", "foreign.offer"}, theirs,
                                   {MessageType::kOffer, FakeSite::OfferOf(north).body})
                  .ok());
  ASSERT_TRUE(airgap::WriteMessage(folder, {"up", "north", "lease.offer"}, id(),
                                   {MessageType::kLease, federation_->site("north").Lease().body})
                  .ok());
  std::ofstream(dir_ / "outside") << "outside";
  fs::create_symlink(dir_ / "outside", up / "link.offer");
  // And a block of south's with other bytes.
  std::ofstream(PathOf(south.release.blocks.items[0]), std::ios::binary) << "damaged";
  const auto report = RunWell();
  const auto refused = Of(report, "north")["refused"];
  std::string all = refused.dump();
  EXPECT_EQ(refused.size(), 5u) << all;
  for (const char* name :
       {"cut.offer", "foreign.offer", "lease.offer", "link.offer", "other.offer"}) {
    EXPECT_NE(all.find(std::string("up/north/") + name), std::string::npos) << all;
  }
  EXPECT_NE(all.find("another federation"), std::string::npos) << all;
  EXPECT_EQ(Of(report, "north")["receipts"], 1) << report.dump();
  const auto south_refused = Of(report, "south")["refused"];
  ASSERT_EQ(south_refused.size(), 1u);
  EXPECT_NE(south_refused.dump().find("does not have the bytes of its name"), std::string::npos);
  // South's carrier writes the block again.
  fs::remove(up / "cut.offer");
  fs::remove(up / "foreign.offer");
  fs::remove(up / "lease.offer");
  fs::remove(up / "link.offer");
  Trip("south");
  Trip("north");
  const auto again = RunWell();
  EXPECT_EQ(Of(again, "south")["receipts"], 1) << again.dump();
  EXPECT_TRUE(Of(again, "south")["refused"].empty());
}

TEST_F(ExchangeTest, WhatLiesBesideKeepsNobodyFromItsReceipt) {
  TwoOffers();
  for (size_t i = 0; i <= protocols::kMaxSites; ++i) {
    fs::create_directory(medium() / "up" / fmt::format("stranger-{}", i));
  }
  fs::create_directories(medium() / "down" / "north" / "zzz");
  const auto report = RunWell();
  for (const char* name : {"north", "south"}) {
    EXPECT_EQ(Of(report, name)["receipts"], 1) << report.dump();
    EXPECT_FALSE(FilesOf(Open(), {"down", name}).empty()) << name;
  }
  EXPECT_NE(Of(report, "north")["refused"].dump().find("down/north/zzz"), std::string::npos);
}

TEST_F(ExchangeTest, FoldersThatAreLinksAreNotEntered) {
  TwoOffers();
  const fs::path outside = dir_ / "outside";
  fs::create_directory(outside);
  fs::rename(medium() / "up" / "north", outside / "north");
  fs::create_directory_symlink(outside / "north", medium() / "up" / "north");
  const auto report = RunWell();
  EXPECT_EQ(Of(report, "north")["offers"], 0);
  EXPECT_EQ(Of(report, "north")["refused"].size(), 1u);
  EXPECT_EQ(Of(report, "south")["receipts"], 1);
  // Where it has to write, it is an error, and nothing is written there.
  fs::remove_all(medium() / "down" / "north");
  fs::create_directory_symlink(outside, medium() / "down" / "north");
  const auto failed = Run();
  ASSERT_FALSE(failed.has_value());
  EXPECT_EQ(failed.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(std::distance(fs::directory_iterator(outside), fs::directory_iterator()), 1);
}

TEST_F(ExchangeTest, BlocksThatNobodyNeedsGoUnlessAnOfferCouldNotBeRead) {
  TwoOffers();
  const Digest taken = federation_->site("north").Make(1).release.blocks.items[0];
  const Bytes junk(100, 3);
  const Digest nobodys = crypto::Sha256::Of(junk);
  {
    Folder folder = Open();
    ASSERT_TRUE(folder.PutBlock(nobodys, junk).ok());
    ASSERT_TRUE(folder.Write({"up", "stranger", "x.offer"}, AsBytes("?")).ok());
  }
  const auto kept = RunWell();
  EXPECT_EQ(kept["not_enrolled"].size(), 1u);
  EXPECT_GE(kept["blocks"]["kept"], 2);
  EXPECT_TRUE(fs::exists(PathOf(nobodys)));
  fs::remove_all(medium() / "up" / "stranger");
  const auto removed = RunWell();
  EXPECT_EQ(removed["blocks"]["kept"], 0);
  EXPECT_FALSE(fs::exists(PathOf(nobodys)));
  EXPECT_FALSE(fs::exists(PathOf(taken)));
}

TEST_F(ExchangeTest, ASiteThatIsConnectedIsLeftToTheNetwork) {
  TwoOffers();
  federation_->site("north").silent = true;
  federation_->Connect("north");
  federation_->Settle();
  const auto before = Everything();
  const auto report = RunWell();
  EXPECT_EQ(Of(report, "north")["state"], "connected");
  EXPECT_EQ(Of(report, "north")["receipts"], 0);
  EXPECT_EQ(Of(report, "south")["receipts"], 1);
  EXPECT_TRUE(federation_->coordinator().Connected("north"));
  EXPECT_FALSE(federation_->coordinator().Connected("south"));
  const auto after = Everything();
  for (const auto& [name, bytes] : before) {
    if (name.starts_with("down/north/") || name.starts_with("up/")) {
      EXPECT_EQ(after.at(name), bytes) << name;
    }
  }
  for (const Digest& id : federation_->site("north").Make(1).release.blocks.items) {
    EXPECT_TRUE(fs::exists(PathOf(id))) << "its blocks may be needed yet";
  }
}

TEST_F(ExchangeTest, TheEndOfAJobThatWasStoppedReachesTheSiteThatWorksForIt) {
  TwoOffers();
  RunWell();
  Trip("north");
  ASSERT_TRUE(federation_->Request({{"verb", "job_stop"}, {"job", "triage"}}).has_value());
  federation_->Submit(std::string("name = \"next\"\n") + kJob);
  const auto report = RunWell();
  EXPECT_EQ(Of(report, "north")["late"], 1) << "what it had under way";
  Trip("north");
  EXPECT_EQ(federation_->site("north").notices.size(), 1u);
  EXPECT_EQ(federation_->site("north").job->name.text, "next");
}

TEST_F(ExchangeTest, ARequestNamesAnAbsoluteFolder) {
  EXPECT_FALSE(ExchangeFolderOf({{"verb", "status"}})->has_value());
  EXPECT_EQ(**ExchangeFolderOf({{"verb", "exchange"}, {"folder", "/a"}}), "/a");
  EXPECT_FALSE(ExchangeFolderOf({{"verb", "exchange"}, {"folder", "a"}}).has_value());
  EXPECT_FALSE(ExchangeFolderOf({{"verb", "exchange"}}).has_value());
}

}  // namespace
}  // namespace tidegate::offshore
