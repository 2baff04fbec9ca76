// The two directions of bulk at the coordinator, over transport's state machines: an offered update
// that comes in, an adapter that goes out to one site. Not thread-safe.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "protocols/messages.h"
#include "transport/transfer.h"

namespace tidegate::offshore {

// Bytes under way to us for one update.
inline constexpr uint64_t kIncomingWindow = 4u << 20;
// Bytes that we let go out at once to one site, whatever it grants.
inline constexpr uint64_t kOutgoingWindow = 8u << 20;

// An offered update whose blocks are being fetched. `have[i]`: block i is in the store.
struct Incoming {
  Incoming(protocols::Signed signed_release, protocols::ReleaseManifest release, std::string head,
           std::vector<bool> have)
      : document(std::move(signed_release)),
        manifest(std::move(release)),
        ledger_head(std::move(head)),
        receiver(manifest.content, manifest.ciphertext_bytes, manifest.blocks.items,
                 std::move(have), kIncomingWindow) {}

  protocols::Signed document;
  protocols::ReleaseManifest manifest;
  std::string ledger_head;
  transport::BlockReceiver receiver;
  bool commit_asked = false;  // COMMIT came on control before the last blocks on bulk
  bool announced = false;     // the full HAVE was sent
};

// Blocks of an adapter, or of a base, on their way to one site.
struct Outflow {
  Outflow(const Digest& id, std::shared_ptr<const std::vector<Digest>> ids, bool is_base)
      : content(id),
        blocks(std::move(ids)),
        base(is_base),
        sender(content, static_cast<uint32_t>(blocks->size()), kOutgoingWindow) {}

  Digest content;
  std::shared_ptr<const std::vector<Digest>> blocks;
  bool base;
  uint64_t wanted = 0;  // the site's count of WANTs at the last one for it
  transport::BlockSender sender;
};

}  // namespace tidegate::offshore
