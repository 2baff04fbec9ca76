#include "onshore/supervisor/site_state.h"

#include <cstring>

#include "base/file.h"

namespace tidegate::onshore {
namespace {

constexpr uint32_t kMagic = 0x53535454;  // "TTSS"
constexpr uint32_t kVersion = 1;

struct Stored {
  uint32_t magic = kMagic, version = kVersion;
  uint32_t paused = 0, job_stopped = 0;
  std::array<uint8_t, 16> stopped_job{};
  std::array<uint32_t, kDatasets> sources{};
  std::array<api::FixedPath, kDatasets> paths{};
};
static_assert(std::has_unique_object_representations_v<Stored>);

Error Damaged(const std::filesystem::path& file) {
  return DataLoss(
      "{} is not as tidegate-onshore wrote it; remove it, then pause and set datasets again where "
      "that is wanted",
      file.native());
}

}  // namespace

Result<SiteState> LoadSiteState(const std::filesystem::path& file) {
  SiteState state;
  const auto bytes = ReadFile(file, sizeof(Stored));
  if (!bytes && bytes.error().code() == Code::kNotFound) return state;
  if (!bytes && bytes.error().code() == Code::kResourceExhausted) return Damaged(file);
  if (!bytes) return Unexpected(bytes.error());
  Stored stored;
  if (bytes->size() != sizeof(Stored)) return Damaged(file);
  std::memcpy(&stored, bytes->data(), sizeof(Stored));
  if (stored.magic != kMagic || stored.version != kVersion || stored.paused > 1 ||
      stored.job_stopped > 1) {
    return Damaged(file);
  }
  state.paused = stored.paused == 1;
  state.job_stopped = stored.job_stopped == 1;
  state.stopped_job = stored.stopped_job;
  for (size_t i = 0; i < kDatasets; ++i) {
    if (stored.sources[i] > static_cast<uint32_t>(DatasetSource::kGone)) return Damaged(file);
    state.sources[i] = static_cast<DatasetSource>(stored.sources[i]);
    if (state.sources[i] == DatasetSource::kDescriptor) state.sources[i] = DatasetSource::kGone;
    const std::string path = api::TextOf(stored.paths[i]);
    const bool by_path = state.sources[i] == DatasetSource::kPath;
    if (by_path ? !api::IsGoodPath(path) : !path.empty()) return Damaged(file);
    state.paths[i] = path;
  }
  return state;
}

Status SaveSiteState(const std::filesystem::path& file, const SiteState& state) {
  Stored stored;
  stored.paused = state.paused ? 1 : 0;
  stored.job_stopped = state.job_stopped ? 1 : 0;
  stored.stopped_job = state.stopped_job;
  for (size_t i = 0; i < kDatasets; ++i) {
    stored.sources[i] = static_cast<uint32_t>(state.sources[i]);
    if (!api::SetText(state.paths[i].native(), &stored.paths[i])) {
      return Internal("a dataset's path does not fit into {}", file.native());
    }
  }
  return WriteFileDurably(file, api::BytesOf(stored), 0600);
}

}  // namespace tidegate::onshore
