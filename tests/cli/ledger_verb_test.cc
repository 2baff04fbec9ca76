// ledger show and verify, as an auditor runs them.
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file.h"
#include "crypto/armor.h"
#include "crypto/document.h"
#include "gate/ledger.h"
#include "gate/ledger_file.h"
#include "run_program.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class LedgerVerb : public testing::Test {
 protected:
  LedgerVerb() {
    fs::remove_all(dir_);
    fs::create_directories(dir_ / "gate");
    opened_.site = "north";
    std::copy_n(site_key_.verify_key().bytes().begin(), 32, opened_.site_key.begin());
    std::copy_n(coordinator_.verify_key().bytes().begin(), 32, opened_.coordinator_key.begin());
    auto ledger = *gate::Ledger::Open(path_, site_key_, opened_, clock_);
    gate::IntentLeaf intent;
    intent.key.round = 1;
    intent.key.site = "north";
    intent.ciphertext_bytes = 4096;
    EXPECT_TRUE(ledger->Append(gate::LeafType::kIntent, intent).has_value());
    protocols::Receipt receipt;
    receipt.key = intent.key;
    receipt.ledger_head = ledger->head();
    receipt_ =
        protocols::Encode(*crypto::SignDocument(coordinator_, crypto::domains::kReceipt, receipt));
    intent.key.round = 2;
    EXPECT_TRUE(ledger->Append(gate::LeafType::kIntent, intent).has_value());
  }
  ~LedgerVerb() override { fs::remove_all(dir_); }

  static RunResult Run(std::vector<std::string> words) {
    words.insert(words.begin(), {Program("tidegate").native(), "ledger"});
    return RunProgram(words);
  }
  std::string Key() const { return coordinator_.verify_key().ToText(); }
  std::string Write(const std::string& name, ByteSpan bytes) const {
    EXPECT_TRUE(WriteFileDurably(dir_ / name, bytes).ok());
    return (dir_ / name).native();
  }

  const fs::path dir_ =
      fs::temp_directory_path() / fmt::format("tidegate_ledger_verb_{}", getpid());
  const fs::path path_ = dir_ / "gate" / "ledger";
  crypto::SigningKey site_key_ = *crypto::SigningKey::Generate();
  crypto::SigningKey coordinator_ = *crypto::SigningKey::Generate();
  gate::OpenedLeaf opened_;
  ManualClock clock_{1795581436000};
  Bytes receipt_;
};

TEST_F(LedgerVerb, ShowListsEveryLeafOfASitesFolder) {
  const RunResult text = Run({"show", dir_.native()});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_NE(text.out.find("opened    site=north"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("round=2 phase=0 bytes=4096"), std::string::npos) << text.out;
  const RunResult run = Run({"show", path_.native(), "--format", "json"});
  const json report = json::parse(run.out);
  ASSERT_EQ(report["leaves"].size(), 3u);
  EXPECT_EQ(report["leaves"][1]["ciphertext_bytes"], 4096);
  EXPECT_EQ(report["verified"], false);
}

TEST_F(LedgerVerb, WithoutAForeignHeadItIsConsistentOnly) {
  const RunResult run = Run({"verify", path_.native(), "--key", Key()});
  EXPECT_EQ(run.exit_code, 65) << run.err;
  EXPECT_NE(run.out.find("internally consistent only"), std::string::npos) << run.out;
  EXPECT_EQ(run.out.find("verified:"), std::string::npos);
}

TEST_F(LedgerVerb, AReceiptVerifiesArmouredOrBare) {
  const std::string armoured = *crypto::EncodeArmor("RECEIPT", receipt_);
  for (const std::string& head :
       {Write("a.receipt", AsBytes(armoured)), Write("b.receipt", receipt_)}) {
    const RunResult run =
        Run({"verify", path_.native(), "--key", Key(), "--head", head, "--format", "json"});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const json report = json::parse(run.out);
    EXPECT_EQ(report["verified"], true);
    EXPECT_EQ(report["head_covers"], 2);
    EXPECT_EQ(report["exports"], 2);
  }
}

TEST_F(LedgerVerb, DamageAnotherKeyAndARewrittenPastAreErrors) {
  const std::string head = Write("b.receipt", receipt_);
  Bytes file = *ReadFile(path_, 1u << 30);
  file[100] ^= 1;
  EXPECT_EQ(Run({"verify", Write("bad", file), "--key", Key(), "--head", head}).exit_code,
            static_cast<int>(Code::kDataLoss));
  const std::string other = crypto::SigningKey::Generate()->verify_key().ToText();
  EXPECT_EQ(Run({"verify", path_.native(), "--key", other, "--head", head}).exit_code,
            static_cast<int>(Code::kUnauthenticated));
  EXPECT_EQ(Run({"verify", path_.native(), "--key", "ed25519:AA", "--head", head}).exit_code,
            static_cast<int>(Code::kInvalidArgument));
  EXPECT_EQ(Run({"verify", path_.native(), "--head", head}).exit_code, 64);
  // The site makes another past with its own key.
  fs::remove(path_);
  auto ledger = *gate::Ledger::Open(path_, site_key_, opened_, clock_);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(ledger->Append(gate::LeafType::kIntent, gate::IntentLeaf{}).has_value());
  }
  EXPECT_EQ(Run({"verify", path_.native(), "--key", Key()}).exit_code, 65);
  const RunResult run = Run({"verify", path_.native(), "--key", Key(), "--head", head});
  EXPECT_EQ(run.exit_code, static_cast<int>(Code::kDataLoss));
  EXPECT_NE(run.err.find("rewritten"), std::string::npos) << run.err;
}

}  // namespace
}  // namespace tidegate::cli
