#include "finetune/dataset.h"
#include "tokens/batch_source.h"

namespace tidegate::finetune {

Result<Dataset> HoldOut(Dataset* train, double share, uint64_t seed) {
  constexpr uint32_t kSplitEpoch = 0xffffffffu;  // no run reaches this epoch's order
  const auto count = static_cast<uint32_t>(train->sequences.size());
  const auto held = static_cast<uint32_t>(share * count + 0.5);
  if (held == 0 || held >= count) {
    return InvalidArgument(
        "--eval_split {} of {} usable records leaves {} to evaluate and {} to train on; both need "
        "one at least",
        share, count, held, count - held);
  }
  const std::vector<uint32_t> order = tokens::EpochOrder(seed, kSplitEpoch, count);
  std::vector<uint8_t> is_held(count, 0);
  for (uint32_t i = 0; i < held; ++i) is_held[order[i]] = 1;
  Dataset eval;
  std::vector<tokens::TokenSequence> rest;
  for (uint32_t i = 0; i < count; ++i) {
    (is_held[i] ? eval.sequences : rest).push_back(std::move(train->sequences[i]));
  }
  train->sequences = std::move(rest);
  DataReport& report = train->report;
  report.used = report.tokens = report.targets = report.longest = 0;
  CountSequences(train->sequences, &report);
  CountSequences(eval.sequences, &eval.report);
  eval.report.records = eval.report.used;
  return eval;
}

}  // namespace tidegate::finetune
