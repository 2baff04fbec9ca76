#include "protocols/seal_binding.h"

#include <string_view>

namespace tidegate::protocols {

std::vector<uint8_t> SealInfo(const Id16& federation, SuiteId suite) {
  constexpr std::string_view kLabel = "tidegate/v1/sealed-update";
  std::vector<uint8_t> info(kLabel.begin(), kLabel.end());
  info.push_back(0);
  info.insert(info.end(), federation.begin(), federation.end());
  info.push_back(static_cast<uint8_t>(suite));
  return info;
}

std::vector<uint8_t> SealAad(const UpdateKey& key, const Hash32& base_hash,
                             const Hash32& layout_digest, Codec codec) {
  std::vector<uint8_t> aad = Encode(key);
  aad.insert(aad.end(), base_hash.begin(), base_hash.end());
  aad.insert(aad.end(), layout_digest.begin(), layout_digest.end());
  aad.push_back(static_cast<uint8_t>(codec));
  return aad;
}

}  // namespace tidegate::protocols
