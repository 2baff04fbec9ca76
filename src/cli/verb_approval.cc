// approver init | hold | review | release | refuse: the site's own people decide what policy holds
// for them. Files of SITE/gate only: held/NAME.json is what the gate shows, approvals/ is what it
// reads, on its next tick.
#include <algorithm>
#include <filesystem>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/verb.h"
#include "crypto/armor.h"
#include "crypto/document.h"
#include "crypto/keyfile.h"
#include "gate/approval.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr uint64_t kMaxHeldBytes = 8u << 20;

struct Options {
  fs::path dir, key, out;
  std::string name, approver, reason;
};

Result<ordered_json> ReadHeld(const fs::path& file) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, kMaxHeldBytes));
  return ParseStrictOrderedJson(text, {kMaxHeldBytes, 16}, file.native());
}

// A held file is the gate's own; one that somebody has changed is no reason to end with an abort.
template <typename F>
Status Guarded(F&& verb) {
  try {
    return verb();
  } catch (const nlohmann::json::exception& e) {
    return DataLoss("the held file is not as a gate writes it: {}", e.what());
  }
}

Result<ordered_json> HeldNamed(const Options& options) {
  if (options.name.find('/') != std::string::npos) {
    return InvalidArgument("{} is no name of a held update; `tidegate hold` lists them",
                           options.name);
  }
  auto held = ReadHeld(options.dir / "gate" / "held" / (options.name + ".json"));
  if (!held && held.error().code() == Code::kNotFound) {
    return NotFound("no update {} is held at {}; `tidegate hold` lists them", options.name,
                    options.dir.native());
  }
  return held;
}

Status Init(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(const crypto::SigningKey key, crypto::SigningKey::Generate());
  TG_RETURN_IF_ERROR(crypto::WriteKeyFile(options.out, key));
  const ordered_json report = {{"file", options.out.native()},
                               {"key", key.verify_key().ToText()},
                               {"fingerprint", ToHex(key.verify_key().Fingerprint())}};
  return Print(invocation, report, [](const ordered_json& r) {
    return fmt::format(
        "file         {}\nfingerprint  {}\n\nIn the site's policy.toml:\n\n[approval]\nhold = "
        "\"first\"   # or \"always\"\nneeded = 1\napprovers = {{ NAME = \"{}\" }}\n",
        r["file"].get<std::string>(), r["fingerprint"].get<std::string>(),
        r["key"].get<std::string>());
  });
}

Status List(const Invocation& invocation, const Options& options) {
  ordered_json list = ordered_json::array();
  const fs::path folder = options.dir / "gate" / "held";
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() != ".json") continue;
    TG_ASSIGN_OR_RETURN(const ordered_json held, ReadHeld(it->path()));
    list.push_back({{"name", it->path().stem().native()},
                    {"job", held["job_name"]},
                    {"round", held["round"]},
                    {"held_since", held["held_since"]},
                    {"sealed_bytes", held["sealed_bytes"]},
                    {"approvals_needed", held["approvals_needed"]}});
  }
  if (error) {
    return NotFound("{} can't be listed: {}; is {} a site's folder?", folder.native(),
                    error.message(), options.dir.native());
  }
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) {
    return a["name"].template get<std::string>() < b["name"].template get<std::string>();
  });
  return Print(invocation, {{"held", std::move(list)}}, [](const ordered_json& r) {
    std::string text;
    for (const auto& one : r["held"]) {
      text += fmt::format("{}  {} round {}  {} bytes  since {}, needs {}\n",
                          one["name"].get<std::string>(), one["job"].get<std::string>(),
                          one["round"].get<uint64_t>(), one["sealed_bytes"].get<uint64_t>(),
                          one["held_since"].get<std::string>(),
                          one["approvals_needed"].get<uint64_t>());
    }
    return text.empty() ? "nothing is held\n" : text;
  });
}

std::string Bar(double share) {
  return std::string(static_cast<size_t>(std::clamp(share, 0.0, 1.0) * 40 + 0.5), '#');
}

std::string ReviewText(const ordered_json& held) {
  std::string text = fmt::format(
      "job        {} ({})\nround      {}, phase {}\nbytes      {} sealed, {} values\ncapacity   "
      "{:.0f} "
      "bits at most\nL2 norm    {:.6g} (policy allows {:.6g})\nlosses     training {}, held-out "
      "{}\nweight     {}\nplaintext  {}\nneeds      {} of: ",
      held["job_name"].get<std::string>(), held["job"].get<std::string>(),
      held["round"].get<uint64_t>(), held["phase"].get<uint64_t>(),
      held["sealed_bytes"].get<uint64_t>(), held["values"].get<uint64_t>(),
      held["capacity_bits"].get<double>(), held["l2_norm"].get<double>(),
      held["norm_clip"].get<double>(), held["train_loss"].get<double>(),
      held["heldout_loss"].get<double>(), held["weight"].get<uint64_t>(),
      held["plaintext_sha256"].get<std::string>(), held["approvals_needed"].get<uint64_t>());
  for (const auto& name : held["approvers"]) text += name.get<std::string>() + " ";
  text += "\n\nvalues by size\n";
  const auto values = static_cast<double>(std::max<uint64_t>(held["values"].get<uint64_t>(), 1));
  const auto line = [&](const std::string& label, uint64_t count) {
    text +=
        fmt::format("  {:>22} {:>10} {}\n", label, count, Bar(static_cast<double>(count) / values));
  };
  line("0", held["histogram"]["zero"].get<uint64_t>());
  for (const auto& size : held["histogram"]["sizes"]) {
    line(fmt::format("{:.3g} to {:.3g}", size["from"].get<double>(), size["below"].get<double>()),
         size["values"].get<uint64_t>());
  }
  text += "\ntensors\n";
  for (const auto& tensor : held["tensors"]) {
    text +=
        fmt::format("  {} x {}  L2 {:.4g}  largest {:.4g}  {}\n", tensor["rows"].get<uint64_t>(),
                    tensor["cols"].get<uint64_t>(), tensor["l2_norm"].get<double>(),
                    tensor["largest"].get<double>(), tensor["name"].get<std::string>());
  }
  return text;
}

Status Review(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(const ordered_json held, HeldNamed(options));
  return Print(invocation, held, ReviewText);
}

Result<gate::Approval> ApprovalOf(const ordered_json& held, const Options& options,
                                  gate::Decision decision) {
  gate::Approval approval;
  const auto federation = FromHex(held["federation"].get<std::string>());
  const auto job = FromHex(held["job"].get<std::string>());
  if (!federation || federation->size() != approval.federation.size() || !job ||
      job->size() != approval.key.job.size()) {
    return DataLoss("the held update {} has no federation or job", options.name);
  }
  std::copy(federation->begin(), federation->end(), approval.federation.begin());
  std::copy(job->begin(), job->end(), approval.key.job.begin());
  approval.key.round = held["round"].get<uint32_t>();
  approval.key.phase = held["phase"].get<uint8_t>();
  approval.key.site = held["site"].get<std::string>();
  TG_ASSIGN_OR_RETURN(approval.plaintext,
                      DigestFromHex(held["plaintext_sha256"].get<std::string>()));
  approval.decision = decision;
  approval.approver = options.approver;
  approval.reason = options.reason;
  approval.unix_millis = SystemClock().UnixMillis();
  return approval;
}

bool Printable(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7e; });
}

Status Decide(const Invocation& invocation, const Options& options, gate::Decision decision) {
  if (options.approver.empty() || options.approver.size() > protocols::kMaxName ||
      !Printable(options.approver) || options.reason.size() > 200 || !Printable(options.reason)) {
    return InvalidArgument(
        "--approver is the name of the key in policy.toml; --reason has at most 200 printable "
        "ASCII characters");
  }
  TG_ASSIGN_OR_RETURN(const ordered_json held, HeldNamed(options));
  const auto& approvers = held["approvers"];
  if (std::find(approvers.begin(), approvers.end(), options.approver) == approvers.end()) {
    return NotFound("policy names no approver {}; `tidegate review` lists them", options.approver);
  }
  TG_ASSIGN_OR_RETURN(const gate::Approval approval, ApprovalOf(held, options, decision));
  TG_ASSIGN_OR_RETURN(const crypto::SigningKey key, crypto::ReadSigningKey(options.key));
  TG_ASSIGN_OR_RETURN(const protocols::Signed document,
                      crypto::SignDocument(key, crypto::domains::kExportApproval, approval));
  TG_ASSIGN_OR_RETURN(const std::string text,
                      crypto::EncodeArmor("EXPORT APPROVAL", protocols::Encode(document)));
  const std::string file_name = fmt::format("{}-{}.approval", options.name, options.approver);
  const fs::path file = options.dir / "gate" / "approvals" / file_name;
  // Read by the gate, which may be of another uid; it is no secret.
  TG_RETURN_IF_ERROR(WriteFileDurably(file, AsBytes(text), 0644));
  const ordered_json report = {
      {"name", options.name},
      {"decision", decision == gate::Decision::kRelease ? "release" : "refuse"},
      {"approver", options.approver},
      {"file", file.native()},
      {"approvals_needed", held["approvals_needed"]}};
  return Print(invocation, report, [](const ordered_json& r) {
    return fmt::format("{}: {} by {}, {} needed; the gate looks within five seconds\n",
                       r["name"].get<std::string>(), r["decision"].get<std::string>(),
                       r["approver"].get<std::string>(), r["approvals_needed"].get<uint64_t>());
  });
}

}  // namespace

void RegisterApprovalVerbs(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* group = AddGroup(app, "approver", "Keys of those who release what policy holds");
  CLI::App* init = AddVerb(*group, "init", "Make an approver's key", invocation,
                           [&invocation, options] { return Init(invocation, *options); });
  init->add_option("--out", options->out, "the key file to write")->required();
  const auto dir = [options](CLI::App* verb) {
    verb->add_option("--dir", options->dir, "the site's folder")->required();
  };
  dir(AddVerb(
      app, "hold", "The updates that wait for the site's people", invocation,
      [&invocation, options] { return Guarded([&] { return List(invocation, *options); }); }));
  CLI::App* review = AddVerb(
      app, "review", "What a held update is: tensors, norms, sizes, bytes", invocation,
      [&invocation, options] { return Guarded([&] { return Review(invocation, *options); }); });
  CLI::App* release = AddVerb(
      app, "release", "Signs that a held update may leave", invocation, [&invocation, options] {
        return Guarded([&] { return Decide(invocation, *options, gate::Decision::kRelease); });
      });
  CLI::App* refuse = AddVerb(
      app, "refuse", "Signs that a held update may not leave", invocation, [&invocation, options] {
        return Guarded([&] { return Decide(invocation, *options, gate::Decision::kRefuse); });
      });
  for (CLI::App* verb : {review, release, refuse}) {
    dir(verb);
    verb->add_option("NAME", options->name, "as `tidegate hold` lists it")->required();
  }
  for (CLI::App* verb : {release, refuse}) {
    verb->add_option("--key", options->key, "the approver's key file")->required();
    verb->add_option("--approver", options->approver, "the key's name in policy.toml")->required();
    CLI::Option* reason = verb->add_option("--reason", options->reason, "goes into the ledger");
    if (verb == refuse) reason->required();
  }
}

}  // namespace tidegate::cli
