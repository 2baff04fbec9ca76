#include "gate/review.h"

#include <bit>
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

namespace {

// How many scales a group of this codec may have, 0 left out: floats in order are integers in
// order.
double Scales(protocols::Codec codec) {
  float largest = static_cast<float>(protocols::kMaxUpdateValue);
  largest = std::nextafter(largest / static_cast<float>(protocols::UpdateMaxQ(codec)), largest);
  while (!protocols::GoodScale(largest, codec)) largest = std::nextafter(largest, 0.0f);
  return std::bit_cast<uint32_t>(largest) - std::bit_cast<uint32_t>(protocols::kMinUpdateScale) +
         1.0;
}

// Of one group: all zeros, or a scale and numbers of which one is the largest.
double GroupBits(protocols::Codec codec, uint64_t values) {
  const auto n = static_cast<double>(values);
  const double numbers = 2.0 * protocols::UpdateMaxQ(codec) + 1;
  const double bits = n * std::log2(numbers) + std::log2(1 - std::pow((numbers - 2) / numbers, n)) +
                      std::log2(Scales(codec));
  return bits + std::log2(1 + std::exp2(-bits));
}

}  // namespace

double CapacityBits(protocols::Codec codec, uint64_t values) {
  const auto n = static_cast<double>(values);
  if (codec == protocols::Codec::kFixed32) return 32.0 * n;
  if (codec == protocols::Codec::kBf16) {
    // Two signs, and no negative zero.
    const auto limit = static_cast<float>(protocols::kMaxUpdateValue);
    return std::log2(2.0 * (std::bit_cast<uint32_t>(limit) >> 16) - 1) * n;
  }
  const uint64_t group = protocols::UpdateGroup(codec), whole = values / group;
  const uint64_t rest = values % group;
  return static_cast<double>(whole) * GroupBits(codec, group) +
         (rest == 0 ? 0 : GroupBits(codec, rest));
}

// The rules pin the rest of the header.
double UpdateBits(const UpdateCase& c) {
  const double loss = std::log2(kMaxLossMilli + 1.0);
  double bits = std::log2(MaxWeight(c.job)) + (c.policy.train_loss ? loss : 0) +
                (c.policy.heldout_loss ? loss : 0);
  for (const protocols::UpdateTensor& t : c.view->tensors()) bits += CapacityBits(t.codec, t.count);
  return bits;
}

namespace {

IntentLeaf IntentOf(const UpdateCase& c, const permit::Binding& binding) {
  const protocols::UpdateHeader& header = c.view->header();
  IntentLeaf intent;
  intent.key = binding.key;
  intent.plaintext = binding.digest;
  intent.policy = c.policy.digest;
  intent.values = header.values;
  intent.capacity_bits = UpdateBits(c);
  intent.l2_norm = c.l2_norm;
  intent.weight = header.weight;
  intent.train_loss_milli = header.metrics.train_loss_milli;
  intent.heldout_loss_milli = header.metrics.heldout_loss_milli;
  return intent;
}

}  // namespace

Review::Verdict Review::JudgeUpdate(UpdateCase c) {
  Verdict verdict;
  verdict.refusal = EncodingRule(c);
  if (!verdict.refusal) verdict.refusal = RoundRule(c);
  if (!verdict.refusal) verdict.refusal = MetricsRule(c);
  if (!verdict.refusal) verdict.refusal = NormRule(c);
  if (!verdict.refusal) verdict.refusal = BudgetRule(c);
  if (verdict.refusal) return verdict;
  const protocols::UpdateHeader& header = c.view->header();
  permit::Binding binding;
  binding.key = {c.job_id, header.round, header.phase, c.site};
  binding.bytes = c.update.size();
  binding.digest = crypto::Sha256::Of(c.update);
  if (Holds(c.policy, c.spent.exports_of_id)) {
    Standing standing =
        StandingOf(c.policy, binding.key, binding.digest, c.approvals, c.said, c.unix_millis);
    verdict.refusal = ApprovalRule(c, standing);
    if (verdict.refusal) return verdict;
    if (standing.released < c.policy.approvals_needed) {
      verdict.held = IntentOf(c, binding);
      return verdict;
    }
    verdict.approvals = std::move(standing.releases);
  }
  Update update{Bytes(c.update.begin(), c.update.end()), IntentOf(c, binding)};
  verdict.cleared.emplace(permit::Cleared<Update>(std::move(update), std::move(binding)));
  return verdict;
}

}  // namespace tidegate::gate
