#include "transport/transfer.h"

#include <algorithm>

#include "crypto/hash.h"

namespace tidegate::transport {
BlockReceiver::BlockReceiver(const Digest& content, uint64_t content_bytes,
                             std::vector<Digest> blocks, std::vector<bool> have, uint64_t window)
    : content_(content),
      bytes_(content_bytes),
      window_(window),
      blocks_(std::move(blocks)),
      have_(std::move(have)) {
  have_.resize(blocks_.size(), false);
  missing_ = static_cast<uint32_t>(std::count(have_.begin(), have_.end(), false));
}

uint64_t BlockReceiver::SizeOf(uint32_t index) const {
  const uint64_t before = static_cast<uint64_t>(index) * protocols::kBlockBytes;
  return std::min<uint64_t>(protocols::kBlockBytes, bytes_ - std::min(bytes_, before));
}

std::vector<protocols::Want> BlockReceiver::Ask() {
  std::vector<protocols::Want> wants;
  ungranted_ = 0;
  uint64_t credit = window_;
  for (uint32_t i = 0; i < blocks_.size();) {
    if (have_[i]) {
      ++i;
      continue;
    }
    const bool last = wants.size() + 1 == kMaxRanges;
    uint32_t end = i + 1;
    while (end < blocks_.size() && (last || !have_[end])) ++end;
    wants.push_back({content_, i, end - i, credit});
    credit = 0;
    i = end;
  }
  return wants;
}

bool BlockReceiver::Fits(const protocols::Chunk& chunk) const {
  return chunk.content == content_ && chunk.index < blocks_.size() &&
         chunk.bytes.size() == SizeOf(chunk.index);
}

BlockReceiver::Verdict BlockReceiver::Check(const protocols::Chunk& chunk) const {
  if (!Fits(chunk)) return Verdict::kRefused;
  if (have_[chunk.index]) return Verdict::kDuplicate;
  return crypto::Sha256::Of(chunk.bytes) == blocks_[chunk.index] ? Verdict::kStored
                                                                 : Verdict::kRefused;
}

std::optional<protocols::Credit> BlockReceiver::Stored(uint32_t index, size_t bytes) {
  if (!have_[index]) {
    have_[index] = true;
    --missing_;
  }
  // A sender takes whole blocks off its credit.
  ungranted_ += std::max<uint64_t>(bytes, protocols::kBlockBytes);
  if (complete() || ungranted_ < kGrantBytes) return std::nullopt;
  const protocols::Credit credit{content_, ungranted_};
  ungranted_ = 0;
  return credit;
}

protocols::Have BlockReceiver::HaveMessage() const {
  protocols::Have message{content_, blocks(), {}};
  message.bitmap.items.assign((blocks_.size() + 7) / 8, 0);
  for (size_t i = 0; i < have_.size(); ++i) {
    if (have_[i]) message.bitmap.items[i / 8] |= static_cast<uint8_t>(1u << i % 8);
  }
  return message;
}

bool BlockSender::OnWant(const protocols::Want& want) {
  if (want.content != content_ || want.count == 0 || want.first >= blocks_ ||
      want.count > blocks_ - want.first || want.credit_bytes > protocols::kMaxCreditBytes ||
      (want.credit_bytes == 0 && ranges_.size() >= kMaxRanges)) {
    return false;
  }
  // A fresh window begins a fresh question: what was asked before counts as lost.
  if (want.credit_bytes > 0) Reset();
  ranges_.emplace_back(want.first, want.count);
  credit_ = std::min(credit_ + want.credit_bytes, most_);
  return true;
}

bool BlockSender::OnCredit(const protocols::Credit& credit) {
  if (credit.content != content_ || credit.bytes > protocols::kMaxCreditBytes - credit_) {
    return false;
  }
  credit_ = std::min(credit_ + credit.bytes, most_);
  return true;
}

void BlockSender::Reset() {
  ranges_.clear();
  credit_ = 0;
}

std::optional<uint32_t> BlockSender::Next() {
  if (ranges_.empty() || credit_ < protocols::kBlockBytes) return std::nullopt;
  auto& [first, count] = ranges_.front();
  const uint32_t index = first;
  ++first;
  if (--count == 0) ranges_.pop_front();
  credit_ -= protocols::kBlockBytes;
  return index;
}

}  // namespace tidegate::transport
