// What a program says that was built on a machine without libpq.
#include "federation/server/shared_store.h"

namespace tidegate::federation {

Result<std::unique_ptr<SharedStore>> SharedStore::Connect(const SharedStoreOptions&) {
  return Unsupported(
      "this tidegate-coordinator was built without PostgreSQL; install libpq-dev and build it "
      "again, or take `store` out of coordinator.toml");
}

}  // namespace tidegate::federation
