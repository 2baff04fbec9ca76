// All SQL of the coordinator.
#include "federation/server/store.h"

#include <algorithm>
#include <cstring>

#include "crypto/secret.h"
#include "federation/server/sqlite.h"

namespace tidegate::federation {
namespace {

using protocols::Id16;
using protocols::Signed;

constexpr int kSchemaVersion = 3;

constexpr const char* kSchema = R"sql(
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE sites (
  name TEXT PRIMARY KEY, sign_key BLOB NOT NULL, curve_key BLOB NOT NULL, approval BLOB NOT NULL,
  approved_ms INTEGER NOT NULL, revoked_ms INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE UNIQUE INDEX sites_curve ON sites (curve_key) WHERE revoked_ms = 0;
CREATE TABLE jobs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, manifest BLOB NOT NULL,
  base_name TEXT NOT NULL, model_config TEXT NOT NULL) STRICT;
CREATE TABLE rounds (
  job BLOB NOT NULL REFERENCES jobs (id), round INTEGER NOT NULL, announcement BLOB NOT NULL,
  recipient_secret BLOB, PRIMARY KEY (job, round)) STRICT;
CREATE TABLE updates (
  job BLOB NOT NULL, round INTEGER NOT NULL, phase INTEGER NOT NULL,
  site TEXT NOT NULL REFERENCES sites (name), content BLOB NOT NULL, weight INTEGER NOT NULL,
  release BLOB NOT NULL, accepted_ms INTEGER NOT NULL, outcome INTEGER NOT NULL,
  train_loss_milli INTEGER NOT NULL DEFAULT 0, heldout_loss_milli INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (job, round, phase, site),
  FOREIGN KEY (job, round) REFERENCES rounds (job, round)) STRICT;
CREATE TABLE receipts (
  job BLOB NOT NULL, round INTEGER NOT NULL, phase INTEGER NOT NULL, site TEXT NOT NULL,
  receipt BLOB NOT NULL, PRIMARY KEY (job, round, phase, site),
  FOREIGN KEY (job, round, phase, site) REFERENCES updates (job, round, phase, site)) STRICT;
CREATE TABLE versions (
  job BLOB NOT NULL REFERENCES jobs (id), version INTEGER NOT NULL, manifest BLOB NOT NULL,
  PRIMARY KEY (job, version)) STRICT;
CREATE TABLE notices (
  job BLOB NOT NULL REFERENCES jobs (id), round INTEGER NOT NULL, notice BLOB NOT NULL,
  PRIMARY KEY (job, round)) STRICT;
CREATE TABLE events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, job BLOB NOT NULL REFERENCES jobs (id),
  kind INTEGER NOT NULL, round INTEGER NOT NULL, site TEXT NOT NULL, content BLOB NOT NULL,
  weight INTEGER NOT NULL, unix_ms INTEGER NOT NULL) STRICT;
CREATE INDEX events_job ON events (job, seq);
CREATE TABLE equivocations (
  job BLOB NOT NULL, round INTEGER NOT NULL, phase INTEGER NOT NULL, site TEXT NOT NULL,
  content BLOB NOT NULL, unix_ms INTEGER NOT NULL, PRIMARY KEY (job, round, phase, site)) STRICT;
CREATE TABLE moments (
  job BLOB PRIMARY KEY REFERENCES jobs (id), bytes INTEGER NOT NULL, blocks BLOB NOT NULL) STRICT;
PRAGMA user_version = 3;
)sql";

// Schema 1 kept no losses.
constexpr const char* kFromSchema1 = R"sql(
ALTER TABLE updates ADD COLUMN train_loss_milli INTEGER NOT NULL DEFAULT 0;
ALTER TABLE updates ADD COLUMN heldout_loss_milli INTEGER NOT NULL DEFAULT 0;
PRAGMA user_version = 2;
)sql";

// Schema 2 knew no server optimizer that remembers anything.
constexpr const char* kFromSchema2 = R"sql(
CREATE TABLE moments (
  job BLOB PRIMARY KEY REFERENCES jobs (id), bytes INTEGER NOT NULL, blocks BLOB NOT NULL) STRICT;
PRAGMA user_version = 3;
)sql";

// The numbers are on disk: for ever.
enum EventKind : int64_t {
  kOpened = 1,
  kAccepted = 2,
  kTime = 3,
  kPublished = 4,
  kStop = 5,
};

Bytes Pack(const Signed& document) { return protocols::Encode(document); }

Result<Signed> Unpack(const Bytes& bytes, std::string_view what) {
  auto document = protocols::Decode<Signed>(bytes);
  if (!document) return DataLoss("the store's {} is damaged: {}", what, document.error().reason);
  return std::move(*document);
}

class SqliteStore final : public Store {
 public:
  explicit SqliteStore(Database database) : database_(std::move(database)) {}

  Status Setup();
  Status Begin() override { return database_.Execute("BEGIN IMMEDIATE"); }
  Status Commit() override { return database_.Execute("COMMIT"); }
  Status Checkpoint() override { return database_.Execute("PRAGMA wal_checkpoint(TRUNCATE)"); }

  Status BindFederation(const Id16& federation) override;
  Status PutSite(const StoredSite& site) override;
  Status RevokeSite(const std::string& name, int64_t unix_millis) override;
  Result<std::vector<StoredSite>> Sites() override;
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
  Statement Prepare(const char* sql) const { return Statement(database_, sql); }
  // Several statements as one, inside or outside of Begin … Commit.
  template <typename F>
  Status Together(F&& f);
  Status Log(const Id16& job, EventKind kind, uint32_t round, const std::string& site,
             ByteSpan content, uint32_t weight, int64_t unix_millis) const;
  Status EraseKey(const Id16& job, uint32_t round) const;
  Result<StoredUpdate> ReadUpdate(const Statement& row) const;
  Result<std::vector<StoredUpdate>> ReadUpdates(Statement rows) const;
  Result<std::optional<Signed>> OneSigned(Statement statement, std::string_view what) const;

  Database database_;
};

// Sites' names have no comma.
std::string JoinNames(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ",") + name;
  return text;
}

std::vector<std::string> SplitNames(const std::string& text) {
  std::vector<std::string> names;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    names.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return names;
}

Status RunOnly(Statement& statement) {
  const auto changed = statement.Run();
  return changed ? OkStatus() : changed.error();
}

Status SqliteStore::Setup() {
  // Exclusive: no shared-memory file, and a second process is refused instead of interleaved.
  TG_RETURN_IF_ERROR(database_.Execute("PRAGMA locking_mode = EXCLUSIVE"));
  TG_RETURN_IF_ERROR(database_.Execute("PRAGMA journal_mode = WAL"));
  TG_RETURN_IF_ERROR(database_.Execute(
      "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; "
      "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;"));
  TG_RETURN_IF_ERROR(Begin());
  int64_t version = 0;
  {
    Statement statement = Prepare("PRAGMA user_version");
    TG_ASSIGN_OR_RETURN(const bool row, statement.Step());
    version = row ? statement.Integer(0) : 0;
  }
  if (version == 0) TG_RETURN_IF_ERROR(database_.Execute(kSchema));
  if (version == 1) TG_RETURN_IF_ERROR(database_.Execute(kFromSchema1));
  if (version == 1 || version == 2) TG_RETURN_IF_ERROR(database_.Execute(kFromSchema2));
  TG_RETURN_IF_ERROR(Commit());
  if (version >= 0 && version <= kSchemaVersion) return OkStatus();
  return FailedPrecondition(
      "the store {} has schema {}, this program reads 1 … {}; use the version that wrote it",
      database_.name(), version, kSchemaVersion);
}

template <typename F>
Status SqliteStore::Together(F&& f) {
  TG_RETURN_IF_ERROR(database_.Execute("SAVEPOINT together"));
  Status status = f();
  if (status.ok()) return database_.Execute("RELEASE together");
  const Status undone = database_.Execute("ROLLBACK TO together; RELEASE together");
  return undone.ok() ? status : undone;
}

Status SqliteStore::Log(const Id16& job, EventKind kind, uint32_t round, const std::string& site,
                        ByteSpan content, uint32_t weight, int64_t unix_millis) const {
  Statement statement = Prepare(
      "INSERT INTO events (job, kind, round, site, content, weight, unix_ms) "
      "VALUES (?, ?, ?, ?, ?, ?, ?)");
  statement.Bind(ByteSpan(job)).Bind(static_cast<int64_t>(kind)).Bind(int64_t{round}).Bind(site);
  statement.Bind(content).Bind(int64_t{weight}).Bind(unix_millis);
  return RunOnly(statement);
}

Status SqliteStore::BindFederation(const Id16& federation) {
  Statement insert = Prepare("INSERT INTO meta VALUES ('federation', ?) ON CONFLICT DO NOTHING");
  TG_RETURN_IF_ERROR(RunOnly(insert.Bind(ByteSpan(federation))));
  Statement select = Prepare("SELECT value FROM meta WHERE key = 'federation'");
  TG_ASSIGN_OR_RETURN(const bool row, select.Step());
  const Bytes stored = row ? select.Blob(0) : Bytes();
  if (std::equal(stored.begin(), stored.end(), federation.begin(), federation.end())) {
    return OkStatus();
  }
  return FailedPrecondition("the store {} belongs to federation {}, not to {}", database_.name(),
                            ToHex(stored), ToHex(federation));
}

Status SqliteStore::PutSite(const StoredSite& site) {
  // A revoked name may come back with new keys; one in force is never replaced by another's keys.
  Statement statement = Prepare(
      "INSERT INTO sites VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (name) DO UPDATE SET "
      "sign_key = excluded.sign_key, curve_key = excluded.curve_key, approval = excluded.approval, "
      "approved_ms = excluded.approved_ms, revoked_ms = 0 WHERE revoked_ms != 0 OR "
      "(sign_key = excluded.sign_key AND curve_key = excluded.curve_key)");
  statement.Bind(site.name).Bind(ByteSpan(site.sign_key)).Bind(ByteSpan(site.curve_key));
  statement.Bind(ByteSpan(Pack(site.approval))).Bind(site.approved_unix_millis);
  const auto changed = statement.Run();
  if (!changed && changed.error().code() == Code::kAlreadyExists) {
    return AlreadyExists("the CURVE key of site {} belongs to another site; make new keys",
                         site.name);
  }
  if (!changed) return changed.error();
  if (*changed == 1) return OkStatus();
  return AlreadyExists(
      "a site {} with other keys is enrolled; revoke it first or take another name", site.name);
}

Status SqliteStore::RevokeSite(const std::string& name, int64_t unix_millis) {
  Statement statement =
      Prepare("UPDATE sites SET revoked_ms = ? WHERE name = ? AND revoked_ms = 0");
  TG_ASSIGN_OR_RETURN(const int changed, statement.Bind(unix_millis).Bind(name).Run());
  if (changed == 1) return OkStatus();
  return NotFound("no site {} is enrolled", name);
}

Result<std::vector<StoredSite>> SqliteStore::Sites() {
  Statement row = Prepare(
      "SELECT name, sign_key, curve_key, approval, approved_ms, revoked_ms FROM sites ORDER BY "
      "name");
  std::vector<StoredSite> sites;
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return sites;
    StoredSite site;
    site.name = row.Text(0);
    TG_ASSIGN_OR_RETURN(site.sign_key, row.Array<32>(1, "site key"));
    TG_ASSIGN_OR_RETURN(site.curve_key, row.Array<32>(2, "CURVE key"));
    TG_ASSIGN_OR_RETURN(site.approval, Unpack(row.Blob(3), "approval"));
    site.approved_unix_millis = row.Integer(4);
    site.revoked_unix_millis = row.Integer(5);
    sites.push_back(std::move(site));
  }
}

Status SqliteStore::AddJob(const StoredJob& job, const Signed& version0) {
  return Together([&]() -> Status {
    Statement insert =
        Prepare("INSERT INTO jobs (id, manifest, base_name, model_config) VALUES (?, ?, ?, ?)");
    insert.Bind(ByteSpan(job.id)).Bind(ByteSpan(Pack(job.manifest)));
    TG_RETURN_IF_ERROR(RunOnly(insert.Bind(job.base_name).Bind(job.model_config)));
    Statement version = Prepare("INSERT INTO versions VALUES (?, 0, ?)");
    return RunOnly(version.Bind(ByteSpan(job.id)).Bind(ByteSpan(Pack(version0))));
  });
}

Result<std::vector<StoredJob>> SqliteStore::Jobs() {
  Statement row = Prepare("SELECT id, manifest, base_name, model_config FROM jobs ORDER BY seq");
  std::vector<StoredJob> jobs;
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return jobs;
    StoredJob job;
    TG_ASSIGN_OR_RETURN(job.id, row.Array<16>(0, "job id"));
    TG_ASSIGN_OR_RETURN(job.manifest, Unpack(row.Blob(1), "job"));
    job.base_name = row.Text(2);
    job.model_config = row.Text(3);
    jobs.push_back(std::move(job));
  }
}

Result<std::vector<Event>> SqliteStore::Events(const Id16& job) {
  Statement row = Prepare(
      "SELECT kind, round, site, content, weight, unix_ms FROM events WHERE job = ? ORDER BY seq");
  row.Bind(ByteSpan(job));
  std::vector<Event> events;
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return events;
    const auto number = static_cast<uint32_t>(row.Integer(1));
    switch (row.Integer(0)) {
      case kOpened:
        events.emplace_back(RoundOpened{number, row.Integer(5), SplitNames(row.Text(2))});
        break;
      case kAccepted: {
        TG_ASSIGN_OR_RETURN(const Digest content, row.Array<32>(3, "content id"));
        events.emplace_back(
            UpdateAccepted{row.Text(2), number, {content, static_cast<uint32_t>(row.Integer(4))}});
        break;
      }
      case kTime:
        events.emplace_back(TimePassed{row.Integer(5)});
        break;
      case kPublished:
        events.emplace_back(VersionPublished{number, row.Integer(5)});
        break;
      case kStop:
        events.emplace_back(StopRequested{row.Integer(5)});
        break;
      default:
        return DataLoss("the store {} has an event of kind {}", database_.name(), row.Integer(0));
    }
  }
}

Result<std::vector<LoggedEvent>> SqliteStore::EventLog(const Id16& job, int64_t after,
                                                       uint32_t limit) {
  static constexpr const char* kKinds[] = {"",          "opened", "accepted", "time_passed",
                                           "published", "stop"};
  Statement row = Prepare(
      "SELECT seq, kind, round, site, weight, unix_ms FROM events WHERE job = ? AND seq > ? "
      "ORDER BY seq LIMIT ?");
  row.Bind(ByteSpan(job)).Bind(after).Bind(int64_t{limit});
  std::vector<LoggedEvent> log;
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool more, row.Step());
    if (!more) return log;
    const int64_t kind = row.Integer(1);
    if (kind < kOpened || kind > kStop) {
      return DataLoss("the store {} has an event of kind {}", database_.name(), kind);
    }
    log.push_back({row.Integer(0), kKinds[kind], static_cast<uint32_t>(row.Integer(2)), row.Text(3),
                   static_cast<uint32_t>(row.Integer(4)), row.Integer(5)});
  }
}

Status SqliteStore::OpenRound(const Id16& job, const RoundOpened& event, const Signed& announcement,
                              const crypto::AgreeSecretKey& recipient) {
  const crypto::Secret<32> secret = recipient.Serialize();
  return Together([&]() -> Status {
    Statement insert = Prepare("INSERT INTO rounds VALUES (?, ?, ?, ?)");
    insert.Bind(ByteSpan(job)).Bind(int64_t{event.round}).Bind(ByteSpan(Pack(announcement)));
    TG_RETURN_IF_ERROR(RunOnly(insert.Bind(ByteSpan(secret.reveal()))));
    return Log(job, kOpened, event.round, JoinNames(event.asked), {}, 0, event.unix_millis);
  });
}

Status SqliteStore::AcceptUpdate(const StoredUpdate& update,
                                 const std::optional<UpdateAccepted>& event,
                                 const Signed& receipt) {
  const protocols::UpdateKey& key = update.key;
  return Together([&]() -> Status {
    Statement insert = Prepare("INSERT INTO updates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    insert.Bind(ByteSpan(key.job)).Bind(int64_t{key.round}).Bind(int64_t{key.phase});
    insert.Bind(key.site.text).Bind(ByteSpan(update.content)).Bind(int64_t{update.weight});
    insert.Bind(ByteSpan(Pack(update.release))).Bind(update.accepted_unix_millis);
    insert.Bind(static_cast<int64_t>(update.outcome)).Bind(int64_t{update.train_loss_milli});
    TG_RETURN_IF_ERROR(RunOnly(insert.Bind(int64_t{update.heldout_loss_milli})));
    Statement receive = Prepare("INSERT INTO receipts VALUES (?, ?, ?, ?, ?)");
    receive.Bind(ByteSpan(key.job)).Bind(int64_t{key.round}).Bind(int64_t{key.phase});
    TG_RETURN_IF_ERROR(RunOnly(receive.Bind(key.site.text).Bind(ByteSpan(Pack(receipt)))));
    if (!event) return OkStatus();
    return Log(key.job, kAccepted, event->round, event->site, event->update.content,
               event->update.weight, update.accepted_unix_millis);
  });
}

Status SqliteStore::EraseKey(const Id16& job, uint32_t round) const {
  Statement erase =
      Prepare("UPDATE rounds SET recipient_secret = NULL WHERE job = ? AND round = ?");
  return RunOnly(erase.Bind(ByteSpan(job)).Bind(int64_t{round}));
}

Status SqliteStore::Publish(const Id16& job, uint32_t round, const VersionPublished& event,
                            const Signed& manifest, const StoredContent* moments) {
  return Together([&]() -> Status {
    Statement forget = Prepare("DELETE FROM moments WHERE job = ?");
    TG_RETURN_IF_ERROR(RunOnly(forget.Bind(ByteSpan(job))));
    if (moments != nullptr) {
      Statement remember = Prepare("INSERT INTO moments VALUES (?, ?, ?)");
      remember.Bind(ByteSpan(job)).Bind(static_cast<int64_t>(moments->bytes));
      const auto* ids = reinterpret_cast<const uint8_t*>(moments->blocks.data());
      TG_RETURN_IF_ERROR(
          RunOnly(remember.Bind(ByteSpan(ids, moments->blocks.size() * sizeof(Digest)))));
    }
    Statement insert = Prepare("INSERT INTO versions VALUES (?, ?, ?)");
    insert.Bind(ByteSpan(job)).Bind(int64_t{event.version});
    TG_RETURN_IF_ERROR(RunOnly(insert.Bind(ByteSpan(Pack(manifest)))));
    TG_RETURN_IF_ERROR(EraseKey(job, round));
    return Log(job, kPublished, event.version, "", {}, 0, event.unix_millis);
  });
}

Result<std::optional<StoredContent>> SqliteStore::Moments(const Id16& job) {
  Statement row = Prepare("SELECT bytes, blocks FROM moments WHERE job = ?");
  TG_ASSIGN_OR_RETURN(const bool found, row.Bind(ByteSpan(job)).Step());
  if (!found) return std::optional<StoredContent>();
  StoredContent content;
  content.bytes = static_cast<uint64_t>(row.Integer(0));
  const Bytes ids = row.Blob(1);
  if (ids.size() % sizeof(Digest) != 0) return DataLoss("the store's moments are damaged");
  content.blocks.resize(ids.size() / sizeof(Digest));
  if (!ids.empty()) std::memcpy(content.blocks.data(), ids.data(), ids.size());
  return std::optional(std::move(content));
}

Status SqliteStore::PutNotice(const Id16& job, uint32_t round, const Signed& notice) {
  return Together([&]() -> Status {
    Statement insert = Prepare("INSERT INTO notices VALUES (?, ?, ?) ON CONFLICT DO NOTHING");
    insert.Bind(ByteSpan(job)).Bind(int64_t{round});
    TG_RETURN_IF_ERROR(RunOnly(insert.Bind(ByteSpan(Pack(notice)))));
    return EraseKey(job, round);
  });
}

Result<std::optional<Signed>> SqliteStore::OneSigned(Statement statement,
                                                     std::string_view what) const {
  TG_ASSIGN_OR_RETURN(const bool row, statement.Step());
  if (!row) return std::optional<Signed>();
  TG_ASSIGN_OR_RETURN(Signed document, Unpack(statement.Blob(0), what));
  return std::optional<Signed>(std::move(document));
}

Result<std::optional<Signed>> SqliteStore::Notice(const Id16& job, uint32_t round) {
  Statement row = Prepare("SELECT notice FROM notices WHERE job = ? AND round = ?");
  row.Bind(ByteSpan(job)).Bind(int64_t{round});
  return OneSigned(std::move(row), "notice");
}

Result<std::optional<StoredRound>> SqliteStore::Round(const Id16& job, uint32_t round) {
  Statement row = Prepare("SELECT announcement FROM rounds WHERE job = ? AND round = ?");
  TG_ASSIGN_OR_RETURN(const bool found, row.Bind(ByteSpan(job)).Bind(int64_t{round}).Step());
  if (!found) return std::optional<StoredRound>();
  StoredRound stored;
  stored.round = round;
  TG_ASSIGN_OR_RETURN(stored.announcement, Unpack(row.Blob(0), "announcement"));
  return std::optional<StoredRound>(std::move(stored));
}

Result<crypto::AgreeSecretKey> SqliteStore::RecipientKey(const Id16& job, uint32_t round) {
  Statement row = Prepare("SELECT recipient_secret FROM rounds WHERE job = ? AND round = ?");
  TG_ASSIGN_OR_RETURN(const bool found, row.Bind(ByteSpan(job)).Bind(int64_t{round}).Step());
  if (!found || row.IsNull(0)) {
    return NotFound("round {} has no recipient key any more", round);
  }
  const crypto::SecretBytes secret(row.Blob(0));
  return crypto::AgreeSecretKey::FromBytes(secret.reveal());
}

constexpr const char* kUpdateColumns =
    "SELECT job, round, phase, site, content, weight, release, accepted_ms, outcome, "
    "train_loss_milli, heldout_loss_milli FROM updates WHERE job = ? AND ";

Result<StoredUpdate> SqliteStore::ReadUpdate(const Statement& row) const {
  StoredUpdate update;
  TG_ASSIGN_OR_RETURN(update.key.job, row.Array<16>(0, "job id"));
  update.key.round = static_cast<uint32_t>(row.Integer(1));
  update.key.phase = static_cast<uint8_t>(row.Integer(2));
  update.key.site = row.Text(3);
  TG_ASSIGN_OR_RETURN(update.content, row.Array<32>(4, "content id"));
  update.weight = static_cast<uint32_t>(row.Integer(5));
  TG_ASSIGN_OR_RETURN(update.release, Unpack(row.Blob(6), "release"));
  update.accepted_unix_millis = row.Integer(7);
  const int64_t outcome = row.Integer(8);
  if (outcome != 1 && outcome != 2)
    return DataLoss("the store has an update of outcome {}", outcome);
  update.outcome = static_cast<protocols::ReceiptOutcome>(outcome);
  update.train_loss_milli = static_cast<uint32_t>(row.Integer(9));
  update.heldout_loss_milli = static_cast<uint32_t>(row.Integer(10));
  return update;
}

Result<std::vector<StoredUpdate>> SqliteStore::ReadUpdates(Statement rows) const {
  std::vector<StoredUpdate> updates;
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool more, rows.Step());
    if (!more) return updates;
    TG_ASSIGN_OR_RETURN(StoredUpdate update, ReadUpdate(rows));
    updates.push_back(std::move(update));
  }
}

Result<std::optional<StoredUpdate>> SqliteStore::Update(const protocols::UpdateKey& key) {
  const std::string sql = std::string(kUpdateColumns) + "round = ? AND phase = ? AND site = ?";
  Statement row = Prepare(sql.c_str());
  row.Bind(ByteSpan(key.job)).Bind(int64_t{key.round}).Bind(int64_t{key.phase});
  TG_ASSIGN_OR_RETURN(const bool found, row.Bind(key.site.text).Step());
  if (!found) return std::optional<StoredUpdate>();
  TG_ASSIGN_OR_RETURN(StoredUpdate update, ReadUpdate(row));
  return std::optional<StoredUpdate>(std::move(update));
}

Result<std::vector<StoredUpdate>> SqliteStore::Updates(const Id16& job, uint32_t round) {
  const std::string sql = std::string(kUpdateColumns) + "round = ? AND outcome = 1 ORDER BY site";
  Statement rows = Prepare(sql.c_str());
  rows.Bind(ByteSpan(job)).Bind(int64_t{round});
  return ReadUpdates(std::move(rows));
}

Result<std::vector<StoredUpdate>> SqliteStore::NewestUpdates(const Id16& job) {
  const std::string sql = std::string(kUpdateColumns) +
                          "outcome = 1 AND round = (SELECT max(round) FROM updates AS u WHERE "
                          "u.job = updates.job AND u.site = updates.site AND u.outcome = 1) "
                          "ORDER BY site";
  Statement rows = Prepare(sql.c_str());
  rows.Bind(ByteSpan(job));
  return ReadUpdates(std::move(rows));
}

Result<std::optional<Signed>> SqliteStore::ReceiptOf(const protocols::UpdateKey& key) {
  Statement row = Prepare(
      "SELECT receipt FROM receipts WHERE job = ? AND round = ? AND phase = ? AND site = ?");
  row.Bind(ByteSpan(key.job)).Bind(int64_t{key.round}).Bind(int64_t{key.phase}).Bind(key.site.text);
  return OneSigned(std::move(row), "receipt");
}

Result<std::optional<Signed>> SqliteStore::Version(const Id16& job,
                                                   std::optional<uint32_t> version) {
  if (version) {
    Statement row = Prepare("SELECT manifest FROM versions WHERE job = ? AND version = ?");
    row.Bind(ByteSpan(job)).Bind(int64_t{*version});
    return OneSigned(std::move(row), "adapter manifest");
  }
  Statement row =
      Prepare("SELECT manifest FROM versions WHERE job = ? ORDER BY version DESC LIMIT 1");
  row.Bind(ByteSpan(job));
  return OneSigned(std::move(row), "adapter manifest");
}

Status SqliteStore::LogEquivocation(const protocols::UpdateKey& key, const Digest& content,
                                    int64_t unix_millis) {
  Statement insert =
      Prepare("INSERT INTO equivocations VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING");
  insert.Bind(ByteSpan(key.job)).Bind(int64_t{key.round}).Bind(int64_t{key.phase});
  return RunOnly(insert.Bind(key.site.text).Bind(ByteSpan(content)).Bind(unix_millis));
}

Result<uint64_t> SqliteStore::Equivocations() {
  Statement row = Prepare("SELECT count(*) FROM equivocations");
  TG_ASSIGN_OR_RETURN(const bool found, row.Step());
  return found ? static_cast<uint64_t>(row.Integer(0)) : 0;
}

}  // namespace

Result<std::unique_ptr<Store>> OpenSqliteStore(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(Database database, Database::Open(path));
  auto store = std::make_unique<SqliteStore>(std::move(database));
  TG_RETURN_IF_ERROR(store->Setup());
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace tidegate::federation
