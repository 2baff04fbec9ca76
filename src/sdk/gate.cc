// What leaves a site: updates that wait for people, the ledger; and the adapters that are there.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/bytes.h"
#include "base/json.h"
#include "sdk/process.h"
#include "sdk/site.h"

namespace tidegate::sdk {
namespace {

namespace api = onshore::api;
namespace fs = std::filesystem;
using api::AdapterKind;
using api::SiteFile;

constexpr uint64_t kMaxHeldBytes = 8u << 20, kMaxConfigBytes = 1u << 20;
constexpr uint64_t kMaxAdapterBytes = 16ull << 30, kMaxLedgerBytes = 4ull << 30;

// All of a file that the site opened for us.
Result<Bytes> ReadAll(const Fd& fd, uint64_t most, const char* what) {
  Bytes bytes;
  for (;;) {
    const size_t before = bytes.size();
    bytes.resize(before + (1 << 20));
    const ssize_t n =
        ::pread(fd.get(), bytes.data() + before, bytes.size() - before, static_cast<off_t>(before));
    bytes.resize(before + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unexpected(ErrnoStatus("read", what, errno));
    if (n == 0) return bytes;
    if (bytes.size() > most) return ResourceExhausted("{} has more than {} bytes", what, most);
  }
}

Result<Bytes> Fetch(ApiClient& client, SiteFile file, AdapterKind kind, const std::string& name,
                    uint64_t most, const char* what) {
  TG_ASSIGN_OR_RETURN(const Fd fd, client.OpenFile(file, kind, name));
  return ReadAll(fd, most, what);
}

Result<std::string> Review(tg_site& site, ApiClient& client, const std::string& name) {
  TG_ASSIGN_OR_RETURN(const Bytes bytes, Fetch(client, SiteFile::kHeld, AdapterKind::kKept, name,
                                               kMaxHeldBytes, "the held update"));
  std::string text(AsText(bytes));
  TG_ASSIGN_OR_RETURN(const auto json, ParseStrictJson(text, {kMaxHeldBytes, 16}, "held update"));
  TG_ASSIGN_OR_RETURN(const Digest plaintext,
                      DigestFromHex(json.value("plaintext_sha256", std::string())));
  site.reviewed[name] = plaintext;
  return text;
}

// Until the gate has said whether it counts.
Status AwaitWord(ApiClient& watch, uint32_t uid, int32_t decision, const Call& call) {
  for (;;) {
    TG_ASSIGN_OR_RETURN(const auto told, watch.Next(call.left()));
    const auto* event = std::get_if<api::EventMessage>(&told);
    if (event == nullptr ||
        event->code != static_cast<uint32_t>(onshore::EventCode::kDecisionHeard) ||
        event->arguments[1] != uid || event->arguments[2] != decision) {
      continue;
    }
    if (event->arguments[3] != 0) return OkStatus();
    return PermissionDenied(
        "the gate does not count it: the update is no longer held as it was shown, or "
        "approval.approvers of policy.toml has no \"uid:{}\"",
        uid);
  }
}

Status Decide(tg_site& site, ApiClient& client, const std::string& name, int32_t decision,
              const std::string& reason, const Call& call) {
  if (decision != TG_RELEASE && decision != TG_REFUSE) {
    return InvalidArgument("{} is no decision; they are TG_RELEASE and TG_REFUSE", decision);
  }
  const bool printable =
      std::all_of(reason.begin(), reason.end(), [](char c) { return c >= 0x20 && c <= 0x7e; });
  if (!printable || reason.size() >= api::kMaxReasonText) {
    return InvalidArgument("the reason must have at most {} printable ASCII characters",
                           api::kMaxReasonText - 1);
  }
  if (!site.reviewed.contains(name)) {
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const std::string shown, Review(site, client, name));
  }
  api::DecideRequest request;
  request.plaintext = site.reviewed[name];
  request.decision = static_cast<uint32_t>(decision);
  reason.copy(request.reason.data(), reason.size());
  TG_ASSIGN_OR_RETURN(ApiClient watch, ConnectAgain(site, call));
  watch.Limit(call.left(), call.cancel());
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const auto from, watch.Watch({0, UINT64_MAX}));
  TG_RETURN_IF_ERROR(client.Decide(request));
  return AwaitWord(watch, client.server().uid, decision, call);
}

Result<Bytes> Ledger(ApiClient& client) {
  return Fetch(client, SiteFile::kLedger, AdapterKind::kKept, "", kMaxLedgerBytes, "the ledger");
}

// `tidegate ledger VERB` on a copy of the ledger as it is now, and of the newest receipt.
Result<std::string> LedgerVerb(ApiClient& client, const char* verb, const std::string& key,
                               std::vector<std::string> more, const Call& call) {
  TG_ASSIGN_OR_RETURN(const Bytes ledger, Ledger(client));
  TG_ASSIGN_OR_RETURN(const Fd copy, MemoryFile(AsText(ledger)));
  std::vector<std::string> words = {"ledger", verb, PathOf(copy)};
  Fd receipt;
  if (!key.empty()) {
    words.insert(words.end(), {"--key", key});
    const auto newest =
        Fetch(client, SiteFile::kReceipt, AdapterKind::kKept, "", kMaxConfigBytes, "the receipt");
    if (!newest && newest.error().code() != Code::kNotFound) return Unexpected(newest.error());
    if (newest) {
      TG_ASSIGN_OR_RETURN(receipt, MemoryFile(AsText(*newest)));
      words.insert(words.end(), {"--head", PathOf(receipt)});
    }
  }
  words.insert(words.end(), more.begin(), more.end());
  return RunTidegate(std::move(words), call);
}

Status SaveAdapter(ApiClient& client, AdapterKind kind, const std::string& name,
                   const fs::path& dir) {
  TG_ASSIGN_OR_RETURN(const Bytes config, Fetch(client, SiteFile::kAdapterConfig, kind, name,
                                                kMaxConfigBytes, "adapter_config.json"));
  TG_ASSIGN_OR_RETURN(const Bytes weights, Fetch(client, SiteFile::kAdapterWeights, kind, name,
                                                 kMaxAdapterBytes, "the adapter's weights"));
  std::error_code error;
  if (fs::exists(dir / "adapter_model.safetensors", error)) {
    return AlreadyExists("{} holds an adapter already; give another folder", dir.native());
  }
  fs::create_directories(dir, error);
  if (error) return ErrnoStatus("make", dir.native(), error.value());
  TG_RETURN_IF_ERROR(WriteFileDurably(dir / "adapter_config.json", config));
  return WriteFileDurably(dir / "adapter_model.safetensors", weights);
}

}  // namespace
}  // namespace tidegate::sdk

using namespace tidegate::sdk;  // NOLINT: what follows is C
using tidegate::OkStatus;
using tidegate::Status;

int32_t tg_site_list_adapters(tg_site* site, const tg_call* call, tg_adapter_fn each, void* user,
                              tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call&) -> Status {
    NotNull(each);
    TG_ASSIGN_OR_RETURN(const auto reply, client.Adapters());
    for (uint32_t i = 0; i < std::min(reply.count, api::kMostAdapters); ++i) {
      tg_adapter adapter{};
      adapter.struct_size = sizeof(adapter);
      adapter.kind = reply.adapters[i].kind;
      SetText(api::TextOf(reply.adapters[i].name), adapter.name);
      adapter.bytes = reply.adapters[i].bytes;
      adapter.unix_millis = reply.adapters[i].unix_millis;
      if (each(&adapter, user) != 0) break;
    }
    return OkStatus();
  });
}

int32_t tg_site_save_adapter(tg_site* site, const char* name, const char* dir, const tg_call* call,
                             tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call&) -> Status {
    TG_ASSIGN_OR_RETURN(const std::string out, Given(dir, "the folder"));
    const bool kept = name == nullptr || *name == '\0';
    return SaveAdapter(client, kept ? AdapterKind::kKept : AdapterKind::kLocal, kept ? "" : name,
                       out);
  });
}

int32_t tg_site_list_held(tg_site* site, const tg_call* call, tg_name_fn each, void* user,
                          tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call&) -> Status {
    NotNull(each);
    TG_ASSIGN_OR_RETURN(const auto reply, client.Held());
    for (uint32_t i = 0; i < std::min(reply.count, api::kMostHeld); ++i) {
      if (each(api::TextOf(reply.names[i]).c_str(), user) != 0) break;
    }
    return OkStatus();
  });
}

int32_t tg_site_review(tg_site* site, const char* name, const tg_call* call, tg_text** out,
                       tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call&) -> Status {
    NotNull(out);
    TG_ASSIGN_OR_RETURN(const std::string held, Given(name, "the update's name"));
    TG_ASSIGN_OR_RETURN(std::string text, Review(*site, client, held));
    *out = new tg_text{std::move(text)};
    return OkStatus();
  });
}

int32_t tg_site_decide(tg_site* site, const char* name, int32_t decision, const char* reason,
                       const tg_call* call, tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call& limits) -> Status {
    TG_ASSIGN_OR_RETURN(const std::string held, Given(name, "the update's name"));
    return Decide(*site, client, held, decision, reason == nullptr ? "" : reason, limits);
  });
}

int32_t tg_site_ledger(tg_site* site, const tg_call* call, tg_text** out, tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call& limits) -> Status {
    NotNull(out);
    TG_ASSIGN_OR_RETURN(std::string text, LedgerVerb(client, "show", "", {}, limits));
    *out = new tg_text{std::move(text)};
    return OkStatus();
  });
}

int32_t tg_site_save_ledger(tg_site* site, const char* file, const tg_call* call, tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call&) -> Status {
    TG_ASSIGN_OR_RETURN(const std::string path, Given(file, "the file"));
    TG_ASSIGN_OR_RETURN(const tidegate::Bytes bytes, Ledger(client));
    return tidegate::WriteFileDurably(path, bytes);
  });
}

int32_t tg_site_verify_ledger(tg_site* site, const char* key, const tg_call* call, tg_text** out,
                              tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call& limits) -> Status {
    NotNull(out);
    TG_ASSIGN_OR_RETURN(const std::string text, Given(key, "the coordinator's key"));
    TG_ASSIGN_OR_RETURN(std::string answer, LedgerVerb(client, "verify", text, {}, limits));
    *out = new tg_text{std::move(answer)};
    return OkStatus();
  });
}

int32_t tg_site_export_ledger(tg_site* site, const char* key, const char* dir, const tg_call* call,
                              tg_text** out, tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call& limits) -> Status {
    TG_ASSIGN_OR_RETURN(const std::string text, Given(key, "the coordinator's key"));
    TG_ASSIGN_OR_RETURN(const std::string folder, Given(dir, "the folder"));
    TG_ASSIGN_OR_RETURN(std::string answer,
                        LedgerVerb(client, "export", text, {"--out", folder}, limits));
    if (out != nullptr) *out = new tg_text{std::move(answer)};
    return OkStatus();
  });
}
