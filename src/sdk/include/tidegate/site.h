// A site on this machine (tidegate-onshore): its state, datasets, jobs, adapters, gate and ledger.
// A Site may be used by any thread; calls wait for each other. Its copies are one connection.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tidegate/events.h"
#include "tidegate/job.h"
#include "tidegate/rounds.h"
#include "tidegate/status.h"

namespace tg {

using SiteStatus = tg_site_status;

enum class DatasetKind : uint32_t { kRecords = TG_DATASET_RECORDS, kHeldout = TG_DATASET_HELDOUT };

struct Dataset {
  DatasetKind kind{};
  uint32_t source = 0;  // TG_SOURCE_...
  uint64_t bytes = 0;
  std::string path;
  explicit Dataset(const tg_dataset& from)
      : kind(static_cast<DatasetKind>(from.dataset)),
        source(from.source),
        bytes(from.bytes),
        path(from.path) {}
};

struct Adapter {
  bool kept = false;  // the best shared one on the held-out records; else of a local job
  std::string name;
  uint64_t bytes = 0;
  int64_t unix_millis = 0;
  explicit Adapter(const tg_adapter& from)
      : kept(from.kind == TG_ADAPTER_KEPT),
        name(from.name),
        bytes(from.bytes),
        unix_millis(from.unix_millis) {}
};

class Site {
 public:
  // The site's folder, or its socket.
  static Result<Site> Connect(const std::string& path, const Call& call = Call()) {
    tg_site* site = nullptr;
    const Status status = internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_site_connect(path.c_str(), c, &site, e);
    });
    if (!status.ok()) return status;
    return Site(site);
  }

  Result<SiteStatus> GetStatus(const Call& call = Call()) const {
    TG_STRUCT(tg_site_status, out);
    const Status status = Ask(call, [&](tg_site* s, const tg_call* c, tg_error* e) {
      return tg_site_get_status(s, c, &out, e);
    });
    if (!status.ok()) return status;
    return out;
  }
  Status Pause(const Call& call = Call()) const { return Ask(call, tg_site_pause); }
  Status Resume(const Call& call = Call()) const { return Ask(call, tg_site_resume); }
  Status StopJob(const Call& call = Call()) const { return Ask(call, tg_site_stop_job); }
  Status Shutdown(const Call& call = Call()) const { return Ask(call, tg_site_shutdown); }

  Result<std::vector<Dataset>> Datasets(const Call& call = Call()) const {
    return List<Dataset>(call, &tg_site_list_datasets, &internal::Append<Dataset, tg_dataset>);
  }
  // Handed over as a descriptor, so that the site needs no right to the file; or named.
  Status SetDataset(DatasetKind kind, const std::string& path, bool hand_over = true,
                    const Call& call = Call()) const {
    return Ask(call, [&](tg_site* s, const tg_call* c, tg_error* e) {
      return tg_site_set_dataset(s, static_cast<uint32_t>(kind), path.c_str(), hand_over ? 1 : 0, c,
                                 e);
    });
  }
  Status ResetDataset(DatasetKind kind, const Call& call = Call()) const {
    return Ask(call, [&](tg_site* s, const tg_call* c, tg_error* e) {
      return tg_site_reset_dataset(s, static_cast<uint32_t>(kind), c, e);
    });
  }

  // Events after `after` of this `epoch`; 0 and 0: all that are kept; UINT64_MAX: those to come.
  Result<Watch> WatchFrom(uint64_t epoch, uint64_t after, const Call& call = Call()) const {
    tg_watch* watch = nullptr;
    const Status status = Ask(call, [&](tg_site* s, const tg_call* c, tg_error* e) {
      return tg_watch_open(s, epoch, after, c, &watch, e);
    });
    if (!status.ok()) return status;
    return Watch(watch);
  }
  Result<Watch> WatchNew(const Call& call = Call()) const { return WatchFrom(0, UINT64_MAX, call); }

  // Behind the site's walls; results in SITE/local.
  Result<LocalJob> Start(const JobSpec& spec, const Call& call = Call()) const {
    return internal::StartJob(handle_.get(), spec, call);
  }

  Result<std::vector<Adapter>> Adapters(const Call& call = Call()) const {
    return List<Adapter>(call, &tg_site_list_adapters, &internal::Append<Adapter, tg_adapter>);
  }
  // A copy as a PEFT folder; an empty name: the kept one.
  Status SaveAdapter(const std::string& name, const std::string& dir,
                     const Call& call = Call()) const {
    return Ask(call, [&](tg_site* s, const tg_call* c, tg_error* e) {
      return tg_site_save_adapter(s, name.empty() ? nullptr : name.c_str(), dir.c_str(), c, e);
    });
  }

  // Updates that policy holds for the site's people.
  Result<std::vector<std::string>> Held(const Call& call = Call()) const {
    return List<std::string>(call, &tg_site_list_held, &AppendName);
  }
  // What would cross, JSON. A decision is about what this showed last.
  Result<std::string> Review(const std::string& name, const Call& call = Call()) const {
    return Text(call, [&](tg_site* s, const tg_call* c, tg_text** out, tg_error* e) {
      return tg_site_review(s, name.c_str(), c, out, e);
    });
  }
  // Counts where policy names this user as an approver; in the ledger either way it was said.
  Status Release(const std::string& name, const std::string& reason = "",
                 const Call& call = Call()) const {
    return Decide(name, TG_RELEASE, reason, call);
  }
  Status Refuse(const std::string& name, const std::string& reason,
                const Call& call = Call()) const {
    return Decide(name, TG_REFUSE, reason, call);
  }

  // Every leaf, JSON.
  Result<std::string> Ledger(const Call& call = Call()) const {
    return Text(call, &tg_site_ledger);
  }
  Status SaveLedger(const std::string& file, const Call& call = Call()) const {
    return Ask(call, [&](tg_site* s, const tg_call* c, tg_error* e) {
      return tg_site_save_ledger(s, file.c_str(), c, e);
    });
  }
  // What `tidegate ledger verify` says, JSON, against the newest receipt. `key`: the coordinator's.
  Result<std::string> VerifyLedger(const std::string& key, const Call& call = Call()) const {
    return Text(call, [&](tg_site* s, const tg_call* c, tg_text** out, tg_error* e) {
      return tg_site_verify_ledger(s, key.c_str(), c, out, e);
    });
  }
  // A folder for a regulator.
  Result<std::string> ExportLedger(const std::string& key, const std::string& dir,
                                   const Call& call = Call()) const {
    return Text(call, [&](tg_site* s, const tg_call* c, tg_text** out, tg_error* e) {
      return tg_site_export_ledger(s, key.c_str(), dir.c_str(), c, out, e);
    });
  }

  // From here on this program trains the site's rounds.
  Result<Rounds> TrainRounds(const Call& call = Call()) const {
    tg_rounds* rounds = nullptr;
    const Status status = Ask(call, [&](tg_site* s, const tg_call* c, tg_error* e) {
      return tg_rounds_open(s, c, &rounds, e);
    });
    if (!status.ok()) return status;
    return Rounds(rounds);
  }

 private:
  explicit Site(tg_site* handle) : handle_(handle, &tg_site_close) {}

  static int32_t AppendName(const char* name, void* list) noexcept {
    try {
      static_cast<std::vector<std::string>*>(list)->emplace_back(name);
      return 0;
    } catch (...) {
      return 1;
    }
  }
  template <typename F>
  Status Ask(const Call& call, F&& ask) const {
    return internal::Do(call,
                        [&](const tg_call* c, tg_error* e) { return ask(handle_.get(), c, e); });
  }
  template <typename F>
  Result<std::string> Text(const Call& call, F&& ask) const {
    return internal::Text(call, [&](const tg_call* c, tg_text** out, tg_error* e) {
      return ask(handle_.get(), c, out, e);
    });
  }
  template <typename Item, typename F, typename Each>
  Result<std::vector<Item>> List(const Call& call, F list, Each each) const {
    std::vector<Item> items;
    const Status status = Ask(call, [&](tg_site* s, const tg_call* c, tg_error* e) {
      return list(s, c, each, &items, e);
    });
    if (!status.ok()) return status;
    return items;
  }
  Status Decide(const std::string& name, int32_t decision, const std::string& reason,
                const Call& call) const {
    return Ask(call, [&](tg_site* s, const tg_call* c, tg_error* e) {
      return tg_site_decide(s, name.c_str(), decision, reason.c_str(), c, e);
    });
  }

  std::shared_ptr<tg_site> handle_;
};

}  // namespace tg
