#include "federation/server/sql_store.h"

#include <algorithm>
#include <utility>

#include "crypto/secret.h"

namespace tidegate::federation {

using protocols::Id16;
using protocols::Signed;

namespace {

Bytes Pack(const Signed& document) { return protocols::Encode(document); }

// Sites' names have no comma.
std::string JoinNames(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ",") + name;
  return text;
}

}  // namespace

Status SqlStore::Begin() {
  TG_RETURN_IF_ERROR(database_->Begin());
  if (lease_ != nullptr) {
    if (const Status status = lease_->Hold(*database_); !status.ok()) {
      [[maybe_unused]] const Status undone = database_->Rollback();
      return status;
    }
  }
  in_turn_ = true;
  return OkStatus();
}

Status SqlStore::StillOurs() {
  if (lease_ == nullptr) return OkStatus();
  if (std::exchange(in_turn_, false)) {
    [[maybe_unused]] const Status undone = database_->Rollback();
  }
  return lease_->Hold(*database_);
}

Status SqlStore::Commit() {
  in_turn_ = false;
  return database_->Commit();
}

Status SqlStore::Checkpoint() {
  if (secrets_ != nullptr) return secrets_->Erase();
  return database_->Execute("PRAGMA wal_checkpoint(TRUNCATE)");
}

Status SqlStore::EraseForgottenSecrets() {
  if (secrets_ == nullptr) return OkStatus();
  std::vector<Bytes> halves;
  Statement row = Prepare("SELECT recipient_secret FROM rounds WHERE recipient_secret IS NOT NULL");
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return secrets_->EraseAllBut(halves);
    halves.push_back(row.Blob(0));
  }
}

template <typename F>
Status SqlStore::Together(F&& f) {
  if (!in_turn_) {
    TG_RETURN_IF_ERROR(Begin());
    const Status status = f();
    if (status.ok()) return Commit();
    in_turn_ = false;
    const Status undone = database_->Rollback();
    return undone.ok() ? status : undone;
  }
  TG_RETURN_IF_ERROR(database_->Execute("SAVEPOINT together"));
  const Status status = f();
  if (status.ok()) return database_->Execute("RELEASE SAVEPOINT together");
  const Status undone =
      database_->Execute("ROLLBACK TO SAVEPOINT together; RELEASE SAVEPOINT together");
  return undone.ok() ? status : undone;
}

Status SqlStore::Log(const Id16& job, EventKind kind, uint32_t round, const std::string& site,
                     ByteSpan content, uint32_t weight, int64_t unix_millis) {
  Statement statement = Prepare(
      "INSERT INTO events (job, kind, round, site, content, weight, unix_ms) "
      "VALUES (?, ?, ?, ?, ?, ?, ?)");
  statement.Bind(ByteSpan(job)).Bind(static_cast<int64_t>(kind)).Bind(int64_t{round}).Bind(site);
  statement.Bind(content).Bind(int64_t{weight}).Bind(unix_millis);
  return Together([&] { return statement.RunOnly(); });
}

Status SqlStore::BindMeta(const std::string& key, ByteSpan value, std::string_view what) {
  Statement insert = Prepare("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING");
  TG_RETURN_IF_ERROR(insert.Bind(key).Bind(value).RunOnly());
  Statement select = Prepare("SELECT value FROM meta WHERE key = ?");
  TG_ASSIGN_OR_RETURN(const bool row, select.Bind(key).Step());
  const Bytes stored = row ? select.Blob(0) : Bytes();
  if (std::equal(stored.begin(), stored.end(), value.begin(), value.end())) return OkStatus();
  return FailedPrecondition("the store {} belongs to {} {}, not to {}", database_->name(), what,
                            ToHex(stored), ToHex(value));
}

Status SqlStore::BindFederation(const FederationIdentity& federation) {
  return Together([&]() -> Status {
    TG_RETURN_IF_ERROR(BindMeta("federation", federation.id, "federation"));
    TG_RETURN_IF_ERROR(BindMeta("sign_key", federation.sign_key, "a federation of signing key"));
    return BindMeta("curve_key", federation.curve_key, "a federation of CURVE key");
  });
}

Status SqlStore::BindFolder(ByteSpan id, const std::string& path) {
  const Status status = Together([&] { return BindMeta("folder", id, "another shared folder,"); });
  return status.code() == Code::kFailedPrecondition
             ? FailedPrecondition(
                   "the shared folder {} is not the one this store was begun with; "
                   "is it mounted? ({})",
                   path, status.message())
             : status;
}

Status SqlStore::PutSite(const StoredSite& site) {
  return Together([&]() -> Status {
    // A revoked name may come back with new keys; one in force is never replaced by another's keys.
    Statement statement = Prepare(
        "INSERT INTO sites VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (name) DO UPDATE SET "
        "sign_key = excluded.sign_key, curve_key = excluded.curve_key, "
        "approval = excluded.approval, approved_ms = excluded.approved_ms, revoked_ms = 0 "
        "WHERE sites.revoked_ms != 0 OR (sites.sign_key = excluded.sign_key AND "
        "sites.curve_key = excluded.curve_key)");
    statement.Bind(site.name).Bind(ByteSpan(site.sign_key)).Bind(ByteSpan(site.curve_key));
    statement.Bind(ByteSpan(Pack(site.approval))).Bind(site.approved_unix_millis);
    const auto changed = statement.Run();
    if (!changed && changed.error().code() == Code::kAlreadyExists) {
      return AlreadyExists("the CURVE key of site {} belongs to another site; make new keys",
                           site.name);
    }
    if (!changed) return changed.error();
    if (*changed != 1) {
      return AlreadyExists(
          "a site {} with other keys is enrolled; revoke it first or take another name", site.name);
    }
    // Whoever approves it again has looked into its ledger.
    Statement heal = Prepare("UPDATE heads SET set_back_ms = 0 WHERE site = ? AND sign_key = ?");
    return heal.Bind(site.name).Bind(ByteSpan(site.sign_key)).RunOnly();
  });
}

Status SqlStore::RevokeSite(const std::string& name, int64_t unix_millis) {
  return Together([&]() -> Status {
    Statement statement =
        Prepare("UPDATE sites SET revoked_ms = ? WHERE name = ? AND revoked_ms = 0");
    TG_ASSIGN_OR_RETURN(const int changed, statement.Bind(unix_millis).Bind(name).Run());
    return changed == 1 ? OkStatus() : NotFound("no site {} is enrolled", name);
  });
}

Status SqlStore::PutHead(const std::string& site, const protocols::PublicKey& sign_key,
                         const StoredHead& head) {
  return Together([&]() -> Status {
    Statement put = Prepare(
        "INSERT INTO heads VALUES (?, ?, ?, ?, ?) ON CONFLICT (site, sign_key) DO UPDATE SET "
        "size = excluded.size, root = excluded.root, set_back_ms = excluded.set_back_ms");
    put.Bind(site).Bind(ByteSpan(sign_key)).Bind(static_cast<int64_t>(head.size));
    return put.Bind(ByteSpan(head.root)).Bind(head.set_back_unix_millis).RunOnly();
  });
}

Status SqlStore::AddJob(const StoredJob& job, const Signed& version0) {
  return Together([&]() -> Status {
    Statement insert =
        Prepare("INSERT INTO jobs (id, manifest, base_name, model_config) VALUES (?, ?, ?, ?)");
    insert.Bind(ByteSpan(job.id)).Bind(ByteSpan(Pack(job.manifest)));
    TG_RETURN_IF_ERROR(insert.Bind(job.base_name).Bind(job.model_config).RunOnly());
    Statement version = Prepare("INSERT INTO versions VALUES (?, 0, ?)");
    return version.Bind(ByteSpan(job.id)).Bind(ByteSpan(Pack(version0))).RunOnly();
  });
}

Status SqlStore::OpenRound(const Id16& job, const RoundOpened& event, const Signed& announcement,
                           const crypto::AgreeSecretKey& recipient) {
  const crypto::Secret<32> secret = recipient.Serialize();
  return Together([&]() -> Status {
    Bytes half;
    if (secrets_ != nullptr) {
      TG_ASSIGN_OR_RETURN(half, secrets_->Split(secret.reveal()));
    }
    Statement insert = Prepare("INSERT INTO rounds VALUES (?, ?, ?, ?)");
    insert.Bind(ByteSpan(job)).Bind(int64_t{event.round}).Bind(ByteSpan(Pack(announcement)));
    insert.Bind(secrets_ != nullptr ? ByteSpan(half) : ByteSpan(secret.reveal()));
    TG_RETURN_IF_ERROR(insert.RunOnly());
    return Log(job, kOpened, event.round, JoinNames(event.asked), {}, 0, event.unix_millis);
  });
}

Status SqlStore::AcceptUpdate(const StoredUpdate& update,
                              const std::optional<UpdateAccepted>& event, const Signed& receipt) {
  const protocols::UpdateKey& key = update.key;
  return Together([&]() -> Status {
    Statement insert = Prepare("INSERT INTO updates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    insert.Bind(ByteSpan(key.job)).Bind(int64_t{key.round}).Bind(int64_t{key.phase});
    insert.Bind(key.site.text).Bind(ByteSpan(update.content)).Bind(int64_t{update.weight});
    insert.Bind(ByteSpan(Pack(update.release))).Bind(update.accepted_unix_millis);
    insert.Bind(static_cast<int64_t>(update.outcome)).Bind(int64_t{update.train_loss_milli});
    TG_RETURN_IF_ERROR(insert.Bind(int64_t{update.heldout_loss_milli}).RunOnly());
    Statement receive = Prepare("INSERT INTO receipts VALUES (?, ?, ?, ?, ?)");
    receive.Bind(ByteSpan(key.job)).Bind(int64_t{key.round}).Bind(int64_t{key.phase});
    TG_RETURN_IF_ERROR(receive.Bind(key.site.text).Bind(ByteSpan(Pack(receipt))).RunOnly());
    if (!event) return OkStatus();
    return Log(key.job, kAccepted, event->round, event->site, event->update.content,
               event->update.weight, update.accepted_unix_millis);
  });
}

Status SqlStore::EraseKey(const Id16& job, uint32_t round) {
  if (secrets_ != nullptr) {
    Statement row = Prepare(
        "SELECT recipient_secret FROM rounds WHERE job = ? AND round = ? AND "
        "recipient_secret IS NOT NULL");
    TG_ASSIGN_OR_RETURN(const bool found, row.Bind(ByteSpan(job)).Bind(int64_t{round}).Step());
    if (found) secrets_->EraseLater(row.Blob(0));
  }
  Statement erase =
      Prepare("UPDATE rounds SET recipient_secret = NULL WHERE job = ? AND round = ?");
  return erase.Bind(ByteSpan(job)).Bind(int64_t{round}).RunOnly();
}

Status SqlStore::Publish(const Id16& job, uint32_t round, const VersionPublished& event,
                         const Signed& manifest, const StoredContent* moments) {
  return Together([&]() -> Status {
    Statement forget = Prepare("DELETE FROM moments WHERE job = ?");
    TG_RETURN_IF_ERROR(forget.Bind(ByteSpan(job)).RunOnly());
    if (moments != nullptr) {
      Statement remember = Prepare("INSERT INTO moments VALUES (?, ?, ?)");
      remember.Bind(ByteSpan(job)).Bind(static_cast<int64_t>(moments->bytes));
      const auto* ids = reinterpret_cast<const uint8_t*>(moments->blocks.data());
      TG_RETURN_IF_ERROR(
          remember.Bind(ByteSpan(ids, moments->blocks.size() * sizeof(Digest))).RunOnly());
    }
    Statement insert = Prepare("INSERT INTO versions VALUES (?, ?, ?)");
    insert.Bind(ByteSpan(job)).Bind(int64_t{event.version});
    TG_RETURN_IF_ERROR(insert.Bind(ByteSpan(Pack(manifest))).RunOnly());
    TG_RETURN_IF_ERROR(EraseKey(job, round));
    return Log(job, kPublished, event.version, "", {}, 0, event.unix_millis);
  });
}

Status SqlStore::PutNotice(const Id16& job, uint32_t round, const Signed& notice) {
  return Together([&]() -> Status {
    Statement insert = Prepare("INSERT INTO notices VALUES (?, ?, ?) ON CONFLICT DO NOTHING");
    insert.Bind(ByteSpan(job)).Bind(int64_t{round});
    TG_RETURN_IF_ERROR(insert.Bind(ByteSpan(Pack(notice))).RunOnly());
    return EraseKey(job, round);
  });
}

Status SqlStore::LogEquivocation(const protocols::UpdateKey& key, const Digest& content,
                                 int64_t unix_millis) {
  return Together([&]() -> Status {
    Statement insert =
        Prepare("INSERT INTO equivocations VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING");
    insert.Bind(ByteSpan(key.job)).Bind(int64_t{key.round}).Bind(int64_t{key.phase});
    return insert.Bind(key.site.text).Bind(ByteSpan(content)).Bind(unix_millis).RunOnly();
  });
}

}  // namespace tidegate::federation
