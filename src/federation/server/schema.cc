#include "federation/server/schema.h"

#include <string_view>
#include <utility>

namespace tidegate::federation {
namespace {

// In SQLite's words; the words that PostgreSQL has others for are in kWords.
constexpr const char* kSchema3 = R"sql(
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
)sql";

// Schema 1 kept no losses, schema 2 knew no server optimizer that remembers anything. No store in
// PostgreSQL was ever of one.
constexpr const char* kTo2 = R"sql(
ALTER TABLE updates ADD COLUMN train_loss_milli INTEGER NOT NULL DEFAULT 0;
ALTER TABLE updates ADD COLUMN heldout_loss_milli INTEGER NOT NULL DEFAULT 0;
)sql";
constexpr const char* kTo3 = R"sql(
CREATE TABLE moments (
  job BLOB PRIMARY KEY REFERENCES jobs (id), bytes INTEGER NOT NULL, blocks BLOB NOT NULL) STRICT;
)sql";
// Schema 3 did not know how long a site's ledger had been.
constexpr const char* kTo4 = R"sql(
CREATE TABLE heads (
  site TEXT NOT NULL, sign_key BLOB NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL,
  set_back_ms INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (site, sign_key)) STRICT;
)sql";

// Of a store that several coordinators share, which PostgreSQL's alone is: who has it (one row).
constexpr const char* kLease = R"sql(
CREATE TABLE lease (
  generation BIGINT PRIMARY KEY, holder TEXT NOT NULL, until TIMESTAMPTZ NOT NULL,
  backend BIGINT NOT NULL, backend_start TIMESTAMPTZ);
INSERT INTO lease VALUES (0, '', '-infinity', 0, NULL);
)sql";

// What stands for a word of kSchema3, in the order of replacing. Texts compare by their bytes there
// too, whatever the database's locale.
constexpr std::pair<std::string_view, std::string_view> kWords[] = {
    {"INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"},
    {" INTEGER", " BIGINT"},
    {" BLOB", " BYTEA"},
    {" TEXT", " TEXT COLLATE \"C\""},
    {" STRICT;", ";"},
};

std::string InWordsOf(SqlEngine engine, std::string sql) {
  if (engine == SqlEngine::kSqlite) return sql;
  for (const auto& [from, to] : kWords) {
    for (size_t at = sql.find(from); at != std::string::npos; at = sql.find(from, at + to.size())) {
      sql.replace(at, from.size(), to);
    }
  }
  return sql;
}

Status BringUp(SqlDatabase& database) {
  TG_ASSIGN_OR_RETURN(const int64_t version, database.SchemaVersion());
  if (version < 0 || version > kSchemaVersion) {
    return FailedPrecondition(
        "the store {} has schema {}, this program reads 1 … {}; use the version that wrote it",
        database.name(), version, kSchemaVersion);
  }
  const auto run = [&](const char* sql) {
    return database.Execute(InWordsOf(database.engine(), sql).c_str());
  };
  if (version == 0) TG_RETURN_IF_ERROR(run(kSchema3));
  if (version == 0 && database.engine() == SqlEngine::kPostgres) {
    TG_RETURN_IF_ERROR(database.Execute(kLease));
  }
  if (version == 1) TG_RETURN_IF_ERROR(run(kTo2));
  if (version == 1 || version == 2) TG_RETURN_IF_ERROR(run(kTo3));
  if (version < 4) TG_RETURN_IF_ERROR(run(kTo4));
  return version == kSchemaVersion ? OkStatus() : database.SetSchemaVersion(kSchemaVersion);
}

}  // namespace

Status BringSchemaUpToDate(SqlDatabase& database) {
  TG_RETURN_IF_ERROR(database.BeginSchema());
  const Status status = BringUp(database);
  if (status.ok()) return database.Commit();
  // The first error is the one that says why.
  [[maybe_unused]] const Status undone = database.Rollback();
  return status;
}

}  // namespace tidegate::federation
