// A store that several coordinators of a federation share: PostgreSQL, and a folder that all of
// them reach. One at a time has the lease and writes; each of its transactions asks for the lease
// first, so whoever has lost it writes nothing more (docs/formats/coordinator-store.md).
//
// The lease is lost when it was not renewed for takeover_millis by the database's clock, or when
// the database has seen the holder's connection end. A thread renews it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "federation/server/store.h"

namespace tidegate::federation {

struct SharedStoreOptions {
  std::string url;               // postgresql://…; a password is libpq's passfile's or service's
  std::filesystem::path folder;  // blocks, and the halves of round keys
  std::string holder;            // who asks, for people
  int64_t takeover_millis = 10'000;
};

struct OpenedStore {
  std::unique_ptr<Store> store;
  // The holder's own part of the shared folder, by another name for each holder: who has lost the
  // lease finds nothing under its name.
  std::filesystem::path folder;
  int64_t generation = 0;  // how often the lease was taken
};

class SharedStore {
 public:
  // Connects and brings the schema up to date. kUnsupported where this program was built without
  // libpq, kInvalidArgument for a url that libpq does not take or that has a password in it,
  // kUnavailable when the database does not answer.
  static Result<std::unique_ptr<SharedStore>> Connect(const SharedStoreOptions& options);
  virtual ~SharedStore() = default;

  // Takes the lease if it is free; nothing while another process has it. Once it was taken, what is
  // opened is all there is of this object. kFailedPrecondition when the folder is not the store's.
  virtual Result<std::optional<OpenedStore>> Take() = 0;
  virtual const std::string& holder() const = 0;  // who had it at the last Take
};

}  // namespace tidegate::federation
