#include "federation/server/store.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <functional>

#include "base/file.h"
#include "federation/server/sqlite.h"
#include "store_documents.h"

namespace tidegate::federation {
namespace {

namespace fs = std::filesystem;
using protocols::Id16;

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

}  // namespace
}  // namespace tidegate::federation
