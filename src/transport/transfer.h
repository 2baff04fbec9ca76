// The two ends of a block transfer as state machines without sockets or clocks
// (protocols/messages.md): the receiver grants byte credit, the sender stays within it. Both
// survive any loss, repetition and order of messages; after a cut the receiver says again what is
// missing. Not thread-safe.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "protocols/messages.h"

namespace tidegate::transport {

// What is under way to a receiver at most, unless it says otherwise.
inline constexpr uint64_t kWindowBytes = 8ull << 20;
// Credit goes back in steps of this.
inline constexpr uint64_t kGrantBytes = 1ull << 20;
// Ranges that a sender remembers.
inline constexpr size_t kMaxRanges = 256;

class BlockReceiver {
 public:
  // `blocks` in order, from a verified manifest; `have[i]`: stored already (empty: none). `window`
  // is at least kGrantBytes and a block.
  BlockReceiver(const Digest& content, uint64_t content_bytes, std::vector<Digest> blocks,
                std::vector<bool> have, uint64_t window = kWindowBytes);

  // What to ask for, after the start and after each reconnect: the whole window is granted anew,
  // what was under way counts as lost. At most kMaxRanges messages; with more gaps than that the
  // last one asks for all the rest.
  std::vector<protocols::Want> Ask();

  // Whether the chunk is of this content and has the size of its block; says nothing of its bytes.
  bool Fits(const protocols::Chunk& chunk) const;

  enum class Verdict { kStored, kDuplicate, kRefused };
  // A chunk that arrived. kStored: it is the block `index` says, the caller stores it and then
  // calls Stored. kRefused: wrong content, index, size or bytes.
  Verdict Check(const protocols::Chunk& chunk) const;
  // The block is stored, now or before: a duplicate used up credit too. More credit to send, if any
  // is due.
  std::optional<protocols::Credit> Stored(uint32_t index, size_t bytes);

  bool complete() const { return missing_ == 0; }
  const Digest& content() const { return content_; }
  uint32_t blocks() const { return static_cast<uint32_t>(blocks_.size()); }
  bool has(uint32_t index) const { return have_[index]; }
  protocols::Have HaveMessage() const;

 private:
  uint64_t SizeOf(uint32_t index) const;

  Digest content_;
  uint64_t bytes_, window_;
  std::vector<Digest> blocks_;
  std::vector<bool> have_;
  uint32_t missing_ = 0;
  uint64_t ungranted_ = 0;  // stored bytes for which no new credit was given yet
};

class BlockSender {
 public:
  // `most` bounds what goes out at once, whatever the receiver grants.
  BlockSender(const Digest& content, uint32_t blocks, uint64_t most = protocols::kMaxCreditBytes)
      : content_(content), blocks_(blocks), most_(most) {}

  // False, and nothing is changed: another content, a range outside of it, more ranges than
  // kMaxRanges, or more credit than the protocol's. A WANT with credit begins anew: what was asked
  // and granted before is forgotten; one without adds a range.
  bool OnWant(const protocols::Want& want);
  bool OnCredit(const protocols::Credit& credit);
  // After a reconnect: nothing is asked for and nothing granted.
  void Reset();

  // The next block to send, if one is asked for and a whole block fits the credit, which is taken
  // off (a short block costs a whole one, and the receiver grants a whole one back).
  std::optional<uint32_t> Next();

  const Digest& content() const { return content_; }

 private:
  Digest content_;
  uint32_t blocks_;
  uint64_t most_;
  std::deque<std::pair<uint32_t, uint32_t>> ranges_;  // first, count
  uint64_t credit_ = 0;
};

}  // namespace tidegate::transport
