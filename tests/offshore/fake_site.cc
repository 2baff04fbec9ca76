#include "fake_site.h"

#include <cstring>

#include "blocks/content.h"
#include "crypto/armor.h"
#include "crypto/checkpoint_note.h"
#include "crypto/document.h"
#include "crypto/seal.h"
#include "federation/shared/delta_codec.h"
#include "federation/shared/grid.h"
#include "protocols/seal_binding.h"
#include "tests/permit/played_gate.h"

namespace tidegate::offshore {

using protocols::Channel;
using protocols::MessageType;

FakeSite::FakeSite(std::string name, crypto::VerifyKey coordinator)
    : name_(std::move(name)),
      coordinator_(std::move(coordinator)),
      gate_(std::move(crypto::SigningKey::Generate().value())),
      link_(std::move(crypto::CurveKeyPair::Generate().value())) {}

std::string FakeSite::Request() const {
  protocols::SiteRequest request;
  request.site = name_;
  std::copy_n(gate_.verify_key().bytes().begin(), 32, request.sign_key.begin());
  std::copy_n(link_.public_key().begin(), 32, request.curve_key.begin());
  const auto document = crypto::SignDocument(gate_, crypto::domains::kSiteRequest, request);
  return *crypto::EncodeArmor("SITE REQUEST", protocols::Encode(*document));
}

float FakeSite::Delta(const std::string& site, uint32_t round, uint64_t i) {
  uint64_t x = i * 0x9e3779b97f4a7c15ull + round * 0x100000001b3ull;
  for (const char c : site) x = (x ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return static_cast<float>(static_cast<int64_t>(x >> 33) % 2001 - 1000) * 0x1p-20f;
}

const FakeSite::Spool& FakeSite::Make(uint32_t round) {
  if (const auto it = spool_.find(round); it != spool_.end()) return it->second;
  const protocols::RoundAnnouncement& announced = rounds.at(round);
  std::vector<float> result = parameters;
  for (size_t i = 0; i < result.size(); ++i) {
    const float pushed = i == 0 ? push : i == 1 ? -push : 0.0f;
    const float delta = other_values ? 0.0f : Delta(name_, round, i) + pushed;
    result[i] = federation::SnapToGrid(static_cast<double>(result[i]) + static_cast<double>(delta));
  }
  protocols::UpdateHeader header;
  header.job = job_id;
  header.round = round;
  header.phase = announced.phase;
  header.groups = job->phase_groups.items[announced.phase];
  header.codec = job->codec;
  std::copy(name_.begin(), name_.end(), header.site.begin());
  header.base_hash = job->base_hash;
  header.layout_digest = crypto::Sha256::Of(protocols::Encode(job->layout));
  header.weight = weight;
  header.metrics.train_loss_milli = 1000 + round;
  const Bytes plain = federation::EncodeUpdate(header, job->layout, parameters, result, 0).value();
  Spool spool;
  protocols::ReleaseManifest& release = spool.release;
  release.federation = job->federation;
  release.key = {job_id, round, announced.phase, name_};
  release.base_hash = job->base_hash;
  release.layout_digest = header.layout_digest;
  release.codec = job->codec;
  release.recipient = announced.recipient;
  const Bytes aad =
      protocols::SealAad(release.key, release.base_hash, release.layout_digest, release.codec);
  const crypto::Sealer sealer(*crypto::AgreePublicKey::FromBytes(announced.recipient),
                              crypto::Suite::kTg1,
                              protocols::SealInfo(job->federation, job->suite));
  crypto::SealedBody body = sealer.Seal(plain, aad).value();
  std::copy_n(body.header.enc.begin(), 32, release.encapsulated.begin());
  release.commitment = body.header.commitment;
  release.plaintext = crypto::Sha256::Of(plain);
  for (crypto::SealedChunk& chunk : body.chunks) {
    release.ciphertext_bytes += chunk.bytes.size();
    release.blocks.items.push_back(chunk.digest);
    spool.blocks.push_back(std::move(chunk.bytes));
  }
  release.content = blocks::ContentId(release.blocks.items);
  release.ledger_index = leaves_++;
  spool.offer.release = gate::Sealing::Sign(gate_, release);
  spool.offer.ledger_head = Head();
  return spool_.emplace(round, std::move(spool)).first->second;
}

std::string FakeSite::Head() const {
  const crypto::Checkpoint head{"tidegate/test/" + name_, leaves_, Digest{}};
  return crypto::SignCheckpoint(head, name_, gate_).value();
}

SiteMessage FakeSite::OfferNow(uint32_t round) {
  protocols::Offer offer = Make(round).offer;
  offer.ledger_head = Head();
  return {Channel::kControl, MessageType::kOffer, protocols::Encode(offer)};
}

SiteMessage FakeSite::OfferOf(const Spool& spool) {
  return {Channel::kControl, MessageType::kOffer, protocols::Encode(spool.offer)};
}

SiteMessage FakeSite::Lease() const {
  protocols::Lease lease;
  lease.job = job_id;
  lease.round = rounds.empty() ? 0 : rounds.rbegin()->first;
  lease.adapter_version = adapter ? adapter->version : 0;
  return {Channel::kControl, MessageType::kLease, protocols::Encode(lease)};
}

void FakeSite::Reset() {
  sending_.clear();
  coming_.reset();
  came_.clear();
}

std::vector<SiteMessage> FakeSite::Resume() {
  Reset();
  const bool lacks = newest_ && (!adapter || adapter->version < newest_->version);
  std::vector<SiteMessage> out = lacks ? WantAdapter() : OfferIfReady();
  // What was offered and has no receipt: it may have been taken, and the receipt lost on its way.
  for (const auto& [round, spool] : spool_) {
    if (!receipts.contains(round)) out.push_back(OfferNow(round));
  }
  return out;
}

std::vector<SiteMessage> FakeSite::On(MessageType type, ByteSpan body) {
  switch (type) {
    case MessageType::kJob: {
      const auto message = protocols::Decode<protocols::Job>(body);
      auto manifest = crypto::OpenDocument<protocols::JobManifest>(
          coordinator_, crypto::domains::kJob, message->manifest, "job");
      if (!manifest) return ++bad, std::vector<SiteMessage>();
      if (job_id != crypto::JobIdOf(message->manifest)) {
        adapter.reset();
        newest_.reset();
        rounds.clear();
      }
      job_id = crypto::JobIdOf(message->manifest);
      job = std::move(*manifest);
      return {};
    }
    case MessageType::kAdapter:
      return OnAdapter(body);
    case MessageType::kRound:
      return OnRound(body);
    case MessageType::kChunk:
      return OnAdapterChunk(body);
    case MessageType::kHave: {
      const auto have = protocols::Decode<protocols::Have>(body);
      sending_[have->content].have = have->bitmap.items;
      sending_[have->content].committed = false;
      return SendBlocks(have->content);
    }
    case MessageType::kWant:
      return OnWant(*protocols::Decode<protocols::Want>(body));
    case MessageType::kCredit: {
      const auto credit = protocols::Decode<protocols::Credit>(body);
      sending_[credit->content].credit += credit->bytes;
      return SendBlocks(credit->content);
    }
    case MessageType::kReceipt:
      OnReceipt(body);
      return {};
    case MessageType::kAbandon: {
      const auto message = protocols::Decode<protocols::Abandon>(body);
      const auto notice = crypto::OpenDocument<protocols::AbandonNotice>(
          coordinator_, crypto::domains::kAbandon, message->notice, "notice");
      if (!notice) return ++bad, std::vector<SiteMessage>();
      notices.push_back(*notice);
      ended = ended || notice->round == 0;
      return {};
    }
    case MessageType::kError:
      errors.push_back(*protocols::Decode<protocols::ErrorMessage>(body));
      return {};
    default:
      return {};
  }
}

std::vector<SiteMessage> FakeSite::OnAdapter(ByteSpan body) {
  const auto message = protocols::Decode<protocols::AdapterOffer>(body);
  auto manifest = crypto::OpenDocument<protocols::AdapterManifest>(
      coordinator_, crypto::domains::kAdapter, message->manifest, "adapter");
  if (!manifest) return ++bad, std::vector<SiteMessage>();
  if (adapter && adapter->version >= manifest->version) return {};
  if (coming_ && coming_->content == manifest->content) return {};
  newest_ = std::move(*manifest);
  return WantAdapter();
}

std::vector<SiteMessage> FakeSite::WantAdapter() {
  coming_ = newest_;
  came_.clear();
  // All but one block of credit at once, so that CREDIT is needed too when there are several.
  const protocols::Want want{coming_->content, 0, static_cast<uint32_t>(coming_->blocks.size()),
                             protocols::kBlockBytes};
  return {{Channel::kControl, MessageType::kWant, protocols::Encode(want)}};
}

std::vector<SiteMessage> FakeSite::OnAdapterChunk(ByteSpan body) {
  const auto chunk = protocols::DecodeChunk(body);
  if (!chunk || !coming_ || chunk->content != coming_->content) return {};
  if (blocks::BlockId(chunk->bytes) != coming_->blocks.items.at(chunk->index)) {
    return ++bad, std::vector<SiteMessage>();
  }
  came_[chunk->index].assign(chunk->bytes.begin(), chunk->bytes.end());
  if (came_.size() < coming_->blocks.size()) {
    const protocols::Credit credit{coming_->content, chunk->bytes.size()};
    return {{Channel::kControl, MessageType::kCredit, protocols::Encode(credit)}};
  }
  parameters.assign(coming_->content_bytes / 4, 0.0f);
  size_t at = 0;
  for (const auto& [index, block] : came_) {
    std::memcpy(reinterpret_cast<uint8_t*>(parameters.data()) + at, block.data(), block.size());
    at += block.size();
  }
  adapter = std::exchange(coming_, std::nullopt);
  came_.clear();
  ended = ended || adapter->final;
  return OfferIfReady();
}

std::vector<SiteMessage> FakeSite::OnRound(ByteSpan body) {
  const auto message = protocols::Decode<protocols::Round>(body);
  const auto round = crypto::OpenDocument<protocols::RoundAnnouncement>(
      coordinator_, crypto::domains::kRound, message->announcement, "round");
  if (!round) return ++bad, std::vector<SiteMessage>();
  rounds[round->round] = *round;
  return OfferIfReady();
}

std::vector<SiteMessage> FakeSite::OfferIfReady() {
  if (silent || rounds.empty() || !adapter || !job) return {};
  const auto& [number, round] = *rounds.rbegin();
  if (round.job != job_id || receipts.contains(number)) return {};
  if (!spool_.contains(number) && round.adapter_version != adapter->version) return {};
  return {OfferNow(number)};
}

std::vector<SiteMessage> FakeSite::OnWant(const protocols::Want& want) {
  Sending& sending = sending_[want.content];
  sending.next = want.first;
  sending.credit += want.credit_bytes;
  return SendBlocks(want.content);
}

std::vector<SiteMessage> FakeSite::SendBlocks(const Digest& content) {
  std::vector<SiteMessage> out;
  Sending& sending = sending_[content];
  for (const auto& [round, spool] : spool_) {
    if (spool.release.content != content) continue;
    const auto has = [&](uint32_t i) {
      return i / 8 < sending.have.size() && (sending.have[i / 8] >> (i % 8) & 1) != 0;
    };
    for (; sending.next < spool.blocks.size(); ++sending.next) {
      const Bytes& block = spool.blocks[sending.next];
      if (has(sending.next)) continue;
      if (block.size() > sending.credit) return out;
      sending.credit -= block.size();
      out.push_back({Channel::kBulk, MessageType::kChunk,
                     protocols::EncodeChunk({content, sending.next, block})});
    }
    if (!sending.committed) {
      out.push_back(
          {Channel::kControl, MessageType::kCommit, protocols::Encode(protocols::Commit{content})});
      sending.committed = true;
    }
  }
  return out;
}

void FakeSite::OnReceipt(ByteSpan body) {
  const auto message = protocols::Decode<protocols::ReceiptMessage>(body);
  const auto receipt = crypto::OpenDocument<protocols::Receipt>(
      coordinator_, crypto::domains::kReceipt, message->receipt, "receipt");
  if (!receipt) {
    ++bad;
    return;
  }
  receipts[receipt->key.round] = *receipt;
  receipt_bytes[receipt->key.round] = message->receipt.body.items;
}

}  // namespace tidegate::offshore
