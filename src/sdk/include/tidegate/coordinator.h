// A coordinator on this machine: jobs, sites, rounds, bases. A Coordinator may be used by any
// thread; calls wait for each other.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tidegate/status.h"

namespace tg {

struct FederatedJob : tg_coordinator_job {
  explicit FederatedJob(const tg_coordinator_job& from) : tg_coordinator_job(from) {}
};
struct EnrolledSite : tg_coordinator_site {
  explicit EnrolledSite(const tg_coordinator_site& from) : tg_coordinator_site(from) {}
};
struct PublishedBase : tg_coordinator_base {
  explicit PublishedBase(const tg_coordinator_base& from) : tg_coordinator_base(from) {}
};
struct RoundEvent : tg_round_event {
  explicit RoundEvent(const tg_round_event& from) : tg_round_event(from) {}
};

class Coordinator {
 public:
  // Its folder.
  static Result<Coordinator> Open(const std::string& dir) {
    tg_coordinator* coordinator = nullptr;
    internal::Failure failure;
    const Status status = failure.Of(tg_coordinator_open(dir.c_str(), &coordinator, failure.c()));
    if (!status.ok()) return status;
    return Coordinator(coordinator);
  }

  Result<std::vector<FederatedJob>> Jobs(const Call& call = Call()) const {
    return List<FederatedJob>(call, [&](const tg_call* c, void* to, tg_error* e) {
      return tg_coordinator_list_jobs(handle_.get(), c,
                                      &internal::Append<FederatedJob, tg_coordinator_job>, to, e);
    });
  }
  // An id, the beginning of one, or a name.
  Result<FederatedJob> Job(const std::string& job, const Call& call = Call()) const {
    return One(call, [&](const tg_call* c, tg_coordinator_job* out, tg_error* e) {
      return tg_coordinator_get_job(handle_.get(), job.c_str(), c, out, e);
    });
  }
  // A job file; hashes the base.
  Result<FederatedJob> Submit(const std::string& job_file, const Call& call) const {
    return One(call, [&](const tg_call* c, tg_coordinator_job* out, tg_error* e) {
      return tg_coordinator_submit(handle_.get(), job_file.c_str(), c, out, e);
    });
  }
  Status Stop(const std::string& job, const Call& call = Call()) const {
    return internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_coordinator_stop_job(handle_.get(), job.c_str(), c, e);
    });
  }
  // A version of the shared adapter as a PEFT folder; below 0: the newest.
  Status Export(const std::string& job, int64_t version, const std::string& dir,
                const Call& call = Call()) const {
    return internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_coordinator_export(handle_.get(), job.c_str(), version, dir.c_str(), c, e);
    });
  }
  Result<std::vector<EnrolledSite>> Sites(const Call& call = Call()) const {
    return List<EnrolledSite>(call, [&](const tg_call* c, void* to, tg_error* e) {
      return tg_coordinator_list_sites(handle_.get(), c,
                                       &internal::Append<EnrolledSite, tg_coordinator_site>, to, e);
    });
  }
  // Every version of every base that it publishes, revoked ones too.
  Result<std::vector<PublishedBase>> Bases(const Call& call = Call()) const {
    return List<PublishedBase>(call, [&](const tg_call* c, void* to, tg_error* e) {
      return tg_coordinator_list_bases(
          handle_.get(), c, &internal::Append<PublishedBase, tg_coordinator_base>, to, e);
    });
  }
  // What happened to a job's rounds since event `after`.
  Result<std::vector<RoundEvent>> RoundsOf(const std::string& job, int64_t after = 0,
                                           const Call& call = Call()) const {
    return List<RoundEvent>(call, [&](const tg_call* c, void* to, tg_error* e) {
      return tg_coordinator_list_rounds(handle_.get(), job.c_str(), after, c,
                                        &internal::Append<RoundEvent, tg_round_event>, to, e);
    });
  }

 private:
  explicit Coordinator(tg_coordinator* handle) : handle_(handle, &tg_coordinator_close) {}

  template <typename Item, typename F>
  static Result<std::vector<Item>> List(const Call& call, F&& list) {
    std::vector<Item> items;
    const Status status =
        internal::Do(call, [&](const tg_call* c, tg_error* e) { return list(c, &items, e); });
    if (!status.ok()) return status;
    return items;
  }
  template <typename F>
  static Result<FederatedJob> One(const Call& call, F&& ask) {
    TG_STRUCT(tg_coordinator_job, job);
    const Status status =
        internal::Do(call, [&](const tg_call* c, tg_error* e) { return ask(c, &job, e); });
    if (!status.ok()) return status;
    return FederatedJob(job);
  }

  std::shared_ptr<tg_coordinator> handle_;
};

}  // namespace tg
