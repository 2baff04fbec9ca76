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

double CapacityBits(protocols::Codec codec, uint64_t values, uint64_t scales) {
  if (codec == protocols::Codec::kFixed32) return 32.0 * static_cast<double>(values);
  return std::log2(255.0) * static_cast<double>(values) + 31.0 * static_cast<double>(scales);
}

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
  uint64_t scales = 0;
  for (const protocols::UpdateTensor& t : c.view->tensors()) scales += t.scales.size() / 4;
  verdict.intent.key = binding.key;
  verdict.intent.plaintext = binding.digest;
  verdict.intent.policy = c.policy.digest;
  verdict.intent.values = header.values;
  verdict.intent.capacity_bits = CapacityBits(header.codec, header.values, scales);
  verdict.intent.l2_norm = c.view->L2Norm();
  verdict.intent.weight = header.weight;
  verdict.intent.train_loss_milli = header.metrics.train_loss_milli;
  verdict.intent.heldout_loss_milli = header.metrics.heldout_loss_milli;
  verdict.cleared.emplace(
      permit::Cleared<Bytes>(Bytes(c.update.begin(), c.update.end()), std::move(binding)));
  return verdict;
}

}  // namespace tidegate::gate
