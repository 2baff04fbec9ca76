// Bytes as text that survives mail and a terminal:
//
//   -----BEGIN TIDEGATE SITE REQUEST-----
//   base64, 64 characters a line
//   -----END TIDEGATE SITE REQUEST-----
//
// One text for one byte string; armour is not a signature. Thread-safe.
#pragma once

#include <string>

#include "base/bytes.h"

namespace tidegate::crypto {

// The largest content.
inline constexpr size_t kArmorMaxBytes = 1024 * 1024;

// `label` is what follows "TIDEGATE ": capitals, digits and single spaces ("SITE REQUEST"), else
// kInvalidArgument, as for empty or too much content.
Result<std::string> EncodeArmor(std::string_view label, ByteSpan content);
// kInvalidArgument for another label (named) and for any text that EncodeArmor would not have made,
// except that the last newline may be missing and line ends may be CR LF throughout.
Result<Bytes> DecodeArmor(std::string_view label, std::string_view text);

}  // namespace tidegate::crypto
