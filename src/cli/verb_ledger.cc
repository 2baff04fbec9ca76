// ledger show, ledger verify: for the auditor. Offline, on the file alone or on a copy of it.
#include <filesystem>
#include <optional>

#include "audit/ledger_verify.h"
#include "base/file.h"
#include "cli/ledger_leaf.h"
#include "cli/ledger_report.h"
#include "cli/verb.h"
#include "crypto/armor.h"
#include "gate/ledger_file.h"
#include "protocols/limits.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::filesystem::path path, head, out;
  std::string key;
  std::optional<uint64_t> leaf;
};

// The ledger itself, or that of a site's folder.
std::filesystem::path LedgerPath(const std::filesystem::path& path) {
  // What can't be looked at is no folder here; reading it says why.
  std::error_code error;
  return std::filesystem::is_directory(path, error) ? path / "gate" / "ledger" : path;
}

// A signed receipt, armoured as the gate keeps it or as its bare bytes.
Result<Bytes> ReadReceipt(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(Bytes bytes, ReadFile(path, 2 * protocols::kMaxControlBody));
  if (AsText(bytes).starts_with("-----BEGIN ")) {
    return crypto::DecodeArmor("RECEIPT", AsText(bytes));
  }
  return bytes;
}

// Every leaf, or the one that was asked for.
Result<ordered_json> LeavesJson(const std::vector<gate::LedgerEntry>& entries,
                                const Options& options) {
  ordered_json leaves = ordered_json::array();
  if (!options.leaf) {
    for (const gate::LedgerEntry& entry : entries) leaves.push_back(LeafJson(entry));
    return leaves;
  }
  if (*options.leaf >= entries.size()) {
    return NotFound("there is no leaf {}: the ledger has leaves 0 to {}", *options.leaf,
                    entries.size() - 1);
  }
  leaves.push_back(LeafJson(entries[*options.leaf]));
  return leaves;
}

Status Show(const Invocation& invocation, const Options& options) {
  const std::filesystem::path path = LedgerPath(options.path);
  TG_ASSIGN_OR_RETURN(const Bytes file, ReadFile(path, gate::kMaxLedgerBytes));
  TG_ASSIGN_OR_RETURN(const auto entries, audit::ReadLedger(file, path.native()));
  if (entries.empty()) return DataLoss("{} has no leaf; is it a ledger?", path.native());
  TG_ASSIGN_OR_RETURN(ordered_json leaves, LeavesJson(entries, options));
  const ordered_json report = {{"verified", false}, {"leaves", std::move(leaves)}};
  return Print(invocation, report, [&options](const ordered_json& json) {
    std::string text;
    for (const auto& leaf : json["leaves"]) {
      text += options.leaf ? LeafInFull(leaf) : leaf["line"].get<std::string>() + "\n";
    }
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

// What `verify` prints.
Result<ordered_json> VerificationOf(const Options& options, ByteSpan file) {
  const std::filesystem::path path = LedgerPath(options.path);
  TG_ASSIGN_OR_RETURN(const crypto::VerifyKey key, crypto::VerifyKey::FromText(options.key));
  std::optional<Bytes> receipt;
  if (!options.head.empty()) {
    TG_ASSIGN_OR_RETURN(receipt, ReadReceipt(options.head));
  }
  TG_ASSIGN_OR_RETURN(const audit::Verification found,
                      audit::VerifyLedger(file, path.native(), key, receipt));
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
  return report;
}

Status Verify(Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(const Bytes file, ReadFile(LedgerPath(options.path), gate::kMaxLedgerBytes));
  TG_ASSIGN_OR_RETURN(const ordered_json report, VerificationOf(options, file));
  TG_RETURN_IF_ERROR(Print(invocation, report, VerifyText));
  if (report["head_covers"].is_null()) invocation.exit_code = kExitConsistentOnly;
  return OkStatus();
}

// A folder to hand over: the ledger as it is, the receipt, the page. Nothing of a ledger that does
// not verify.
Status Export(Invocation& invocation, const Options& options) {
  const std::filesystem::path path = LedgerPath(options.path);
  TG_ASSIGN_OR_RETURN(const Bytes file, ReadFile(path, gate::kMaxLedgerBytes));
  TG_ASSIGN_OR_RETURN(const ordered_json verification, VerificationOf(options, file));
  TG_ASSIGN_OR_RETURN(const auto entries, audit::ReadLedger(file, path.native()));
  ordered_json leaves = ordered_json::array();
  for (const gate::LedgerEntry& entry : entries) leaves.push_back(LeafJson(entry));
  std::error_code error;
  if (std::filesystem::exists(options.out, error)) {
    return AlreadyExists("{} is there already; give a folder that is not", options.out.native());
  }
  std::filesystem::create_directories(options.out, error);
  if (error) return ErrnoStatus("make", options.out.native(), error.value());
  TG_RETURN_IF_ERROR(WriteFileDurably(options.out / "ledger", file));
  if (!options.head.empty()) {
    TG_ASSIGN_OR_RETURN(const Bytes receipt,
                        ReadFile(options.head, 2 * protocols::kMaxControlBody));
    TG_RETURN_IF_ERROR(WriteFileDurably(options.out / "receipt", receipt));
  }
  TG_RETURN_IF_ERROR(
      WriteFileDurably(options.out / "report.html", AsBytes(LedgerReport(leaves, verification))));
  ordered_json report = verification;
  report["out"] = options.out.native();
  TG_RETURN_IF_ERROR(Print(invocation, report, [](const ordered_json& r) {
    return VerifyText(r) + "folder     " + r["out"].get<std::string>() + "\n";
  }));
  if (verification["head_covers"].is_null()) invocation.exit_code = kExitConsistentOnly;
  return OkStatus();
}

}  // namespace

void RegisterLedgerVerb(CLI::App& app, Invocation& invocation) {
  CLI::App* group = AddGroup(app, "ledger", "Look at a site's ledger, offline");
  auto options = std::make_shared<Options>();
  const char* const path_help = "ledger file, or a site's folder";
  CLI::App* show = AddVerb(*group, "show", "Every leaf, a line each, or one in full", invocation,
                           [&invocation, options] { return Show(invocation, *options); });
  show->add_option("PATH", options->path, path_help)->required();
  show->add_option("--leaf", options->leaf, "this leaf alone, in full");
  CLI::App* verify =
      AddVerb(*group, "verify", "Proves that nothing in it was changed, cut or rewritten",
              invocation, [&invocation, options] { return Verify(invocation, *options); });
  CLI::App* bundle = AddVerb(
      *group, "export", "Verifies, then writes a folder to hand over: ledger and report.html",
      invocation, [&invocation, options] { return Export(invocation, *options); });
  for (CLI::App* verb : {verify, bundle}) {
    verb->add_option("PATH", options->path, path_help)->required();
    verb->add_option("--key", options->key, "the coordinator's key, ed25519:…")->required();
    verb->add_option("--head", options->head, "a receipt that was kept elsewhere");
  }
  bundle->add_option("--out", options->out, "the folder to make")->required();
}

}  // namespace tidegate::cli
