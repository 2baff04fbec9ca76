// A sealed body that lies in memory, opened whole, as the coordinator does it chunk by chunk.
#pragma once

#include "crypto/seal.h"

namespace tidegate::crypto {

inline Result<Bytes> OpenBody(const SealHeader& header, std::span<const ByteSpan> chunks,
                              const AgreeSecretKey& recipient, ByteSpan info, ByteSpan aad) {
  TG_ASSIGN_OR_RETURN(BodyOpener opener, BodyOpener::Start(header, recipient, info, aad));
  Bytes out;
  for (size_t i = 0; i < chunks.size(); ++i) {
    TG_ASSIGN_OR_RETURN(const Bytes part, opener.OpenChunk(chunks[i], i + 1 == chunks.size()));
    out.insert(out.end(), part.begin(), part.end());
  }
  TG_RETURN_IF_ERROR(opener.Finish());
  return out;
}

}  // namespace tidegate::crypto
