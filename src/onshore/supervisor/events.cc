#include "onshore/supervisor/events.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace tidegate::onshore {
namespace {

struct Text {
  EventCode code;
  const char* name;
  const char* arguments[4];
};

constexpr Text kTexts[] = {
    {EventCode::kJobAccepted, "job_accepted", {"rounds"}},
    {EventCode::kJobRefused, "job_refused", {"rule"}},
    {EventCode::kRoundStarted, "round_started", {"round", "adapter_version"}},
    {EventCode::kUpdateReleased, "update_released", {"round", "bytes", "ledger_index"}},
    {EventCode::kUpdateRefused, "update_refused", {"round", "rule"}},
    {EventCode::kReceiptStored, "receipt_stored", {"round", "outcome"}},
    {EventCode::kAdapterStored, "adapter_stored", {"version"}},
    {EventCode::kConnected, "coordinator_connected", {}},
    {EventCode::kDisconnected, "coordinator_disconnected", {}},
    {EventCode::kTrained, "round_trained", {"round", "steps", "loss_milli"}},
    {EventCode::kEvaluated, "adapter_evaluated", {"version", "best_milli", "loss_milli", "kept"}},
    {EventCode::kInputRefused, "input_refused", {"message_type"}},
    {EventCode::kWallMissing, "wall_missing", {"wall"}},
    {EventCode::kReleaseRefused, "release_refused", {"round", "code"}},
    {EventCode::kUpdateHeld, "update_held", {"round", "bytes"}},
};

}  // namespace

std::string EventText(uint32_t code, const std::array<int64_t, 4>& arguments) {
  const auto* text = std::find_if(std::begin(kTexts), std::end(kTexts), [code](const Text& t) {
    return static_cast<uint32_t>(t.code) == code;
  });
  if (text == std::end(kTexts)) return fmt::format("unknown_event code={}", code);
  std::string out = text->name;
  for (size_t i = 0; i < arguments.size() && text->arguments[i] != nullptr; ++i) {
    out += fmt::format(" {}={}", text->arguments[i], arguments[i]);
  }
  return out;
}

}  // namespace tidegate::onshore
