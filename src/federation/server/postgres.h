// PostgreSQL as an SqlDatabase. Private to this module.
#pragma once

#include <libpq-fe.h>

#include <map>
#include <memory>
#include <string>

#include "federation/server/sql.h"

namespace tidegate::federation {

class PostgresDatabase final : public SqlDatabase {
 public:
  // kInvalidArgument for a url that is none or has a password in it, kUnavailable when nobody
  // answers. Neither message has the url in it. Who waits for the network waits at most about
  // `timeout_millis`.
  static Result<std::unique_ptr<PostgresDatabase>> Connect(const std::string& url,
                                                           int64_t timeout_millis);

  SqlEngine engine() const override { return SqlEngine::kPostgres; }
  const std::string& name() const override { return name_; }
  Status Execute(const char* sql) override;
  std::unique_ptr<SqlStatement> Prepare(const char* sql) override;
  Status Begin() override { return Execute("BEGIN"); }
  Status BeginSchema() override;
  Result<int64_t> SchemaVersion() override;
  Status SetSchemaVersion(int64_t version) override;

  PGconn* handle() const { return handle_.get(); }
  // The name under which the server knows the statement; prepared at its first use.
  Result<std::string> Prepared(const std::string& sql, int parameters, const Oid* types);
  Status ErrorOf(const PGresult* result) const;

 private:
  struct Closer {
    void operator()(PGconn* handle) const { PQfinish(handle); }
  };
  std::unique_ptr<PGconn, Closer> handle_;
  std::string name_;
  std::map<std::string, std::string> prepared_;
};

}  // namespace tidegate::federation
