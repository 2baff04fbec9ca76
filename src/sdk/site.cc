#include "sdk/site.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <bit>
#include <cerrno>

#include "base/bytes.h"

namespace tidegate::sdk {
namespace {

namespace api = onshore::api;
namespace fs = std::filesystem;

static_assert(TG_INTERNAL == static_cast<int>(Code::kInternal));
static_assert(TG_HOLD_DATASET_REFUSED == 1 << static_cast<int>(onshore::Hold::kDatasetRefused));
static_assert(TG_SOURCE_GONE == static_cast<int>(onshore::DatasetSource::kGone));

int64_t NumberOrNone(uint32_t number) { return number == api::kNoNumber ? -1 : int64_t{number}; }
double LossOrNone(int64_t milli) { return milli < 0 ? -1 : static_cast<double>(milli) / 1000.0; }

tg_site_status StatusOf(const api::ServerInfo& server, const api::StatusReply& from) {
  tg_site_status out{};
  out.uid = server.uid;
  SetText(server.site, out.site);
  SetText(server.program, out.version);
  if (from.job != decltype(from.job){}) SetText(ToHex(from.job), out.job);
  SetText(api::TextOf(from.job_name), out.job_name);
  out.job_rounds = from.job_rounds;
  out.job_ended = from.job_ended;
  out.round = NumberOrNone(from.round);
  out.adapter_version = NumberOrNone(from.adapter_version);
  out.held_round = NumberOrNone(from.held_round);
  out.train_loss = LossOrNone(from.train_loss_milli);
  out.heldout_loss = LossOrNone(from.heldout_loss_milli);
  out.connected = from.connected;
  out.holds = from.holds;
  out.open_exports = from.open_exports;
  for (const api::LocalStatus& local : from.locals) out.local_jobs += local.job == 0 ? 0 : 1;
  out.spool_bytes = from.spool_bytes;
  out.epoch = from.epoch;
  out.last_event = from.last_event;
  out.started_unix_millis = from.started_unix_millis;
  return out;
}

Result<onshore::DatasetKind> KindOf(uint32_t dataset) {
  if (dataset < onshore::kDatasets) return static_cast<onshore::DatasetKind>(dataset);
  return InvalidArgument("there is no dataset {}; they are TG_DATASET_RECORDS and _HELDOUT",
                         dataset);
}

tg_dataset DatasetOf(uint32_t index, const api::DatasetStatus& from) {
  tg_dataset out{};
  out.struct_size = sizeof(out);
  out.dataset = index;
  out.source = from.source;
  out.bytes = from.bytes;
  const std::string path = api::TextOf(from.path);
  SetText(path, out.path);
  struct stat info {};
  if (out.bytes == 0 && !path.empty() && ::stat(path.c_str(), &info) == 0) {
    out.bytes = static_cast<uint64_t>(info.st_size);
  }
  return out;
}

int32_t Plain(tg_site* site, const tg_call* call, tg_error* error, Status (ApiClient::*ask)()) {
  return Ask(site, call, error, [ask](ApiClient& client, const Call&) { return (client.*ask)(); });
}

}  // namespace

Result<ApiClient> ConnectAgain(const tg_site& site, const Call& call) {
  return ApiClient::Connect(site.socket, call.left(), call.cancel());
}

}  // namespace tidegate::sdk

using namespace tidegate::sdk;  // NOLINT: what follows is C
using tidegate::OkStatus;
using tidegate::Status;

int32_t tg_site_connect(const char* path, const tg_call* given, tg_site** out, tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(out);
    TG_ASSIGN_OR_RETURN(const std::string text, Given(path, "the site's path"));
    std::filesystem::path socket = text;
    std::error_code ignored;
    if (std::filesystem::is_directory(socket, ignored)) socket /= "api.sock";
    const Call call(given);
    TG_ASSIGN_OR_RETURN(ApiClient client, ApiClient::Connect(socket, call.left(), call.cancel()));
    *out = new tg_site{{}, std::move(socket), std::move(client), {}};
    return OkStatus();
  });
}

void tg_site_close(tg_site* site) { delete site; }

int32_t tg_site_get_status(tg_site* site, const tg_call* call, tg_site_status* out,
                           tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call&) -> Status {
    TG_RETURN_IF_ERROR(CheckStruct(out, sizeof(*out), "tg_site_status"));
    TG_ASSIGN_OR_RETURN(const auto status, client.Status());
    return Fill(StatusOf(client.server(), status), out, "tg_site_status");
  });
}

int32_t tg_site_pause(tg_site* site, const tg_call* call, tg_error* error) {
  return Plain(site, call, error, &ApiClient::Pause);
}
int32_t tg_site_resume(tg_site* site, const tg_call* call, tg_error* error) {
  return Plain(site, call, error, &ApiClient::Resume);
}
int32_t tg_site_stop_job(tg_site* site, const tg_call* call, tg_error* error) {
  return Plain(site, call, error, &ApiClient::StopJob);
}
int32_t tg_site_shutdown(tg_site* site, const tg_call* call, tg_error* error) {
  return Plain(site, call, error, &ApiClient::Shutdown);
}

int32_t tg_site_list_datasets(tg_site* site, const tg_call* call, tg_dataset_fn each, void* user,
                              tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call&) -> Status {
    NotNull(each);
    TG_ASSIGN_OR_RETURN(const auto reply, client.Datasets());
    for (uint32_t i = 0; i < reply.datasets.size(); ++i) {
      const tg_dataset dataset = DatasetOf(i, reply.datasets[i]);
      if (each(&dataset, user) != 0) break;
    }
    return OkStatus();
  });
}

int32_t tg_site_set_dataset(tg_site* site, uint32_t dataset, const char* path, int32_t hand_over,
                            const tg_call* call, tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call&) -> Status {
    TG_ASSIGN_OR_RETURN(const auto kind, KindOf(dataset));
    TG_ASSIGN_OR_RETURN(const std::string text, Given(path, "the dataset's path"));
    if (hand_over != 0) {
      TG_ASSIGN_OR_RETURN(const tidegate::Fd fd, tidegate::OpenToRead(text));
      return client.SetDataset(kind, fd.get());
    }
    std::error_code bad;
    const auto whole = std::filesystem::canonical(text, bad);
    if (bad) return tidegate::ErrnoStatus("use", text, bad.value());
    return client.SetDataset(kind, whole);
  });
}

int32_t tg_site_reset_dataset(tg_site* site, uint32_t dataset, const tg_call* call,
                              tg_error* error) {
  return Ask(site, call, error, [&](ApiClient& client, const Call&) -> Status {
    TG_ASSIGN_OR_RETURN(const auto kind, KindOf(dataset));
    return client.ResetDataset(kind);
  });
}
