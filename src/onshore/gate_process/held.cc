#include "onshore/gate_process/held.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/clock.h"

namespace tidegate::onshore {
namespace {

using nlohmann::ordered_json;

// Powers of two from 2^-28, the grid, to 2^6, the most that a value may be; and zeros.
constexpr int kLeast = -28, kMost = 6;

struct Sizes {
  uint64_t zeros = 0;
  std::array<uint64_t, kMost - kLeast> counts{};

  void Add(double value) {
    if (value == 0) {
      ++zeros;
      return;
    }
    const int power =
        std::clamp(static_cast<int>(std::floor(std::log2(std::fabs(value)))), kLeast, kMost - 1);
    ++counts[static_cast<size_t>(power - kLeast)];
  }
  ordered_json ToJson() const {
    ordered_json list = ordered_json::array();
    for (size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] == 0) continue;
      const int power = kLeast + static_cast<int>(i);
      list.push_back({{"from", std::ldexp(1.0, power)},
                      {"below", std::ldexp(1.0, power + 1)},
                      {"values", counts[i]}});
    }
    return {{"zero", zeros}, {"sizes", list}};
  }
};

}  // namespace

std::string HeldJson(const gate::Policy& policy, const protocols::JobManifest& job,
                     const gate::IntentLeaf& intent, const protocols::UpdateView& view,
                     uint64_t sealed_bytes, int64_t unix_millis) {
  ordered_json tensors = ordered_json::array();
  Sizes sizes;
  for (const protocols::UpdateTensor& tensor : view.tensors()) {
    double squares = 0, largest = 0;
    protocols::ForEachValue(tensor, [&](uint64_t, double value) {
      squares += value * value;
      largest = std::max(largest, std::fabs(value));
      sizes.Add(value);
    });
    uint64_t first = 0;
    for (const protocols::LayoutTensor& t : job.layout.tensors.items) {
      if (first == tensor.first_value) {
        tensors.push_back({{"name", t.name.text},
                           {"rows", t.rows},
                           {"cols", t.cols},
                           {"l2_norm", std::sqrt(squares)},
                           {"largest", largest}});
      }
      first += static_cast<uint64_t>(t.rows) * t.cols;
    }
  }
  ordered_json json = {{"federation", ToHex(policy.federation)},
                       {"job", ToHex(intent.key.job)},
                       {"job_name", job.name.text},
                       {"round", intent.key.round},
                       {"phase", intent.key.phase},
                       {"site", intent.key.site.text},
                       {"plaintext_sha256", ToHex(intent.plaintext)},
                       {"held_since", FormatUtc(unix_millis)},
                       {"approvals_needed", policy.approvals_needed},
                       {"approvers", ordered_json::array()},
                       {"sealed_bytes", sealed_bytes},
                       {"values", intent.values},
                       {"capacity_bits", intent.capacity_bits},
                       {"l2_norm", intent.l2_norm},
                       {"norm_clip", policy.norm_clip},
                       {"weight", intent.weight},
                       {"train_loss", intent.train_loss_milli / 1000.0},
                       {"heldout_loss", intent.heldout_loss_milli / 1000.0},
                       {"histogram", sizes.ToJson()},
                       {"tensors", std::move(tensors)}};
  for (const auto& [name, key] : policy.approvers) json["approvers"].push_back(name);
  for (const auto& [name, uid] : policy.approver_uids) json["approvers"].push_back(name);
  return json.dump(1) + "\n";
}

}  // namespace tidegate::onshore
