// What people have told a site's supervisor over the local API and what outlives it: whether
// training is paused, and which files are trained on. One fixed-size file, SITE/site-state. Not
// thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>

#include "base/status.h"
#include "onshore/api/messages.h"

namespace tidegate::onshore {

struct SiteState {
  bool paused = false;
  bool job_stopped = false;
  std::array<uint8_t, 16> stopped_job{};
  // kSite unless set; kDescriptor does not outlive the supervisor: it is read as kGone.
  std::array<DatasetSource, kDatasets> sources{};
  std::array<std::filesystem::path, kDatasets> paths;  // of kPath
};

// The defaults when there is no file; kDataLoss for one that is not as it was written.
Result<SiteState> LoadSiteState(const std::filesystem::path& file);
Status SaveSiteState(const std::filesystem::path& file, const SiteState& state);

}  // namespace tidegate::onshore
