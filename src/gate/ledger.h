// The ledger: an RFC 6962 log of everything that left, was refused or came in, in one append-only
// file, with a head signed by the site after every append. Budgets are sums over it.
//
// Append returns after fdatasync. When it fails the process must end: nothing says what reached the
// disk (kDataLoss); a full disk is kResourceExhausted and leaves the ledger as it was. Of the
// preallocated space a part is for receipts alone, so that what has left can be closed on a full
// disk. Not thread-safe.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "crypto/merkle.h"
#include "crypto/sign.h"
#include "gate/ledger_entry.h"

namespace tidegate::gate {

struct LedgerLeaf {
  LedgerEntry entry;
  Digest hash{};  // RFC 6962 leaf hash
};

// Exports so far, for the budget rules.
struct Spent {
  uint64_t bytes_today = 0, bytes_of_round = 0, bytes_of_job = 0;
  double bits_of_round = 0, bits_of_job = 0;  // the most that they could carry
  uint32_t exports_today = 0, exports_of_job = 0, exports_of_round = 0;
  uint32_t exports_of_id = 0;  // of this very job, where the others are of all of its name
};

// How far this site has gone with a job.
struct JobProgress {
  uint32_t round = 0;               // the highest that was exported, or whose update was refused
  std::optional<uint32_t> version;  // the highest adapter that was stored,
  Hash32 adapter{};                 // and its manifest's digest
};

// What the ledger asks of the file system. As the calls of these names: -1 and errno, but Allocate
// returns the error. Tests give one that fails.
class LedgerIo {
 public:
  virtual ~LedgerIo() = default;
  virtual ssize_t Write(int fd, ByteSpan bytes, uint64_t offset);  // pwrite
  virtual int Sync(int fd);                                        // fdatasync
  virtual int Allocate(int fd, uint64_t offset, uint64_t bytes);   // posix_fallocate
  static LedgerIo& System();
};

class Ledger {
 public:
  // Opens or makes the file. A torn tail that no head covers is cut; anything else that does not
  // fit is kDataLoss. A new ledger gets its first leaf, `opened`.
  static Result<std::unique_ptr<Ledger>> Open(const std::filesystem::path& path,
                                              const crypto::SigningKey& key,
                                              const OpenedLeaf& opened, const Clock& clock,
                                              LedgerIo& io = LedgerIo::System());

  // Any leaf but an intent, which is written by Sealing::Debit alone.
  template <typename Leaf>
  requires(!std::is_same_v<Leaf, IntentLeaf>) Result<uint64_t> Append(LeafType type,
                                                                      const Leaf& leaf) {
    if (type == LeafType::kIntent) return Internal("an intent is written by a debit alone");
    return AppendBody(type, protocols::Encode(leaf));
  }

  const std::vector<LedgerLeaf>& leaves() const { return leaves_; }
  // The signed note that covers all leaves.
  const std::string& head() const { return head_; }
  uint64_t size() const { return leaves_.size(); }

  // What is "of the job" is of all jobs that were accepted under `name` too, unless it is empty.
  Spent SpentOn(const protocols::Id16& job, uint32_t round, std::string_view name = "") const;
  JobProgress ProgressOf(const protocols::Id16& job) const;
  // The jobs that were accepted, of this name; "": all.
  std::set<protocols::Id16> JobsNamed(std::string_view name) const;

  // That a note is a head of this ledger, signed by this site, over leaf `index` among others.
  // kUnauthenticated or kDataLoss name what does not fit.
  Status CheckHead(const std::string& note, uint64_t index) const;

 private:
  friend class Sealing;
  Result<uint64_t> AppendIntent(const IntentLeaf& intent) {
    return AppendBody(LeafType::kIntent, protocols::Encode(intent));
  }

  Ledger(std::filesystem::path path, const crypto::SigningKey& key, std::string name,
         const Clock& clock, LedgerIo& io)
      : path_(std::move(path)), key_(key), name_(std::move(name)), clock_(clock), io_(io) {}
  Result<uint64_t> AppendBody(LeafType type, Bytes body);
  Status Load();
  Status MakeHeadAgain();
  // Room up to `end` and `keep` bytes behind it.
  Status Reserve(uint64_t end, uint64_t keep);
  Status WriteAtEnd(ByteSpan bytes);
  Result<std::string> SignHead(const crypto::MerkleFrontier& frontier) const;
  Result<std::string> Origin() const;

  std::filesystem::path path_;
  const crypto::SigningKey& key_;
  std::string name_;  // the site's, as the note's key name
  const Clock& clock_;
  LedgerIo& io_;
  Fd fd_;
  uint64_t end_ = 0, allocated_ = 0;
  std::vector<LedgerLeaf> leaves_;
  crypto::MerkleFrontier frontier_;
  std::string head_;
  bool failed_ = false;
};

// "tidegate/FEDERATION/SITE": the origin line of a site's checkpoints.
std::string LedgerOrigin(const protocols::Id16& federation, const std::string& site);

}  // namespace tidegate::gate
