#include "gate/ledger.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "crypto/checkpoint_note.h"
#include "gate/ledger_file.h"

namespace tidegate::gate {
namespace {

constexpr uint64_t kAllocationStep = 1u << 20;
constexpr uint64_t kReserve = 256u << 10;  // for receipts alone
constexpr int64_t kDayMillis = 86'400'000;

}  // namespace

ssize_t LedgerIo::Write(int fd, ByteSpan bytes, uint64_t offset) {
  return ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
}

int LedgerIo::Sync(int fd) { return ::fdatasync(fd); }

int LedgerIo::Allocate(int fd, uint64_t offset, uint64_t bytes) {
  return ::posix_fallocate(fd, static_cast<off_t>(offset), static_cast<off_t>(bytes));
}

LedgerIo& LedgerIo::System() {
  static LedgerIo io;
  return io;
}

std::string LedgerOrigin(const protocols::Id16& federation, const std::string& site) {
  return "tidegate/" + ToHex(federation) + "/" + site;
}

Result<std::unique_ptr<Ledger>> Ledger::Open(const std::filesystem::path& path,
                                             const crypto::SigningKey& key,
                                             const OpenedLeaf& opened, const Clock& clock,
                                             LedgerIo& io) {
  std::unique_ptr<Ledger> ledger(new Ledger(path, key, opened.site.text, clock, io));
  ledger->fd_ = Fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!ledger->fd_.valid()) return Unexpected(ErrnoStatus("open", path.native(), errno));
  TG_RETURN_IF_ERROR(ledger->Load());
  if (ledger->leaves_.empty()) {
    TG_RETURN_IF_ERROR(SyncDirectory(path.parent_path()));
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t index,
                        ledger->Append(LeafType::kOpened, opened));
    return ledger;
  }
  const auto first = protocols::Decode<OpenedLeaf>(ledger->leaves_[0].entry.body.items);
  if (!first || ledger->leaves_[0].entry.type != LeafType::kOpened ||
      protocols::Encode(*first) != protocols::Encode(opened)) {
    return FailedPrecondition(
        "{} is the ledger of another site, federation or key; keep it, and start a new one under "
        "another name",
        path.native());
  }
  return ledger;
}

Status Ledger::Load() {
  TG_ASSIGN_OR_RETURN(const Bytes file, ReadFile(path_, kMaxLedgerBytes));
  TG_ASSIGN_OR_RETURN(const Scan scan, ScanLedger(file, path_.native()));
  for (const Record& record : scan.records) {
    if (record.kind == RecordKind::kHead) {
      head_ = std::string(AsText(record.payload));
      continue;
    }
    auto entry = protocols::Decode<LedgerEntry>(record.payload);
    if (!entry || entry->index != leaves_.size()) {
      return DataLoss("{}: leaf {} does not decode or is out of order", path_.native(),
                      leaves_.size());
    }
    // One that could not be read would not be counted.
    const bool counted = entry->type == LeafType::kIntent
                             ? protocols::Decode<IntentLeaf>(entry->body.items).has_value()
                             : entry->type != LeafType::kJob ||
                                   protocols::Decode<JobLeaf>(entry->body.items).has_value();
    if (!counted) {
      return DataLoss("{}: the {} at leaf {} does not decode, so the budgets have no sum",
                      path_.native(), LeafTypeName(entry->type), leaves_.size());
    }
    leaves_.push_back({std::move(*entry), crypto::MerkleLeafHash(record.payload)});
    frontier_.Append(leaves_.back().hash);
    head_.clear();
  }
  end_ = scan.end;
  allocated_ = file.size();
  if (scan.torn) {
    if (::ftruncate(fd_.get(), static_cast<off_t>(end_)) != 0 || io_.Sync(fd_.get()) != 0) {
      return DataLoss("cannot cut the torn tail of {}", path_.native());
    }
    allocated_ = end_;
  }
  if (leaves_.empty()) return OkStatus();
  if (!head_.empty()) {
    TG_ASSIGN_OR_RETURN(const crypto::Checkpoint checkpoint,
                        crypto::OpenCheckpoint(head_, name_, key_.verify_key()));
    if (checkpoint.size != frontier_.size() || checkpoint.root != frontier_.Root()) {
      return DataLoss("{}: the last head does not cover the leaves", path_.native());
    }
    return OkStatus();
  }
  return MakeHeadAgain();
}

// A crash came between a leaf and its head: the leaf is whole.
Status Ledger::MakeHeadAgain() {
  TG_ASSIGN_OR_RETURN(head_, SignHead(frontier_));
  const Bytes record = EncodeRecord(RecordKind::kHead, AsBytes(head_));
  TG_RETURN_IF_ERROR(Reserve(end_ + record.size(), 0));
  return WriteAtEnd(record);
}

Status Ledger::WriteAtEnd(ByteSpan bytes) {
  const ssize_t n = io_.Write(fd_.get(), bytes, end_);
  if (n != static_cast<ssize_t>(bytes.size())) {
    failed_ = true;
    return DataLoss("cannot write to {}: {}", path_.native(),
                    n < 0 ? std::strerror(errno) : "the write was cut short");
  }
  if (io_.Sync(fd_.get()) != 0) {
    failed_ = true;
    return DataLoss("cannot sync {}: {}", path_.native(), std::strerror(errno));
  }
  end_ += bytes.size();
  return OkStatus();
}

Result<std::string> Ledger::Origin() const {
  OpenedLeaf opened;
  if (!leaves_.empty()) {
    const auto first = protocols::Decode<OpenedLeaf>(leaves_[0].entry.body.items);
    if (!first) return DataLoss("{}: the first leaf does not decode", path_.native());
    opened = *first;
  }
  return LedgerOrigin(opened.federation, name_);
}

Result<std::string> Ledger::SignHead(const crypto::MerkleFrontier& frontier) const {
  TG_ASSIGN_OR_RETURN(std::string origin, Origin());
  return crypto::SignCheckpoint({std::move(origin), frontier.size(), frontier.Root()}, name_, key_);
}

Status Ledger::CheckHead(const std::string& note, uint64_t index) const {
  TG_ASSIGN_OR_RETURN(const crypto::Checkpoint head,
                      crypto::OpenCheckpoint(note, name_, key_.verify_key()));
  TG_ASSIGN_OR_RETURN(const std::string origin, Origin());
  if (head.origin != origin) return DataLoss("the head is of the log {}", head.origin);
  if (head.size <= index || head.size > leaves_.size()) {
    return DataLoss("the head is over {} leaves; leaf {} is to be in it, and the ledger has {}",
                    head.size, index, leaves_.size());
  }
  crypto::MerkleFrontier frontier;
  for (uint64_t i = 0; i < head.size; ++i) frontier.Append(leaves_[i].hash);
  if (frontier.Root() == head.root) return OkStatus();
  return DataLoss("the head over {} leaves has another root than this ledger", head.size);
}

Status Ledger::Reserve(uint64_t end, uint64_t keep) {
  if (end > kMaxLedgerBytes) {
    return ResourceExhausted("{} is at its limit of {} bytes; archive it and start a new one",
                             path_.native(), kMaxLedgerBytes);
  }
  if (end + keep <= allocated_) return OkStatus();
  const uint64_t target = (end + keep + kAllocationStep - 1) / kAllocationStep * kAllocationStep;
  const int error = io_.Allocate(fd_.get(), allocated_, target - allocated_);
  if (error != 0) return ErrnoStatus("reserve space in", path_.native(), error);
  allocated_ = target;
  return OkStatus();
}

Result<uint64_t> Ledger::AppendBody(LeafType type, Bytes body) {
  if (failed_) return DataLoss("{} failed before; the process must end", path_.native());
  LedgerEntry entry;
  entry.index = leaves_.size();
  entry.unix_millis = clock_.UnixMillis();
  entry.type = type;
  entry.body.items = std::move(body);
  const Bytes leaf = protocols::Encode(entry);
  const Digest hash = crypto::MerkleLeafHash(leaf);
  crypto::MerkleFrontier frontier = frontier_;
  frontier.Append(hash);
  leaves_.push_back({std::move(entry), hash});
  auto head = SignHead(frontier);
  Bytes bytes = EncodeRecord(RecordKind::kLeaf, leaf);
  if (head) {
    const Bytes record = EncodeRecord(RecordKind::kHead, AsBytes(*head));
    bytes.insert(bytes.end(), record.begin(), record.end());
  }
  const uint64_t keep = type == LeafType::kReceipt ? 0 : kReserve;
  const Status room = head ? Reserve(end_ + bytes.size(), keep) : head.error();
  if (!room.ok()) {
    leaves_.pop_back();
    return Unexpected(room);
  }
  TG_RETURN_IF_ERROR(WriteAtEnd(bytes));
  frontier_ = std::move(frontier);
  head_ = std::move(*head);
  return leaves_.size() - 1;
}

std::set<protocols::Id16> Ledger::JobsNamed(std::string_view name) const {
  std::set<protocols::Id16> jobs;
  for (const LedgerLeaf& leaf : leaves_) {
    if (leaf.entry.type != LeafType::kJob) continue;
    const auto job = protocols::Decode<JobLeaf>(leaf.entry.body.items);
    if (job && (name.empty() || job->name.text == name)) jobs.insert(job->job);
  }
  return jobs;
}

JobProgress Ledger::ProgressOf(const protocols::Id16& job) const {
  JobProgress progress;
  for (const LedgerLeaf& leaf : leaves_) {
    const Bytes& body = leaf.entry.body.items;
    if (leaf.entry.type == LeafType::kIntent) {
      const auto intent = protocols::Decode<IntentLeaf>(body);
      if (intent && intent->key.job == job) {
        progress.round = std::max(progress.round, intent->key.round);
      }
    } else if (leaf.entry.type == LeafType::kRefusal) {
      const auto refusal = protocols::Decode<RefusalLeaf>(body);
      if (refusal && refusal->what.text == "update" && refusal->job == job) {
        progress.round = std::max(progress.round, refusal->round);
      }
    } else if (leaf.entry.type == LeafType::kAdapter) {
      const auto adapter = protocols::Decode<AdapterLeaf>(body);
      if (!adapter || adapter->job != job || adapter->version < progress.version.value_or(0)) {
        continue;
      }
      progress.version = adapter->version;
      progress.adapter = adapter->manifest;
    }
  }
  return progress;
}

Spent Ledger::SpentOn(const protocols::Id16& job, uint32_t round, std::string_view name) const {
  std::set<protocols::Id16> jobs;
  if (!name.empty()) jobs = JobsNamed(name);
  jobs.insert(job);
  Spent spent;
  const int64_t today = clock_.UnixMillis() / kDayMillis;
  for (const LedgerLeaf& leaf : leaves_) {
    if (leaf.entry.type != LeafType::kIntent) continue;
    const auto intent = protocols::Decode<IntentLeaf>(leaf.entry.body.items);
    if (!intent) continue;  // Load has refused such a ledger
    if (intent->key.job == job) ++spent.exports_of_id;
    if (jobs.contains(intent->key.job)) {
      ++spent.exports_of_job;
      spent.bytes_of_job += intent->ciphertext_bytes;
      spent.bits_of_job += intent->capacity_bits;
    }
    if (intent->key.job == job && intent->key.round == round) {
      ++spent.exports_of_round;
      spent.bytes_of_round += intent->ciphertext_bytes;
      spent.bits_of_round += intent->capacity_bits;
    }
    // A clock that was set back must not open the budget again: later days count as today.
    if (leaf.entry.unix_millis / kDayMillis >= today) {
      ++spent.exports_today;
      spent.bytes_today += intent->ciphertext_bytes;
    }
  }
  return spent;
}

}  // namespace tidegate::gate
