#include "airgap/messages.h"

#include <algorithm>
#include <cctype>

namespace tidegate::airgap {

Result<Message> ReadMessage(const Folder& folder, const Place& place,
                            const protocols::Id16& federation) {
  constexpr uint64_t kMost = protocols::kHeaderBytes + protocols::kMaxControlBody;
  TG_ASSIGN_OR_RETURN(const auto bytes, folder.Read(place, kMost));
  if (!bytes) return NotFound("{} is not there", folder.NameOf(place));
  const auto parsed = protocols::ParseFrame(*bytes, federation);
  if (!parsed) return DataLoss("{}: {}", folder.NameOf(place), parsed.error().reason);
  return Message{parsed->type, Bytes(parsed->body.begin(), parsed->body.end())};
}

Status WriteMessage(Folder& folder, const Place& place, const protocols::Id16& federation,
                    const Message& message) {
  return folder.Write(place, protocols::Frame(message.type, federation, 0, message.body));
}

Place OfferPlace(const protocols::UpdateKey& key) {
  return {"up", key.site.text,
          fmt::format("{}-{}-{}{}", ToHex(key.job), key.round, key.phase, kOfferSuffix)};
}

Place LeasePlace(const std::string& site) { return {"up", site, "lease"}; }

Place DownPlace(const std::string& site, size_t number, protocols::MessageType type) {
  std::string name = protocols::MessageTypeName(type);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return {"down", site, fmt::format("{:04}-{}", number, name)};
}

}  // namespace tidegate::airgap
