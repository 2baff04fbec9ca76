#include <algorithm>
#include <set>

#include "gate/rule.h"
#include "protocols/strategy.h"

namespace tidegate::gate {
namespace {

std::optional<Refusal> Refuse(std::string reason) { return Refusal{"layout", std::move(reason)}; }

std::optional<Refusal> CheckTensor(const JobCase& c, const protocols::LayoutTensor& t) {
  if (!NameAllowed(c.policy.tensors, t.name.text)) {
    return Refuse(fmt::format("tensor {} matches no pattern of export.tensors", t.name.text));
  }
  if (t.rows == 0 || t.cols == 0 || t.group > 1) {
    return Refuse(
        fmt::format("tensor {} has shape {}x{} in group {}", t.name.text, t.rows, t.cols, t.group));
  }
  // A is [r, in], B is [out, r].
  const uint32_t rank = t.group == 0 ? t.rows : t.cols;
  if (rank != c.job.lora_r) {
    return Refuse(
        fmt::format("tensor {} has rank {}, the job says {}", t.name.text, rank, c.job.lora_r));
  }
  return std::nullopt;
}

}  // namespace

std::optional<Refusal> LayoutRule(const JobCase& c) {
  const auto& tensors = c.job.layout.tensors.items;
  if (tensors.empty() || tensors.size() > c.policy.max_tensors) {
    return Refuse(fmt::format("{} tensors are not in 1 to max_tensors {}", tensors.size(),
                              c.policy.max_tensors));
  }
  if (c.job.lora_r < 1 || c.job.lora_r > c.policy.max_rank) {
    return Refuse(
        fmt::format("rank {} is not in 1 to max_rank {}", c.job.lora_r, c.policy.max_rank));
  }
  std::set<std::string> names;
  uint8_t groups = 0;
  for (const protocols::LayoutTensor& t : tensors) {
    if (auto refusal = CheckTensor(c, t)) return refusal;
    if (!names.insert(t.name.text).second) {
      return Refuse(fmt::format("tensor {} is there twice", t.name.text));
    }
    groups |= static_cast<uint8_t>(1u << t.group);
  }
  if (std::find(c.policy.codecs.begin(), c.policy.codecs.end(), c.job.codec) ==
      c.policy.codecs.end()) {
    return Refuse(
        fmt::format("codec {} is not in export.codecs", protocols::CodecName(c.job.codec)));
  }
  if (c.job.codec == protocols::Codec::kFixed32 &&
      (protocols::CarriesOver(c.job) || c.job.rounding != protocols::Rounding::kNearest)) {
    return Refuse("codec fixed32 rounds nothing and carries nothing over");
  }
  for (const uint8_t phase : c.job.phase_groups.items) {
    if ((phase & ~groups) != 0) {
      return Refuse(fmt::format("phase groups {:#x} are not groups of the layout", phase));
    }
  }
  if (c.job.phase_groups.items != protocols::PhasesOf(c.job.strategy)) {
    return Refuse(
        fmt::format("the phases are not those of strategy {}", static_cast<int>(c.job.strategy)));
  }
  const uint64_t values = protocols::UpdateValues(c.job.layout, groups);
  if (values > protocols::kMaxUpdateValues) {
    return Refuse(
        fmt::format("{} values are over the limit {}", values, protocols::kMaxUpdateValues));
  }
  return std::nullopt;
}

}  // namespace tidegate::gate
