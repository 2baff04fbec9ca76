#include "federation/server/shared_store.h"

#include <charconv>
#include <vector>

#include "base/file.h"
#include "crypto/random.h"
#include "federation/server/postgres_lease.h"
#include "federation/server/schema.h"
#include "federation/server/sql_store.h"

namespace tidegate::federation {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kState = "state.";

// Which folder it is: one that is not mounted must not look like an empty one.
Result<Bytes> FolderId(const fs::path& folder) {
  const fs::path path = folder / "folder.id";
  std::error_code error;
  if (!fs::exists(path, error) && !error) {
    Bytes id(16);
    TG_RETURN_IF_ERROR(crypto::FillRandom(id));
    TG_RETURN_IF_ERROR(WriteFileDurably(path, id, 0600));
  }
  return ReadFile(path, 16);
}

Result<std::vector<int64_t>> Generations(const fs::path& folder) {
  std::vector<int64_t> found;
  std::error_code error;
  fs::directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().native();
    if (!name.starts_with(kState)) continue;
    int64_t number = 0;
    const char* last = name.data() + name.size();
    const auto [stop, wrong] = std::from_chars(name.data() + kState.size(), last, number);
    if (wrong == std::errc() && stop == last) found.push_back(number);
  }
  if (error) return Unavailable("cannot list {}: {}", folder.native(), error.message());
  std::sort(found.begin(), found.end());
  return found;
}

// Renames the state to this generation's name: who had the lease before finds nothing there any
// more, whatever it was about to write or remove.
Result<fs::path> ClaimState(const fs::path& folder, int64_t generation) {
  const auto path_of = [&](int64_t number) { return folder / fmt::format("{}{}", kState, number); };
  const fs::path own = path_of(generation);
  TG_ASSIGN_OR_RETURN(std::vector<int64_t> found, Generations(folder));
  if (!found.empty() && found.back() > generation) {
    return Unavailable("another coordinator has taken over: {} is there",
                       path_of(found.back()).native());
  }
  std::error_code error;
  if (found.empty()) {
    fs::create_directory(own, error);
    if (!error) fs::permissions(own, fs::perms::owner_all, error);
  } else {
    fs::rename(path_of(found.back()), own, error);
    found.pop_back();
  }
  if (error) return Unavailable("cannot make {}: {}", own.native(), error.message());
  // Of coordinators that had lost the lease before they found out.
  for (const int64_t number : found) fs::remove_all(path_of(number), error);
  TG_RETURN_IF_ERROR(SyncDirectory(folder));
  return own;
}

class PostgresStore final : public SharedStore {
 public:
  PostgresStore(SharedStoreOptions options, std::unique_ptr<PostgresDatabase> database)
      : options_(std::move(options)), database_(std::move(database)) {}

  Result<std::optional<OpenedStore>> Take() override {
    if (database_ == nullptr) return Internal("the lease was taken already");
    TG_ASSIGN_OR_RETURN(auto lease, PostgresLease::Take(*database_, options_.url, options_.holder,
                                                        options_.takeover_millis, &holder_));
    if (lease == nullptr) return std::optional<OpenedStore>();
    OpenedStore out;
    out.generation = lease->generation();
    TG_ASSIGN_OR_RETURN(const Bytes id, FolderId(options_.folder));
    TG_ASSIGN_OR_RETURN(out.folder, ClaimState(options_.folder, out.generation));
    TG_ASSIGN_OR_RETURN(SplitSecrets secrets, SplitSecrets::Open(out.folder / "round-keys"));
    auto store = std::make_unique<SqlStore>(std::move(database_), std::move(lease),
                                            std::make_unique<SplitSecrets>(std::move(secrets)),
                                            options_.takeover_millis / 3);
    TG_RETURN_IF_ERROR(store->BindFolder(id, options_.folder.native()));
    TG_RETURN_IF_ERROR(store->EraseForgottenSecrets());
    out.store = std::move(store);
    return std::optional(std::move(out));
  }
  const std::string& holder() const override { return holder_; }

 private:
  SharedStoreOptions options_;
  std::unique_ptr<PostgresDatabase> database_;
  std::string holder_;
};

}  // namespace

Result<std::unique_ptr<SharedStore>> SharedStore::Connect(const SharedStoreOptions& options) {
  TG_ASSIGN_OR_RETURN(auto database,
                      PostgresDatabase::Connect(options.url, options.takeover_millis));
  TG_RETURN_IF_ERROR(BringSchemaUpToDate(*database));
  return std::make_unique<PostgresStore>(options, std::move(database));
}

}  // namespace tidegate::federation
