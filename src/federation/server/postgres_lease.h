// The lease of a shared store: a row with a number that goes up with each taking. Private to this
// module.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "federation/server/lease.h"
#include "federation/server/postgres.h"

namespace tidegate::federation {

class PostgresLease final : public WriterLease {
 public:
  // Takes it on `database`, the connection that is going to write, when it is free; nothing, and
  // `holder` set, when it is not.
  static Result<std::unique_ptr<PostgresLease>> Take(PostgresDatabase& database,
                                                     const std::string& url,
                                                     const std::string& asker,
                                                     int64_t takeover_millis, std::string* holder);
  ~PostgresLease() override;

  Status Hold(SqlDatabase& database) override;
  int64_t generation() const override { return generation_; }

 private:
  PostgresLease(std::string url, int64_t generation, int64_t takeover_millis);
  // On a connection of its own, so that a long sum in a transaction does not let it expire.
  void Renew();

  const std::string url_;
  const int64_t generation_, takeover_millis_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace tidegate::federation
