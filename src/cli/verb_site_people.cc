// site adapters | held | release | refuse: what a running site has, and what a user of its machine
// says of an update that it holds, over its local API. docs/formats/local-api.md.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/json.h"
#include "cli/verb.h"
#include "onshore/api/client.h"

namespace tidegate::cli {
namespace {

namespace api = onshore::api;
using nlohmann::ordered_json;

constexpr uint64_t kMaxHeldBytes = 8u << 20;

struct Options {
  std::filesystem::path dir, socket;
  std::string name, reason;
};

Result<api::ApiClient> Connect(const Options& options) {
  return api::ApiClient::Connect(options.socket.empty() ? options.dir / "api.sock"
                                                        : options.socket);
}

Status ListAdapters(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(api::ApiClient client, Connect(options));
  TG_ASSIGN_OR_RETURN(const api::AdaptersReply reply, client.Adapters());
  ordered_json list = ordered_json::array();
  for (uint32_t i = 0; i < std::min(reply.count, api::kMostAdapters); ++i) {
    const api::AdapterEntry& entry = reply.adapters[i];
    const bool kept = entry.kind == static_cast<uint32_t>(api::AdapterKind::kKept);
    const std::string name = api::TextOf(entry.name);
    list.push_back({{"name", name},
                    {"kept", kept},
                    {"folder", kept ? std::string("trainer/adapter") : "local/" + name},
                    {"bytes", entry.bytes},
                    {"written", FormatUtc(entry.unix_millis)}});
  }
  return Print(invocation, list, [](const ordered_json& adapters) {
    std::string out;
    for (const auto& a : adapters) {
      out += fmt::format("{:<24} {:>12} bytes  {}  SITE/{}\n", a["name"].get<std::string>(),
                         a["bytes"].get<uint64_t>(), a["written"].get<std::string>(),
                         a["folder"].get<std::string>());
    }
    return out.empty() ? "the site has no adapter\n" : out;
  });
}

Status ListHeld(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(api::ApiClient client, Connect(options));
  TG_ASSIGN_OR_RETURN(const api::HeldReply reply, client.Held());
  ordered_json list = ordered_json::array();
  for (uint32_t i = 0; i < std::min(reply.count, api::kMostHeld); ++i) {
    list.push_back(api::TextOf(reply.names[i]));
  }
  return Print(invocation, list, [](const ordered_json& names) {
    std::string out;
    for (const auto& name : names) out += name.get<std::string>() + "\n";
    return out.empty() ? "nothing is held\n" : out;
  });
}

// What the gate shows of it.
Result<std::array<uint8_t, 32>> DigestOf(api::ApiClient& client, const std::string& name) {
  TG_ASSIGN_OR_RETURN(const Fd file,
                      client.OpenFile(api::SiteFile::kHeld, api::AdapterKind::kKept, name));
  std::string text(kMaxHeldBytes + 1, '\0');
  size_t size = 0;
  for (;;) {
    const ssize_t n =
        ::pread(file.get(), text.data() + size, text.size() - size, static_cast<off_t>(size));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unexpected(ErrnoStatus("read", "the held update", errno));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  text.resize(size);
  TG_ASSIGN_OR_RETURN(const auto held, ParseStrictJson(text, {kMaxHeldBytes, 16}, name));
  return DigestFromHex(held.value("plaintext_sha256", std::string()));
}

Status Decide(const Invocation& invocation, const Options& options, uint32_t decision) {
  TG_ASSIGN_OR_RETURN(api::ApiClient client, Connect(options));
  api::DecideRequest request;
  TG_ASSIGN_OR_RETURN(request.plaintext, DigestOf(client, options.name));
  request.decision = decision;
  if (!api::SetText(options.reason, &request.reason)) {
    return InvalidArgument("--reason has at most {} printable ASCII characters",
                           api::kMaxReasonText - 1);
  }
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const auto from, client.Watch({0, UINT64_MAX}));
  TG_RETURN_IF_ERROR(client.Decide(request));
  const uint32_t uid = client.server().uid;
  for (;;) {
    TG_ASSIGN_OR_RETURN(const auto told, client.Next(api::ApiClient::kAskMillis));
    const auto* event = std::get_if<api::EventMessage>(&told);
    if (event == nullptr || event->arguments[1] != uid || event->arguments[2] != decision ||
        event->code != static_cast<uint32_t>(onshore::EventCode::kDecisionHeard)) {
      continue;
    }
    if (event->arguments[3] == 0) {
      return PermissionDenied(
          "the gate does not count it: the update is no longer held, or approval.approvers of "
          "policy.toml has no \"uid:{}\"",
          uid);
    }
    break;
  }
  const ordered_json report = {
      {"name", options.name}, {"decision", decision == 1 ? "release" : "refuse"}, {"uid", uid}};
  return Print(invocation, report, [](const ordered_json& r) {
    return fmt::format("{}: {} by uid {}, in the ledger\n", r["name"].get<std::string>(),
                       r["decision"].get<std::string>(), r["uid"].get<uint32_t>());
  });
}

}  // namespace

void RegisterSitePeopleVerbs(CLI::App& app, Invocation& invocation) {
  CLI::App* site = AddGroup(app, "site", "");
  auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* help, auto run) {
    CLI::App* verb = AddVerb(*site, name, help, invocation,
                             [&invocation, options, run] { return run(invocation, *options); });
    CLI::App* where = verb->add_option_group("Site", "One of");
    where->add_option("--dir", options->dir, "The site's folder");
    where->add_option("--socket", options->socket, "Its socket, where that is not DIR/api.sock");
    where->require_option(1);
    return verb;
  };
  add("adapters", "Onshore: the adapters that a site has", ListAdapters);
  add("held", "Onshore: the updates that wait for people", ListHeld);
  CLI::App* release =
      add("release", "Onshore: let a held update leave, as the user that policy names",
          [](const Invocation& i, const Options& o) { return Decide(i, o, 1); });
  CLI::App* refuse = add("refuse", "Onshore: refuse a held update, as the user that policy names",
                         [](const Invocation& i, const Options& o) { return Decide(i, o, 2); });
  for (CLI::App* verb : {release, refuse}) {
    verb->add_option("NAME", options->name, "as `tidegate site held` lists it")->required();
    CLI::Option* reason = verb->add_option("--reason", options->reason, "goes into the ledger");
    if (verb == refuse) reason->required();
  }
}

}  // namespace tidegate::cli
