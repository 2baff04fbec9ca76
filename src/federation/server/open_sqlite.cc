#include "federation/server/schema.h"
#include "federation/server/sql_store.h"
#include "federation/server/sqlite.h"

namespace tidegate::federation {

Result<std::unique_ptr<Store>> OpenSqliteStore(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(auto database, SqliteDatabase::Open(path));
  TG_RETURN_IF_ERROR(BringSchemaUpToDate(*database));
  return std::unique_ptr<Store>(std::make_unique<SqlStore>(std::move(database), nullptr, nullptr));
}

}  // namespace tidegate::federation
