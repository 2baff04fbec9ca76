#include "gate/review.h"

#include <cmath>

#include "crypto/hash.h"

namespace tidegate::gate {

std::optional<Refusal> ReviewJob(const JobCase& c) {
  for (const auto rule : {CoordinatorRule, JobRule, BaseRule, LayoutRule}) {
    if (auto refusal = rule(c)) return refusal;
  }
  return std::nullopt;
}

std::optional<Refusal> ReviewExport(const Policy& policy, const IntentLeaf& intent) {
  if (auto refusal = JudgeNorm(policy, intent.l2_norm)) return refusal;
  if (auto refusal = JudgeMetrics(policy, intent.train_loss_milli, intent.heldout_loss_milli)) {
    return refusal;
  }
  if (intent.ciphertext_bytes <= policy.max_bytes_per_round) return std::nullopt;
  return Refusal{"budget", fmt::format("{} bytes are over max_bytes_per_round {}",
                                       intent.ciphertext_bytes, policy.max_bytes_per_round)};
}

double CapacityBits(protocols::Codec codec, uint64_t values, uint64_t scales) {
  if (codec == protocols::Codec::kFixed32) return 32.0 * static_cast<double>(values);
  return std::log2(255.0) * static_cast<double>(values) + 31.0 * static_cast<double>(scales);
}

namespace {

// What of the header is the trainer's to choose: the rules pin the rest.
double HeaderBits(const UpdateCase& c) {
  const double loss = std::log2(kMaxLossMilli + 1.0);
  return std::log2(MaxWeight(c.job)) + (c.policy.train_loss ? loss : 0) +
         (c.policy.heldout_loss ? loss : 0);
}

IntentLeaf IntentOf(const UpdateCase& c, const permit::Binding& binding) {
  const protocols::UpdateHeader& header = c.view->header();
  uint64_t scales = 0;
  for (const protocols::UpdateTensor& t : c.view->tensors()) scales += t.scales.size() / 4;
  IntentLeaf intent;
  intent.key = binding.key;
  intent.plaintext = binding.digest;
  intent.policy = c.policy.digest;
  intent.values = header.values;
  intent.capacity_bits = CapacityBits(header.codec, header.values, scales) + HeaderBits(c);
  intent.l2_norm = c.view->L2Norm();
  intent.weight = header.weight;
  intent.train_loss_milli = header.metrics.train_loss_milli;
  intent.heldout_loss_milli = header.metrics.heldout_loss_milli;
  return intent;
}

}  // namespace

Review::Verdict Review::JudgeUpdate(UpdateCase c) {
  Verdict verdict;
  verdict.refusal = EncodingRule(c);
  for (const auto rule : {RoundRule, MetricsRule, NormRule, BudgetRule}) {
    if (!verdict.refusal) verdict.refusal = rule(c);
  }
  if (verdict.refusal) return verdict;
  const protocols::UpdateHeader& header = c.view->header();
  permit::Binding binding;
  binding.key = {c.job_id, header.round, header.phase, c.site};
  binding.bytes = c.update.size();
  binding.digest = crypto::Sha256::Of(c.update);
  Update update{Bytes(c.update.begin(), c.update.end()), IntentOf(c, binding)};
  verdict.cleared.emplace(permit::Cleared<Update>(std::move(update), std::move(binding)));
  return verdict;
}

}  // namespace tidegate::gate
