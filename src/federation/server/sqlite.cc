#include "federation/server/sqlite.h"

#include <sys/stat.h>

namespace tidegate::federation {
namespace {

class SqliteStatement final : public SqlStatement {
 public:
  SqliteStatement(const SqliteDatabase& database, const char* sql) : database_(database) {
    sqlite3_stmt* handle = nullptr;
    Note(sqlite3_prepare_v2(database.handle(), sql, -1, &handle, nullptr));
    handle_.reset(handle);
  }

  void BindInteger(int64_t value) override {
    if (code_ == SQLITE_OK) Note(sqlite3_bind_int64(handle_.get(), next_++, value));
  }
  void BindBlob(ByteSpan blob) override {
    // A null pointer would bind NULL.
    static constexpr uint8_t kNone = 0;
    const uint8_t* data = blob.data() != nullptr ? blob.data() : &kNone;
    if (code_ == SQLITE_OK) {
      Note(sqlite3_bind_blob64(handle_.get(), next_++, data, blob.size(), SQLITE_TRANSIENT));
    }
  }
  void BindText(const std::string& text) override {
    if (code_ == SQLITE_OK) {
      Note(sqlite3_bind_text64(handle_.get(), next_++, text.data(), text.size(), SQLITE_TRANSIENT,
                               SQLITE_UTF8));
    }
  }
  Result<bool> Step() override {
    if (code_ != SQLITE_OK) return Unexpected(database_.ErrorOf(code_));
    const int code = sqlite3_step(handle_.get());
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    return Unexpected(database_.ErrorOf(code));
  }
  Result<int> Run() override {
    TG_ASSIGN_OR_RETURN(const bool row, Step());
    if (row) return Internal("the store {}: a row where none is expected", database_.name());
    return sqlite3_changes(database_.handle());
  }
  int64_t Integer(int column) const override { return sqlite3_column_int64(handle_.get(), column); }
  Bytes Blob(int column) const override {
    const auto* data = static_cast<const uint8_t*>(sqlite3_column_blob(handle_.get(), column));
    const auto size = static_cast<size_t>(sqlite3_column_bytes(handle_.get(), column));
    return data == nullptr ? Bytes() : Bytes(data, data + size);
  }
  bool IsNull(int column) const override {
    return sqlite3_column_type(handle_.get(), column) == SQLITE_NULL;
  }

 private:
  struct Finalizer {
    void operator()(sqlite3_stmt* handle) const { sqlite3_finalize(handle); }
  };
  void Note(int code) {
    if (code_ == SQLITE_OK) code_ = code;
  }
  const SqliteDatabase& database_;
  std::unique_ptr<sqlite3_stmt, Finalizer> handle_;
  int code_ = SQLITE_OK;
  int next_ = 1;
};

}  // namespace

Result<std::unique_ptr<SqliteDatabase>> SqliteDatabase::Open(const std::filesystem::path& path) {
  auto database = std::make_unique<SqliteDatabase>();
  database->name_ = path.native();
  sqlite3* handle = nullptr;
  // The store holds recipient keys: nobody but its owner may read it. (-wal takes the file's mode.)
  const mode_t before = ::umask(0077);
  const int code =
      sqlite3_open_v2(path.c_str(), &handle,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  ::umask(before);
  database->handle_.reset(handle);
  if (code != SQLITE_OK) return Unexpected(database->ErrorOf(code));
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, 0);
  // Exclusive: no shared-memory file, and a second process is refused instead of interleaved.
  TG_RETURN_IF_ERROR(database->Execute("PRAGMA locking_mode = EXCLUSIVE"));
  TG_RETURN_IF_ERROR(database->Execute("PRAGMA journal_mode = WAL"));
  TG_RETURN_IF_ERROR(database->Execute(
      "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; "
      "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;"));
  return database;
}

Status SqliteDatabase::Execute(const char* sql) {
  const int code = sqlite3_exec(handle_.get(), sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? OkStatus() : ErrorOf(code);
}

std::unique_ptr<SqlStatement> SqliteDatabase::Prepare(const char* sql) {
  return std::make_unique<SqliteStatement>(*this, sql);
}

Result<int64_t> SqliteDatabase::SchemaVersion() {
  SqliteStatement statement(*this, "PRAGMA user_version");
  TG_ASSIGN_OR_RETURN(const bool row, statement.Step());
  return row ? statement.Integer(0) : 0;
}

Status SqliteDatabase::SetSchemaVersion(int64_t version) {
  return Execute(fmt::format("PRAGMA user_version = {}", version).c_str());
}

Status SqliteDatabase::ErrorOf(int code) const {
  const char* text = handle_ ? sqlite3_errmsg(handle_.get()) : sqlite3_errstr(code);
  switch (code & 0xff) {
    case SQLITE_FULL:
      return ResourceExhausted(
          "the store {} can not grow: the disk is full; free space and start again", name_);
    case SQLITE_IOERR:
      return DataLoss(
          "the store {} has an I/O error ({}, code {}); look at the disk before starting again",
          name_, text, code);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return DataLoss("the store {} is damaged ({}); restore it from a copy", name_, text);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Unavailable("the store {} is in use by another process; stop it first", name_);
    case SQLITE_CONSTRAINT:
      return AlreadyExists("the store {} has this already ({})", name_, text);
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
      return PermissionDenied("the store {} can not be opened for writing ({})", name_, text);
    default:
      return Internal("the store {}: {} (code {})", name_, text, code);
  }
}

}  // namespace tidegate::federation
