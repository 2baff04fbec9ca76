#include "gate/ledger.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>

#include "audit/ledger_verify.h"
#include "crypto/checkpoint_note.h"
#include "gate/ledger_file.h"
#include "gate_samples.h"

namespace tidegate::gate {
namespace {

using audit::LeafText, audit::ReadLedger, audit::VerifyLedger;

namespace fs = std::filesystem;

class LedgerTest : public testing::Test {
 protected:
  LedgerTest() {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
    opened_.federation = Federation();
    opened_.site = "north";
    std::copy_n(SiteKey().verify_key().bytes().begin(), 32, opened_.site_key.begin());
    std::copy_n(CoordinatorKey().verify_key().bytes().begin(), 32, opened_.coordinator_key.begin());
  }
  ~LedgerTest() override { fs::remove_all(dir_); }

  std::unique_ptr<Ledger> Open(LedgerIo& io = LedgerIo::System()) {
    auto ledger = Ledger::Open(path_, SiteKey(), opened_, clock_, io);
    EXPECT_TRUE(ledger.has_value()) << ledger.error().ToString();
    return ledger ? std::move(*ledger) : nullptr;
  }
  Bytes File() const { return *ReadFile(path_, 1u << 30); }
  // The file without its preallocated zeros.
  Bytes Trimmed() const {
    Bytes file = File();
    file.resize(ScanLedger(file, "ledger")->end);
    return file;
  }
  static Bytes SignedReceipt(const std::string& head) {
    protocols::Receipt receipt;
    receipt.federation = Federation();
    receipt.key.site = "north";
    receipt.ledger_head = head;
    protocols::Signed document;
    document.body.items = protocols::Encode(receipt);
    document.signature = *CoordinatorKey().Sign(crypto::domains::kReceipt, document.body.items);
    return protocols::Encode(document);
  }

  const fs::path dir_ = fs::temp_directory_path() / fmt::format("tidegate_ledger_{}", ::getpid());
  const fs::path path_ = dir_ / "ledger";
  OpenedLeaf opened_;
  ManualClock clock_{1795581436000};
};

TEST_F(LedgerTest, LeavesSurviveReopeningAndVerify) {
  {
    auto ledger = Open();
    ASSERT_TRUE(Debit(*ledger, 1).ok());
    EXPECT_EQ(ledger->size(), 2u);
    EXPECT_EQ(*ledger->Append(LeafType::kRefusal, RefusalLeaf{"update", {}, 2, "norm", "big"}), 2u);
  }
  auto ledger = Open();
  EXPECT_EQ(ledger->size(), 3u);
  auto verified = VerifyLedger(File(), "ledger", CoordinatorKey().verify_key(), std::nullopt);
  ASSERT_TRUE(verified.has_value()) << verified.error().ToString();
  EXPECT_EQ(verified->leaves, 3u);
  EXPECT_EQ(verified->exports, 1u);
  EXPECT_EQ(verified->export_bytes, SampleExportBytes());
  EXPECT_EQ(verified->refusals, 1u);
  EXPECT_FALSE(verified->head_covers.has_value());
}

TEST_F(LedgerTest, BudgetsAreSumsOfTodayAndOfTheJob) {
  auto ledger = Open();
  ASSERT_TRUE(Debit(*ledger, 1).ok());
  clock_.Advance(86'400'000);
  ASSERT_TRUE(Debit(*ledger, 2).ok());
  const Spent spent = ledger->SpentOn(IdOf(SampleJob()), 2);
  EXPECT_EQ(spent.bytes_today, SampleExportBytes());
  EXPECT_EQ(spent.exports_today, 1u);
  EXPECT_EQ(spent.exports_of_job, 2u);
  EXPECT_GE(spent.bytes_of_job, spent.bytes_of_round);
  EXPECT_EQ(spent.exports_of_round, 1u);
  EXPECT_EQ(spent.bytes_of_round, SampleExportBytes());
  EXPECT_EQ(ledger->SpentOn(IdOf(SampleJob()), 3).exports_of_round, 0u);
  EXPECT_EQ(ledger->SpentOn({}, 2).exports_of_job, 0u);
  EXPECT_EQ(ledger->SpentOn({}, 2).exports_of_round, 0u);
  clock_.Advance(-2 * 86'400'000);
  EXPECT_EQ(ledger->SpentOn({}, 2).exports_today, 2u) << "a clock set back opens no budget";
}

// Left out of the sums it would open the budgets again.
TEST_F(LedgerTest, AnIntentOrAJobThatDoesNotDecodeIsDamageAndNotNothingSpent) {
  ASSERT_TRUE(Debit(*Open(), 1).ok());
  const Bytes whole = Trimmed();
  for (const LeafType type : {LeafType::kIntent, LeafType::kJob}) {
    SCOPED_TRACE(LeafTypeName(type));
    LedgerEntry entry;
    entry.index = 2;
    entry.type = type;
    entry.body.items = {1, 2, 3};
    Bytes file = whole;
    const Bytes record = EncodeRecord(RecordKind::kLeaf, protocols::Encode(entry));
    file.insert(file.end(), record.begin(), record.end());
    ASSERT_TRUE(WriteFileDurably(path_, file).ok());
    const auto ledger = Ledger::Open(path_, SiteKey(), opened_, clock_);
    ASSERT_FALSE(ledger.has_value());
    EXPECT_EQ(ledger.error().code(), Code::kDataLoss);
    EXPECT_NE(ledger.error().message().find("leaf 2"), std::string::npos)
        << ledger.error().message();
  }
}

// Who allows a name has one budget for all the jobs that will have it.
TEST_F(LedgerTest, OfANameBudgetsAreSumsOverAllItsJobs) {
  auto ledger = Open();
  const auto accept = [&](const protocols::JobManifest& job) {
    JobLeaf leaf;
    leaf.job = IdOf(job);
    leaf.name = job.name;
    ASSERT_TRUE(ledger->Append(LeafType::kJob, leaf).has_value());
  };
  protocols::JobManifest next = SampleJob(), other = SampleJob();
  next.seed = 77;
  other.name = "another";
  accept(SampleJob());
  ASSERT_TRUE(Debit(*ledger, 1).ok());
  ASSERT_TRUE(Debit(*ledger, 2).ok());
  accept(next);
  accept(other);
  const Spent spent = ledger->SpentOn(IdOf(next), 1, "triage");
  EXPECT_EQ(spent.exports_of_job, 2u);
  EXPECT_EQ(spent.bytes_of_job, 2 * SampleExportBytes());
  EXPECT_GT(spent.bits_of_job, 0);
  EXPECT_EQ(spent.exports_of_id, 0u);
  EXPECT_EQ(spent.exports_of_round, 0u) << "a round is one job's";
  EXPECT_EQ(ledger->SpentOn(IdOf(next), 1).exports_of_job, 0u);
  EXPECT_EQ(ledger->SpentOn(IdOf(other), 1, "another").exports_of_job, 0u);
  EXPECT_EQ(ledger->SpentOn(IdOf(SampleJob()), 1, "triage").exports_of_id, 2u);
  EXPECT_EQ(ledger->JobsNamed("triage").size(), 2u);
  EXPECT_EQ(ledger->JobsNamed("").size(), 3u);
  EXPECT_EQ(ledger->ProgressOf(IdOf(SampleJob())).round, 2u);
  EXPECT_EQ(ledger->ProgressOf(IdOf(next)).round, 0u);
}

TEST_F(LedgerTest, ItsOwnHeadsAreKnownAndNoOther) {
  auto ledger = Open();
  const std::string first = ledger->head();
  ASSERT_TRUE(Debit(*ledger, 1).ok());
  const std::string second = ledger->head();
  ASSERT_TRUE(Debit(*ledger, 2).ok());
  EXPECT_TRUE(ledger->CheckHead(first, 0).ok());
  EXPECT_EQ(ledger->CheckHead(first, 1).code(), Code::kDataLoss) << "leaf 1 came after it";
  EXPECT_TRUE(ledger->CheckHead(second, 1).ok());
  EXPECT_TRUE(ledger->CheckHead(ledger->head(), 2).ok());
  std::string forged = second;
  forged[forged.size() - 5] ^= 1;
  EXPECT_FALSE(ledger->CheckHead(forged, 1).ok());
  // The same site and key, another past.
  ledger.reset();
  fs::remove(path_);
  clock_.Advance(1);
  ledger = Open();
  ASSERT_TRUE(Debit(*ledger, 1).ok());
  EXPECT_EQ(ledger->CheckHead(second, 1).code(), Code::kDataLoss);
}

TEST_F(LedgerTest, AReceiptInItWithAForeignHeadIsFound) {
  auto ledger = Open();
  ASSERT_TRUE(Debit(*ledger, 1).ok());
  const auto receipt = [](const std::string& head) {
    return ReceiptLeaf{*protocols::Decode<protocols::Signed>(SignedReceipt(head))};
  };
  ASSERT_TRUE(ledger->Append(LeafType::kReceipt, receipt(ledger->head())).has_value());
  EXPECT_TRUE(VerifyLedger(Trimmed(), "ledger", std::nullopt, std::nullopt).has_value());
  const std::string foreign = *crypto::SignCheckpoint(
      {LedgerOrigin(Federation(), "north"), 2, Digest{}}, "north", SiteKey());
  ASSERT_TRUE(ledger->Append(LeafType::kReceipt, receipt(foreign)).has_value());
  const auto verified = VerifyLedger(Trimmed(), "ledger", std::nullopt, std::nullopt);
  ASSERT_FALSE(verified.has_value());
  EXPECT_NE(verified.error().message().find("leaf 3, a receipt"), std::string::npos)
      << verified.error().message();
}

// Any byte, any bit: found by verification.
TEST_F(LedgerTest, EveryFlippedByteIsFound) {
  {
    auto ledger = Open();
    ASSERT_TRUE(Debit(*ledger, 1).ok());
  }
  const Bytes good = Trimmed();
  ASSERT_TRUE(VerifyLedger(good, "ledger", std::nullopt, std::nullopt).has_value());
  for (size_t i = 0; i < good.size(); ++i) {
    Bytes bad = good;
    bad[i] ^= 0x10;
    EXPECT_FALSE(VerifyLedger(bad, "ledger", std::nullopt, std::nullopt).has_value()) << i;
  }
}

TEST_F(LedgerTest, AHeadHeldElsewhereFindsACutTailAndARewrittenPast) {
  Bytes shorter;
  std::string head;
  {
    auto ledger = Open();
    ASSERT_TRUE(Debit(*ledger, 1).ok());
    shorter = Trimmed();
    ASSERT_TRUE(Debit(*ledger, 2).ok());
    head = ledger->head();
    ASSERT_TRUE(Debit(*ledger, 3).ok());
  }
  const auto& key = CoordinatorKey().verify_key();
  const Bytes receipt = SignedReceipt(head);
  auto verified = VerifyLedger(Trimmed(), "ledger", key, receipt);
  ASSERT_TRUE(verified.has_value()) << verified.error().ToString();
  EXPECT_EQ(verified->head_covers, 3u);
  // Cut: consistent by itself, but not with the receipt.
  EXPECT_TRUE(VerifyLedger(shorter, "ledger", key, std::nullopt).has_value());
  EXPECT_NE(VerifyLedger(shorter, "ledger", key, receipt).error().message().find("was cut"),
            std::string::npos);
  // Rewritten by the site itself, all heads signed again.
  fs::remove(path_);
  {
    auto ledger = Open();
    ASSERT_TRUE(Debit(*ledger, 1).ok());
    ASSERT_TRUE(Debit(*ledger, 2).ok());
  }
  EXPECT_TRUE(VerifyLedger(Trimmed(), "ledger", key, std::nullopt).has_value());
  EXPECT_NE(VerifyLedger(Trimmed(), "ledger", key, receipt).error().message().find("rewritten"),
            std::string::npos);
  // A receipt that somebody else signed.
  protocols::Signed forged = *protocols::Decode<protocols::Signed>(receipt);
  forged.signature = *SiteKey().Sign(crypto::domains::kReceipt, forged.body.items);
  EXPECT_EQ(VerifyLedger(shorter, "ledger", key, protocols::Encode(forged)).error().code(),
            Code::kUnauthenticated);
}

// A crash may cut the last write anywhere; what was covered by a head before is never lost.
TEST_F(LedgerTest, EveryTornTailIsRecovered) {
  Bytes before, after;
  {
    auto ledger = Open();
    ASSERT_TRUE(Debit(*ledger, 1).ok());
    before = Trimmed();
    ASSERT_TRUE(Debit(*ledger, 2).ok());
    after = Trimmed();
  }
  // Every byte of the first record's head and of the end, every seventh between.
  size_t step = 1;
  for (size_t n = before.size(); n <= after.size(); n += step) {
    step = n < before.size() + 64 || n + 64 > after.size() ? 1 : 7;
    ASSERT_TRUE(WriteFileDurably(path_, ByteSpan(after).first(n)).ok());
    auto ledger = Open();
    ASSERT_NE(ledger, nullptr) << n;
    EXPECT_GE(ledger->size(), 2u);
    ASSERT_TRUE(Debit(*ledger, 3).ok());
    ledger.reset();
    EXPECT_TRUE(VerifyLedger(File(), "ledger", std::nullopt, std::nullopt).has_value()) << n;
  }
}

TEST_F(LedgerTest, DamageBeforeTheEndIsAnErrorNotATornTail) {
  {
    auto ledger = Open();
    ASSERT_TRUE(Debit(*ledger, 1).ok());
    ASSERT_TRUE(Debit(*ledger, 2).ok());
  }
  Bytes file = Trimmed();
  file[60] ^= 1;
  ASSERT_TRUE(WriteFileDurably(path_, file).ok());
  EXPECT_EQ(Ledger::Open(path_, SiteKey(), opened_, clock_).error().code(), Code::kDataLoss);
}

// A disk that fails from the n-th call on, in one way.
class FailingDisk : public LedgerIo {
 public:
  enum Way { kShortWrite, kWriteError, kSyncError, kNoSpace };
  FailingDisk(Way way, int calls) : way_(way), calls_(calls) {}
  ssize_t Write(int fd, ByteSpan bytes, uint64_t offset) override {
    if (way_ == kShortWrite && Fails()) {
      return LedgerIo::Write(fd, bytes.first(bytes.size() / 2), offset);
    }
    if (way_ == kWriteError && Fails()) return errno = EIO, -1;
    return LedgerIo::Write(fd, bytes, offset);
  }
  int Sync(int fd) override {
    if (way_ == kSyncError && Fails()) return errno = EIO, -1;
    return LedgerIo::Sync(fd);
  }
  int Allocate(int fd, uint64_t offset, uint64_t bytes) override {
    if (way_ == kNoSpace && Fails()) return ENOSPC;
    return LedgerIo::Allocate(fd, offset, bytes);
  }

 private:
  bool Fails() { return calls_-- <= 0; }
  Way way_;
  int calls_;
};

// After a write or sync that failed nothing more is written, whatever it was; a new start reads
// what is there and goes on.
// Each header behind the damage claims a payload to be hashed: 5 GB of hashing if all are believed.
TEST_F(LedgerTest, TheSearchForRecordsBehindDamageHasAnEnd) {
  Bytes file = EncodeRecord(RecordKind::kLeaf, Bytes(8, 1));
  Bytes header = EncodeRecord(RecordKind::kLeaf, {});
  StoreLe64(header.data() + 8, 1u << 20);
  const size_t whole = file.size();
  file.push_back(1);  // no header begins here
  file.resize(whole + 8);
  for (int i = 0; i < 5000; ++i) file.insert(file.end(), header.begin(), header.end());
  file.resize(file.size() + (1u << 20));
  const auto scan = ScanLedger(file, "ledger");
  ASSERT_FALSE(scan);
  EXPECT_EQ(scan.error().code(), Code::kDataLoss);
  EXPECT_NE(scan.error().message().find("at offset 56: headers"), std::string::npos)
      << scan.error().message();
}

TEST_F(LedgerTest, AFailedWriteOrSyncEndsTheLedgerUntilItIsOpenedAgain) {
  for (const auto way :
       {FailingDisk::kShortWrite, FailingDisk::kWriteError, FailingDisk::kSyncError}) {
    for (int calls = 1; calls <= 4; ++calls) {
      fs::remove(path_);
      FailingDisk disk(way, calls);
      auto ledger = Open(disk);
      for (int i = 1; i < calls; ++i) {
        ASSERT_TRUE(Debit(*ledger, i).ok());
      }
      EXPECT_EQ(Debit(*ledger, calls).code(), Code::kDataLoss);
      const Bytes after = File();
      EXPECT_FALSE(Debit(*ledger, 9).ok());
      EXPECT_EQ(File(), after) << "a failed ledger writes no more";
      ledger = Open();
      ASSERT_NE(ledger, nullptr);
      EXPECT_GE(ledger->size(), static_cast<uint64_t>(calls));
      ASSERT_TRUE(Debit(*ledger, calls + 1).ok());
      EXPECT_TRUE(VerifyLedger(File(), "ledger", std::nullopt, std::nullopt).has_value());
    }
  }
}

// On a full disk no export is begun, and receipts of those under way still find room.
TEST_F(LedgerTest, AFullDiskRefusesIntentsAndKeepsRoomForReceipts) {
  FailingDisk disk(FailingDisk::kNoSpace, 1);
  auto ledger = Open(disk);
  PolicyLeaf big;
  big.text.items.assign(30'000, 'x');
  while (ledger->Append(LeafType::kPolicy, big).has_value()) {
  }
  while (Debit(*ledger, 1).ok()) {
  }
  const uint64_t size = ledger->size();
  EXPECT_EQ(Debit(*ledger, 2).code(), Code::kResourceExhausted);
  EXPECT_EQ(ledger->size(), size);
  const auto receipt = *protocols::Decode<protocols::Signed>(SignedReceipt(ledger->head()));
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(ledger->Append(LeafType::kReceipt, ReceiptLeaf{receipt}).has_value()) << i;
  }
  ledger = Open();
  EXPECT_EQ(ledger->size(), size + 100);
  EXPECT_TRUE(VerifyLedger(File(), "ledger", std::nullopt, std::nullopt).has_value());
  EXPECT_TRUE(Debit(*ledger, 2).ok()) << "room again";
}

TEST_F(LedgerTest, AnotherSitesLedgerIsRefused) {
  Open();
  OpenedLeaf other = opened_;
  other.federation[1] = 1;
  EXPECT_FALSE(Ledger::Open(path_, SiteKey(), other, clock_).has_value());
  EXPECT_FALSE(Ledger::Open(path_, CoordinatorKey(), opened_, clock_).has_value());
}

TEST_F(LedgerTest, LeavesHaveATextForPeople) {
  auto ledger = Open();
  ASSERT_TRUE(Debit(*ledger, 1).ok());
  const auto entries = ReadLedger(File(), "ledger");
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_NE(LeafText((*entries)[0]).find("opened    site=north"), std::string::npos);
  EXPECT_NE(LeafText((*entries)[1]).find("round=1 phase=0 bytes=65552"), std::string::npos);
}

}  // namespace
}  // namespace tidegate::gate
