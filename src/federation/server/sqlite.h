// SQLite behind Status: a database and its statements. Private to this module. Not thread-safe.
#pragma once

#include <sqlite3.h>

#include <filesystem>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/status.h"

namespace tidegate::federation {

class Database {
 public:
  static Result<Database> Open(const std::filesystem::path& path);
  sqlite3* handle() const { return handle_.get(); }
  const std::string& name() const { return name_; }

  // Statements without parameters and rows.
  Status Execute(const char* sql) const;
  // The Status of a result code of this database.
  Status ErrorOf(int code) const;

 private:
  struct Closer {
    void operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }
  };
  std::unique_ptr<sqlite3, Closer> handle_;
  std::string name_;
};

// One statement: bind in the order of the ?s, then Step for each row.
class Statement {
 public:
  Statement(const Database& database, const char* sql);
  Statement(Statement&&) = default;

  Statement& Bind(int64_t value);
  Statement& Bind(ByteSpan blob);
  Statement& Bind(const std::string& text);

  // True when there is a row.
  Result<bool> Step();
  // For statements without rows; how many rows it changed.
  Result<int> Run();

  int64_t Integer(int column) const { return sqlite3_column_int64(handle_.get(), column); }
  Bytes Blob(int column) const;
  std::string Text(int column) const;
  bool IsNull(int column) const {
    return sqlite3_column_type(handle_.get(), column) == SQLITE_NULL;
  }
  // A blob of exactly N bytes; kDataLoss for another.
  template <size_t N>
  Result<std::array<uint8_t, N>> Array(int column, std::string_view what) const {
    const Bytes bytes = Blob(column);
    if (bytes.size() != N)
      return DataLoss("{}: a {} has {} bytes", database_->name(), what, bytes.size());
    std::array<uint8_t, N> out;
    std::copy(bytes.begin(), bytes.end(), out.begin());
    return out;
  }

 private:
  struct Finalizer {
    void operator()(sqlite3_stmt* handle) const { sqlite3_finalize(handle); }
  };
  void Note(int code) {
    if (code_ == SQLITE_OK) code_ = code;
  }
  const Database* database_;
  std::unique_ptr<sqlite3_stmt, Finalizer> handle_;
  int code_ = SQLITE_OK;
  int next_ = 1;
};

}  // namespace tidegate::federation
