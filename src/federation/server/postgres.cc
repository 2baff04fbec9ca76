#include "federation/server/postgres.h"

#include <cstring>
#include <string_view>
#include <vector>

namespace tidegate::federation {
namespace {

// Of pg_type.h.
constexpr Oid kBytea = 17, kInt8 = 20, kText = 25;
// Any number that other programs of the database do not take: "tidegate".
constexpr const char* kSchemaLock = "8388070207325074533";

struct ResultCloser {
  void operator()(PGresult* result) const { PQclear(result); }
};
using ResultPtr = std::unique_ptr<PGresult, ResultCloser>;

bool Done(const PGresult* result) {
  const ExecStatusType status = PQresultStatus(result);
  return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

// ? as $1, $2, …; no text in our SQL has one.
std::string Numbered(std::string_view sql) {
  std::string out;
  int number = 0;
  for (const char c : sql) {
    out += c == '?' ? fmt::format("${}", ++number) : std::string(1, c);
  }
  return out;
}

// Everything in binary: integers big-endian, the rest as it is.
class PostgresStatement final : public SqlStatement {
 public:
  PostgresStatement(PostgresDatabase& database, const char* sql) : database_(database), sql_(sql) {}

  void BindInteger(int64_t value) override {
    const auto bits = static_cast<uint64_t>(value);
    Bytes bytes(8);
    for (int i = 0; i < 8; ++i) {
      bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(bits >> (56 - 8 * i));
    }
    Add(kInt8, std::move(bytes));
  }
  void BindBlob(ByteSpan blob) override { Add(kBytea, Bytes(blob.begin(), blob.end())); }
  void BindText(const std::string& text) override {
    const ByteSpan bytes = AsBytes(text);
    Add(kText, Bytes(bytes.begin(), bytes.end()));
  }

  Result<bool> Step() override {
    if (result_ == nullptr) TG_RETURN_IF_ERROR(Send());
    return ++row_ < PQntuples(result_.get());
  }
  Result<int> Run() override {
    TG_RETURN_IF_ERROR(Send());
    return std::atoi(PQcmdTuples(result_.get()));
  }
  int64_t Integer(int column) const override {
    const auto* data = Data(column);
    uint64_t bits = 0;
    const int size = PQgetlength(result_.get(), row_, column);
    for (int i = 0; i < size && i < 8; ++i) bits = bits << 8 | data[i];
    // An int4, as that of a bool, is never negative here.
    return static_cast<int64_t>(bits);
  }
  Bytes Blob(int column) const override {
    const auto* data = Data(column);
    return Bytes(data, data + PQgetlength(result_.get(), row_, column));
  }
  bool IsNull(int column) const override { return PQgetisnull(result_.get(), row_, column) != 0; }

 private:
  void Add(Oid type, Bytes bytes) {
    types_.push_back(type);
    values_.push_back(std::move(bytes));
  }
  const uint8_t* Data(int column) const {
    return reinterpret_cast<const uint8_t*>(PQgetvalue(result_.get(), row_, column));
  }
  Status Send() {
    const int count = static_cast<int>(values_.size());
    TG_ASSIGN_OR_RETURN(const std::string name, database_.Prepared(sql_, count, types_.data()));
    std::vector<const char*> values;
    std::vector<int> lengths, formats(values_.size(), 1);
    for (const Bytes& value : values_) {
      // A null pointer would bind NULL.
      values.push_back(value.empty() ? "" : reinterpret_cast<const char*>(value.data()));
      lengths.push_back(static_cast<int>(value.size()));
    }
    result_.reset(PQexecPrepared(database_.handle(), name.c_str(), count, values.data(),
                                 lengths.data(), formats.data(), 1));
    return Done(result_.get()) ? OkStatus() : database_.ErrorOf(result_.get());
  }

  PostgresDatabase& database_;
  std::string sql_;
  std::vector<Oid> types_;
  std::vector<Bytes> values_;
  ResultPtr result_;
  int row_ = -1;
};

// The options of a url, and those that it has not.
Status CheckUrl(const std::string& url) {
  if (!url.starts_with("postgresql://") && !url.starts_with("postgres://")) {
    return InvalidArgument("store must be a postgresql:// url");
  }
  char* why = nullptr;
  struct Options {
    void operator()(PQconninfoOption* options) const { PQconninfoFree(options); }
  };
  const std::unique_ptr<PQconninfoOption, Options> options(PQconninfoParse(url.c_str(), &why));
  // libpq's words may repeat a part of the url.
  if (why != nullptr) PQfreemem(why);
  if (options == nullptr) return InvalidArgument("store is no url that libpq takes");
  for (const PQconninfoOption* option = options.get(); option->keyword != nullptr; ++option) {
    const bool secret = std::string_view(option->keyword).ends_with("password");
    if (secret && option->val != nullptr) {
      return InvalidArgument(
          "store has a password in it; put that into libpq's password file (passfile=, or "
          "~/.pgpass), which is its owner's alone");
    }
  }
  return OkStatus();
}

void NoNotice(void*, const char*) {}

}  // namespace

Result<std::unique_ptr<PostgresDatabase>> PostgresDatabase::Connect(const std::string& url,
                                                                    int64_t timeout_millis) {
  TG_RETURN_IF_ERROR(CheckUrl(url));
  const std::string seconds = std::to_string(std::max<int64_t>(2, timeout_millis / 1000));
  const std::string millis = std::to_string(timeout_millis);
  // Before dbname: what the url says of them counts.
  const char* keys[] = {"connect_timeout",           "tcp_user_timeout", "client_encoding",
                        "fallback_application_name", "dbname",           nullptr};
  const char* values[] = {seconds.c_str(),        millis.c_str(), "UTF8",
                          "tidegate-coordinator", url.c_str(),    nullptr};
  auto database = std::make_unique<PostgresDatabase>();
  database->handle_.reset(PQconnectdbParams(keys, values, 1));
  PGconn* handle = database->handle_.get();
  if (handle == nullptr) return Internal("libpq has no memory for a connection");
  const auto text = [](const char* part) { return std::string(part == nullptr ? "" : part); };
  database->name_ =
      fmt::format("{}:{}/{}", text(PQhost(handle)), text(PQport(handle)), text(PQdb(handle)));
  if (PQstatus(handle) != CONNECTION_OK) {
    std::string why = text(PQerrorMessage(handle));
    while (!why.empty() && why.back() == '\n') why.pop_back();
    return Unavailable("the store {} can not be reached: {}", database->name_, why);
  }
  PQsetNoticeProcessor(handle, NoNotice, nullptr);
  // A commit is on the server's disk when it is told; nobody waits for a lock for long.
  TG_RETURN_IF_ERROR(database->Execute("SET synchronous_commit = on"));
  TG_RETURN_IF_ERROR(database->Execute("SET lock_timeout = 2000"));
  return database;
}

Status PostgresDatabase::Execute(const char* sql) {
  const ResultPtr result(PQexec(handle(), sql));
  return Done(result.get()) ? OkStatus() : ErrorOf(result.get());
}

std::unique_ptr<SqlStatement> PostgresDatabase::Prepare(const char* sql) {
  return std::make_unique<PostgresStatement>(*this, sql);
}

Result<std::string> PostgresDatabase::Prepared(const std::string& sql, int parameters,
                                               const Oid* types) {
  const auto it = prepared_.find(sql);
  if (it != prepared_.end()) return it->second;
  const std::string name = fmt::format("s{}", prepared_.size());
  const ResultPtr result(
      PQprepare(handle(), name.c_str(), Numbered(sql).c_str(), parameters, types));
  if (!Done(result.get())) return Unexpected(ErrorOf(result.get()));
  prepared_.emplace(sql, name);
  return name;
}

Status PostgresDatabase::BeginSchema() {
  TG_RETURN_IF_ERROR(Begin());
  TG_RETURN_IF_ERROR(Execute(fmt::format("SELECT pg_advisory_xact_lock({})", kSchemaLock).c_str()));
  return Execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)");
}

Result<int64_t> PostgresDatabase::SchemaVersion() {
  PostgresStatement statement(*this, "SELECT version FROM schema_version");
  TG_ASSIGN_OR_RETURN(const bool row, statement.Step());
  return row ? statement.Integer(0) : 0;
}

Status PostgresDatabase::SetSchemaVersion(int64_t version) {
  return Execute(
      fmt::format("DELETE FROM schema_version; INSERT INTO schema_version VALUES ({})", version)
          .c_str());
}

Status PostgresDatabase::ErrorOf(const PGresult* result) const {
  const auto field = [&](int code) {
    const char* text = result == nullptr ? nullptr : PQresultErrorField(result, code);
    return std::string(text == nullptr ? "" : text);
  };
  const std::string state = field(PG_DIAG_SQLSTATE), text = field(PG_DIAG_MESSAGE_PRIMARY);
  const std::string_view kind = std::string_view(state).substr(0, 2);
  // 57P: ended by the server; none: the connection is gone.
  if (state.empty() || kind == "08" || kind == "57" || PQstatus(handle()) != CONNECTION_OK) {
    return Unavailable("the store {} is gone: {}", name_,
                       text.empty() ? "the connection ended" : text);
  }
  // Locks: of another process that shares it.
  if (kind == "40" || kind == "55") return Unavailable("the store {} is busy: {}", name_, text);
  if (kind == "23") return AlreadyExists("the store {} has this already ({})", name_, text);
  if (kind == "53") {
    return ResourceExhausted("the store {} can not grow: {}; give the server room", name_, text);
  }
  if (kind == "28" || state == "42501" || kind == "25") {
    return PermissionDenied("the store {} can not be written: {}", name_, text);
  }
  if (kind == "58" || state == "XX001" || state == "XX002") {
    return DataLoss("the store {} is damaged ({}); look at the server before starting again", name_,
                    text);
  }
  return Internal("the store {}: {} (SQLSTATE {})", name_, text, state);
}

}  // namespace tidegate::federation
