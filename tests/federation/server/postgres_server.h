// A PostgreSQL server for the tests of this program: made and started at the first use, in a folder
// of its own that only a unix socket leads to, as a user who is not root, and ended with the
// program. fsync is off: nothing here kills the server or cuts its power, only clients of it.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/status.h"
#include "base/subprocess.h"

namespace tidegate::federation {

class PostgresServer {
 public:
  // The one of this program. kUnsupported when Debian's postgresql is not installed or this build
  // has no libpq; kUnavailable when it does not start.
  static Result<PostgresServer*> Get();
  ~PostgresServer();

  // The url of a new database.
  Result<std::string> NewDatabase();
  // Its answer to one statement, as psql prints it without decoration.
  Result<std::string> Ask(const std::string& url, const std::string& sql);

 private:
  PostgresServer() = default;
  Status Start();
  std::filesystem::path programs_, dir_;
  ChildProcess server_;
  int databases_ = 0;
};

}  // namespace tidegate::federation

// Ends the test: skipped by name where there is no server, failed where it does not start.
#define TIDEGATE_NEEDS_POSTGRES(server)                                         \
  const auto server = ::tidegate::federation::PostgresServer::Get();            \
  if (!server && server.error().code() == ::tidegate::Code::kUnsupported) {     \
    GTEST_SKIP() << "no PostgreSQL to test with: " << server.error().message(); \
  }                                                                             \
  ASSERT_TRUE(server.has_value()) << server.error().ToString()
