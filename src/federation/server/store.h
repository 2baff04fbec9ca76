// What a coordinator must remember, on disk before it acts (docs/formats/coordinator-store.md).
//
// Begin and Commit bracket everything that one turn of the loop remembers: one fsync for all of it,
// and nothing is sent before Commit has returned OK. A write that fails leaves the process with a
// state in memory that is ahead of the disk: the caller ends the process, which starts again from
// what is there. Errors: kResourceExhausted when the disk is full, kDataLoss for I/O errors and a
// damaged file, kFailedPrecondition for a store of another schema. Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "crypto/agree.h"
#include "federation/rounds/round.h"
#include "protocols/documents.h"

namespace tidegate::federation {

struct StoredSite {
  std::string name;
  protocols::PublicKey sign_key{}, curve_key{};
  protocols::Signed approval;  // SiteApproval
  int64_t approved_unix_millis = 0;
  int64_t revoked_unix_millis = 0;  // 0: in force
};

// How long a site's ledger was when the coordinator last signed its head.
struct StoredHead {
  uint64_t size = 0;  // leaves
  Digest root{};
  int64_t set_back_unix_millis = 0;  // since when a shorter one of the site is known; 0: not
  bool operator==(const StoredHead&) const = default;
};

// Whose store it is.
struct FederationIdentity {
  protocols::Id16 id{};
  protocols::PublicKey sign_key{}, curve_key{};
};

struct StoredJob {
  protocols::Id16 id{};
  protocols::Signed manifest;  // JobManifest
  std::string base_name;       // what the operator called the base: for exports
  std::string model_config;    // the base's config.json
};

// A line of a job's log. Numbers are for ever and go up.
struct LoggedEvent {
  int64_t number = 0;
  const char* kind = "";  // opened, accepted, time_passed, published, stop
  uint32_t round = 0;     // of published: the version
  std::string site;       // of opened: who was asked, with commas; empty: all
  uint32_t weight = 0;
  int64_t unix_millis = 0;
};

// A content of the block store.
struct StoredContent {
  uint64_t bytes = 0;
  std::vector<Digest> blocks;
  bool operator==(const StoredContent&) const = default;
};

struct StoredRound {
  uint32_t round = 0;
  protocols::Signed announcement;  // RoundAnnouncement
};

struct StoredUpdate {
  protocols::UpdateKey key;
  Digest content{};
  uint32_t weight = 0;  // 0 when late: it was never opened
  protocols::Signed release;
  int64_t accepted_unix_millis = 0;
  protocols::ReceiptOutcome outcome = protocols::ReceiptOutcome::kCounted;
  // As the site told them, in thousandths; 0: not told.
  uint32_t train_loss_milli = 0, heldout_loss_milli = 0;
};

class Store {
 public:
  virtual ~Store() = default;

  virtual Status Begin() = 0;
  virtual Status Commit() = 0;
  // A turn must begin at least so often: where several processes share the store, it is how one
  // learns that another has taken over (Begin is kUnavailable then).
  static constexpr int64_t kNoHurry = INT32_MAX;
  virtual int64_t turn_millis() const = 0;
  // After an error, which ends the turn: kUnavailable when it came of another's having taken over,
  // say because that one has renamed the folder; OK when the store is still this process'.
  virtual Status StillOurs() = 0;

  // The federation this store belongs to. Set once; another one, or another key, is
  // kFailedPrecondition.
  virtual Status BindFederation(const FederationIdentity& federation) = 0;

  // kAlreadyExists when the name or the CURVE key belongs to another site that is in force. Of a
  // site that is there already it takes back that its ledger was set back.
  virtual Status PutSite(const StoredSite& site) = 0;
  virtual Status RevokeSite(const std::string& name, int64_t unix_millis) = 0;  // kNotFound
  virtual Result<std::vector<StoredSite>> Sites() = 0;                          // by name
  // The longest head of a site's ledger that is signed with this key and was countersigned.
  virtual Status PutHead(const std::string& site, const protocols::PublicKey& sign_key,
                         const StoredHead& head) = 0;
  virtual Result<std::optional<StoredHead>> Head(const std::string& site,
                                                 const protocols::PublicKey& sign_key) = 0;

  // The job and its version 0. kAlreadyExists for the same job id.
  virtual Status AddJob(const StoredJob& job, const protocols::Signed& version0) = 0;
  virtual Result<std::vector<StoredJob>> Jobs() = 0;  // in the order they were added
  virtual Result<std::vector<Event>> Events(const protocols::Id16& job) = 0;
  // For people: events after number `after`, at most `limit`, oldest first.
  virtual Result<std::vector<LoggedEvent>> EventLog(const protocols::Id16& job, int64_t after,
                                                    uint32_t limit) = 0;

  // Each of these logs its event together with what the event stands for.
  virtual Status OpenRound(const protocols::Id16& job, const RoundOpened& event,
                           const protocols::Signed& announcement,
                           const crypto::AgreeSecretKey& recipient) = 0;
  // `event` empty: a late update. The receipt is the only one there will ever be for the key:
  // kAlreadyExists for a second.
  virtual Status AcceptUpdate(const StoredUpdate& update,
                              const std::optional<UpdateAccepted>& event,
                              const protocols::Signed& receipt) = 0;
  // Also erases the round's recipient key. `moments`: what the server's optimizer remembers, in the
  // place of what it did before; null: nothing.
  virtual Status Publish(const protocols::Id16& job, uint32_t round, const VersionPublished& event,
                         const protocols::Signed& manifest, const StoredContent* moments) = 0;
  virtual Result<std::optional<StoredContent>> Moments(const protocols::Id16& job) = 0;
  virtual Status LogTime(const protocols::Id16& job, const TimePassed& event) = 0;
  virtual Status LogStop(const protocols::Id16& job, const StopRequested& event) = 0;

  // A round's, or with round 0 the job's, AbandonNotice; erases the round's recipient key. Kept
  // once: a second notice for the same round changes nothing.
  virtual Status PutNotice(const protocols::Id16& job, uint32_t round,
                           const protocols::Signed& notice) = 0;
  virtual Result<std::optional<protocols::Signed>> Notice(const protocols::Id16& job,
                                                          uint32_t round) = 0;

  virtual Result<std::optional<StoredRound>> Round(const protocols::Id16& job, uint32_t round) = 0;
  // kNotFound once it was erased.
  virtual Result<crypto::AgreeSecretKey> RecipientKey(const protocols::Id16& job,
                                                      uint32_t round) = 0;
  virtual Result<std::optional<StoredUpdate>> Update(const protocols::UpdateKey& key) = 0;
  virtual Result<std::vector<StoredUpdate>> Updates(const protocols::Id16& job,
                                                    uint32_t round) = 0;  // counted, by site
  // Of each site of the job the newest that was counted, by site.
  virtual Result<std::vector<StoredUpdate>> NewestUpdates(const protocols::Id16& job) = 0;
  virtual Result<std::optional<protocols::Signed>> ReceiptOf(const protocols::UpdateKey& key) = 0;
  // The newest when `version` is empty.
  virtual Result<std::optional<protocols::Signed>> Version(const protocols::Id16& job,
                                                           std::optional<uint32_t> version) = 0;

  // A second content under a key that has one. Kept once a key, so it can not fill the disk.
  virtual Status LogEquivocation(const protocols::UpdateKey& key, const Digest& content,
                                 int64_t unix_millis) = 0;
  virtual Result<uint64_t> Equivocations() = 0;

  // Folds the write-ahead log into the file and empties it, so that erased keys are in neither.
  virtual Status Checkpoint() = 0;
};

// Opens or makes the file. One process at a time: kUnavailable when another has it.
Result<std::unique_ptr<Store>> OpenSqliteStore(const std::filesystem::path& path);

}  // namespace tidegate::federation
