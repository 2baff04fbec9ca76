#include "onshore/trainer/simulated_sites.h"

#include <algorithm>

#include "crypto/hash.h"
#include "onshore/trainer/federated_job.h"

namespace tidegate::trainer {
namespace {

// Sites whose sessions stay in memory; of more, each is opened for its round and closed.
constexpr size_t kLiveSites = 8;

Progress ProgressOf(const SimulationOptions& options) {
  Progress progress;
  progress.stop = options.should_stop;
  progress.wish = [stop = options.should_stop](uint32_t) {
    return stop && stop() ? RoundWish::kDrop : RoundWish::kGoOn;
  };
  return progress;
}

class FolderSites final : public SimulatedSites {
 public:
  FolderSites(const SimulationOptions& options, const SimulatedJob& job,
              const finetune::LoadedBase& base)
      : options_(options), job_(job), base_(base) {}

  Status Prepare() {
    std::vector<SimulatedSite> sites = options_.sites;
    std::sort(sites.begin(), sites.end(),
              [](const SimulatedSite& a, const SimulatedSite& b) { return a.name < b.name; });
    for (const SimulatedSite& site : sites) {
      SiteOptions o = AnySite(options_);
      o.name = site.name;
      o.site = options_.out / "sites" / site.name;
      o.records = site.records;
      o.heldout = site.heldout;
      std::error_code error;
      std::filesystem::create_directories(o.site, error);
      if (error) return Unavailable("cannot make {}: {}", o.site.native(), error.message());
      sites_.emplace_back().options = std::move(o);
    }
    return OkStatus();
  }

  Result<Bytes> Train(size_t at, ByteSpan parameters, const onshore::RoundStart& start) override {
    Site& site = sites_[at];
    TG_ASSIGN_OR_RETURN(FederatedJob * job, Open(site));
    TG_RETURN_IF_ERROR(job->SetAdapter(start.adapter_version, parameters));
    onshore::RoundStart mine = start;
    mine.counted_round = site.counted_round;
    auto update = job->RunRound(mine);
    if (!update) return Unexpected(update.error().WithContext("site " + site.options.name));
    if (sites_.size() > kLiveSites) site.job.reset();
    return update;
  }

  void Counted(size_t site, uint32_t round) override { sites_[site].counted_round = round; }

  // A site ends with the last version, as it does when the final adapter comes.
  Status End(size_t at, uint32_t version, ByteSpan parameters) override {
    Site& site = sites_[at];
    if (site.options.heldout.empty()) return OkStatus();
    TG_ASSIGN_OR_RETURN(FederatedJob * job, Open(site));
    TG_RETURN_IF_ERROR(job->SetAdapter(version, parameters));
    if (sites_.size() > kLiveSites) site.job.reset();
    return OkStatus();
  }

 private:
  struct Site {
    SiteOptions options;
    std::unique_ptr<FederatedJob> job;
    uint32_t counted_round = 0;
  };

  Result<FederatedJob*> Open(Site& site) {
    if (site.job == nullptr) {
      auto job = FederatedJob::OpenOn(base_, job_.encoded, site.options, ProgressOf(options_));
      if (!job) return Unexpected(job.error().WithContext("site " + site.options.name));
      site.job = std::move(*job);
    }
    return site.job.get();
  }

  const SimulationOptions& options_;
  const SimulatedJob& job_;
  const finetune::LoadedBase& base_;
  std::vector<Site> sites_;
};

class LightSites final : public SimulatedSites {
 public:
  LightSites(const SimulationOptions& options, const SimulatedJob& job,
             const finetune::LoadedBase& base, finetune::Dataset records)
      : options_(options), job_(job), base_(base), records_(std::move(records)) {}

  Result<Bytes> Train(size_t site, ByteSpan parameters, const onshore::RoundStart& start) override {
    finetune::TrainingData data;
    for (const size_t record : LightRecords(job_.manifest.seed, site, records_.sequences.size(),
                                            options_.light.records_per_site)) {
      data.train.sequences.push_back(records_.sequences[record]);
    }
    SiteOptions options = AnySite(options_);
    options.name = LightSiteName(site);
    auto update = TrainOn(options, std::move(data), parameters, start);
    if (!update) return Unexpected(update.error().WithContext("site " + options.name));
    return update;
  }

  void Counted(size_t, uint32_t) override {}
  Status End(size_t, uint32_t, ByteSpan) override { return OkStatus(); }

 private:
  Result<Bytes> TrainOn(const SiteOptions& options, finetune::TrainingData data,
                        ByteSpan parameters, const onshore::RoundStart& start) const {
    TG_ASSIGN_OR_RETURN(const auto job,
                        FederatedJob::OpenLight(base_, job_.manifest, job_.id, options,
                                                std::move(data), ProgressOf(options_)));
    TG_RETURN_IF_ERROR(job->SetAdapter(start.adapter_version, parameters));
    return job->RunRound(start);
  }

  const SimulationOptions& options_;
  const SimulatedJob& job_;
  const finetune::LoadedBase& base_;
  finetune::Dataset records_;
};

}  // namespace

std::string LightSiteName(size_t site) { return fmt::format("site-{:06}", site); }

std::vector<size_t> LightRecords(uint64_t seed, size_t site, size_t records, size_t a_site) {
  uint8_t word[8];
  StoreLe64(word, seed);
  const Digest digest = crypto::Sha256::Of(
      {AsBytes(std::string_view("tidegate/v1/light\0", 18)), word, AsBytes(LightSiteName(site))});
  const size_t count = std::min(a_site, records);
  const size_t first = LoadLe64(digest.data()) % records;
  std::vector<size_t> out;
  for (size_t i = 0; i < count; ++i) out.push_back((first + i) % records);
  std::sort(out.begin(), out.end());
  return out;
}

SiteOptions AnySite(const SimulationOptions& options) {
  SiteOptions o;
  o.base = options.base;
  o.records = options.light.sites > 0 ? options.light.records : options.sites.front().records;
  o.threads = options.threads;
  o.dtype = options.dtype;
  return o;
}

Result<std::unique_ptr<SimulatedSites>> OpenFolderSites(const SimulationOptions& options,
                                                        const SimulatedJob& job,
                                                        const finetune::LoadedBase& base) {
  auto sites = std::make_unique<FolderSites>(options, job, base);
  TG_RETURN_IF_ERROR(sites->Prepare());
  return std::unique_ptr<SimulatedSites>(std::move(sites));
}

Result<std::unique_ptr<SimulatedSites>> OpenLightSites(const SimulationOptions& options,
                                                       const SimulatedJob& job,
                                                       const finetune::LoadedBase& base) {
  TG_ASSIGN_OR_RETURN(
      finetune::Dataset records,
      finetune::LoadDataset(options.light.records, base,
                            {.max_length = job.manifest.max_length,
                             .assistant_only_loss = job.manifest.assistant_only_loss}));
  return std::unique_ptr<SimulatedSites>(
      std::make_unique<LightSites>(options, job, base, std::move(records)));
}

}  // namespace tidegate::trainer
