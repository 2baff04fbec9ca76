// The two directions of bulk at the coordinator: blocks of an offered update coming in under credit
// that we grant, blocks of an adapter going out under credit that the site grants
// (protocols/messages.md, "A transfer"). Pure state; not thread-safe.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "blocks/content.h"
#include "protocols/messages.h"

namespace tidegate::offshore {

// Bytes under way to us for one update.
inline constexpr uint64_t kIncomingWindow = 4u << 20;
// Bytes that we let go out at once to one site, whatever it grants.
inline constexpr uint64_t kOutgoingWindow = 8u << 20;
// Ranges that a site may ask for at once.
inline constexpr size_t kMaxRanges = 256;

// An offered update whose blocks are being fetched.
class Incoming {
 public:
  Incoming(protocols::Signed release, protocols::ReleaseManifest manifest, std::string ledger_head);

  const protocols::Signed& release() const { return release_; }
  const protocols::ReleaseManifest& manifest() const { return manifest_; }
  const std::string& ledger_head() const { return ledger_head_; }

  void MarkHave(uint32_t index) { have_.Set(index); }
  bool complete() const { return have_.all(); }
  // Whether the block may be number `index` of this content.
  bool Fits(uint32_t index, size_t size) const;

  protocols::Have HaveMessage() const;
  // What is missing, a message a gap; the first grants the whole window. Forgets earlier credit:
  // the sender may have lost it.
  std::vector<protocols::Want> WantMessages();
  // Counts a block that came and is stored.
  void Took(uint32_t index, size_t size);
  // The credit to give back since the last call, if any is due.
  std::optional<protocols::Credit> TakeCredit();

  bool commit_asked = false;  // COMMIT came on control before the last blocks on bulk
  bool announced = false;     // the full HAVE was sent

 private:
  protocols::Signed release_;
  protocols::ReleaseManifest manifest_;
  std::string ledger_head_;
  blocks::Bitmap have_;
  uint64_t credit_due_ = 0;
};

// An adapter's blocks on their way to one site.
class Outflow {
 public:
  explicit Outflow(protocols::AdapterManifest manifest) : manifest_(std::move(manifest)) {}
  const protocols::AdapterManifest& manifest() const { return manifest_; }

  // Adds a range to send. False when it is not in the content or when too many are waiting.
  bool OnWant(const protocols::Want& want);
  void OnCredit(uint64_t bytes);
  // The next block that may go out, which is then counted as sent.
  std::optional<uint32_t> Next();

 private:
  uint64_t SizeOf(uint32_t index) const;
  protocols::AdapterManifest manifest_;
  struct Range {
    uint32_t next, end;
  };
  std::deque<Range> ranges_;
  uint64_t credit_ = 0;
};

}  // namespace tidegate::offshore
