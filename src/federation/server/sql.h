// What the store needs of a database engine. The SQL itself is one dialect that both engines take:
// parameters are ?, integers are 64 bits, texts compare by their bytes (schema.h). Private to this
// module. Not thread-safe.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/status.h"

namespace tidegate::federation {

// One statement of an engine: bind in the order of the ?s, then Step for each row. An error of a
// Bind is told by Step or Run.
class SqlStatement {
 public:
  virtual ~SqlStatement() = default;
  virtual void BindInteger(int64_t value) = 0;
  virtual void BindBlob(ByteSpan blob) = 0;
  virtual void BindText(const std::string& text) = 0;
  // True when there is a row.
  virtual Result<bool> Step() = 0;
  // For statements without rows; how many rows it changed.
  virtual Result<int> Run() = 0;
  virtual int64_t Integer(int column) const = 0;
  virtual Bytes Blob(int column) const = 0;
  virtual bool IsNull(int column) const = 0;
};

enum class SqlEngine : uint8_t { kSqlite, kPostgres };

// kResourceExhausted when the disk is full, kDataLoss for I/O errors and damage, kAlreadyExists for
// a row that is there already, kUnavailable when the database is in use by another process or can
// not be reached, kPermissionDenied.
class SqlDatabase {
 public:
  virtual ~SqlDatabase() = default;
  virtual SqlEngine engine() const = 0;
  // For messages: a path, or a host and a database.
  virtual const std::string& name() const = 0;
  // Statements without parameters and rows.
  virtual Status Execute(const char* sql) = 0;
  virtual std::unique_ptr<SqlStatement> Prepare(const char* sql) = 0;
  // A transaction that may write. Commit is durable when it returns OK.
  virtual Status Begin() = 0;
  Status Commit() { return Execute("COMMIT"); }
  Status Rollback() { return Execute("ROLLBACK"); }
  // A transaction in which no other process brings the schema up to date.
  virtual Status BeginSchema() = 0;
  virtual Result<int64_t> SchemaVersion() = 0;  // 0: there is none yet
  virtual Status SetSchemaVersion(int64_t version) = 0;
};

// A statement by value.
class Statement {
 public:
  Statement(SqlDatabase& database, const char* sql)
      : database_(&database), statement_(database.Prepare(sql)) {}

  Statement& Bind(int64_t value) {
    statement_->BindInteger(value);
    return *this;
  }
  Statement& Bind(ByteSpan blob) {
    statement_->BindBlob(blob);
    return *this;
  }
  Statement& Bind(const std::string& text) {
    statement_->BindText(text);
    return *this;
  }
  Result<bool> Step() { return statement_->Step(); }
  Result<int> Run() { return statement_->Run(); }
  Status RunOnly() {
    const auto changed = Run();
    return changed ? OkStatus() : changed.error();
  }

  int64_t Integer(int column) const { return statement_->Integer(column); }
  Bytes Blob(int column) const { return statement_->Blob(column); }
  std::string Text(int column) const { return std::string(AsText(Blob(column))); }
  bool IsNull(int column) const { return statement_->IsNull(column); }
  // A blob of exactly N bytes; kDataLoss for another.
  template <size_t N>
  Result<std::array<uint8_t, N>> Array(int column, std::string_view what) const {
    const Bytes bytes = Blob(column);
    if (bytes.size() != N) {
      return DataLoss("{}: a {} has {} bytes", database_->name(), what, bytes.size());
    }
    std::array<uint8_t, N> out;
    std::copy(bytes.begin(), bytes.end(), out.begin());
    return out;
  }

 private:
  SqlDatabase* database_;
  std::unique_ptr<SqlStatement> statement_;
};

}  // namespace tidegate::federation
