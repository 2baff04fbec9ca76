#include "onshore/link/link_core.h"

#include <algorithm>
#include <bit>

#include "protocols/bases.h"

namespace tidegate::onshore {
namespace {

using permit::Outbound;
using protocols::MessageType;

constexpr size_t kMaxOutgoing = 16;
// Blocks of one content between gate and coordinator at once: 1 MiB in this process.
constexpr uint32_t kMaxAsked = 4;
constexpr uint64_t kGrantBytes = 1u << 20;
// All that a coordinator says to a site that connects.
constexpr size_t kMaxTold = 2 * protocols::kMaxBases;
// More than a manifest with all block ids that it may have.
constexpr size_t kMaxToldBytes = 32u << 10;

template <typename Message>
ToGate Ipc(IpcType type, const Message& message) {
  return {type, protocols::Encode(message)};
}

}  // namespace

LinkEffects LinkCore::OnConnected(uint64_t session) {
  connected_ = true;
  session_ = session;
  LinkEffects out;
  out.push_back(Ipc(IpcType::kLinkState, LinkState{true}));
  for (auto& [content, outgoing] : outgoing_) {
    outgoing.sender.Reset();
    outgoing.asked.clear();
    out.push_back(outgoing.offer);
  }
  // What was under way is lost. The gate hears of the new connection and says what it still lacks.
  incoming_.clear();
  told_bases_.clear();
  const LinkEffects lease = OnLease();
  out.insert(out.end(), lease.begin(), lease.end());
  return out;
}

LinkEffects LinkCore::OnDisconnected() {
  connected_ = false;
  for (auto& [content, outgoing] : outgoing_) {
    outgoing.sender.Reset();
    outgoing.asked.clear();
  }
  return {Ipc(IpcType::kLinkState, LinkState{false})};
}

LinkEffects LinkCore::OnLease() {
  if (!connected_) return {};
  const protocols::Lease lease{session_, known_.job, known_.round, known_.adapter_version, 0};
  return {Outbound::Say(lease)};
}

LinkEffects LinkCore::OnCoordinator(MessageType type, ByteSpan body) {
  LinkEffects out;
  const auto pass = [&](BulkKind kind) {
    out.push_back(BulkToGate{kind, {}, 0, Bytes(body.begin(), body.end())});
  };
  switch (type) {
    case MessageType::kJob:
      pass(BulkKind::kJob);
      break;
    case MessageType::kRound:
      pass(BulkKind::kRound);
      break;
    case MessageType::kAdapter:
      pass(BulkKind::kAdapter);
      break;
    case MessageType::kReceipt:
      pass(BulkKind::kReceipt);
      Forget(body);
      break;
    case MessageType::kAbandon:
      pass(BulkKind::kAbandon);
      break;
    case MessageType::kBase:
    case MessageType::kRevoke:
      pass(type == MessageType::kBase ? BulkKind::kBase : BulkKind::kRevoke);
      if (body.size() > kMaxToldBytes) break;
      told_bases_.push_back(std::get<BulkToGate>(out.back()));
      if (told_bases_.size() > kMaxTold) told_bases_.pop_front();
      break;
    case MessageType::kChunk:
      return OnChunk(body);
    case MessageType::kWant:
      OnWant(body);
      break;
    case MessageType::kCredit:
      OnCredit(body);
      break;
    case MessageType::kHave:
      return OnHave(body);
    case MessageType::kError:
      return OnError(body);
    default:
      break;  // LEASE needs no answer, the others are not for a site
  }
  return out;
}

void LinkCore::OnWant(ByteSpan body) {
  const auto want = protocols::Decode<protocols::Want>(body);
  const auto it = want ? outgoing_.find(want->content) : outgoing_.end();
  if (it == outgoing_.end() || !it->second.sender.OnWant(*want)) {
    ++refused_;
    return;
  }
  // Asked anew: what is on its way from the gate was for the credit before.
  if (want->credit_bytes > 0) it->second.asked.clear();
}

void LinkCore::OnCredit(ByteSpan body) {
  const auto credit = protocols::Decode<protocols::Credit>(body);
  const auto it = credit ? outgoing_.find(credit->content) : outgoing_.end();
  if (it == outgoing_.end() || !it->second.sender.OnCredit(*credit)) ++refused_;
}

LinkEffects LinkCore::OnHave(ByteSpan body) {
  const auto have = protocols::Decode<protocols::Have>(body);
  const auto it = have ? outgoing_.find(have->content) : outgoing_.end();
  const size_t blocks = it == outgoing_.end() ? 0 : it->second.release.manifest().blocks.size();
  if (it == outgoing_.end() || have->blocks != blocks ||
      have->bitmap.items.size() != (blocks + 7) / 8) {
    ++refused_;
    return {};
  }
  size_t count = 0;
  for (const uint8_t byte : have->bitmap.items) count += static_cast<size_t>(std::popcount(byte));
  if (count < blocks) return {};
  return {Outbound::Commit(it->second.release)};
}

// An offer that was refused is forgotten here; whether it is made again is the gate's business.
LinkEffects LinkCore::OnError(ByteSpan body) {
  const auto error = protocols::Decode<protocols::ErrorMessage>(body);
  if (!error) {
    ++refused_;
    return {};
  }
  const bool about_offer = error->about == static_cast<uint16_t>(MessageType::kOffer) ||
                           error->about == static_cast<uint16_t>(MessageType::kCommit);
  if (!about_offer || outgoing_.erase(error->content) == 0) return {};
  return {Ipc(IpcType::kOfferRefused, OfferRefused{error->content, error->about, error->code})};
}

// An update that has its receipt is not offered again. (Whether the receipt is true is the gate's
// business: it offers again what it holds open.)
void LinkCore::Forget(ByteSpan receipt) {
  const auto document = protocols::Decode<protocols::Signed>(receipt);
  if (!document) return;
  const auto decoded = protocols::Decode<protocols::Receipt>(document->body.items);
  if (decoded) outgoing_.erase(decoded->content);
}

LinkCore::Incoming* LinkCore::FindIncoming(const Hash32& content) {
  const auto it = std::find_if(incoming_.begin(), incoming_.end(),
                               [&content](const Incoming& i) { return i.content == content; });
  return it == incoming_.end() ? nullptr : &*it;
}

void LinkCore::ForgetIncoming(bool base) {
  std::erase_if(incoming_, [base](const Incoming& i) { return i.base == base; });
}

LinkEffects LinkCore::OnChunk(ByteSpan body) {
  const auto chunk = protocols::DecodeChunk(body);
  Incoming* incoming = chunk ? FindIncoming(chunk->content) : nullptr;
  if (incoming == nullptr) {
    ++refused_;
    return {};
  }
  LinkEffects out;
  out.push_back(BulkToGate{BulkKind::kBlock, chunk->content, chunk->index,
                           Bytes(chunk->bytes.begin(), chunk->bytes.end())});
  incoming->ungranted += protocols::kBlockBytes;
  if (incoming->ungranted >= kGrantBytes) {
    out.push_back(Outbound::Say(protocols::Credit{chunk->content, incoming->ungranted}));
    incoming->ungranted = 0;
  }
  return out;
}

LinkEffects LinkCore::OnGateMessage(IpcType type, ByteSpan body) {
  LinkEffects out;
  if (type == IpcType::kHello) {
    // A gate that was started again says what is open; what was open before is not ours to know.
    outgoing_.clear();
    incoming_.clear();
    known_ = Known{};
    out.push_back(Ipc(IpcType::kLinkState, LinkState{connected_}));
    out.insert(out.end(), told_bases_.begin(), told_bases_.end());
    return out;
  }
  if (type == IpcType::kKnown) {
    const auto known = protocols::Decode<Known>(body);
    if (!known) return out;
    known_ = *known;
    ForgetIncoming(false);  // what of an adapter is still wanted is said after this
    return OnLease();
  }
  if (type == IpcType::kWantBlocks) {
    const auto want = protocols::Decode<WantBlocks>(body);
    if (!want || !connected_) return out;
    const bool fresh = FindIncoming(want->content) == nullptr;
    if (fresh) {
      ForgetIncoming(want->base);
      incoming_.push_back({want->content, want->base, 0});
    }
    const uint64_t credit = fresh ? transport::kWindowBytes : 0;
    out.push_back(Outbound::Say(protocols::Want{want->content, want->first, want->count, credit}));
  }
  return out;
}

LinkEffects LinkCore::OnGateBulk(BulkKind kind, const Hash32& content, uint32_t index,
                                 ByteSpan bytes) {
  LinkEffects out;
  if (kind == BulkKind::kOffer) TakeOffer(bytes, &out);
  if (kind == BulkKind::kBlock) {
    const auto it = outgoing_.find(content);
    if (it == outgoing_.end() || !connected_ || it->second.asked.erase(index) == 0) return out;
    // Only what the gate signed goes out, whatever mistake hands link other bytes.
    auto block = Outbound::Block(it->second.release, index, bytes);
    if (!block) {
      ++refused_;
      return out;
    }
    out.push_back(std::move(*block));
  }
  return out;
}

void LinkCore::TakeOffer(ByteSpan body, LinkEffects* out) {
  const auto offer = protocols::Decode<protocols::Offer>(body);
  if (!offer) return;
  auto release = permit::Release::Verify(offer->release, site_key_, federation_, site_);
  if (!release) {
    ++refused_;
    return;
  }
  auto message = Outbound::Offer(*release, offer->ledger_head.text);
  if (!message) {
    ++refused_;
    return;
  }
  const Hash32 content = release->manifest().content;
  const auto blocks = static_cast<uint32_t>(release->manifest().blocks.size());
  outgoing_.erase(content);
  if (outgoing_.size() >= kMaxOutgoing) outgoing_.erase(outgoing_.begin());
  if (connected_) out->push_back(*message);
  outgoing_.emplace(
      content,
      Outgoing{
          std::move(*release), std::move(*message), transport::BlockSender(content, blocks), {}});
}

void LinkCore::Pump(LinkEffects* out) {
  if (!connected_) return;
  for (auto& [content, outgoing] : outgoing_) {
    while (outgoing.asked.size() < kMaxAsked) {
      const auto index = outgoing.sender.Next();
      if (!index) break;
      outgoing.asked.insert(*index);
      out->push_back(Ipc(IpcType::kNeedBlock, NeedBlock{content, *index}));
    }
  }
}

}  // namespace tidegate::onshore
