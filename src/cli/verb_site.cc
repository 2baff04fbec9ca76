// site request | accept (on the site's machine), approve | list | revoke (on the coordinator's).
// docs/formats/site-enrolment.md.
#include <filesystem>

#include "base/clock.h"
#include "base/file.h"
#include "base/site_name.h"
#include "cli/coordinator_client.h"
#include "cli/site_files.h"
#include "cli/verb.h"
#include "crypto/armor.h"
#include "crypto/document.h"
#include "crypto/keyfile.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct Options {
  fs::path dir, file, out;
  std::string name;
  SiteFileOptions site;
};

// The keys that are there, or new ones: a request can be made again.
template <typename Key>
Result<Key> KeyAt(const fs::path& path, Result<Key> (*read)(const fs::path&),
                  Result<Key> (*make)()) {
  std::error_code error;
  if (fs::exists(path, error)) return read(path);
  TG_ASSIGN_OR_RETURN(Key key, make());
  TG_RETURN_IF_ERROR(crypto::WriteKeyFile(path, key));
  return key;
}

Status Request(const Invocation& invocation, const Options& options) {
  if (!IsSiteName(options.name)) {
    return InvalidArgument("--name {} is not a site's name: it must be {}", options.name,
                           kSiteNameRule);
  }
  std::error_code error;
  const fs::path keys = options.dir / "keys";
  fs::create_directories(keys, error);
  if (!error) fs::permissions(keys, fs::perms::owner_all, error);
  if (error) return ErrnoStatus("make", keys.native(), error.value());
  TG_ASSIGN_OR_RETURN(const crypto::SigningKey gate,
                      KeyAt<crypto::SigningKey>(keys / "gate.key", crypto::ReadSigningKey,
                                                crypto::SigningKey::Generate));
  TG_ASSIGN_OR_RETURN(const crypto::CurveKeyPair link,
                      KeyAt<crypto::CurveKeyPair>(keys / "link.key", crypto::ReadCurveKey,
                                                  crypto::CurveKeyPair::Generate));
  protocols::SiteRequest request;
  request.site = options.name;
  const ByteSpan sign = gate.verify_key().bytes();
  std::copy(sign.begin(), sign.end(), request.sign_key.begin());
  const auto curve = link.public_key();
  std::copy(curve.begin(), curve.end(), request.curve_key.begin());
  request.created_unix_millis = SystemClock().UnixMillis();
  TG_ASSIGN_OR_RETURN(const protocols::Signed document,
                      crypto::SignDocument(gate, crypto::domains::kSiteRequest, request));
  TG_ASSIGN_OR_RETURN(const std::string text,
                      crypto::EncodeArmor("SITE REQUEST", protocols::Encode(document)));
  const fs::path file = options.dir / (options.name + ".request");
  TG_RETURN_IF_ERROR(WriteFileDurably(file, AsBytes(text)));
  ordered_json report;
  report["site"] = options.name;
  report["request"] = file.native();
  report["key"] = gate.verify_key().ToText();
  report["fingerprint"] = ToHex(gate.verify_key().Fingerprint());
  return Print(invocation, report, [](const ordered_json& r) {
    return fmt::format(
        "request      {}\nfingerprint  {}\n\nSend the file to the coordinator's operator, and the "
        "fingerprint by another way.\n",
        r["request"].get<std::string>(), r["fingerprint"].get<std::string>());
  });
}

Status Approve(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(options.file, protocols::kMaxArmored));
  TG_ASSIGN_OR_RETURN(ordered_json answer,
                      AskCoordinator(options.dir, {{"verb", "site_approve"}, {"request", text}}));
  fs::path out = options.out;
  if (out.empty()) {
    out = options.file.parent_path() / (answer["site"].get<std::string>() + ".approval");
  }
  TG_RETURN_IF_ERROR(WriteFileDurably(out, AsBytes(answer["approval"].get<std::string>())));
  answer["approval"] = out.native();
  return Print(invocation, answer, [](const ordered_json& r) {
    return fmt::format(
        "site         {}\nfingerprint  {}\napproval     {}\n\nCompare the fingerprint with the one "
        "that the site gave you by another way; if they\ndiffer, `tidegate site revoke`. Send the "
        "approval to the site.\n",
        r["site"].get<std::string>(), r["fingerprint"].get<std::string>(),
        r["approval"].get<std::string>());
  });
}

Result<protocols::SiteApproval> OpenApproval(const std::string& text) {
  TG_ASSIGN_OR_RETURN(const protocols::Signed document,
                      crypto::DecodeArmored("SITE APPROVAL", text, "a site approval"));
  return crypto::OpenSelfSigned(&protocols::SiteApproval::coordinator_sign_key,
                                crypto::domains::kSiteApproval, document, "a site approval");
}

Status CheckOwnKeys(const protocols::SiteApproval& approval, const fs::path& dir) {
  TG_ASSIGN_OR_RETURN(const auto gate, crypto::ReadSigningKey(dir / "keys" / "gate.key"));
  TG_ASSIGN_OR_RETURN(const auto link, crypto::ReadCurveKey(dir / "keys" / "link.key"));
  const ByteSpan sign = gate.verify_key().bytes();
  const auto curve = link.public_key();
  if (std::equal(sign.begin(), sign.end(), approval.site_sign_key.begin()) &&
      std::equal(curve.begin(), curve.end(), approval.site_curve_key.begin())) {
    return OkStatus();
  }
  return FailedPrecondition("the approval is for site {} with other keys than those in {}",
                            approval.site.text, (dir / "keys").native());
}

Status Accept(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(options.file, protocols::kMaxArmored));
  TG_ASSIGN_OR_RETURN(const protocols::SiteApproval approval, OpenApproval(text));
  TG_RETURN_IF_ERROR(CheckOwnKeys(approval, options.dir));
  const fs::path installed = options.dir / "approval";
  std::error_code error;
  if (fs::exists(installed, error)) {
    TG_ASSIGN_OR_RETURN(const std::string old_text,
                        ReadTextFile(installed, protocols::kMaxArmored));
    TG_ASSIGN_OR_RETURN(const protocols::SiteApproval old, OpenApproval(old_text));
    if (old.coordinator_sign_key != approval.coordinator_sign_key ||
        old.federation != approval.federation) {
      return AlreadyExists("{} is of another coordinator; remove it first if that is what you mean",
                           installed.native());
    }
  }
  TG_RETURN_IF_ERROR(WriteFileDurably(installed, AsBytes(text)));
  TG_ASSIGN_OR_RETURN(const std::vector<std::string> written,
                      WriteSiteFiles(options.dir, approval, options.site));
  TG_ASSIGN_OR_RETURN(const auto key, crypto::VerifyKey::FromBytes(approval.coordinator_sign_key));
  ordered_json report;
  report["site"] = approval.site.text;
  report["federation"] = approval.federation_name.text;
  report["federation_id"] = ToHex(approval.federation);
  report["address"] = approval.address.text;
  report["key"] = key.ToText();
  report["fingerprint"] = ToHex(key.Fingerprint());
  report["written"] = written;
  return Print(invocation, report, [](const ordered_json& r) {
    std::string out =
        fmt::format("federation   {} at {}\nfingerprint  {}\n", r["federation"].get<std::string>(),
                    r["address"].get<std::string>(), r["fingerprint"].get<std::string>());
    for (const auto& file : r["written"]) out += "written      " + file.get<std::string>() + "\n";
    return out +
           "\nCompare the fingerprint with the one that the coordinator's operator gave you by "
           "another\nway. Then look through policy.toml: nothing leaves that it does not name.\n";
  });
}

Status List(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(const ordered_json list,
                      AskCoordinator(options.dir, {{"verb", "site_list"}}));
  return Print(invocation, list, [](const ordered_json& sites) {
    std::string out = "SITE                 CONNECTED  APPROVED              FINGERPRINT\n";
    for (const auto& site : sites) {
      out +=
          fmt::format("{:<20} {:<10} {:<21} {}\n", site["name"].get<std::string>(),
                      site["connected"].get<bool>() ? "yes" : "no",
                      site["approved"].get<std::string>(), site["fingerprint"].get<std::string>());
    }
    return out;
  });
}

Status Revoke(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(
      const ordered_json answer,
      AskCoordinator(options.dir, {{"verb", "site_revoke"}, {"site", options.name}}));
  return Print(invocation, answer, [](const ordered_json& r) {
    return fmt::format("site {} is revoked and can not connect any more\n",
                       r["site"].get<std::string>());
  });
}

}  // namespace

void RegisterSiteVerb(CLI::App& app, Invocation& invocation) {
  CLI::App* group = AddGroup(app, "site", "Enrol sites in a federation; a running site");
  auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* help, const char* folder,
                       Status (*run)(const Invocation&, const Options&)) {
    CLI::App* verb = AddVerb(*group, name, help, invocation,
                             [&invocation, options, run] { return run(invocation, *options); });
    verb->add_option("--dir", options->dir, folder)->required();
    return verb;
  };
  const char* site = "The site's folder";
  const char* coordinator = "The coordinator's folder";
  add("request", "Onshore: make the site's keys and a request", site, Request)
      ->add_option("--name", options->name, "The site's name")
      ->required();
  CLI::App* approve =
      add("approve", "Offshore: enrol a site and sign its approval", coordinator, Approve);
  approve->add_option("FILE", options->file, "NAME.request")->required();
  approve->add_option("--out", options->out, "Where to write NAME.approval (default: beside FILE)");
  CLI::App* accept = add("accept", "Onshore: install an approval", site, Accept);
  accept->add_option("FILE", options->file, "NAME.approval")->required();
  accept->add_option("--base", options->site.base, "HF folder, for new site.toml and policy.toml");
  accept->add_option("--records", options->site.records, "JSONL, for a new site.toml");
  accept->add_option("--heldout", options->site.heldout, "JSONL, for a new site.toml");
  accept->add_option("--allow_job", options->site.jobs, "Job name or id, for a new policy.toml");
  accept->add_option("--waiver", options->site.waiver,
                     "Why updates may leave without differential privacy, for a new policy.toml");
  add("list", "Offshore: the enrolled sites", coordinator, List);
  add("revoke", "Offshore: cut a site off", coordinator, Revoke)
      ->add_option("NAME", options->name, "The site's name")
      ->required();
}

}  // namespace tidegate::cli
