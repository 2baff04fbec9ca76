#include "offshore/transfers.h"

#include <algorithm>

namespace tidegate::offshore {

using protocols::kBlockBytes;

Incoming::Incoming(protocols::Signed release, protocols::ReleaseManifest manifest,
                   std::string ledger_head)
    : release_(std::move(release)),
      manifest_(std::move(manifest)),
      ledger_head_(std::move(ledger_head)),
      have_(manifest_.blocks.size()) {}

bool Incoming::Fits(uint32_t index, size_t size) const {
  return blocks::BlockSizeFits(manifest_.ciphertext_bytes, manifest_.blocks.size(), index, size);
}

protocols::Have Incoming::HaveMessage() const {
  return {manifest_.content, static_cast<uint32_t>(have_.size()), {have_.bytes()}};
}

std::vector<protocols::Want> Incoming::WantMessages() {
  credit_due_ = 0;
  std::vector<protocols::Want> wants;
  const auto size = static_cast<uint32_t>(have_.size());
  for (uint32_t i = 0; i < size;) {
    uint32_t end = i;
    while (end < size && !have_.Has(end)) ++end;
    if (end > i)
      wants.push_back({manifest_.content, i, end - i, wants.empty() ? kIncomingWindow : 0});
    i = end + 1;
  }
  return wants;
}

void Incoming::Took(uint32_t index, size_t size) {
  credit_due_ += size;
  have_.Set(index);
}

std::optional<protocols::Credit> Incoming::TakeCredit() {
  if (credit_due_ == 0 || complete()) return std::nullopt;
  return protocols::Credit{manifest_.content, std::exchange(credit_due_, 0)};
}

bool Outflow::OnWant(const protocols::Want& want) {
  const size_t blocks = manifest_.blocks.size();
  if (want.first > blocks || want.count > blocks - want.first) return false;
  const Range range{want.first, want.first + want.count};
  // Asked again: what the new range covers need not be sent twice.
  std::erase_if(ranges_,
                [&](const Range& r) { return r.next >= range.next && r.end <= range.end; });
  if (ranges_.size() >= kMaxRanges) return false;
  ranges_.push_back(range);
  OnCredit(want.credit_bytes);
  return true;
}

void Outflow::OnCredit(uint64_t bytes) {
  credit_ = std::min(credit_ + std::min(bytes, kOutgoingWindow), kOutgoingWindow);
}

uint64_t Outflow::SizeOf(uint32_t index) const {
  const uint64_t before = static_cast<uint64_t>(index) * kBlockBytes;
  return std::min<uint64_t>(kBlockBytes, manifest_.content_bytes - before);
}

std::optional<uint32_t> Outflow::Next() {
  while (!ranges_.empty() && ranges_.front().next >= ranges_.front().end) ranges_.pop_front();
  if (ranges_.empty() || SizeOf(ranges_.front().next) > credit_) return std::nullopt;
  credit_ -= SizeOf(ranges_.front().next);
  return ranges_.front().next++;
}

}  // namespace tidegate::offshore
