// A ledger file, and one leaf of it. The first byte says whether the rest is a file as it lies on
// disk or a leaf's encoding, which is put into a record of its own so that its digest is right.
// Verifying, reading and showing end; a leaf has one encoding.
#include <filesystem>

#include "audit/ledger_verify.h"
#include "base/file.h"
#include "cli/ledger_leaf.h"
#include "crypto/document.h"
#include "fuzz.h"
#include "gate/ledger_file.h"
#include "tests/gate/gate_samples.h"

namespace tidegate::fuzz {
namespace {

class StillClock final : public Clock {
 public:
  int64_t UnixMillis() const override { return 1795581436000; }
  int64_t MonotonicMillis() const override { return 0; }
};

gate::OpenedLeaf Opened() {
  gate::OpenedLeaf opened;
  opened.federation = gate::Federation();
  opened.site = "north";
  std::copy_n(gate::SiteKey().verify_key().bytes().begin(), 32, opened.site_key.begin());
  std::copy_n(gate::CoordinatorKey().verify_key().bytes().begin(), 32,
              opened.coordinator_key.begin());
  return opened;
}

// A ledger that has all there can be but what needs other keys.
std::string SampleLedger() {
  const Folder folder;
  const StillClock clock;
  const std::filesystem::path path = folder.path() + "/ledger";
  auto ledger = *gate::Ledger::Open(path, gate::SiteKey(), Opened(), clock);
  // With what clears a terminal's screen: a comment of the site's.
  const std::string policy = gate::SamplePolicyText() + "# \x1b[2J\n";
  const auto append = [&](gate::LeafType type, const auto& leaf) {
    Require(ledger->Append(type, leaf).has_value(), "a leaf can be written");
  };
  append(gate::LeafType::kPolicy,
         gate::PolicyLeaf{gate::SamplePolicy().digest, Bytes(policy.begin(), policy.end())});
  append(gate::LeafType::kIsolation,
         gate::IsolationLeaf{"link", SourceFile("tests/fuzz/corpus/statement/link.txt")});
  append(gate::LeafType::kRefusal, gate::RefusalLeaf{"update", {}, 3, "norm", "12.5 is over 10"});
  append(gate::LeafType::kAdapter, gate::AdapterLeaf{});
  gate::DecisionLeaf decision;
  decision.approver = "clerk";
  decision.uid = 1001;
  append(gate::LeafType::kDecision, decision);
  append(gate::LeafType::kOutside, gate::OutsideLeaf{});
  protocols::Receipt receipt;
  receipt.federation = gate::Federation();
  receipt.key.site = "north";
  receipt.ledger_head = ledger->head();
  auto document = crypto::SignDocument(gate::CoordinatorKey(), crypto::domains::kReceipt, receipt);
  append(gate::LeafType::kReceipt, gate::ReceiptLeaf{std::move(*document)});
  std::string bytes = Text(*ReadFile(path, 64u << 20));
  bytes.resize(bytes.find_last_not_of('\0') + 1);
  bytes.resize((bytes.size() + 7) / 8 * 8);
  return bytes;
}

}  // namespace

Target Describe() {
  Target target;
  const std::string file = SampleLedger();
  target.seeds = {'\0' + file};
  const auto entries = audit::ReadLedger(AsBytes(file), "ledger");
  for (const gate::LedgerEntry& entry : *entries) {
    target.seeds.push_back('\1' + Text(protocols::Encode(entry)));
  }
  target.memory_per_byte = 1024;
  return target;
}

void Show(ByteSpan file) {
  const auto verified =
      audit::VerifyLedger(file, "ledger", gate::CoordinatorKey().verify_key(), std::nullopt);
  const auto entries = audit::ReadLedger(file, "ledger");
  Require(!verified || entries, "a ledger that verifies can be read");
  if (!entries) return;
  for (const gate::LedgerEntry& entry : *entries) {
    const auto json = cli::LeafJson(entry);
    (void)json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    const std::string text = cli::LeafInFull(json);
    Require(!text.empty(), "a leaf can be shown");
    Require(text.find('\x1b') == std::string::npos, "a leaf's words cannot steer a terminal");
  }
}

void ShowLeaf(ByteSpan leaf) {
  const auto entry = protocols::Decode<gate::LedgerEntry>(leaf);
  if (entry) {
    const Bytes again = protocols::Encode(*entry);
    Require(AsText(again) == AsText(leaf), "a leaf has one encoding");
  }
  const gate::OpenedLeaf opened = Opened();
  gate::LedgerEntry first;
  first.body.items = protocols::Encode(opened);
  Bytes file = gate::EncodeRecord(gate::RecordKind::kLeaf, protocols::Encode(first));
  const Bytes record = gate::EncodeRecord(gate::RecordKind::kLeaf, leaf);
  file.insert(file.end(), record.begin(), record.end());
  Show(file);
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  const ByteSpan rest(data + 1, size - 1);
  data[0] % 2 == 0 ? fuzz::Show(rest) : fuzz::ShowLeaf(rest);
  return 0;
}
