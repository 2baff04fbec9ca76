// The store over a database of either engine. All SQL that reads and writes it is in sql_store.cc
// and sql_store_read.cc, all that makes it in schema.cc. Private to this module.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "federation/server/lease.h"
#include "federation/server/split_secrets.h"
#include "federation/server/sql.h"
#include "federation/server/store.h"

namespace tidegate::federation {

// The numbers are on disk: for ever.
enum EventKind : int64_t {
  kOpened = 1,
  kAccepted = 2,
  kTime = 3,
  kPublished = 4,
  kStop = 5,
};

class SqlStore final : public Store {
 public:
  using Id16 = protocols::Id16;
  using Signed = protocols::Signed;

  // `lease` and `secrets` may be null: the database is this process' alone, and erases what it is
  // told to.
  SqlStore(std::unique_ptr<SqlDatabase> database, std::unique_ptr<WriterLease> lease,
           std::unique_ptr<SplitSecrets> secrets, int64_t turn_millis = kNoHurry)
      : database_(std::move(database)),
        lease_(std::move(lease)),
        secrets_(std::move(secrets)),
        turn_millis_(turn_millis) {}

  // As BindFederation, of the folder that this store's blocks lie in.
  Status BindFolder(ByteSpan id, const std::string& path);
  // What a crash of whoever had the lease before left of secrets.
  Status EraseForgottenSecrets();

  int64_t turn_millis() const override { return turn_millis_; }
  Status StillOurs() override;
  Status Begin() override;
  Status Commit() override;
  Status Checkpoint() override;
  Status BindFederation(const FederationIdentity& federation) override;
  Status PutSite(const StoredSite& site) override;
  Status RevokeSite(const std::string& name, int64_t unix_millis) override;
  Result<std::vector<StoredSite>> Sites() override;
  Status PutHead(const std::string& site, const protocols::PublicKey& sign_key,
                 const StoredHead& head) override;
  Result<std::optional<StoredHead>> Head(const std::string& site,
                                         const protocols::PublicKey& sign_key) override;
  Status AddJob(const StoredJob& job, const Signed& version0) override;
  Result<std::vector<StoredJob>> Jobs() override;
  Result<std::vector<Event>> Events(const Id16& job) override;
  Result<std::vector<LoggedEvent>> EventLog(const Id16& job, int64_t after,
                                            uint32_t limit) override;
  Status OpenRound(const Id16& job, const RoundOpened& event, const Signed& announcement,
                   const crypto::AgreeSecretKey& recipient) override;
  Status AcceptUpdate(const StoredUpdate& update, const std::optional<UpdateAccepted>& event,
                      const Signed& receipt) override;
  Status Publish(const Id16& job, uint32_t round, const VersionPublished& event,
                 const Signed& manifest, const StoredContent* moments) override;
  Result<std::optional<StoredContent>> Moments(const Id16& job) override;
  Status LogTime(const Id16& job, const TimePassed& event) override {
    return Log(job, kTime, 0, "", {}, 0, event.unix_millis);
  }
  Status LogStop(const Id16& job, const StopRequested& event) override {
    return Log(job, kStop, 0, "", {}, 0, event.unix_millis);
  }
  Status PutNotice(const Id16& job, uint32_t round, const Signed& notice) override;
  Result<std::optional<Signed>> Notice(const Id16& job, uint32_t round) override;
  Result<std::optional<StoredRound>> Round(const Id16& job, uint32_t round) override;
  Result<crypto::AgreeSecretKey> RecipientKey(const Id16& job, uint32_t round) override;
  Result<std::optional<StoredUpdate>> Update(const protocols::UpdateKey& key) override;
  Result<std::vector<StoredUpdate>> Updates(const Id16& job, uint32_t round) override;
  Result<std::vector<StoredUpdate>> NewestUpdates(const Id16& job) override;
  Result<std::optional<Signed>> ReceiptOf(const protocols::UpdateKey& key) override;
  Result<std::optional<Signed>> Version(const Id16& job, std::optional<uint32_t> version) override;
  Status LogEquivocation(const protocols::UpdateKey& key, const Digest& content,
                         int64_t unix_millis) override;
  Result<uint64_t> Equivocations() override;

 private:
  Statement Prepare(const char* sql) const { return Statement(*database_, sql); }
  // Several statements as one, inside or outside of Begin … Commit. Every write is in one: after a
  // statement that failed PostgreSQL takes no other but for the end of it.
  template <typename F>
  Status Together(F&& f);
  Status Log(const Id16& job, EventKind kind, uint32_t round, const std::string& site,
             ByteSpan content, uint32_t weight, int64_t unix_millis);
  Status BindMeta(const std::string& key, ByteSpan value, std::string_view what);
  Status EraseKey(const Id16& job, uint32_t round);
  Result<StoredUpdate> ReadUpdate(const Statement& row) const;
  Result<std::vector<StoredUpdate>> ReadUpdates(Statement rows) const;
  Result<std::optional<Signed>> OneSigned(Statement statement, std::string_view what) const;

  std::unique_ptr<SqlDatabase> database_;
  std::unique_ptr<WriterLease> lease_;
  std::unique_ptr<SplitSecrets> secrets_;
  const int64_t turn_millis_;
  bool in_turn_ = false;
};

}  // namespace tidegate::federation
