// Who may write, where several processes share a store. Private to this module.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "federation/server/sql.h"

namespace tidegate::federation {

class WriterLease {
 public:
  virtual ~WriterLease() = default;
  // In a transaction that has just begun: kUnavailable unless the lease is this process', which it
  // then stays until the transaction ends.
  virtual Status Hold(SqlDatabase& database) = 0;
  // Counts the takings: no two processes ever have the same.
  virtual int64_t generation() const = 0;
};

}  // namespace tidegate::federation
