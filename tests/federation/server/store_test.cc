#include "federation/server/store.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <functional>

#include "base/file.h"
#include "federation/server/sqlite.h"

namespace tidegate::federation {
namespace {

namespace fs = std::filesystem;
using protocols::Id16;
using protocols::Signed;

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() {
    dir_ =
        fs::path(::testing::TempDir()) /
        ("store_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  ~StoreTest() override { fs::remove_all(dir_); }

  static std::unique_ptr<Store> Open(const fs::path& path) {
    auto store = OpenSqliteStore(path);
    EXPECT_TRUE(store.has_value()) << store.error().ToString();
    return store ? std::move(*store) : nullptr;
  }
  // What a machine that loses power now would find.
  fs::path Copy(int number) const {
    const fs::path to = dir_ / fmt::format("copy{}", number);
    fs::create_directories(to);
    for (const char* name : {"store.db", "store.db-wal"}) {
      if (fs::exists(dir_ / name)) fs::copy_file(dir_ / name, to / name);
    }
    return to / "store.db";
  }
  fs::path dir_;
};

Signed Document(uint8_t fill) {
  Signed document;
  document.body.items.assign(40, fill);
  document.signature.fill(fill);
  return document;
}

Id16 Job() {
  Id16 id;
  id.fill(7);
  return id;
}

StoredSite Site(const std::string& name, uint8_t key) {
  StoredSite site;
  site.name = name;
  site.sign_key.fill(key);
  site.curve_key.fill(static_cast<uint8_t>(key + 100));
  site.approval = Document(key);
  site.approved_unix_millis = 5;
  return site;
}

StoredUpdate UpdateOf(const std::string& site, uint8_t content) {
  StoredUpdate update;
  update.key = {Job(), 1, 0, site};
  update.content.fill(content);
  update.weight = 3;
  update.release = Document(content);
  update.accepted_unix_millis = 11;
  return update;
}

UpdateAccepted AcceptedEvent(const StoredUpdate& update) {
  return {update.key.site.text, update.key.round, {update.content, update.weight}};
}

JobState Replay(Store& store) {
  JobState state = *NewJob({{"a", "b"}, 1, 1, 1000, 1});
  const auto events = store.Events(Job());
  EXPECT_TRUE(events.has_value());
  if (!events) return state;
  for (const Event& event : *events) {
    auto next = Step(state, event);
    EXPECT_TRUE(next.has_value()) << next.error().ToString();
    if (next) state = next->state;
  }
  return state;
}

TEST_F(StoreTest, EveryCommitIsFoundWholeByWhoeverOpensTheFilesAfterACrash) {
  auto store = Open(dir_ / "store.db");
  auto key = crypto::AgreeSecretKey::Generate();
  ASSERT_TRUE(key.has_value());
  const StoredUpdate a = UpdateOf("a", 1), b = UpdateOf("b", 2);
  const StoredContent moments{40, {Digest{1}, Digest{2}}};
  const std::vector<std::pair<std::function<Status()>, const char*>> steps = {
      {[&] { return store->PutSite(Site("a", 1)); }, "idle"},
      {[&] { return store->PutSite(Site("b", 2)); }, "idle"},
      {[&] {
         return store->AddJob({Job(), Document(3), "base", "{}"}, Document(4));
       },
       "idle"},
      {[&] {
         return store->OpenRound(Job(), {1, 10}, Document(5), *key);
       },
       "collecting"},
      {[&] { return store->AcceptUpdate(a, AcceptedEvent(a), Document(6)); }, "collecting"},
      {[&] { return store->AcceptUpdate(b, AcceptedEvent(b), Document(7)); }, "aggregating"},
      {[&] { return store->Publish(Job(), 1, {1}, Document(8), &moments); }, "ended"},
  };
  for (size_t i = 0; i < steps.size(); ++i) {
    ASSERT_TRUE(steps[i].first().ok()) << i;
    auto copy = Open(Copy(static_cast<int>(i)));
    ASSERT_NE(copy, nullptr);
    EXPECT_STREQ(StateName(Replay(*copy)), steps[i].second) << i;
    EXPECT_EQ(copy->Sites()->size(), std::min<size_t>(i + 1, 2));
    EXPECT_EQ(copy->Jobs()->size(), i >= 2 ? 1u : 0u);
    EXPECT_EQ(copy->RecipientKey(Job(), 1).has_value(), i >= 3 && i < 6) << i;
    EXPECT_EQ(copy->ReceiptOf(a.key)->has_value(), i >= 4) << i;
    EXPECT_EQ(copy->Updates(Job(), 1)->size(), i < 4 ? 0u : std::min<size_t>(i - 3, 2));
    if (i < 2) continue;
    EXPECT_EQ(**copy->Version(Job(), {}), i == 6 ? Document(8) : Document(4));
    EXPECT_EQ(*copy->Moments(Job()), i == 6 ? std::optional(moments) : std::nullopt) << i;
  }
}

TEST_F(StoreTest, NothingOfATurnThatWasNotCommittedIsThere) {
  auto store = Open(dir_ / "store.db");
  ASSERT_TRUE(store->PutSite(Site("a", 1)).ok());
  ASSERT_TRUE(store->Begin().ok());
  ASSERT_TRUE(store->PutSite(Site("b", 2)).ok());
  EXPECT_EQ(Open(Copy(0))->Sites()->size(), 1u);
  ASSERT_TRUE(store->Commit().ok());
  EXPECT_EQ(Open(Copy(1))->Sites()->size(), 2u);
}

TEST_F(StoreTest, AKeyHasOneReceiptForEver) {
  auto store = Open(dir_ / "store.db");
  auto key = crypto::AgreeSecretKey::Generate();
  ASSERT_TRUE(store->PutSite(Site("a", 1)).ok());
  ASSERT_TRUE(store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
  ASSERT_TRUE(store->OpenRound(Job(), {1, 10}, Document(5), *key).ok());
  const StoredUpdate first = UpdateOf("a", 1), second = UpdateOf("a", 2);
  ASSERT_TRUE(store->AcceptUpdate(first, AcceptedEvent(first), Document(6)).ok());
  EXPECT_EQ(store->AcceptUpdate(second, AcceptedEvent(second), Document(7)).code(),
            Code::kAlreadyExists);
  EXPECT_EQ(**store->ReceiptOf(first.key), Document(6));
  EXPECT_EQ(store->Events(Job())->size(), 2u) << "the refused update left an event";
  EXPECT_EQ((*store->Update(first.key))->content, first.content);
}

TEST_F(StoreTest, AnErasedKeyIsInNoFile) {
  auto store = Open(dir_ / "store.db");
  auto key = crypto::AgreeSecretKey::Generate();
  ASSERT_TRUE(store->PutSite(Site("a", 1)).ok());
  ASSERT_TRUE(store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
  ASSERT_TRUE(store->OpenRound(Job(), {1, 10}, Document(5), *key).ok());
  const auto secret = key->Serialize();
  const std::string needle(AsText(secret.reveal()));
  const auto on_disk = [&] {
    bool found = false;
    for (const auto& entry : fs::directory_iterator(dir_)) {
      const auto text = ReadTextFile(entry.path(), 1 << 26);
      found = found || (text && text->find(needle) != std::string::npos);
    }
    return found;
  };
  EXPECT_TRUE(on_disk());
  ASSERT_TRUE(store->PutNotice(Job(), 1, Document(9)).ok());
  ASSERT_TRUE(store->Checkpoint().ok());
  EXPECT_FALSE(on_disk());
  EXPECT_EQ(store->RecipientKey(Job(), 1).error().code(), Code::kNotFound);
}

TEST_F(StoreTest, ASiteInForceKeepsItsKeysAndARevokedOneMayComeBackWithOthers) {
  auto store = Open(dir_ / "store.db");
  ASSERT_TRUE(store->PutSite(Site("a", 1)).ok());
  EXPECT_TRUE(store->PutSite(Site("a", 1)).ok()) << "the same approval again";
  EXPECT_EQ(store->PutSite(Site("a", 2)).code(), Code::kAlreadyExists);
  EXPECT_EQ(store->PutSite(Site("b", 1)).code(), Code::kAlreadyExists) << "a's CURVE key";
  ASSERT_TRUE(store->RevokeSite("a", 9).ok());
  EXPECT_EQ(store->RevokeSite("a", 9).code(), Code::kNotFound);
  EXPECT_TRUE(store->PutSite(Site("a", 2)).ok());
  EXPECT_EQ(store->Sites()->front().revoked_unix_millis, 0);
}

// A store as the first schema made it: its updates table had no losses.
TEST_F(StoreTest, AStoreOfTheFirstSchemaIsBroughtToThisOne) {
  auto key = crypto::AgreeSecretKey::Generate();
  {
    auto store = Open(dir_ / "store.db");
    ASSERT_TRUE(store->PutSite(Site("a", 1)).ok());
    ASSERT_TRUE(store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
    ASSERT_TRUE(store->OpenRound(Job(), {1, 10}, Document(5), *key).ok());
    const StoredUpdate update = UpdateOf("a", 1);
    ASSERT_TRUE(store->AcceptUpdate(update, AcceptedEvent(update), Document(6)).ok());
  }
  {
    auto database = SqliteDatabase::Open(dir_ / "store.db");
    ASSERT_TRUE(database.has_value());
    ASSERT_TRUE((*database)
                    ->Execute("ALTER TABLE updates DROP COLUMN train_loss_milli; "
                              "ALTER TABLE updates DROP COLUMN heldout_loss_milli; "
                              "DROP TABLE moments; DROP TABLE heads; "
                              "PRAGMA user_version = 1;")
                    .ok());
  }
  auto store = Open(dir_ / "store.db");
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(store->NewestUpdates(Job())->at(0).train_loss_milli, 0u);
  ASSERT_TRUE(store->OpenRound(Job(), {2, 20}, Document(5), *key).ok());
  StoredUpdate update = UpdateOf("a", 2);
  update.key.round = 2;
  update.train_loss_milli = 1500;
  ASSERT_TRUE(store->AcceptUpdate(update, AcceptedEvent(update), Document(6)).ok());
  EXPECT_EQ(store->NewestUpdates(Job())->at(0).train_loss_milli, 1500u);
  EXPECT_EQ(*store->Moments(Job()), std::nullopt);
  EXPECT_EQ(*store->Head("a", {}), std::nullopt);
}

TEST_F(StoreTest, TheHeadOfALedgerIsOneOfItsSitesKeyAndMarkedUntilTheSiteIsApprovedAgain) {
  auto store = Open(dir_ / "store.db");
  const StoredSite site = Site("a", 1);
  ASSERT_TRUE(store->PutSite(site).ok());
  EXPECT_EQ(*store->Head("a", site.sign_key), std::nullopt);
  StoredHead head{7, Digest{3}, 0};
  ASSERT_TRUE(store->PutHead("a", site.sign_key, head).ok());
  EXPECT_EQ(*store->Head("a", site.sign_key), head);
  EXPECT_EQ(*store->Head("a", {}), std::nullopt) << "another key's ledger is another";
  EXPECT_EQ(*store->Head("b", site.sign_key), std::nullopt);
  head = {7, Digest{3}, 99};
  ASSERT_TRUE(store->PutHead("a", site.sign_key, head).ok());
  EXPECT_EQ(*store->Head("a", site.sign_key), head);
  ASSERT_TRUE(store->PutSite(site).ok());
  head.set_back_unix_millis = 0;
  EXPECT_EQ(*store->Head("a", site.sign_key), head);
}

TEST_F(StoreTest, WhoWasAskedComesBackAndMomentsAreThoseOfTheNewestVersion) {
  auto store = Open(dir_ / "store.db");
  auto key = crypto::AgreeSecretKey::Generate();
  ASSERT_TRUE(store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
  ASSERT_TRUE(store->OpenRound(Job(), {1, 10, {"a", "b"}}, Document(5), *key).ok());
  ASSERT_TRUE(store->OpenRound(Job(), {2, 20}, Document(5), *key).ok());
  const auto events = *store->Events(Job());
  EXPECT_EQ(std::get<RoundOpened>(events.at(0)).asked, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(std::get<RoundOpened>(events.at(1)).asked.empty());
  const StoredContent first{4, {Digest{1}}}, second{8, {Digest{2}, Digest{3}}};
  ASSERT_TRUE(store->Publish(Job(), 1, {1}, Document(6), &first).ok());
  EXPECT_EQ(*store->Moments(Job()), first);
  ASSERT_TRUE(store->Publish(Job(), 2, {2}, Document(7), &second).ok());
  EXPECT_EQ(*store->Moments(Job()), second);
  ASSERT_TRUE(store->Publish(Job(), 3, {3}, Document(8), nullptr).ok());
  EXPECT_EQ(*store->Moments(Job()), std::nullopt);
}

TEST_F(StoreTest, TheNewestUpdateOfEachSiteIsTheLastThatWasCounted) {
  auto store = Open(dir_ / "store.db");
  auto key = crypto::AgreeSecretKey::Generate();
  ASSERT_TRUE(store->PutSite(Site("a", 1)).ok());
  ASSERT_TRUE(store->PutSite(Site("b", 2)).ok());
  ASSERT_TRUE(store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
  EXPECT_TRUE(store->NewestUpdates(Job())->empty());
  for (uint32_t round = 1; round <= 3; ++round) {
    ASSERT_TRUE(store->OpenRound(Job(), {round, 10}, Document(5), *key).ok());
    for (const std::string site : {"a", "b"}) {
      StoredUpdate update = UpdateOf(site, static_cast<uint8_t>(round));
      update.key.round = round;
      update.train_loss_milli = 1000 * round + (site == "a" ? 1 : 2);
      update.heldout_loss_milli = 5000 * round;
      const bool late = site == "b" && round == 3;
      if (late) update.outcome = protocols::ReceiptOutcome::kLate;
      const auto event = late ? std::nullopt : std::optional(AcceptedEvent(update));
      ASSERT_TRUE(store->AcceptUpdate(update, event, Document(6)).ok());
    }
  }
  const auto newest = *store->NewestUpdates(Job());
  ASSERT_EQ(newest.size(), 2u);
  EXPECT_EQ(newest[0].key.site.text, "a");
  EXPECT_EQ(newest[0].train_loss_milli, 3001u);
  EXPECT_EQ(newest[0].heldout_loss_milli, 15000u);
  EXPECT_EQ(newest[1].key.round, 2u);
  EXPECT_EQ(newest[1].train_loss_milli, 2002u);
}

TEST_F(StoreTest, RefusesASecondProcessAnotherFederationAnotherSchemaAndADamagedFile) {
  auto store = Open(dir_ / "store.db");
  EXPECT_EQ(OpenSqliteStore(dir_ / "store.db").error().code(), Code::kUnavailable);
  ASSERT_TRUE(store->BindFederation({Job()}).ok());
  EXPECT_TRUE(store->BindFederation({Job()}).ok());
  EXPECT_EQ(store->BindFederation({}).code(), Code::kFailedPrecondition);
  EXPECT_EQ(store->BindFederation({Job(), {1}}).code(), Code::kFailedPrecondition);
  EXPECT_EQ(store->BindFederation({Job(), {}, {1}}).code(), Code::kFailedPrecondition);
  store.reset();
  auto bytes = ReadFile(dir_ / "store.db", 1 << 26);
  ASSERT_TRUE(bytes.has_value());
  Bytes newer = *bytes;
  newer[63] = 9;  // user_version, big-endian at 60
  ASSERT_TRUE(WriteFileDurably(dir_ / "newer.db", newer).ok());
  EXPECT_EQ(OpenSqliteStore(dir_ / "newer.db").error().code(), Code::kFailedPrecondition);
  bytes->assign(5000, 'x');
  ASSERT_TRUE(WriteFileDurably(dir_ / "broken.db", *bytes).ok());
  EXPECT_EQ(OpenSqliteStore(dir_ / "broken.db").error().code(), Code::kDataLoss);
}

TEST_F(StoreTest, AWriteThatTheDiskRefusesIsNamedAndWhatWasCommittedIsThere) {
  auto store = Open(dir_ / "store.db");
  ASSERT_TRUE(store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
  ASSERT_TRUE(store->Checkpoint().ok());
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{200'000, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  size_t logged = 0;
  Status status;
  while (logged < 1000 && (status = store->LogTime(Job(), {5})).ok()) ++logged;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, handler);
  EXPECT_TRUE(status.code() == Code::kResourceExhausted || status.code() == Code::kDataLoss)
      << status.ToString();
  EXPECT_NE(status.message().find("store.db"), std::string::npos);
  EXPECT_GT(logged, 10u);
  store.reset();
  EXPECT_EQ(Open(dir_ / "store.db")->Events(Job())->size(), logged);
}

TEST_F(StoreTest, EquivocationsAreKeptOnceAKey) {
  auto store = Open(dir_ / "store.db");
  const StoredUpdate update = UpdateOf("a", 1);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(store->LogEquivocation(update.key, update.content, i).ok());
  }
  EXPECT_EQ(*store->Equivocations(), 1u);
}

}  // namespace
}  // namespace tidegate::federation
