#include "cli/ledger_leaf.h"

#include <algorithm>
#include <sstream>
#include <vector>

#include "audit/ledger_verify.h"
#include "base/clock.h"
#include "crypto/sign.h"
#include "gate/approval.h"
#include "onshore/sandbox/statement.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

std::string KeyText(const protocols::PublicKey& key) {
  return crypto::PublicKeyText("ed25519", key);
}

ordered_json Fields(const gate::OpenedLeaf& leaf) {
  return {{"federation", ToHex(leaf.federation)},
          {"site", leaf.site.text},
          {"site_key", KeyText(leaf.site_key)},
          {"coordinator_key", KeyText(leaf.coordinator_key)}};
}

ordered_json Fields(const gate::PolicyLeaf& leaf) {
  return {{"policy_sha256", ToHex(leaf.digest)}, {"policy", std::string(AsText(leaf.text.items))}};
}

ordered_json Fields(const gate::IsolationLeaf& leaf) {
  ordered_json json = {{"process", leaf.process.text}};
  const auto statement = onshore::DecodeStatement(leaf.statement.text);
  if (!statement) {
    json["problem"] = statement.error().message();
    json["statement"] = leaf.statement.text;
    return json;
  }
  const onshore::WallReport& report = statement->report;
  json["kernel"] = report.kernel;
  json["landlock_abi"] = report.landlock_abi;
  if (!statement->pinned_address.empty()) json["pinned_address"] = statement->pinned_address;
  if (!statement->proxy.empty()) json["proxy"] = statement->proxy;
  json["walls"] = ordered_json::array();
  for (int i = 0; i < onshore::kWallCount; ++i) {
    const auto wall = static_cast<onshore::Wall>(i);
    const onshore::WallRow& row = report.row(wall);
    json["walls"].push_back({{"wall", onshore::WallName(wall)},
                             {"state", onshore::WallStateName(row.state)},
                             {"errno", row.error},
                             {"step", row.step}});
  }
  json["tries"] = ordered_json::array();
  for (const onshore::TryRow& row : statement->rows) {
    json["tries"].push_back({{"try", row.name},
                             {"control", row.control},
                             {"walled", row.walled},
                             {"verdict", onshore::VerdictName(row.verdict)}});
  }
  return json;
}

ordered_json Fields(const gate::JobLeaf& leaf) {
  return {{"job", ToHex(leaf.job)},
          {"name", leaf.name.text},
          {"rounds", leaf.rounds},
          {"base_sha256", ToHex(leaf.base_hash)},
          {"layout_sha256", ToHex(leaf.layout_digest)},
          {"policy_sha256", ToHex(leaf.policy)}};
}

ordered_json Fields(const gate::RefusalLeaf& leaf) {
  return {{"what", leaf.what.text},
          {"job", ToHex(leaf.job)},
          {"round", leaf.round},
          {"rule", leaf.rule.text},
          {"reason", leaf.reason.text}};
}

ordered_json KeyFields(const protocols::UpdateKey& key) {
  return {{"job", ToHex(key.job)}, {"round", key.round}, {"phase", key.phase}};
}

ordered_json Fields(const gate::IntentLeaf& leaf) {
  ordered_json json = KeyFields(leaf.key);
  json.update({{"ciphertext_bytes", leaf.ciphertext_bytes},
               {"values", leaf.values},
               {"capacity_bits", leaf.capacity_bits},
               {"l2_norm", leaf.l2_norm},
               {"weight", leaf.weight},
               {"train_loss", leaf.train_loss_milli / 1000.0},
               {"heldout_loss", leaf.heldout_loss_milli / 1000.0},
               {"plaintext_sha256", ToHex(leaf.plaintext)},
               {"content", ToHex(leaf.content)},
               {"release_sha256", ToHex(leaf.release)},
               {"policy_sha256", ToHex(leaf.policy)}});
  return json;
}

ordered_json Fields(const gate::ReceiptLeaf& leaf) {
  const auto receipt = protocols::Decode<protocols::Receipt>(leaf.receipt.body.items);
  if (!receipt) return {{"problem", receipt.error().reason}};
  ordered_json json = KeyFields(receipt->key);
  const bool counted = receipt->outcome == protocols::ReceiptOutcome::kCounted;
  json.update({{"outcome", counted ? "counted" : "late"},
               {"accepted", FormatUtc(receipt->accepted_unix_millis)},
               {"content", ToHex(receipt->content)},
               {"ledger_head", receipt->ledger_head.text}});
  return json;
}

ordered_json Fields(const gate::AdapterLeaf& leaf) {
  return {{"job", ToHex(leaf.job)},
          {"version", leaf.version},
          {"final", leaf.final},
          {"manifest_sha256", ToHex(leaf.manifest)},
          {"content", ToHex(leaf.content)}};
}

ordered_json Fields(const gate::ApprovalLeaf& leaf) {
  const auto approval = protocols::Decode<gate::Approval>(leaf.approval.body.items);
  if (!approval) return {{"problem", approval.error().reason}};
  ordered_json json = KeyFields(approval->key);
  json.update({{"approver", approval->approver.text},
               {"signed", FormatUtc(approval->unix_millis)},
               {"reason", approval->reason.text},
               {"plaintext_sha256", ToHex(approval->plaintext)}});
  return json;
}

ordered_json Fields(const gate::DatasetLeaf& leaf) {
  ordered_json json = {{"job", ToHex(leaf.job)},
                       {"records_sha256", ToHex(leaf.records)},
                       {"records_bytes", leaf.records_bytes},
                       {"heldout_sha256", nullptr}};
  if (leaf.heldout != gate::Hash32{}) json["heldout_sha256"] = ToHex(leaf.heldout);
  return json;
}

ordered_json Fields(const gate::DecisionLeaf& leaf) {
  ordered_json json = KeyFields(leaf.key);
  json.update({{"decision", leaf.decision == gate::Decision::kRelease ? "release" : "refuse"},
               {"approver", leaf.approver.text},
               {"uid", leaf.uid},
               {"reason", leaf.reason.text},
               {"plaintext_sha256", ToHex(leaf.plaintext)}});
  return json;
}

ordered_json Fields(const gate::OutsideLeaf& leaf) {
  ordered_json json = KeyFields(leaf.key);
  json.update({{"uid", leaf.uid}, {"plaintext_sha256", ToHex(leaf.plaintext)}});
  return json;
}

template <typename Leaf>
ordered_json Decoded(const gate::LedgerEntry& entry) {
  const auto leaf = protocols::Decode<Leaf>(entry.body.items);
  return leaf ? Fields(*leaf) : ordered_json{{"problem", leaf.error().reason}};
}

ordered_json BodyJson(const gate::LedgerEntry& entry) {
  switch (entry.type) {
    case gate::LeafType::kOpened:
      return Decoded<gate::OpenedLeaf>(entry);
    case gate::LeafType::kPolicy:
      return Decoded<gate::PolicyLeaf>(entry);
    case gate::LeafType::kIsolation:
      return Decoded<gate::IsolationLeaf>(entry);
    case gate::LeafType::kJob:
      return Decoded<gate::JobLeaf>(entry);
    case gate::LeafType::kRefusal:
      return Decoded<gate::RefusalLeaf>(entry);
    case gate::LeafType::kIntent:
      return Decoded<gate::IntentLeaf>(entry);
    case gate::LeafType::kReceipt:
      return Decoded<gate::ReceiptLeaf>(entry);
    case gate::LeafType::kApproval:
      return Decoded<gate::ApprovalLeaf>(entry);
    case gate::LeafType::kDataset:
      return Decoded<gate::DatasetLeaf>(entry);
    case gate::LeafType::kDecision:
      return Decoded<gate::DecisionLeaf>(entry);
    case gate::LeafType::kOutside:
      return Decoded<gate::OutsideLeaf>(entry);
    case gate::LeafType::kAdapter:
      return Decoded<gate::AdapterLeaf>(entry);
  }
  return ordered_json::object();
}

// A site's words on an auditor's terminal: what would move its cursor or colour its text is shown
// as what it is. Lines and tabs stay; so does UTF-8 but for its second set of control characters.
std::string Visible(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    const uint8_t next = i + 1 < text.size() ? static_cast<uint8_t>(text[i + 1]) : 0;
    const bool second_set = byte == 0xc2 && next >= 0x80 && next < 0xa0;
    if (second_set) {
      out += fmt::format("\\x{:02x}\\x{:02x}", byte, next);
      ++i;
    } else if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string Word(const ordered_json& value) {
  return Visible(value.is_string() ? value.get<std::string>() : value.dump());
}

bool IsLong(const ordered_json& value) {
  return value.is_array() ||
         (value.is_string() && value.get_ref<const std::string&>().find('\n') != std::string::npos);
}

// Objects with the same names, as columns under them.
std::string Table(const ordered_json& rows) {
  std::vector<std::vector<std::string>> lines(rows.empty() ? 0 : 1);
  for (const auto& row : rows) {
    if (lines.size() == 1) {
      for (const auto& [name, value] : row.items()) lines[0].push_back(name);
    }
    std::vector<std::string>& line = lines.emplace_back();
    for (const auto& cell : row) line.push_back(Word(cell));
  }
  std::vector<size_t> widths(lines.empty() ? 0 : lines[0].size());
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string text;
  for (const auto& line : lines) {
    std::string padded = "   ";
    for (size_t i = 0; i < line.size(); ++i) padded += fmt::format(" {:<{}}", line[i], widths[i]);
    text += padded.substr(0, padded.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string Indented(const std::string& text) {
  std::string out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    out += (line.empty() ? "" : "    ") + line + "\n";
  }
  return out;
}

}  // namespace

ordered_json LeafJson(const gate::LedgerEntry& entry) {
  ordered_json leaf = {{"index", entry.index},
                       {"time", FormatUtc(entry.unix_millis)},
                       {"type", gate::LeafTypeName(entry.type)}};
  leaf.update(BodyJson(entry));
  leaf["line"] = audit::LeafText(entry);
  return leaf;
}

std::string LeafInFull(const ordered_json& leaf) {
  std::string text, rest;
  for (const auto& [name, value] : leaf.items()) {
    if (name == "line") continue;
    if (!IsLong(value)) {
      text += fmt::format("{:<17} {}\n", name, Word(value));
    } else {
      rest += name + "\n" + (value.is_array() ? Table(value) : Indented(Word(value)));
    }
  }
  return text + rest;
}

}  // namespace tidegate::cli
