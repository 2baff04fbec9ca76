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

// What is under way to this receiver at most.
inline constexpr uint64_t kWindowBytes = 8ull << 20;

class BlockReceiver {
 public:
  // `blocks` in order, from a verified manifest; `have[i]`: stored already.
  BlockReceiver(const Digest& content, uint64_t content_bytes, std::vector<Digest> blocks,
                std::vector<bool> have);

  // What to ask for, after the start and after each reconnect: the whole window is granted anew,
  // what was under way counts as lost.
  std::vector<protocols::Want> Ask();

  enum class Verdict { kStored, kDuplicate, kRefused };
  // A chunk that arrived. kStored: it is the block `index` says, the caller stores it and then
  // calls Stored. kRefused: wrong content, index, size or bytes.
  Verdict Check(const protocols::Chunk& chunk) const;
  // The block is stored; more credit to send, if any is due.
  std::optional<protocols::Credit> Stored(uint32_t index, size_t bytes);

  bool complete() const { return missing_ == 0; }
  const Digest& content() const { return content_; }
  uint32_t blocks() const { return static_cast<uint32_t>(blocks_.size()); }
  bool has(uint32_t index) const { return have_[index]; }
  protocols::Have HaveMessage() const;

 private:
  uint64_t SizeOf(uint32_t index) const;

  Digest content_;
  uint64_t bytes_;
  std::vector<Digest> blocks_;
  std::vector<bool> have_;
  uint32_t missing_ = 0;
  uint64_t ungranted_ = 0;  // stored bytes for which no new credit was given yet
};

class BlockSender {
 public:
  BlockSender(const Digest& content, uint32_t blocks) : content_(content), blocks_(blocks) {}

  // False: another content, a range outside of it, or more credit than the protocol's.
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
  std::deque<std::pair<uint32_t, uint32_t>> ranges_;  // first, count
  uint64_t credit_ = 0;
};

}  // namespace tidegate::transport
