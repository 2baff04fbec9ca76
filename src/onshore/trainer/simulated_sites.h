// Who trains in a simulation. A site is known by its place among the job's site names, sorted.
// Not thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "finetune/loaded_base.h"
#include "onshore/ipc/messages.h"
#include "onshore/trainer/job_config.h"
#include "onshore/trainer/simulation.h"

namespace tidegate::trainer {

struct SimulatedJob {
  protocols::JobManifest manifest;
  Bytes encoded;
  protocols::Id16 id{};
};

class SimulatedSites {
 public:
  virtual ~SimulatedSites() = default;
  // The site's update of a round that starts from these parameters, encoded.
  virtual Result<Bytes> Train(size_t site, ByteSpan parameters,
                              const onshore::RoundStart& start) = 0;
  // That update is in the round's sum.
  virtual void Counted(size_t site, uint32_t round) = 0;
  // The job has ended with this version.
  virtual Status End(size_t site, uint32_t version, ByteSpan parameters) = 0;
};

// The name of a light site; in the order of their numbers.
std::string LightSiteName(size_t site);
// Which of `records` records a light site has, ascending: some of the file that follow each other,
// from a place that is drawn by the job's seed and the site's name.
std::vector<size_t> LightRecords(uint64_t seed, size_t site, size_t records, size_t a_site);

// What the walls' process reads to train for any site of the simulation.
SiteOptions AnySite(const SimulationOptions& options);

// Sites with a folder and records of their own, as in a federation. All three arguments outlive it.
Result<std::unique_ptr<SimulatedSites>> OpenFolderSites(const SimulationOptions& options,
                                                        const SimulatedJob& job,
                                                        const finetune::LoadedBase& base);
// Sites that are slices of one file, which is in memory as tokens.
Result<std::unique_ptr<SimulatedSites>> OpenLightSites(const SimulationOptions& options,
                                                       const SimulatedJob& job,
                                                       const finetune::LoadedBase& base);

}  // namespace tidegate::trainer
