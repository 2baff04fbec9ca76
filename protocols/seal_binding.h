// What a sealed update is bound to: the bytes that both shores give to HPKE as `info` and `aad`.
// An update opens only as the one it was sealed as.
#pragma once

#include <vector>

#include "protocols/documents.h"

namespace tidegate::protocols {

// "tidegate/v1/sealed-update" || 0x00 || federation || suite.
std::vector<uint8_t> SealInfo(const Id16& federation, SuiteId suite);

// Encode(UpdateKey) || base hash || layout digest || codec.
std::vector<uint8_t> SealAad(const UpdateKey& key, const Hash32& base_hash,
                             const Hash32& layout_digest, Codec codec);

}  // namespace tidegate::protocols
