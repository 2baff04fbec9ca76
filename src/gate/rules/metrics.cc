#include "gate/rule.h"

namespace tidegate::gate {

std::optional<Refusal> MetricsRule(const UpdateCase& c) {
  const protocols::UpdateMetrics& metrics = c.view->header().metrics;
  if (metrics.train_loss_milli != 0 && !c.policy.train_loss) {
    return Refusal{"metrics", "train_loss goes along, export.metrics does not name it"};
  }
  if (metrics.heldout_loss_milli != 0 && !c.policy.heldout_loss) {
    return Refusal{"metrics", "heldout_loss goes along, export.metrics does not name it"};
  }
  if (metrics.train_loss_milli > kMaxLossMilli || metrics.heldout_loss_milli > kMaxLossMilli) {
    return Refusal{"metrics", fmt::format("a loss is over {} thousandths", kMaxLossMilli)};
  }
  return std::nullopt;
}

}  // namespace tidegate::gate
