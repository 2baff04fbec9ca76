#include "federation/server/postgres_lease.h"

#include <algorithm>
#include <chrono>

#include "base/log.h"

namespace tidegate::federation {
namespace {

// Whoever ended its connection, or was silent for too long, has lost it. A role that may not see
// another's sessions sees when they end all the same.
constexpr const char* kLook =
    "SELECT generation, holder, (until < clock_timestamp())::int, "
    "(EXISTS (SELECT 1 FROM pg_stat_activity AS a WHERE a.pid = backend AND "
    "(a.backend_start IS NULL OR a.backend_start = lease.backend_start)))::int FROM lease";

// The holder may be stopped in the middle of a transaction, which keeps the row: its session is
// ended, and that transaction with it.
constexpr const char* kEndSession =
    "SELECT pg_terminate_backend(a.pid)::int FROM lease, pg_stat_activity AS a WHERE "
    "a.pid = backend AND a.backend_start = lease.backend_start AND generation = ?";

constexpr const char* kTake =
    "UPDATE lease SET generation = generation + 1, holder = ?, "
    "until = clock_timestamp() + make_interval(secs => ?::float8 / 1000), "
    "backend = pg_backend_pid(), backend_start = (SELECT a.backend_start FROM pg_stat_activity "
    "AS a WHERE a.pid = pg_backend_pid()) WHERE generation = ?";

// Not a column of the key, so that it does not wait for who holds the row.
constexpr const char* kRenew =
    "UPDATE lease SET until = clock_timestamp() + make_interval(secs => ?::float8 / 1000) "
    "WHERE generation = ?";

// kTake changes the key, and so waits until this transaction has ended, or this one finds none.
constexpr const char* kHold = "SELECT generation FROM lease WHERE generation = ? FOR KEY SHARE";

}  // namespace

Result<std::unique_ptr<PostgresLease>> PostgresLease::Take(PostgresDatabase& database,
                                                           const std::string& url,
                                                           const std::string& asker,
                                                           int64_t takeover_millis,
                                                           std::string* holder) {
  Statement look(database, kLook);
  TG_ASSIGN_OR_RETURN(const bool row, look.Step());
  if (!row) return DataLoss("the store {} has lost its lease", database.name());
  const int64_t generation = look.Integer(0);
  const bool expired = look.Integer(2) != 0, connected = look.Integer(3) != 0;
  *holder = look.Text(1);
  if (connected && !expired) return std::unique_ptr<PostgresLease>();
  if (connected) {
    LogWarning("lease_expired holder=\"{}\" generation={}", *holder, generation);
    Statement end(database, kEndSession);
    const auto ended = end.Bind(generation).Step();
    if (!ended) LogWarning("session_not_ended reason={}", ended.error().ToString());
  }
  Statement take(database, kTake);
  const auto taken = take.Bind(asker).Bind(takeover_millis).Bind(generation).Run();
  // Another was faster, or the transaction of the one before has not ended yet.
  if (!taken && taken.error().code() != Code::kUnavailable) return Unexpected(taken.error());
  if (!taken || *taken == 0) return std::unique_ptr<PostgresLease>();
  return std::unique_ptr<PostgresLease>(new PostgresLease(url, generation + 1, takeover_millis));
}

PostgresLease::PostgresLease(std::string url, int64_t generation, int64_t takeover_millis)
    : url_(std::move(url)),
      generation_(generation),
      takeover_millis_(takeover_millis),
      thread_([this] { Renew(); }) {}

PostgresLease::~PostgresLease() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void PostgresLease::Renew() {
  std::unique_ptr<PostgresDatabase> database;
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    Status status;
    if (database == nullptr) {
      auto connected = PostgresDatabase::Connect(url_, takeover_millis_);
      if (connected) {
        database = std::move(*connected);
      } else {
        status = connected.error();
      }
    }
    bool lost = false;
    if (database != nullptr) {
      Statement renew(*database, kRenew);
      const auto renewed = renew.Bind(takeover_millis_).Bind(generation_).Run();
      lost = renewed && *renewed == 0;
      if (!renewed) {
        status = renewed.error();
        database.reset();
      }
    }
    if (!status.ok()) LogWarning("lease_not_renewed reason={}", status.ToString());
    lock.lock();
    // The next turn finds it out too, and ends the process.
    if (lost) {
      LogWarning("lease_lost generation={}", generation_);
      return;
    }
    const auto pause = std::chrono::milliseconds(std::max<int64_t>(takeover_millis_ / 4, 10));
    wake_.wait_for(lock, pause, [this] { return stop_; });
  }
}

Status PostgresLease::Hold(SqlDatabase& database) {
  Statement hold(database, kHold);
  TG_ASSIGN_OR_RETURN(const bool row, hold.Bind(generation_).Step());
  if (row) return OkStatus();
  return Unavailable(
      "another coordinator has taken over: lease {} of the store {} is no longer this one's; "
      "start it again to stand by",
      generation_, database.name());
}

}  // namespace tidegate::federation
