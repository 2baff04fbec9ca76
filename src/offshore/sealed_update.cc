#include "offshore/sealed_update.h"

#include <algorithm>

#include "base/memory.h"
#include "blocks/content.h"
#include "crypto/checkpoint_note.h"
#include "crypto/document.h"
#include "crypto/hash.h"
#include "crypto/seal.h"
#include "protocols/seal_binding.h"

namespace tidegate::offshore {
namespace {

using protocols::JobManifest;
using protocols::ReleaseManifest;

Error Differs(std::string_view field, std::string_view remedy) {
  return InvalidArgument("the release's {} is not that of the job; {}", field, remedy);
}

Status CheckSizes(const ReleaseManifest& release, const JobManifest& job) {
  const uint64_t plain =
      protocols::UpdateBytes(job.layout, GroupsOf(job, release.key.round), job.codec);
  const crypto::SealedSize sealed = crypto::SealedSizeOf(plain);
  if (release.ciphertext_bytes != sealed.bytes || release.blocks.size() != sealed.chunks) {
    return InvalidArgument(
        "the release has {} bytes in {} blocks; an update of this job has {} in {}",
        release.ciphertext_bytes, release.blocks.size(), sealed.bytes, sealed.chunks);
  }
  if (blocks::ContentId(release.blocks.items) != release.content) {
    return InvalidArgument("the release's content id is not that of its blocks");
  }
  return OkStatus();
}

Status CheckHeader(const protocols::UpdateHeader& header, const ReleaseManifest& release,
                   const JobManifest& job) {
  std::string site(reinterpret_cast<const char*>(header.site.data()), header.site.size());
  site.resize(std::min(site.find('\0'), site.size()));
  const struct {
    const char* field;
    bool same;
  } fields[] = {{"job", header.job == release.key.job},
                {"round", header.round == release.key.round},
                {"phase", header.phase == release.key.phase},
                {"site", site == release.key.site.text},
                {"groups", header.groups == GroupsOf(job, release.key.round)},
                {"codec", header.codec == job.codec},
                {"base", header.base_hash == job.base_hash},
                {"layout", header.layout_digest == release.layout_digest}};
  for (const auto& f : fields) {
    if (!f.same)
      return InvalidArgument("the sealed update is of another {} than its release", f.field);
  }
  const uint32_t most = job.weighting == protocols::Weighting::kEqual ? 1 : job.max_weight;
  if (header.weight < 1 || header.weight > most) {
    return InvalidArgument("the update's weight {} is not in 1 … {}, what the job allows",
                           header.weight, most);
  }
  return OkStatus();
}

}  // namespace

JobFacts FactsOf(const protocols::Signed& signed_manifest, JobManifest manifest) {
  JobFacts facts;
  facts.id = crypto::JobIdOf(signed_manifest);
  facts.layout_digest = crypto::Sha256::Of(protocols::Encode(manifest.layout));
  for (const auto& t : manifest.layout.tensors.items) {
    facts.values += static_cast<uint64_t>(t.rows) * t.cols;
  }
  facts.manifest = std::move(manifest);
  return facts;
}

uint8_t PhaseOf(const JobManifest& job, uint32_t round) {
  return static_cast<uint8_t>((round - 1) % job.phase_groups.size());
}

uint8_t GroupsOf(const JobManifest& job, uint32_t round) {
  return job.phase_groups.items[PhaseOf(job, round)];
}

Status CheckRelease(const protocols::Signed& document, const ReleaseManifest& release,
                    const JobFacts& job, const std::string& site, const crypto::VerifyKey& key) {
  const JobManifest& m = job.manifest;
  if (release.key.site.text != site) {
    return PermissionDenied("a release of another site came over the connection of {}", site);
  }
  if (const Status status =
          key.Verify(crypto::domains::kRelease, document.body.items, document.signature);
      !status.ok()) {
    return status.WithContext("the release");
  }
  if (release.federation != m.federation || release.key.job != job.id) {
    return Differs("federation or job", "offer updates of the announced job");
  }
  const auto named = std::any_of(m.sites.items.begin(), m.sites.items.end(),
                                 [&](const protocols::Name& name) { return name.text == site; });
  if (!named) return PermissionDenied("the job does not name site {}", site);
  if (release.key.round < 1 || release.key.phase != PhaseOf(m, release.key.round)) {
    return Differs("round or phase", "the announcement names them");
  }
  if (release.base_hash != m.base_hash) return Differs("base", "train on the job's base");
  if (release.layout_digest != job.layout_digest) {
    return Differs("layout", "share the tensors that the job lists");
  }
  if (release.codec != m.codec) return Differs("codec", "encode with the job's codec");
  if (release.suite != m.suite) return Differs("suite", "seal with the job's suite");
  return CheckSizes(release, m);
}

Result<crypto::Checkpoint> CheckLedgerHead(const std::string& head, const ReleaseManifest& release,
                                           const crypto::VerifyKey& key) {
  auto checkpoint = crypto::OpenCheckpoint(head, release.key.site.text, key);
  if (!checkpoint) return Unexpected(checkpoint.error().WithContext("the ledger head"));
  if (checkpoint->size > release.ledger_index) return checkpoint;
  return InvalidArgument("the ledger head of {} leaves does not cover leaf {} of the release",
                         checkpoint->size, release.ledger_index);
}

Result<protocols::UpdateView> ReopenUpdate(const ReleaseManifest& release, const JobFacts& job,
                                           const crypto::AgreeSecretKey& recipient,
                                           const BlockReader& read, Bytes* plain) {
  const JobManifest& m = job.manifest;
  TG_ASSIGN_OR_RETURN(const crypto::Suite suite,
                      crypto::ParseSuite(static_cast<uint8_t>(release.suite)));
  const crypto::SealHeader header{suite, release.encapsulated, release.commitment};
  const Bytes info = protocols::SealInfo(release.federation, release.suite);
  const Bytes aad =
      protocols::SealAad(release.key, release.base_hash, release.layout_digest, release.codec);
  TG_ASSIGN_OR_RETURN(crypto::BodyOpener opener,
                      crypto::BodyOpener::Start(header, recipient, info, aad));
  const uint64_t expected =
      protocols::UpdateBytes(m.layout, GroupsOf(m, release.key.round), m.codec);
  plain->clear();
  if (plain->capacity() < expected) {
    plain->reserve(expected);
    AdviseHugePages(plain->data(), expected);
  }
  for (size_t i = 0; i < release.blocks.size(); ++i) {
    TG_ASSIGN_OR_RETURN(const Bytes block, read(release.blocks.items[i]));
    TG_ASSIGN_OR_RETURN(const Bytes part, opener.OpenChunk(block, i + 1 == release.blocks.size()));
    if (plain->size() + part.size() > expected) {
      return InvalidArgument("the sealed update is longer than the {} bytes of its layout",
                             expected);
    }
    plain->insert(plain->end(), part.begin(), part.end());
  }
  TG_RETURN_IF_ERROR(opener.Finish());
  auto view = protocols::UpdateView::Parse(*plain, m.layout);
  if (!view) return InvalidArgument("the sealed update: {}", view.error().reason);
  TG_RETURN_IF_ERROR(CheckHeader(view->header(), release, m));
  return std::move(*view);
}

Result<Bytes> OpenUpdate(const ReleaseManifest& release, const JobFacts& job,
                         const crypto::AgreeSecretKey& recipient, const BlockReader& read) {
  Bytes plain;
  const auto view = ReopenUpdate(release, job, recipient, read, &plain);
  if (!view) return Unexpected(view.error());
  if (crypto::Sha256::Of(plain) != release.plaintext) {
    return InvalidArgument("the sealed update is not what its release says");
  }
  return plain;
}

}  // namespace tidegate::offshore
