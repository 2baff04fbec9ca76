// ledger show and verify, as an auditor runs them.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/file.h"
#include "crypto/armor.h"
#include "crypto/document.h"
#include "gate/ledger.h"
#include "gate/ledger_file.h"
#include "onshore/sandbox/statement.h"
#include "run_program.h"
#include "tests/gate/gate_samples.h"

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
    EXPECT_TRUE(gate::Debit(*ledger, 1).ok());
    protocols::Receipt receipt;
    receipt.key.round = 1;
    receipt.key.site = "north";
    receipt.ledger_head = ledger->head();
    receipt_ =
        protocols::Encode(*crypto::SignDocument(coordinator_, crypto::domains::kReceipt, receipt));
    EXPECT_TRUE(gate::Debit(*ledger, 2).ok());
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
  EXPECT_NE(text.out.find("round=2 phase=0 bytes=65552"), std::string::npos) << text.out;
  const RunResult run = Run({"show", path_.native(), "--format", "json"});
  const json report = json::parse(run.out);
  ASSERT_EQ(report["leaves"].size(), 3u);
  EXPECT_EQ(report["leaves"][1]["ciphertext_bytes"], gate::SampleExportBytes());
  EXPECT_EQ(report["verified"], false);
}

// The table of a self-test and the policy in force are what an auditor came for.
TEST_F(LedgerVerb, ShowGivesWallsTriesAndPolicyInFull) {
  onshore::IsolationStatement statement;
  statement.report.role = onshore::Role::kLink;
  statement.pinned_address = "192.0.2.7:7443";
  statement.proxy = "198.51.100.1:1080";
  onshore::TryRow row;
  std::strncpy(row.name, "socket_udp", sizeof(row.name) - 1);
  row.walled = 38;
  row.verdict = onshore::Verdict::kRefused;
  statement.rows = {row};
  gate::PolicyLeaf policy;
  const std::string text = "[jobs]\nallow = [\"triage\"]\n";
  policy.text.items.assign(text.begin(), text.end());
  {
    auto ledger = *gate::Ledger::Open(path_, site_key_, opened_, clock_);
    const gate::IsolationLeaf leaf{"link", onshore::EncodeStatement(statement)};
    ASSERT_TRUE(ledger->Append(gate::LeafType::kIsolation, leaf).has_value());
    ASSERT_TRUE(ledger->Append(gate::LeafType::kPolicy, policy).has_value());
  }
  const json leaves = json::parse(Run({"show", dir_.native(), "--format", "json"}).out)["leaves"];
  ASSERT_EQ(leaves.size(), 5u);
  EXPECT_EQ(leaves[3]["process"], "link");
  EXPECT_EQ(leaves[3]["walls"][0],
            (json{{"wall", "netns"}, {"state", "not_asked"}, {"errno", 0}, {"step", ""}}));
  EXPECT_EQ(leaves[3]["tries"][0],
            (json{{"try", "socket_udp"}, {"control", 0}, {"walled", 38}, {"verdict", "refused"}}));
  EXPECT_EQ(leaves[4]["policy"], text);

  const RunResult walls = Run({"show", dir_.native(), "--leaf", "3"});
  EXPECT_EQ(walls.exit_code, 0) << walls.err;
  EXPECT_NE(walls.out.find("pinned_address    192.0.2.7:7443\n"), std::string::npos) << walls.out;
  EXPECT_NE(walls.out.find("proxy             198.51.100.1:1080\n"), std::string::npos)
      << walls.out;
  EXPECT_NE(walls.out.find(
                "    try        control walled verdict\n    socket_udp 0       38     refused\n"),
            std::string::npos)
      << walls.out;
  const RunResult shown = Run({"show", dir_.native(), "--leaf", "4"});
  EXPECT_NE(shown.out.find("policy\n    [jobs]\n    allow = [\"triage\"]\n"), std::string::npos)
      << shown.out;
  const RunResult none = Run({"show", dir_.native(), "--leaf", "5"});
  EXPECT_EQ(none.exit_code, static_cast<int>(Code::kNotFound));
  EXPECT_NE(none.err.find("leaves 0 to 4"), std::string::npos) << none.err;
}

TEST_F(LedgerVerb, APathThatCannotBeLookedAtIsAnError) {
  // Nobody may look through a symbolic link that leads to itself, root included.
  const fs::path loop = dir_ / "loop";
  fs::create_symlink(loop, loop);
  for (const char* verb : {"show", "verify"}) {
    std::vector<std::string> words = {verb, loop.native()};
    if (words[0] == "verify") words.insert(words.end(), {"--key", Key()});
    const RunResult run = Run(words);
    EXPECT_GT(run.exit_code, 0) << run.err;
    EXPECT_LT(run.exit_code, 64) << run.err;
    EXPECT_NE(run.err.find(loop.native()), std::string::npos) << run.err;
  }
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
    EXPECT_TRUE(gate::Debit(*ledger, 1).ok());
  }
  EXPECT_EQ(Run({"verify", path_.native(), "--key", Key()}).exit_code, 65);
  const RunResult run = Run({"verify", path_.native(), "--key", Key(), "--head", head});
  EXPECT_EQ(run.exit_code, static_cast<int>(Code::kDataLoss));
  EXPECT_NE(run.err.find("rewritten"), std::string::npos) << run.err;
}

TEST_F(LedgerVerb, AnExportIsAFolderToHandOver) {
  const std::string head = Write("b.receipt", receipt_), out = (dir_ / "bundle").native();
  {
    auto ledger = *gate::Ledger::Open(path_, site_key_, opened_, clock_);
    const gate::RefusalLeaf refusal{"update", {}, 3, "norm", "12 is over <b>10</b>"};
    ASSERT_TRUE(ledger->Append(gate::LeafType::kRefusal, refusal).has_value());
    gate::DatasetLeaf dataset;
    dataset.records[0] = 0xab;
    dataset.records_bytes = 4321;
    ASSERT_TRUE(ledger->Append(gate::LeafType::kDataset, dataset).has_value());
  }
  const RunResult run =
      Run({"export", dir_.native(), "--key", Key(), "--head", head, "--out", out});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(*ReadFile(fs::path(out) / "ledger", 1u << 30), *ReadFile(path_, 1u << 30));
  EXPECT_EQ(Run({"verify", out + "/ledger", "--key", Key(), "--head", out + "/receipt"}).exit_code,
            0)
      << "what is handed over verifies by itself";
  const std::string page = *ReadTextFile(fs::path(out) / "report.html", 1u << 20);
  for (const char* text : {"What left this site", "本站点出境记录", "entries 0 to 1 are unchanged",
                           "12 is over &lt;b&gt;10&lt;/b&gt;", "65552", "ab0000000000", "4321",
                           "What is not guaranteed", "不作保证的事项"}) {
    EXPECT_NE(page.find(text), std::string::npos) << text;
  }
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find("http"), std::string::npos) << "it needs nothing from anywhere";
  EXPECT_EQ(Run({"export", dir_.native(), "--key", Key(), "--out", out}).exit_code,
            static_cast<int>(Code::kAlreadyExists));
  const RunResult alone = Run({"export", dir_.native(), "--key", Key(), "--out", out + "2"});
  EXPECT_EQ(alone.exit_code, 65) << alone.err;
  EXPECT_NE(ReadTextFile(fs::path(out + "2") / "report.html", 1u << 20)
                ->find("Internally consistent only"),
            std::string::npos);
}

// scripts/verify_ledger.py shares no line with us: what it says must be what we say.
class SecondVerifier : public LedgerVerb {
 protected:
  SecondVerifier() {
    auto ledger = *gate::Ledger::Open(path_, site_key_, opened_, clock_);
    gate::ReceiptLeaf leaf;
    leaf.receipt = *protocols::Decode<protocols::Signed>(receipt_);
    EXPECT_TRUE(ledger->Append(gate::LeafType::kReceipt, leaf).has_value());
  }
  RunResult Second(const std::string& path, std::vector<std::string> more = {}) const {
    std::vector<std::string> words = {
        "/usr/bin/python3", TIDEGATE_SOURCE_DIR "/scripts/verify_ledger.py", path, "--key", Key()};
    words.insert(words.end(), more.begin(), more.end());
    return RunProgram(words);
  }
};

TEST_F(SecondVerifier, SaysWhatOursSays) {
  const std::string head = Write("b.receipt", receipt_);
  const RunResult alone = Second(path_.native());
  EXPECT_EQ(alone.exit_code, 65) << alone.err;
  EXPECT_NE(alone.out.find("4 leaves, 2 exports, 1 receipts"), std::string::npos) << alone.out;
  const RunResult held = Second(path_.native(), {"--head", head});
  EXPECT_EQ(held.exit_code, 0) << held.err;
  EXPECT_NE(held.out.find("covers leaves 0 to 1"), std::string::npos) << held.out;
  const std::string armoured =
      Write("a.receipt", AsBytes(*crypto::EncodeArmor("RECEIPT", receipt_)));
  EXPECT_EQ(Second(path_.native(), {"--head", armoured}).exit_code, 0);
}

TEST_F(SecondVerifier, FindsFlippedBytesACutTailAndARewrittenPast) {
  const std::string head = Write("b.receipt", receipt_);
  const Bytes file = *ReadFile(path_, 1u << 30);
  const size_t end = static_cast<size_t>(
      std::find_if(file.rbegin(), file.rend(), [](uint8_t b) { return b != 0; }).base() -
      file.begin());
  for (size_t at = 0; at < end; at += 97) {
    Bytes flipped = file;
    flipped[at] ^= static_cast<uint8_t>(1u << at % 8);
    EXPECT_EQ(Second(Write("flipped", flipped)).exit_code, 1) << "byte " << at;
  }
  // Another past, by the site's own key.
  fs::remove(path_);
  auto ledger = *gate::Ledger::Open(path_, site_key_, opened_, clock_);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(gate::Debit(*ledger, 1).ok());
  EXPECT_EQ(Second(path_.native()).exit_code, 65);
  const RunResult rewritten = Second(path_.native(), {"--head", head});
  EXPECT_EQ(rewritten.exit_code, 1);
  EXPECT_NE(rewritten.err.find("root"), std::string::npos) << rewritten.err;
  // Cut before the head: the file alone is consistent, the receipt is not of it.
  fs::remove(path_);
  auto cut = *gate::Ledger::Open(path_, site_key_, opened_, clock_);
  EXPECT_EQ(Second(path_.native()).exit_code, 65);
  EXPECT_EQ(Second(path_.native(), {"--head", head}).exit_code, 1);
}

}  // namespace
}  // namespace tidegate::cli
