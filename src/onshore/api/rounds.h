// What a program of the site that trains rounds itself and a walled trainer say to each other over
// the two pipes of a kTrainOutside: frames, each followed by two bodies. Numbers in the machine's
// own order, as all of the local API. docs/formats/local-api.md.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

namespace tidegate::onshore::api {

inline constexpr uint32_t kRoundMagic = 0x31525454;  // "TTR1"

enum class RoundFrameType : uint32_t {
  kRound = 1,   // trainer → program: train it; bodies: adapter_config.json, its safetensors
  kUpdate = 2,  // program → trainer: what became of the adapter; the same bodies
  kResult = 3,  // trainer → program: `code` is 1 released, 2 refused, 3 abandoned; text: why
  kBad = 4,     // trainer → program: the update is none, `code` of base/status.h; text: why
};

struct RoundFrame {
  uint32_t magic = kRoundMagic;
  uint32_t type = 0;
  std::array<uint8_t, 16> job{};
  uint32_t round = 0;
  uint32_t adapter_version = 0;  // kRound
  uint32_t local_steps = 0;      // kRound: what the job asks of its sites
  uint32_t code = 0;
  // kUpdate: targets that were trained on, and losses in thousandths; 0: not said.
  uint32_t weight = 0;
  uint32_t train_loss_milli = 0, heldout_loss_milli = 0;
  uint32_t reserved = 0;
  double norm_clip = 0;        // kRound: of the whole delta; an update over it is scaled down
  uint64_t text_bytes = 0;     // the first body
  uint64_t weights_bytes = 0;  // the second
};
static_assert(std::is_trivially_copyable_v<RoundFrame> && sizeof(RoundFrame) == 80);

inline constexpr uint64_t kMaxRoundText = 1u << 20;
inline constexpr uint64_t kMaxRoundWeights = 8ull << 30;

}  // namespace tidegate::onshore::api
