#include "onshore/api/events.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace tidegate::onshore {
namespace {

using Namer = std::string_view (*)(uint32_t);
constexpr std::string_view kUnknown = "unknown";

template <size_t N>
std::string_view NameAt(const std::string_view (&names)[N], uint32_t index) {
  return index < N ? names[index] : kUnknown;
}

// How an argument is written: a number, a number in hex, or the name of one.
struct Argument {
  const char* name = nullptr;
  Namer namer = nullptr;
  bool hex = false;
};
std::string_view DecisionName(uint32_t decision) {
  constexpr std::string_view kNames[] = {"none", "release", "refuse"};
  return NameAt(kNames, decision);
}
struct Text {
  EventCode code;
  const char* name;
  Argument arguments[4];
};

constexpr Text kTexts[] = {
    {EventCode::kJobAccepted, "job_accepted", {{"rounds"}}},
    {EventCode::kJobRefused, "job_refused", {{"rule"}}},
    {EventCode::kRoundStarted, "round_started", {{"round"}, {"adapter_version"}}},
    {EventCode::kUpdateReleased, "update_released", {{"round"}, {"bytes"}, {"ledger_index"}}},
    {EventCode::kUpdateRefused, "update_refused", {{"round"}, {"rule"}}},
    {EventCode::kReceiptStored, "receipt_stored", {{"round"}, {"outcome"}}},
    {EventCode::kAdapterStored, "adapter_stored", {{"version"}}},
    {EventCode::kConnected, "coordinator_connected", {}},
    {EventCode::kDisconnected, "coordinator_disconnected", {}},
    {EventCode::kTrained, "round_trained", {{"round"}, {"steps"}, {"loss_milli"}}},
    {EventCode::kEvaluated,
     "adapter_evaluated",
     {{"version"}, {"best_milli"}, {"loss_milli"}, {"kept"}}},
    {EventCode::kInputRefused, "input_refused", {{"message_type"}}},
    {EventCode::kWallMissing, "wall_missing", {{"wall", WallText}, {"errno"}}},
    {EventCode::kReleaseRefused, "release_refused", {{"round"}, {"code"}}},
    {EventCode::kUpdateHeld, "update_held", {{"round"}, {"bytes"}}},
    {EventCode::kLeaseUnanswered, "lease_unanswered", {{"seconds"}}},
    {EventCode::kLeaseAnswered, "lease_answered", {}},
    {EventCode::kDecisionHeard,
     "decision_heard",
     {{"round"}, {"uid"}, {"decision", DecisionName}, {"counts"}}},
    {EventCode::kProcessStarted,
     "process_started",
     {{"name", SourceName}, {"pid"}, {"generation"}}},
    {EventCode::kProcessReady, "process_ready", {{"name", SourceName}, {"walls", nullptr, true}}},
    {EventCode::kProcessEnded,
     "process_ended",
     {{"name", SourceName}, {"how", EndText}, {"signal"}, {"status"}}},
    {EventCode::kProcessKilled, "process_killed", {{"name", SourceName}}},
    {EventCode::kJobEnded, "job_ended", {{"adapter_version"}}},
    {EventCode::kStopping, "stopping", {{"signal"}}},
    {EventCode::kHeld, "training_held", {{"why", HoldName}}},
    {EventCode::kReleased, "training_released", {{"why", HoldName}}},
    {EventCode::kDatasetSet,
     "dataset_set",
     {{"dataset", DatasetName}, {"source", DatasetSourceName}}},
    {EventCode::kLocalStarted,
     "local_job_started",
     {{"job"}, {"verb", LocalVerbName}, {"pid"}, {"uid"}}},
    {EventCode::kLocalEnded,
     "local_job_ended",
     {{"job"}, {"how", EndText}, {"signal"}, {"status"}}},
    {EventCode::kClientRefused, "client_refused", {{"uid"}, {"pid"}}},
    {EventCode::kOutsideBegan, "outside_training_began", {{"uid"}}},
    {EventCode::kOutsideEnded, "outside_training_ended", {{"uid"}}},
};

const Text* Find(uint32_t code) {
  const auto* text = std::find_if(std::begin(kTexts), std::end(kTexts), [code](const Text& t) {
    return static_cast<uint32_t>(t.code) == code;
  });
  return text == std::end(kTexts) ? nullptr : text;
}

constexpr std::string_view kSourceNames[] = {"gate", "link", "trainer", "supervisor"};
constexpr std::string_view kHoldNames[] = {"paused", "job_stopped", "coordinator_lost",
                                           "dataset_gone", "dataset_refused"};
constexpr std::string_view kDatasetNames[] = {"records", "heldout"};
constexpr std::string_view kDatasetSourceNames[] = {"site", "path", "descriptor", "gone"};
constexpr std::string_view kLocalVerbNames[] = {"finetune", "eval", "generate", "data-check"};
constexpr std::string_view kWallNames[] = {"netns",        "seccomp",        "landlock_fs",
                                           "chroot",       "pinned_address", "separate_uids",
                                           "landlock_net", "landlock_scope", "mdwe"};
constexpr std::string_view kEndNames[] = {"clean", "crash", "killed", "wall hit"};

}  // namespace

std::string_view SourceName(uint32_t source) { return NameAt(kSourceNames, source); }
std::string_view HoldName(uint32_t hold) { return NameAt(kHoldNames, hold); }
std::string_view DatasetName(uint32_t dataset) { return NameAt(kDatasetNames, dataset); }
std::string_view DatasetSourceName(uint32_t s) { return NameAt(kDatasetSourceNames, s); }
std::string_view LocalVerbName(uint32_t verb) { return NameAt(kLocalVerbNames, verb); }
std::string_view WallText(uint32_t wall) { return NameAt(kWallNames, wall); }
std::string_view EndText(uint32_t end) { return NameAt(kEndNames, end); }

std::array<int64_t, 4> NamedArguments(uint32_t code, const std::array<int64_t, 4>& arguments) {
  std::array<int64_t, 4> named{};
  const Text* text = Find(code);
  if (text == nullptr) return named;
  for (size_t i = 0; i < named.size() && text->arguments[i].name != nullptr; ++i) {
    named[i] = arguments[i];
  }
  return named;
}

std::string EventText(uint32_t code, const std::array<int64_t, 4>& arguments) {
  const Text* text = Find(code);
  if (text == nullptr) return fmt::format("unknown_event code={}", code);
  std::string out = text->name;
  for (size_t i = 0; i < arguments.size() && text->arguments[i].name != nullptr; ++i) {
    const Argument& argument = text->arguments[i];
    out += fmt::format(" {}=", argument.name);
    if (argument.namer != nullptr) {
      const bool in_range = arguments[i] >= 0 && arguments[i] <= UINT32_MAX;
      out += in_range ? argument.namer(static_cast<uint32_t>(arguments[i])) : kUnknown;
    } else {
      out += argument.hex ? fmt::format("{:#x}", arguments[i]) : fmt::format("{}", arguments[i]);
    }
  }
  return out;
}

}  // namespace tidegate::onshore
