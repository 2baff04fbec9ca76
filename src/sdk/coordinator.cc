// A coordinator on this machine, over its admin socket.
#include "admin/coordinator_client.h"
#include "sdk/abi.h"

struct tg_coordinator {
  std::timed_mutex mutex;
  std::filesystem::path dir;
};

namespace tidegate::sdk {
namespace {

using nlohmann::ordered_json;

// A malformed answer is an exception of the JSON library: Guarded makes an error of it.
tg_coordinator_job JobOf(const ordered_json& from) {
  tg_coordinator_job out{};
  out.struct_size = sizeof(out);
  out.version = from.at("version").get<uint32_t>();
  SetText(from.at("id").get<std::string>(), out.id);
  SetText(from.at("name").get<std::string>(), out.name);
  SetText(from.at("state").get<std::string>(), out.state);
  out.rounds = from.at("rounds").get<uint32_t>();
  out.ended = from.at("ended").get<bool>() ? 1 : 0;
  const auto& open = from.at("open_round");
  out.open_round = open.is_object() ? open.at("round").get<int64_t>() : -1;
  out.accepted = open.is_object() ? static_cast<uint32_t>(open.at("accepted").size()) : 0;
  out.sites = static_cast<uint32_t>(from.at("sites").size());
  out.parameters = from.at("parameters").get<uint64_t>();
  return out;
}

tg_coordinator_site SiteOf(const ordered_json& from) {
  tg_coordinator_site out{};
  out.struct_size = sizeof(out);
  out.connected = from.at("connected").get<bool>() ? 1 : 0;
  SetText(from.at("name").get<std::string>(), out.name);
  SetText(from.at("key").get<std::string>(), out.key);
  out.bytes_in = from.at("bytes_in").get<uint64_t>();
  out.refused = from.at("refused").get<uint64_t>();
  return out;
}

tg_round_event RoundEventOf(const ordered_json& from) {
  tg_round_event out{};
  out.struct_size = sizeof(out);
  out.number = from.at("number").get<int64_t>();
  SetText(from.at("event").get<std::string>(), out.event);
  SetText(from.value("site", std::string()), out.site);
  SetText(from.value("time", std::string()), out.time);
  out.round = from.value("round", from.value("version", 0u));
  out.weight = from.value("weight", 0u);
  return out;
}

tg_coordinator_base BaseOf(const ordered_json& from) {
  tg_coordinator_base out{};
  out.struct_size = sizeof(out);
  out.version = from.at("version").get<uint32_t>();
  SetText(from.at("name").get<std::string>(), out.name);
  SetText(from.at("base_hash").get<std::string>(), out.hash);
  SetText(from.at("manifest").get<std::string>(), out.manifest);
  out.bytes = from.at("bytes").get<uint64_t>();
  out.patch_bytes = from.at("patch_bytes").get<uint64_t>();
  SetText(from.at("licence").get<std::string>(), out.licence);
  SetText(from.at("created").get<std::string>(), out.created);
  SetText(from.at("expires").get<std::string>(), out.expires);
  out.revoked = from.at("revoked").get<bool>() ? 1 : 0;
  return out;
}

Result<ordered_json> Answer(const tg_coordinator& coordinator, const ordered_json& request,
                            const Call& call) {
  return admin::AskCoordinator(coordinator.dir, request,
                               {.millis = call.left(), .cancel = call.cancel()});
}

template <typename F>
int32_t Ask(tg_coordinator* coordinator, const tg_call* given, tg_error* error, F&& body) {
  return Guarded(error, [&]() -> Status {
    NotNull(coordinator);
    const Call call(given);
    const Locked lock(coordinator->mutex, call);
    TG_RETURN_IF_ERROR(lock.status());
    return body(call);
  });
}

}  // namespace
}  // namespace tidegate::sdk

using namespace tidegate::sdk;  // NOLINT: what follows is C
using tidegate::OkStatus;
using tidegate::Status;

int32_t tg_coordinator_open(const char* dir, tg_coordinator** out, tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(out);
    TG_ASSIGN_OR_RETURN(const std::string folder, Given(dir, "the coordinator's folder"));
    std::error_code bad;
    if (!std::filesystem::exists(std::filesystem::path(folder) / "coordinator.toml", bad)) {
      return tidegate::NotFound("{} is no coordinator's folder", folder);
    }
    *out = new tg_coordinator{{}, folder};
    return OkStatus();
  });
}

void tg_coordinator_close(tg_coordinator* coordinator) { delete coordinator; }

int32_t tg_coordinator_list_jobs(tg_coordinator* coordinator, const tg_call* given,
                                 tg_coordinator_job_fn each, void* user, tg_error* error) {
  return Ask(coordinator, given, error, [&](const Call& call) -> Status {
    NotNull(each);
    TG_ASSIGN_OR_RETURN(const ordered_json list,
                        Answer(*coordinator, {{"verb", "job_list"}}, call));
    for (const auto& one : list) {
      const tg_coordinator_job job = JobOf(one);
      if (each(&job, user) != 0) break;
    }
    return OkStatus();
  });
}

int32_t tg_coordinator_get_job(tg_coordinator* coordinator, const char* job, const tg_call* given,
                               tg_coordinator_job* out, tg_error* error) {
  return Ask(coordinator, given, error, [&](const Call& call) -> Status {
    TG_ASSIGN_OR_RETURN(const std::string id, Given(job, "the job"));
    TG_ASSIGN_OR_RETURN(const ordered_json answer,
                        Answer(*coordinator, {{"verb", "job_show"}, {"job", id}}, call));
    return Fill(JobOf(answer), out, "tg_coordinator_job");
  });
}

// By the command line, which hashes the base.
int32_t tg_coordinator_submit(tg_coordinator* coordinator, const char* job_file,
                              const tg_call* given, tg_coordinator_job* out, tg_error* error) {
  return Ask(coordinator, given, error, [&](const Call& call) -> Status {
    TG_ASSIGN_OR_RETURN(const std::string file, Given(job_file, "the job file"));
    TG_ASSIGN_OR_RETURN(
        const std::string answer,
        RunTidegate({"job", "submit", file, "--dir", coordinator->dir.native()}, call));
    return Fill(JobOf(ordered_json::parse(answer)), out, "tg_coordinator_job");
  });
}

int32_t tg_coordinator_stop_job(tg_coordinator* coordinator, const char* job, const tg_call* given,
                                tg_error* error) {
  return Ask(coordinator, given, error, [&](const Call& call) -> Status {
    TG_ASSIGN_OR_RETURN(const std::string id, Given(job, "the job"));
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const ordered_json answer,
                        Answer(*coordinator, {{"verb", "job_stop"}, {"job", id}}, call));
    return OkStatus();
  });
}

int32_t tg_coordinator_export(tg_coordinator* coordinator, const char* job, int64_t version,
                              const char* dir, const tg_call* given, tg_error* error) {
  return Ask(coordinator, given, error, [&](const Call& call) -> Status {
    TG_ASSIGN_OR_RETURN(const std::string id, Given(job, "the job"));
    TG_ASSIGN_OR_RETURN(const std::string folder, Given(dir, "the folder"));
    std::error_code bad;
    const auto whole = std::filesystem::absolute(folder, bad);
    if (bad) return tidegate::ErrnoStatus("name", folder, bad.value());
    ordered_json request = {{"verb", "job_export"}, {"job", id}, {"out", whole.native()}};
    if (version >= 0) request["version"] = version;
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const ordered_json answer,
                        Answer(*coordinator, request, call));
    return OkStatus();
  });
}

int32_t tg_coordinator_list_sites(tg_coordinator* coordinator, const tg_call* given,
                                  tg_coordinator_site_fn each, void* user, tg_error* error) {
  return Ask(coordinator, given, error, [&](const Call& call) -> Status {
    NotNull(each);
    TG_ASSIGN_OR_RETURN(const ordered_json list,
                        Answer(*coordinator, {{"verb", "site_list"}}, call));
    for (const auto& one : list) {
      const tg_coordinator_site site = SiteOf(one);
      if (each(&site, user) != 0) break;
    }
    return OkStatus();
  });
}

int32_t tg_coordinator_list_rounds(tg_coordinator* coordinator, const char* job, int64_t after,
                                   const tg_call* given, tg_round_event_fn each, void* user,
                                   tg_error* error) {
  return Ask(coordinator, given, error, [&](const Call& call) -> Status {
    NotNull(each);
    TG_ASSIGN_OR_RETURN(const std::string id, Given(job, "the job"));
    for (bool more = true; more;) {
      TG_ASSIGN_OR_RETURN(
          const ordered_json answer,
          Answer(*coordinator, {{"verb", "job_log"}, {"job", id}, {"after", after}}, call));
      for (const auto& one : answer.at("events")) {
        const tg_round_event event = RoundEventOf(one);
        after = std::max(after, event.number);
        if (each(&event, user) != 0) return OkStatus();
      }
      more = answer.at("more").get<bool>();
    }
    return OkStatus();
  });
}

int32_t tg_coordinator_list_bases(tg_coordinator* coordinator, const tg_call* given,
                                  tg_coordinator_base_fn each, void* user, tg_error* error) {
  return Ask(coordinator, given, error, [&](const Call& call) -> Status {
    NotNull(each);
    TG_ASSIGN_OR_RETURN(const ordered_json list,
                        Answer(*coordinator, {{"verb", "base_list"}}, call));
    for (const auto& one : list) {
      const tg_coordinator_base base = BaseOf(one);
      if (each(&base, user) != 0) break;
    }
    return OkStatus();
  });
}
