// A start as root with separate_uids: whether the trainer's uid will reach its files. Asked before
// anything is started, because a trainer's own words are not logged. Opens nothing.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <vector>

#include "base/status.h"

namespace tidegate::onshore {

// In a short-lived child that becomes `uid` without any group: whether it may read each of `read`
// (folders with all below them) and pass through `pass`. kPermissionDenied naming the first file or
// folder that it may not; what is not there at all is for the trainer to say. At most five seconds.
Status CheckReach(uid_t uid, const std::vector<std::filesystem::path>& read,
                  const std::filesystem::path& pass);

}  // namespace tidegate::onshore
