// ledger show, ledger verify: for the auditor. Offline, on the file alone or on a copy of it.
#include <filesystem>

#include "base/clock.h"
#include "base/file.h"
#include "cli/verb.h"
#include "crypto/armor.h"
#include "gate/ledger_file.h"
#include "gate/ledger_verify.h"
#include "protocols/limits.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::filesystem::path path, head;
  std::string key;
};

// The ledger itself, or that of a site's folder.
std::filesystem::path LedgerPath(const std::filesystem::path& path) {
  return std::filesystem::is_directory(path) ? path / "gate" / "ledger" : path;
}

// A signed receipt, armoured as the gate keeps it or as its bare bytes.
Result<Bytes> ReadReceipt(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(Bytes bytes, ReadFile(path, 2 * protocols::kMaxControlBody));
  if (AsText(bytes).starts_with("-----BEGIN ")) {
    return crypto::DecodeArmor("RECEIPT", AsText(bytes));
  }
  return bytes;
}

ordered_json LeafJson(const gate::LedgerEntry& entry) {
  ordered_json leaf = {{"index", entry.index},
                       {"time", FormatUtc(entry.unix_millis)},
                       {"type", gate::LeafTypeName(entry.type)}};
  if (entry.type == gate::LeafType::kIntent) {
    const auto intent = protocols::Decode<gate::IntentLeaf>(entry.body.items);
    if (intent) {
      leaf["job"] = ToHex(intent->key.job);
      leaf["round"] = intent->key.round;
      leaf["phase"] = intent->key.phase;
      leaf["ciphertext_bytes"] = intent->ciphertext_bytes;
      leaf["values"] = intent->values;
      leaf["capacity_bits"] = intent->capacity_bits;
      leaf["l2_norm"] = intent->l2_norm;
      leaf["plaintext_sha256"] = ToHex(intent->plaintext);
      leaf["content"] = ToHex(intent->content);
      leaf["policy_sha256"] = ToHex(intent->policy);
    }
  }
  leaf["line"] = gate::LeafText(entry);
  return leaf;
}

Status Show(const Invocation& invocation, const Options& options) {
  const std::filesystem::path path = LedgerPath(options.path);
  TG_ASSIGN_OR_RETURN(const Bytes file, ReadFile(path, gate::kMaxLedgerBytes));
  TG_ASSIGN_OR_RETURN(const auto entries, gate::ReadLedger(file, path.native()));
  ordered_json report = {{"verified", false}, {"leaves", ordered_json::array()}};
  for (const gate::LedgerEntry& entry : entries) report["leaves"].push_back(LeafJson(entry));
  return Print(invocation, report, [](const ordered_json& json) {
    std::string text;
    for (const auto& leaf : json["leaves"]) text += leaf["line"].get<std::string>() + "\n";
    return text + "not verified: `tidegate ledger verify` does that\n";
  });
}

std::string VerifyText(const ordered_json& json) {
  std::string text = fmt::format(
      "site       {}\nsite key   {}\nleaves     {}\nexports    {} ({} bytes)\nreceipts   {}\n"
      "refusals   {}\n",
      json["site"].get<std::string>(), json["site_key"].get<std::string>(),
      json["leaves"].get<uint64_t>(), json["exports"].get<uint64_t>(),
      json["export_bytes"].get<uint64_t>(), json["receipts"].get<uint64_t>(),
      json["refusals"].get<uint64_t>());
  if (json["head_covers"].is_null()) {
    return text +
           "internally consistent only: no head from elsewhere was given, so an end that was cut\n"
           "or a past that was rewritten by the key's owner would not show; give --head RECEIPT\n";
  }
  return text + fmt::format("verified: the receipt's head covers leaves 0 to {}, unchanged\n",
                            json["head_covers"].get<uint64_t>() - 1);
}

Status Verify(Invocation& invocation, const Options& options) {
  const std::filesystem::path path = LedgerPath(options.path);
  TG_ASSIGN_OR_RETURN(const crypto::VerifyKey key, crypto::VerifyKey::FromText(options.key));
  TG_ASSIGN_OR_RETURN(const Bytes file, ReadFile(path, gate::kMaxLedgerBytes));
  std::optional<Bytes> receipt;
  if (!options.head.empty()) {
    TG_ASSIGN_OR_RETURN(receipt, ReadReceipt(options.head));
  }
  TG_ASSIGN_OR_RETURN(const gate::Verification found,
                      gate::VerifyLedger(file, path.native(), key, receipt));
  ordered_json report = {{"verified", found.head_covers.has_value()},
                         {"internally_consistent", true},
                         {"site", found.site},
                         {"site_key", found.site_key.ToText()},
                         {"leaves", found.leaves},
                         {"exports", found.exports},
                         {"export_bytes", found.export_bytes},
                         {"receipts", found.receipts},
                         {"refusals", found.refusals},
                         {"head_covers", nullptr}};
  if (found.head_covers) report["head_covers"] = *found.head_covers;
  TG_RETURN_IF_ERROR(Print(invocation, report, VerifyText));
  if (!found.head_covers) invocation.exit_code = kExitConsistentOnly;
  return OkStatus();
}

}  // namespace

void RegisterLedgerVerb(CLI::App& app, Invocation& invocation) {
  CLI::App* group = AddGroup(app, "ledger", "Look at a site's ledger, offline");
  auto options = std::make_shared<Options>();
  const char* const path_help = "ledger file, or a site's folder";
  CLI::App* show = AddVerb(*group, "show", "Every leaf, a line each", invocation,
                           [&invocation, options] { return Show(invocation, *options); });
  show->add_option("PATH", options->path, path_help)->required();
  CLI::App* verify =
      AddVerb(*group, "verify", "Proves that nothing in it was changed, cut or rewritten",
              invocation, [&invocation, options] { return Verify(invocation, *options); });
  verify->add_option("PATH", options->path, path_help)->required();
  verify->add_option("--key", options->key, "the coordinator's key, ed25519:…")->required();
  verify->add_option("--head", options->head, "a receipt that was kept elsewhere");
}

}  // namespace tidegate::cli
