// gate::Sealing played by a test that does not link the gate: it signs whatever release it is
// given, as a site gone bad could.
#pragma once

#include <utility>

#include "crypto/sign.h"
#include "permit/cleared.h"
#include "permit/release_pass.h"

namespace tidegate::gate {

class Sealing {
 public:
  static protocols::Signed Sign(const crypto::SigningKey& key,
                                const protocols::ReleaseManifest& manifest) {
    protocols::Signed release;
    release.body.items = protocols::Encode(manifest);
    release.signature = *key.SignRelease(permit::ReleasePass(), release.body.items);
    return release;
  }
  template <typename T>
  static Result<T> Consume(permit::Cleared<T>& cleared, const permit::Binding& use) {
    return std::move(cleared).Consume(use);
  }
};

}  // namespace tidegate::gate
