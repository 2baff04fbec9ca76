// The files a new site starts with: site.toml and policy.toml. Written only where none is there.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"
#include "protocols/documents.h"

namespace tidegate::cli {

struct SiteFileOptions {
  std::filesystem::path base, records, heldout;
  std::vector<std::string> jobs;  // names or ids that the policy allows
  std::string waiver;
};

// What is not given stands there as a comment: the policy then refuses to load until a person has
// filled it in. Returns the files that were written.
Result<std::vector<std::string>> WriteSiteFiles(const std::filesystem::path& dir,
                                                const protocols::SiteApproval& approval,
                                                const SiteFileOptions& options);

}  // namespace tidegate::cli
