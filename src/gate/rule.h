// The rules of the gate: pure functions, one file each in rules/, run in a fixed order. The first
// that refuses ends the judgement, with its name, the value and the limit.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "gate/approval.h"
#include "gate/ledger.h"
#include "gate/policy.h"
#include "protocols/update.h"

namespace tidegate::gate {

struct Refusal {
  std::string rule;    // "norm"
  std::string reason;  // "L2 norm 12.5 is over the policy's norm_clip 10"
};

// What a job is judged by.
struct JobCase {
  const Policy& policy;
  const protocols::JobManifest& job;
  const protocols::Id16& id;
  const std::string& site;
};

// What an update is judged by. `view` is set by the encoding rule and read by those after it,
// `l2_norm` by the norm rule.
struct UpdateCase {
  const Policy& policy;
  const protocols::JobManifest& job;
  const protocols::RoundAnnouncement& round;
  const protocols::Id16& job_id;
  const std::string& site;
  const Hash32& layout_digest;
  ByteSpan update;
  uint64_t sealed_bytes = 0;
  Spent spent;
  bool round_spent = false;  // an intent for this round and phase is in the ledger
  std::optional<protocols::UpdateView> view{};
  // Approvals that there are, and the time that they are held against.
  std::span<const protocols::Signed> approvals{};
  std::span<const Said> said{};
  int64_t unix_millis = 0;
  double l2_norm = 0;
};

// Of a job, in this order.
std::optional<Refusal> CoordinatorRule(const JobCase& c);  // federation, this site named
std::optional<Refusal> JobRule(const JobCase& c);          // allowed, rounds, steps, strategy
std::optional<Refusal> BaseRule(const JobCase& c);         // base hash
std::optional<Refusal> LayoutRule(const JobCase& c);       // names, shapes, rank, codec, phases

// The most that a loss in an update may say, in thousandths.
inline constexpr uint32_t kMaxLossMilli = 1'000'000;
// The most that an update may weigh in this job.
inline uint32_t MaxWeight(const protocols::JobManifest& job) {
  return job.weighting == protocols::Weighting::kEqual ? 1 : job.max_weight;
}

// Of an update, in this order.
std::optional<Refusal> EncodingRule(UpdateCase& c);       // parses as integers of the layout
std::optional<Refusal> RoundRule(const UpdateCase& c);    // this job, round, phase, base, site
std::optional<Refusal> MetricsRule(const UpdateCase& c);  // no metric that policy does not name
std::optional<Refusal> NormRule(UpdateCase& c);           // L2 of the integers
std::optional<Refusal> BudgetRule(const UpdateCase& c);   // bytes and exports
// An approver said no. (That too few said yes is no refusal: the update is held.)
std::optional<Refusal> ApprovalRule(const UpdateCase& c, const Standing& standing);

// What the norm and metrics rules say of these numbers.
std::optional<Refusal> JudgeNorm(const Policy& policy, double norm);
std::optional<Refusal> JudgeMetrics(const Policy& policy, uint32_t train_loss_milli,
                                    uint32_t heldout_loss_milli);

// Of what comes in: float32 parameters of a shared adapter, whole or a block of them. They must be
// numbers on the parameter grid (docs/architecture.md, "Numbers that are exact").
std::optional<Refusal> ParametersRule(ByteSpan parameters);

}  // namespace tidegate::gate
