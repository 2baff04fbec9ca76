// Step 1: the inherited descriptors. A socket of another network namespace still connects out, a
// datagram pair takes an address, a directory climbs out of a chroot: none may stay.
#pragma once

#include <vector>

#include "base/status.h"
#include "onshore/sandbox/wall_faults.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::onshore {

// Closes every descriptor that is neither 0, 1, 2 nor in `kept`, then looks at each that stays.
// kPermissionDenied names the descriptor and what it is. `passrights_error` gets the errno of
// SO_PASSRIGHTS=0 on the channels (0 if set, ENOPROTOOPT before Linux 6.16).
Status AuditFds(const std::vector<KeptFd>& kept, const WallFaults& faults, int* passrights_error);

// What a descriptor is, in words: "a SOCK_DGRAM AF_UNIX socket", "a directory".
std::string DescribeFd(int fd);

}  // namespace tidegate::onshore
