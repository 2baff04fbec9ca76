#include "gate/rule.h"

namespace tidegate::gate {

std::optional<Refusal> EncodingRule(UpdateCase& c) {
  auto view = protocols::UpdateView::Parse(c.update, c.job.layout);
  if (!view) return Refusal{"encoding", view.error().reason};
  if (view->header().codec != c.job.codec) {
    return Refusal{"encoding", fmt::format("codec {} is not the job's {}",
                                           protocols::CodecName(view->header().codec),
                                           protocols::CodecName(c.job.codec))};
  }
  c.view = std::move(*view);
  return std::nullopt;
}

}  // namespace tidegate::gate
