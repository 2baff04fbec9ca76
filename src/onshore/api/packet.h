// One packet of a SOCK_SEQPACKET unix socket with the descriptors that came along. Linux.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/file.h"
#include "base/status.h"

namespace tidegate::onshore::api {

struct Packet {
  Bytes bytes;
  std::vector<Fd> descriptors;
  bool cut = false;  // the packet, or its descriptors, were longer than was asked for
};

// kUnavailable when the peer is gone, kDeadlineExceeded when there is no room now. Never blocks.
Status SendPacket(int socket, ByteSpan bytes, std::span<const int> descriptors = {});

// At most `most_bytes` and `most_descriptors`; nothing when there is none now. kUnavailable when
// the peer is gone. Never blocks. Descriptors are close-on-exec.
Result<std::optional<Packet>> ReceivePacket(int socket, size_t most_bytes, size_t most_descriptors);

}  // namespace tidegate::onshore::api
