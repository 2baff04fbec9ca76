// Training checkpoints: one file "step-00000042.tgstate" a state, written durably and checked on
// reading, so that a kill or a full disk at any moment leaves the last good state intact.
//
// The file, little-endian: "TGSTATE1" · u64 size of the header · JSON header · parameters, m, v as
// f32 · XXH64 of all bytes before. The header holds the scalars (floats as hex text, so that no
// bit is lost), the identity, the element count and an XXH64 of each of the three parts.
// Not thread-safe; one process writes a folder at a time.
#pragma once

#include <filesystem>
#include <optional>

#include "base/bytes.h"
#include "base/status.h"
#include "train/state.h"

namespace tidegate::train {

inline constexpr uint64_t kMaxCheckpointBytes = 64ull << 30;
inline constexpr uint64_t kMaxCheckpointHeaderBytes = 1 << 20;

Bytes EncodeState(const TrainState& state, const Identity& identity);

struct LoadedState {
  TrainState state;
  Identity identity;
};

// kDataLoss, naming the part, for a damaged state; `name` is for errors.
Result<LoadedState> DecodeState(ByteSpan bytes, std::string_view name);

// kFailedPrecondition naming every entry that differs and both values; entries of kAboutPrefix are
// logged instead.
Status CheckIdentity(const Identity& stored, const Identity& current, std::string_view name);

// A folder of checkpoints, of which the newest `keep` are kept.
class CheckpointStore {
 public:
  CheckpointStore(std::filesystem::path folder, int keep = 2);

  // Makes the folder, writes the state and then removes the oldest beyond `keep`.
  Status Save(const TrainState& state, const Identity& identity) const;

  // The newest state that is whole; a damaged one is logged and the one before it is tried. Nothing
  // when the folder has no checkpoint; kDataLoss when all are damaged; kFailedPrecondition when the
  // newest whole one belongs to another run.
  Result<std::optional<TrainState>> LoadNewest(const Identity& current) const;

  // The state of this step. kNotFound, kDataLoss or kFailedPrecondition as above.
  Result<TrainState> Load(int64_t step, const Identity& current) const;

  // Steps for which there is a file, ascending.
  Result<std::vector<int64_t>> Steps() const;
  std::filesystem::path PathOf(int64_t step) const;

 private:
  std::filesystem::path folder_;
  int keep_;
};

}  // namespace tidegate::train
