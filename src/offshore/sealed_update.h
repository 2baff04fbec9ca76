// A sealed update: judged by its release manifest before a byte of it is fetched, and opened once
// it is here. Pure functions.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "crypto/agree.h"
#include "crypto/checkpoint_note.h"
#include "crypto/sign.h"
#include "federation/rounds/aggregate.h"
#include "federation/rounds/server_optimizer.h"
#include "federation/server/store.h"
#include "protocols/update.h"

namespace tidegate::offshore {

// A job as its manifest and what is computed from it.
struct JobFacts {
  protocols::Id16 id{};
  protocols::JobManifest manifest;
  Digest layout_digest{};
  uint64_t values = 0;  // of the whole layout
};
JobFacts FactsOf(const protocols::Signed& signed_manifest, protocols::JobManifest manifest);

uint8_t PhaseOf(const protocols::JobManifest& job, uint32_t round);
uint8_t GroupsOf(const protocols::JobManifest& job, uint32_t round);

// kUnauthenticated for a signature that is not the site's, kPermissionDenied for another site than
// the connection's or one the job does not name, kInvalidArgument for everything that the job
// fixes: federation, job, phase, base, layout, codec, suite, sizes, block list. The round is not
// judged.
Status CheckRelease(const protocols::Signed& document, const protocols::ReleaseManifest& release,
                    const JobFacts& job, const std::string& site, const crypto::VerifyKey& key);

// The head must be a note that the site signed and that covers the release's leaf.
Result<crypto::Checkpoint> CheckLedgerHead(const std::string& head,
                                           const protocols::ReleaseManifest& release,
                                           const crypto::VerifyKey& key);

// Gives a block's bytes by its id. SumUpdates calls it from several threads at once.
using BlockReader = std::function<Result<Bytes>(const Digest& id)>;

// Opens, compares with the manifest's digest, parses against the layout, and compares the header
// with the manifest; the weight is within what the job allows.
Result<Bytes> OpenUpdate(const protocols::ReleaseManifest& release, const JobFacts& job,
                         const crypto::AgreeSecretKey& recipient, const BlockReader& read);
// The same of an update that OpenUpdate took before, without hashing it once more: the tag of each
// chunk says that it is what was opened then. Into memory that is there already; the view is of
// what `plain` then holds.
Result<protocols::UpdateView> ReopenUpdate(const protocols::ReleaseManifest& release,
                                           const JobFacts& job,
                                           const crypto::AgreeSecretKey& recipient,
                                           const BlockReader& read, Bytes* plain);

// The next parameters, of a round's updates: their sum and the server's step of it. Where all of
// them, open at once, take no more memory than the sum, without that.
struct StepInput {
  const federation::ServerRule& rule;
  std::span<const float> parameters;
  uint8_t groups = 0;
};
Result<std::vector<float>> StepOfUpdates(std::span<const federation::StoredUpdate> updates,
                                         const JobFacts& job,
                                         const crypto::AgreeSecretKey& recipient,
                                         const BlockReader& read, const StepInput& input,
                                         federation::ServerMoments* moments, unsigned threads);

// The sum of a round's updates, opened and checked a few at a time and added on so many threads.
// What is open takes no more memory than the sum does: 16 bytes a value of the layout, whatever the
// number of sites. The bits are the same for any number of threads.
Result<federation::WeightedSum> SumUpdates(std::span<const federation::StoredUpdate> updates,
                                           const JobFacts& job,
                                           const crypto::AgreeSecretKey& recipient,
                                           const BlockReader& read, unsigned threads);

}  // namespace tidegate::offshore
