// Local jobs: finetune, eval and the like behind walls, watched as they run. A LocalJob is stopped
// when its last copy is gone; Stop may be called while another thread waits in Next or Run.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tidegate/status.h"

namespace tg {

enum class Verb : uint32_t {
  kFinetune = TG_VERB_FINETUNE,
  kEval = TG_VERB_EVAL,
  kGenerate = TG_VERB_GENERATE,
  kDataCheck = TG_VERB_DATA_CHECK,
};

struct JobSpec {
  Verb verb = Verb::kFinetune;
  std::string flags;            // TOML: what `tidegate finetune --config` reads
  std::string data, eval_data;  // files that are handed over; empty: the flags name them
};

// Kinds: TG_JOB_... (tidegate.h says what each has).
struct JobEvent : tg_job_event {
  explicit JobEvent(const tg_job_event& from)
      : tg_job_event(from), said(from.text == nullptr ? "" : from.text, from.text_size) {
    text = nullptr;
    text_size = 0;
  }
  std::string said;  // in the place of `text`, which is another call's to change
};

class LocalJob {
 public:
  explicit LocalJob(tg_job* handle) : handle_(handle, &tg_job_close) {}

  Result<JobEvent> Next(const Call& call = Call()) const {
    TG_STRUCT(tg_job_event, event);
    const Status status = internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_job_next(handle_.get(), c, &event, e);
    });
    if (!status.ok()) return status;
    return JobEvent(event);
  }
  // To its end: what it wrote to standard output, or its error. `each` (may be empty) hears the
  // rest, and must not throw; where it returns false the job is left as it is, and what came so far
  // returned.
  Result<std::string> Run(const Call& call,
                          const std::function<bool(const JobEvent&)>& each = {}) const {
    Heard heard{each, {}};
    const auto hear = [](const tg_job_event* event, void* user) -> int32_t {
      auto& to = *static_cast<Heard*>(user);
      if (event->kind == TG_JOB_OUTPUT) to.output.append(event->text, event->text_size);
      return !to.each || to.each(JobEvent(*event)) ? 0 : 1;
    };
    const Status status = internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_job_run(handle_.get(), c, hear, &heard, e);
    });
    if (!status.ok()) return status;
    return heard.output;
  }
  Status Stop() const {
    internal::Failure failure;
    return failure.Of(tg_job_stop(handle_.get(), failure.c()));
  }

 private:
  struct Heard {
    const std::function<bool(const JobEvent&)>& each;
    std::string output;
  };
  std::shared_ptr<tg_job> handle_;
};

namespace internal {

inline Result<LocalJob> StartJob(tg_site* site, const JobSpec& spec, const Call& call) {
  TG_STRUCT(tg_job_spec, c_spec);
  c_spec.verb = static_cast<uint32_t>(spec.verb);
  c_spec.flags = spec.flags.c_str();
  if (!spec.data.empty()) c_spec.data = spec.data.c_str();
  if (!spec.eval_data.empty()) c_spec.eval_data = spec.eval_data.c_str();
  tg_job* job = nullptr;
  const Status status = Do(
      call, [&](const tg_call* c, tg_error* e) { return tg_job_start(site, &c_spec, c, &job, e); });
  if (!status.ok()) return status;
  return LocalJob(job);
}

}  // namespace internal

// Without a site: `tidegate finetune` as the calling user, behind its own walls.
inline Result<LocalJob> StartFinetune(const JobSpec& spec, const Call& call = Call()) {
  return internal::StartJob(nullptr, spec, call);
}

}  // namespace tg
