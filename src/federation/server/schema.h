// The tables of the store, written once for both engines, and the steps from older ones. Private to
// this module.
#pragma once

#include "federation/server/sql.h"

namespace tidegate::federation {

inline constexpr int64_t kSchemaVersion = 4;

// Makes the tables, or brings those of an older version to this one, in one transaction.
// kFailedPrecondition for a store of a newer version.
Status BringSchemaUpToDate(SqlDatabase& database);

}  // namespace tidegate::federation
