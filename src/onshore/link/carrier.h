// tidegate-link --folder: link for a site without a network. The same LinkCore with the same permit
// checks, a folder in the place of the coordinator, and no socket. It ends when nothing more moves.
#pragma once

#include <filesystem>
#include <string>

#include "base/status.h"
#include "protocols/documents.h"

namespace tidegate::onshore {

struct CarrierOptions {
  std::filesystem::path site, records, folder;  // `folder` canonical
  std::string walls;
  uint32_t generation = 0, uid = 0;
};

// OK when the gate waits for the coordinator and all that was to be carried lies in the folder, or
// when the supervisor says stop; what was done is kept, and it may be run again at any time.
// kDataLoss when files of down/SITE were refused (the log has their names) though the rest was
// done; the medium's own errors (kResourceExhausted: full; kNotFound: a block is missing).
Status RunCarrier(const CarrierOptions& options, const protocols::SiteApproval& approval);

}  // namespace tidegate::onshore
