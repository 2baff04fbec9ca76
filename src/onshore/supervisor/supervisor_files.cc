// What of the site's files a client may know, and read: adapters, the ledger, what the gate shows
// of an update that it holds. They are opened here for whoever may not, and read by the client
// alone.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "base/log.h"
#include "base/site_name.h"
#include "onshore/supervisor/given_fd.h"
#include "onshore/supervisor/supervisor.h"

namespace tidegate::onshore {
namespace {

using api::Reason;

constexpr const char* kWeights = "adapter_model.safetensors";
constexpr const char* kConfig = "adapter_config.json";
// Of a folder, looked at in one request.
constexpr size_t kMostLookedAt = 4096;

struct CloseDir {
  void operator()(DIR* dir) const { ::closedir(dir); }
};

// Names with this ending, without it, sorted; those that are no names of ours are left out.
std::vector<std::string> NamesIn(const std::filesystem::path& folder, std::string_view ending) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, CloseDir> dir(::opendir(folder.c_str()));
  for (size_t i = 0; dir && i < kMostLookedAt; ++i) {
    const dirent* entry = ::readdir(dir.get());
    if (entry == nullptr) break;
    std::string_view name = entry->d_name;
    if (!name.ends_with(ending)) continue;
    name.remove_suffix(ending.size());
    if (IsSiteName(name)) names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A regular file in a folder, neither of them by a link.
Fd OpenIn(const std::filesystem::path& folder, const char* name) {
  const Fd dir(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!dir.valid()) return Fd();
  Fd file(::openat(dir.get(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!file.valid() || !ReadOnlyFileBytes(file.get())) return Fd();
  return file;
}

std::string NewestReceipt(const std::filesystem::path& folder) {
  std::string newest;
  int64_t when = INT64_MIN;
  for (const std::string& name : NamesIn(folder, ".receipt")) {
    struct stat info {};
    const std::string file = name + ".receipt";
    if (::lstat((folder / file).c_str(), &info) != 0) continue;
    const int64_t at = info.st_mtim.tv_sec * int64_t{1'000'000'000} + info.st_mtim.tv_nsec;
    if (at < when) continue;
    when = at;
    newest = file;
  }
  return newest;
}

}  // namespace

std::filesystem::path Supervisor::AdapterDir(uint32_t kind, const std::string& name) const {
  const bool kept = kind == static_cast<uint32_t>(api::AdapterKind::kKept);
  return kept ? options_.site / "trainer" / "adapter" : options_.site / "local" / name;
}

ApiAnswer Supervisor::TellAdapters() const {
  api::AdaptersReply reply;
  const auto add = [&](api::AdapterKind kind, const std::string& name) {
    const uint32_t number = static_cast<uint32_t>(kind);
    struct stat info {};
    if (::lstat((AdapterDir(number, name) / kWeights).c_str(), &info) != 0) return;
    if (reply.count == reply.adapters.size()) {
      ++reply.more;
      return;
    }
    api::AdapterEntry& entry = reply.adapters[reply.count++];
    entry.kind = number;
    [[maybe_unused]] const bool fits = api::SetText(name, &entry.name);
    entry.bytes = static_cast<uint64_t>(info.st_size);
    entry.unix_millis = info.st_mtim.tv_sec * int64_t{1000};
  };
  add(api::AdapterKind::kKept, "kept");
  for (const std::string& name : NamesIn(options_.site / "local", "")) {
    add(api::AdapterKind::kLocal, name);
  }
  return {Reason::kNone, api::BytesOf(reply)};
}

ApiAnswer Supervisor::TellHeld() const {
  api::HeldReply reply;
  for (const std::string& name : NamesIn(options_.site / "gate" / "held", ".json")) {
    if (reply.count == reply.names.size()) {
      ++reply.more;
    } else {
      [[maybe_unused]] const bool fits = api::SetText(name, &reply.names[reply.count++]);
    }
  }
  return {Reason::kNone, api::BytesOf(reply)};
}

ApiAnswer Supervisor::OpenFile(const api::OpenFileRequest& request) const {
  using api::SiteFile;
  const std::string name = api::TextOf(request.name);
  const std::filesystem::path gate = options_.site / "gate";
  Fd file;
  switch (static_cast<SiteFile>(request.file)) {
    case SiteFile::kAdapterWeights:
      file = OpenIn(AdapterDir(request.kind, name), kWeights);
      break;
    case SiteFile::kAdapterConfig:
      file = OpenIn(AdapterDir(request.kind, name), kConfig);
      break;
    case SiteFile::kLedger:
      file = OpenIn(gate, "ledger");
      break;
    case SiteFile::kHeld:
      file = OpenIn(gate / "held", (name + ".json").c_str());
      break;
    case SiteFile::kReceipt: {
      const std::string newest = NewestReceipt(gate / "receipts");
      if (!newest.empty()) file = OpenIn(gate / "receipts", newest.c_str());
      break;
    }
  }
  if (!file.valid()) return {Reason::kNoFile};
  const uint64_t bytes = ReadOnlyFileBytes(file.get()).value_or(0);
  return {Reason::kNone, api::BytesOf(api::OpenFileReply{bytes}), std::move(file)};
}

}  // namespace tidegate::onshore
