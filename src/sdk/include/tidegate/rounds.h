// Rounds of a site that the caller's own program trains (PyTorch, any accelerator): given as PEFT
// folders, handed back as PEFT folders, judged by the site's gate. A Rounds may be used by any
// thread, one call at a time; the site's own trainer stops while there is one.
#pragma once

#include <memory>
#include <string>

#include "tidegate/status.h"

namespace tg {

struct Round {
  uint32_t round = 0, adapter_version = 0;
  uint32_t local_steps = 0;  // what the job asks of its sites
  double norm_clip = 0;      // of the delta; a larger one is scaled down
  std::string job;
};

struct Trained {
  uint32_t weight = 1;                      // targets that were trained on
  double train_loss = 0, heldout_loss = 0;  // 0: not said
};

struct Verdict {
  uint32_t round = 0;
  bool released = false;
  bool abandoned = false;  // by the coordinator; nobody judged it
  std::string reason;      // of a refusal: rule, value, limit
};

class Rounds {
 public:
  explicit Rounds(tg_rounds* handle) : handle_(handle, &tg_rounds_close) {}

  // The next round to train; its adapter is written into `dir`.
  Result<Round> Next(const std::string& dir, const Call& call) const {
    TG_STRUCT(tg_round, round);
    const Status status = internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_rounds_next(handle_.get(), dir.c_str(), c, &round, e);
    });
    if (!status.ok()) return status;
    return Round{round.round, round.adapter_version, round.local_steps, round.norm_clip, round.job};
  }
  // Hands the adapter in `dir` over; Result has what became of it.
  Status Submit(const std::string& dir, const Trained& trained, const Call& call) const {
    TG_STRUCT(tg_trained, with);
    with.weight = trained.weight;
    with.train_loss = trained.train_loss;
    with.heldout_loss = trained.heldout_loss;
    return internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_rounds_submit(handle_.get(), dir.c_str(), &with, c, e);
    });
  }
  // One that is held for people has none until they have decided: kDeadlineExceeded, ask again.
  Result<Verdict> Await(const Call& call) const {
    TG_STRUCT(tg_round_result, result);
    const Status status = internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_rounds_result(handle_.get(), c, &result, e);
    });
    if (!status.ok()) return status;
    return Verdict{result.round, result.outcome == TG_RESULT_RELEASED,
                   result.outcome == TG_RESULT_ABANDONED, result.reason};
  }

 private:
  std::shared_ptr<tg_rounds> handle_;
};

}  // namespace tg
