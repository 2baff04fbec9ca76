// A gate without processes, with a coordinator, a trainer and a link that the test plays.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "audit/ledger_verify.h"
#include "base/bytes.h"
#include "blocks/content.h"
#include "crypto/checkpoint_note.h"
#include "crypto/document.h"
#include "gate_samples.h"
#include "onshore/gate_process/gate_core.h"
#include "onshore/sandbox/statement.h"
#include "protocols/messages.h"

namespace tidegate::onshore {

namespace fs = std::filesystem;
using gate::CoordinatorKey;
using gate::SiteKey;

inline std::string Statement(Role role, bool landlock = true) {
  IsolationStatement statement;
  statement.report.role = role;
  for (WallRow& row : statement.report.rows) row.state = WallState::kUp;
  if (!landlock) {
    WallRow& row = statement.report.row(Wall::kLandlockFs);
    row.state = WallState::kMissing;
    row.error = ENOSYS;
    std::strncpy(row.step, "landlock_create_ruleset", sizeof(row.step) - 1);
  }
  return EncodeStatement(statement);
}

// A coordinator and a trainer, scripted.
class GateCoreTest : public testing::Test {
 protected:
  GateCoreTest() {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
    job_ = gate::SampleJob();
    id_ = gate::IdOf(job_);
    parameters_.assign(600 * 4, 0);
  }
  ~GateCoreTest() override { fs::remove_all(dir_); }

  GateIdentity Identity() const {
    protocols::SiteApproval approval;
    approval.federation = gate::Federation();
    approval.site = "north";
    std::copy_n(SiteKey().verify_key().bytes().begin(), 32, approval.site_sign_key.begin());
    std::copy_n(CoordinatorKey().verify_key().bytes().begin(), 32,
                approval.coordinator_sign_key.begin());
    return {*crypto::SigningKey::FromSeed(SiteKey().seed()),
            *gate::ParsePolicy(policy_, "policy.toml"), approval};
  }
  // A gate as after a restart: everything it knows is read from disk, both peers say hello.
  GateEffects Start(bool trainer = true) {
    auto core = GateCore::Create(dir_, Identity(), Statement(Role::kGate), clock_, spool_bytes_);
    EXPECT_TRUE(core.has_value()) << core.error().ToString();
    core_ = std::move(*core);
    GateEffects all = *core_->OnHello(To::kLink);
    Add(&all, core_->OnIsolation(To::kLink, Statement(Role::kLink)));
    if (trainer) {
      Add(&all, core_->OnHello(To::kTrainer));
      Add(&all, core_->OnIsolation(To::kTrainer, Statement(Role::kTrainer)));
    }
    return all;
  }
  static void Add(GateEffects* all, Result<GateEffects> more) {
    ASSERT_TRUE(more.has_value()) << more.error().ToString();
    all->insert(all->end(), more->begin(), more->end());
  }
  GateEffects Bulk(To from, BulkKind kind, const Bytes& bytes, const Hash32& content = {},
                   uint32_t index = 0) {
    GateEffects out;
    Add(&out, core_->OnBulk(from, kind, content, index, bytes));
    return out;
  }
  template <typename Document>
  static Bytes Sign(crypto::SignDomain domain, const Document& document) {
    return protocols::Encode(*crypto::SignDocument(CoordinatorKey(), domain, document));
  }
  Bytes JobBytes() const { return Sign(crypto::domains::kJob, job_); }
  Bytes ParametersOf(uint32_t version) const {
    Bytes parameters = parameters_;
    const float first = 0x1p-4f * static_cast<float>(version);
    std::memcpy(parameters.data(), &first, sizeof(first));
    return parameters;
  }
  protocols::AdapterManifest AdapterOf(uint32_t version) const {
    protocols::AdapterManifest adapter;
    adapter.job = id_;
    adapter.version = version;
    adapter.final = version == job_.rounds;
    adapter.base_hash = job_.base_hash;
    adapter.layout_digest = gate::LayoutDigest(job_);
    adapter.content_bytes = parameters_.size();
    adapter.blocks.items = {blocks::BlockId(ParametersOf(version))};
    adapter.content = blocks::ContentId(adapter.blocks.items);
    return adapter;
  }
  protocols::RoundAnnouncement RoundOf(uint32_t round) const {
    protocols::RoundAnnouncement announcement;
    announcement.job = id_;
    announcement.round = round;
    announcement.adapter_version = round - 1;
    announcement.adapter_manifest = crypto::Sha256::Of(protocols::Encode(AdapterOf(round - 1)));
    std::copy_n(recipient_.public_key().bytes().begin(), 32, announcement.recipient.begin());
    return announcement;
  }
  GateEffects OpenRound(uint32_t round) {
    GateEffects all =
        Bulk(To::kLink, BulkKind::kAdapter, Sign(crypto::domains::kAdapter, AdapterOf(round - 1)));
    const auto more =
        Bulk(To::kLink, BulkKind::kRound, Sign(crypto::domains::kRound, RoundOf(round)));
    all.insert(all.end(), more.begin(), more.end());
    const auto block = GiveBlock(round - 1);
    all.insert(all.end(), block.begin(), block.end());
    return all;
  }
  GateEffects GiveBlock(uint32_t version) {
    return Bulk(To::kLink, BulkKind::kBlock, ParametersOf(version), AdapterOf(version).content, 0);
  }
  Bytes Update(uint32_t round) const {
    return gate::SampleUpdate(job_, gate::SampleHeader(job_, round));
  }
  template <typename Wanted>
  static const Wanted* Find(const GateEffects& effects, auto&& which) {
    for (const GateEffect& e : effects) {
      const auto* found = std::get_if<Wanted>(&e);
      if (found != nullptr && which(*found)) return found;
    }
    return nullptr;
  }
  static const SendBulkTo* BulkOf(const GateEffects& effects, BulkKind kind) {
    return Find<SendBulkTo>(effects, [kind](const SendBulkTo& b) { return b.kind == kind; });
  }
  static const SendMessage* MessageOf(const GateEffects& effects, IpcType type) {
    return Find<SendMessage>(effects, [type](const SendMessage& m) { return m.type == type; });
  }
  static bool Tells(const GateEffects& effects, ControlType type) {
    return Find<TellSupervisor>(
               effects, [type](const TellSupervisor& t) { return t.type == type; }) != nullptr;
  }
  int Leaves(gate::LeafType type) const {
    int n = 0;
    for (const auto& leaf : core_->ledger().leaves()) n += leaf.entry.type == type;
    return n;
  }
  Bytes ReceiptFor(const protocols::ReleaseManifest& manifest) const {
    protocols::Receipt receipt;
    receipt.federation = gate::Federation();
    receipt.key = manifest.key;
    receipt.content = manifest.content;
    receipt.ledger_head = core_->ledger().head();
    return Sign(crypto::domains::kReceipt, receipt);
  }
  static protocols::ReleaseManifest ManifestIn(const SendBulkTo& offer) {
    const auto message = *protocols::Decode<protocols::Offer>(offer.bytes);
    return *protocols::Decode<protocols::ReleaseManifest>(message.release.body.items);
  }
  std::string LastRefusal() const {
    std::string text;
    for (const auto& leaf : core_->ledger().leaves()) {
      if (leaf.entry.type == gate::LeafType::kRefusal) text = audit::LeafText(leaf.entry);
    }
    return text;
  }

  const fs::path dir_ =
      fs::temp_directory_path() / fmt::format("tidegate_gate_core_{}", ::getpid());
  ManualClock clock_{1795581436000};
  uint64_t spool_bytes_ = protocols::kMaxSpoolBytes;
  std::string policy_ = gate::SamplePolicyText();  // ends in [export]
  protocols::JobManifest job_;
  protocols::Id16 id_{};
  Bytes parameters_;
  crypto::AgreeSecretKey recipient_ = *crypto::AgreeSecretKey::Generate();
  std::unique_ptr<GateCore> core_;
};

}  // namespace tidegate::onshore
