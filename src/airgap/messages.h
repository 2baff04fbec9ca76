// Messages of the wire as files of a folder: each in its frame (protocols/header.md), so that a
// file of another federation, a cut one or a damaged one is refused by its name. Which file is
// where: docs/formats/air-gap.md. Not thread-safe.
#pragma once

#include <string>

#include "airgap/folder.h"
#include "protocols/documents.h"
#include "protocols/header.h"

namespace tidegate::airgap {

struct Message {
  protocols::MessageType type = protocols::MessageType::kError;
  Bytes body;
};

// kNotFound, kDataLoss for what is no message of this federation; what Folder::Read says.
Result<Message> ReadMessage(const Folder& folder, const Place& place,
                            const protocols::Id16& federation);
Status WriteMessage(Folder& folder, const Place& place, const protocols::Id16& federation,
                    const Message& message);

// up/SITE/JOB-ROUND-PHASE.offer, up/SITE/lease; down/SITE/NUMBER-type.
inline constexpr std::string_view kOfferSuffix = ".offer";
Place OfferPlace(const protocols::UpdateKey& key);
Place LeasePlace(const std::string& site);
// Names in the order in which they are to be taken.
Place DownPlace(const std::string& site, size_t number, protocols::MessageType type);

}  // namespace tidegate::airgap
