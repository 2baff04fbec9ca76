// A policy, a job and an update that agree, for the gate's tests to spoil one thing of.
#pragma once

#include <string>

#include "crypto/hash.h"
#include "crypto/sign.h"
#include "federation/shared/delta_codec.h"
#include "gate/ledger.h"
#include "gate/review.h"

namespace tidegate::gate {

inline const crypto::SigningKey& CoordinatorKey() {
  static const crypto::SigningKey key = [] {
    crypto::Secret<32> seed;
    seed.reveal_mutable()[0] = 1;
    return *crypto::SigningKey::FromSeed(seed);
  }();
  return key;
}

inline const crypto::SigningKey& SiteKey() {
  static const crypto::SigningKey key = [] {
    crypto::Secret<32> seed;
    seed.reveal_mutable()[0] = 2;
    return *crypto::SigningKey::FromSeed(seed);
  }();
  return key;
}

inline protocols::Id16 Federation() {
  protocols::Id16 id{};
  id[0] = 7;
  return id;
}

inline Digest BaseHash() {
  Digest digest{};
  digest[0] = 3;
  return digest;
}

inline std::string SamplePolicyText() {
  return "[coordinator]\nkey = \"" + CoordinatorKey().verify_key().ToText() +
         "\"\nfederation = \"" + ToHex(Federation()) +
         "\"\n[jobs]\nallow = [\"triage\"]\nbase_hashes = [\"" + ToHex(BaseHash()) +
         "\"]\nmax_rounds = 10\nmax_local_steps = 20\n[walls]\ndemanded = [\"netns\", "
         "\"seccomp\", \"landlock_fs\", \"pinned_address\"]\n[ground]\nconsent_basis = "
         "\"contract\"\n[privacy]\nwaiver = \"a test of made-up records\"\n[export]\ntensors = "
         "[\"layer.*.lora_A\", \"layer.*.lora_B\"]\nmax_rank = 16\nmax_tensors = 8\ncodecs = "
         "[\"int8\", \"fixed32\"]\nnorm_clip = 10.0\nmax_bytes_per_round = 100000\n"
         "max_bytes_per_day = 150000\nmax_exports_per_day = 5\nmax_exports_per_job = 7\nmetrics = "
         "[\"train_loss\", \"heldout_loss\"]\n";
}

inline const Policy& SamplePolicy() {
  static const Policy policy = *ParsePolicy(SamplePolicyText(), "policy.toml");
  return policy;
}

inline protocols::JobManifest SampleJob() {
  protocols::JobManifest job;
  job.federation = Federation();
  job.name = "triage";
  job.base_hash = BaseHash();
  job.layout.tensors.items = {{"layer.0.lora_A", 4, 100, 0}, {"layer.0.lora_B", 50, 4, 1}};
  job.lora_r = 4;
  job.lora_alpha = 8;
  job.lora_targets = 1;
  job.phase_groups.items = {3};
  job.rounds = 3;
  job.local_steps = 2;
  job.batch_size = 1;
  job.max_length = 64;
  job.learning_rate = 0.01;
  job.quorum = 1;
  job.round_deadline_millis = 60000;
  job.sites.items = {"north", "south"};
  return job;
}

inline protocols::Id16 IdOf(const protocols::JobManifest& job) {
  const Digest digest = crypto::Sha256::Of(protocols::Encode(job));
  protocols::Id16 id;
  std::copy_n(digest.begin(), id.size(), id.begin());
  return id;
}

inline Digest LayoutDigest(const protocols::JobManifest& job) {
  return crypto::Sha256::Of(protocols::Encode(job.layout));
}

inline protocols::UpdateHeader SampleHeader(const protocols::JobManifest& job, uint32_t round) {
  protocols::UpdateHeader header;
  header.job = IdOf(job);
  header.round = round;
  header.groups = 3;
  header.codec = job.codec;
  const std::string site = "north";
  std::copy(site.begin(), site.end(), header.site.begin());
  header.base_hash = job.base_hash;
  header.layout_digest = LayoutDigest(job);
  header.weight = 1;
  header.metrics = {1500, 2500};
  return header;
}

inline Bytes SampleUpdate(const protocols::JobManifest& job, const protocols::UpdateHeader& header,
                          float value = 0.0078125f) {
  const size_t n = protocols::UpdateValues(job.layout, 3);
  return *federation::EncodeUpdate(header, job.layout, std::vector<float>(n, 0.0f),
                                   std::vector<float>(n, value), 0);
}

inline const crypto::AgreeSecretKey& RecipientKey() {
  static const crypto::AgreeSecretKey key = *crypto::AgreeSecretKey::Generate();
  return key;
}

inline protocols::RoundAnnouncement SampleRound(const protocols::JobManifest& job, uint32_t round) {
  protocols::RoundAnnouncement announcement;
  announcement.job = IdOf(job);
  announcement.round = round;
  std::copy_n(RecipientKey().public_key().bytes().begin(), 32, announcement.recipient.begin());
  return announcement;
}

// The sample update of this round, judged.
inline Review::Verdict SampleVerdict(const protocols::JobManifest& job, uint32_t round) {
  const Bytes update = SampleUpdate(job, SampleHeader(job, round));
  const protocols::Id16 id = IdOf(job);
  const Digest layout = LayoutDigest(job);
  return Review::JudgeUpdate({SamplePolicy(),
                              job,
                              SampleRound(job, round),
                              id,
                              "north",
                              layout,
                              update,
                              crypto::SealedSizeOf(update.size()).bytes,
                              {},
                              false,
                              std::nullopt});
}

// The sample update of this round, judged and sealed for the ledger's next leaf.
inline SealedUpdate SealedSample(const Ledger& ledger, uint32_t round) {
  const protocols::JobManifest job = SampleJob();
  const Bytes update = SampleUpdate(job, SampleHeader(job, round));
  auto verdict = SampleVerdict(job, round);
  return *Sealing::Seal(std::move(*verdict.cleared),
                        {"north", job, SampleRound(job, round), update, ledger.size(), 1000});
}

// The bytes of each such export.
inline uint64_t SampleExportBytes() {
  const protocols::JobManifest job = SampleJob();
  return crypto::SealedSizeOf(protocols::UpdateBytes(job.layout, 3, job.codec)).bytes;
}

// An export in the ledger.
inline Status Debit(Ledger& ledger, uint32_t round) {
  return Sealing::Debit(ledger, SealedSample(ledger, round));
}

}  // namespace tidegate::gate
