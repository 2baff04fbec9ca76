// A job file (docs/formats/job.md) as a signed-to-be manifest and the adapter it starts from. Pure
// functions: the base model's files are read by whoever submits.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "protocols/documents.h"

namespace tidegate::federation {

// What came with the job file from the submitter's machine.
struct JobSource {
  std::string file;          // for errors, and the job's name when it has none
  std::string text;          // TOML
  std::string model_config;  // the base's config.json
  Digest base_hash{};
  std::string base_name;
  bool names_base = true;  // the text must have `base`; false: whoever asks has said it elsewhere
  // Above 0: so many sites, which the manifest does not name and kMaxSites does not bound. For jobs
  // that never cross a wire.
  uint32_t unnamed_sites = 0;
};

struct NewJobFiles {
  protocols::JobManifest manifest;
  std::vector<float> parameters;  // version 0, on the grid
};

// `sites` are those in force: the default, and those a job may name. Unknown keys are errors with
// their line; values out of range name the key and the range.
Result<NewJobFiles> MakeJob(const JobSource& source, const protocols::Id16& federation,
                            const std::vector<std::string>& sites, int64_t unix_millis);

}  // namespace tidegate::federation
