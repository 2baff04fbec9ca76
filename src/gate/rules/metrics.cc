#include "gate/rule.h"

namespace tidegate::gate {

std::optional<Refusal> JudgeMetrics(const Policy& policy, uint32_t train_loss_milli,
                                    uint32_t heldout_loss_milli) {
  if (train_loss_milli != 0 && !policy.train_loss) {
    return Refusal{"metrics", "train_loss goes along, export.metrics does not name it"};
  }
  if (heldout_loss_milli != 0 && !policy.heldout_loss) {
    return Refusal{"metrics", "heldout_loss goes along, export.metrics does not name it"};
  }
  if (train_loss_milli > kMaxLossMilli || heldout_loss_milli > kMaxLossMilli) {
    return Refusal{"metrics", fmt::format("a loss is over {} thousandths", kMaxLossMilli)};
  }
  return std::nullopt;
}

std::optional<Refusal> MetricsRule(const UpdateCase& c) {
  const protocols::UpdateMetrics& metrics = c.view->header().metrics;
  return JudgeMetrics(c.policy, metrics.train_loss_milli, metrics.heldout_loss_milli);
}

}  // namespace tidegate::gate
