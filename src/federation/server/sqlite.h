// SQLite as an SqlDatabase. Private to this module.
#pragma once

#include <sqlite3.h>

#include <filesystem>
#include <memory>
#include <string>

#include "federation/server/sql.h"

namespace tidegate::federation {

class SqliteDatabase final : public SqlDatabase {
 public:
  // Opens or makes the file, for one process at a time, each commit on the disk before it returns.
  static Result<std::unique_ptr<SqliteDatabase>> Open(const std::filesystem::path& path);

  SqlEngine engine() const override { return SqlEngine::kSqlite; }
  const std::string& name() const override { return name_; }
  Status Execute(const char* sql) override;
  std::unique_ptr<SqlStatement> Prepare(const char* sql) override;
  Status Begin() override { return Execute("BEGIN IMMEDIATE"); }
  Status BeginSchema() override { return Begin(); }
  Result<int64_t> SchemaVersion() override;
  Status SetSchemaVersion(int64_t version) override;

  sqlite3* handle() const { return handle_.get(); }
  // The Status of a result code of this database.
  Status ErrorOf(int code) const;

 private:
  struct Closer {
    void operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }
  };
  std::unique_ptr<sqlite3, Closer> handle_;
  std::string name_;
};

}  // namespace tidegate::federation
