#include "tests/canary/tapped_federation.h"

#include <charconv>

#include "base/clock.h"
#include "base/file.h"

namespace tidegate::canary {
namespace {

namespace fs = std::filesystem;

// Instrumented programs start and train several times slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kMostMillis = 300'000;
#else
constexpr int64_t kMostMillis = 60'000;
#endif
constexpr uint64_t kMaxLogBytes = 64u << 20;

int64_t Now() { return SystemClock().MonotonicMillis(); }

// On the same file system a second name, elsewhere a copy.
Status Place(const fs::path& program, const fs::path& as) {
  std::error_code error;
  fs::create_hard_link(program, as, error);
  if (error) fs::copy_file(program, as, error);
  if (error) return ErrnoStatus("place", as.native(), error.value());
  return OkStatus();
}

std::string JobToml(int rounds) {
  return fmt::format(
      "rounds = {}\n[lora]\nr = 4\n[train]\nlocal_steps = 3\nbatch_size = 2\nmax_length = 256\n"
      "learning_rate = 5e-3\nassistant_only_loss = false\n",
      rounds);
}

}  // namespace

std::string MissingWalls(const std::string& text) {
  const size_t at = text.find("the policy demands walls that ");
  return at == std::string::npos ? "" : text.substr(at, text.find('\n', at) - at);
}

fs::path TinyBase() { return fs::path(TIDEGATE_SOURCE_DIR) / "tests/golden/tiny_llama"; }

Result<Search> TinySearch() {
  TG_ASSIGN_OR_RETURN(model::Tokenizer tokenizer,
                      model::Tokenizer::Load(TinyBase() / "tokenizer.json"));
  return Search(std::move(tokenizer));
}

TappedFederation::TappedFederation(const std::vector<std::string>& sites, int rounds,
                                   const fs::path& trainer)
    : folder_("federation"), sites_(sites), trainer_(trainer) {
  cli::PocOptions options;
  options.dir = root() / "poc";
  options.base = TinyBase();
  options.programs = trainer.empty() ? fs::path(TIDEGATE_BIN_DIR) : root() / "programs";
  options.job_toml = JobToml(rounds);
  options.dtype = "f32";
  for (const std::string& name : sites_) {
    cli::PocSite site;
    site.name = name;
    site.records = records_dir() / (name + ".jsonl");
    site.heldout = records_dir() / (name + ".heldout.jsonl");
    options.sites.push_back(std::move(site));
  }
  poc_ = std::make_unique<cli::Poc>(std::move(options));
}

Status TappedFederation::PlayTrainer(const fs::path& trainer) {
  const fs::path programs = root() / "programs";
  fs::create_directory(programs);
  for (const char* name :
       {"tidegate", "tidegate-coordinator", "tidegate-onshore", "tidegate-gate", "tidegate-link"}) {
    TG_RETURN_IF_ERROR(Place(fs::path(TIDEGATE_BIN_DIR) / name, programs / name));
  }
  return Place(trainer, programs / "tidegate-trainer");
}

Status TappedFederation::Provision() {
  const fs::path mark = root() / "started";
  TG_RETURN_IF_ERROR(WriteFileDurably(mark, {}));
  since_ = fs::last_write_time(mark);
  if (!trainer_.empty()) TG_RETURN_IF_ERROR(PlayTrainer(trainer_));
  fs::create_directory(records_dir());
  TG_ASSIGN_OR_RETURN(Search search, TinySearch());
  for (const std::string& site : sites_) {
    TG_ASSIGN_OR_RETURN(const auto planted,
                        PlantRecords(site, records_dir() / (site + ".jsonl"),
                                     records_dir() / (site + ".heldout.jsonl")));
    planted_.insert(planted_.end(), planted.begin(), planted.end());
  }
  for (const Planted& canary : planted_) TG_RETURN_IF_ERROR(search.Add(canary.name, canary.text));
  search_ = std::make_unique<Search>(std::move(search));
  TG_RETURN_IF_ERROR(poc_->Provision());
  for (size_t i = 0; i < sites_.size(); ++i) TG_RETURN_IF_ERROR(Redirect(i));
  return OkStatus();
}

// The site dials a tap of its own, which dials the coordinator.
Status TappedFederation::Redirect(size_t site) {
  const fs::path file = poc_->site_dir(site) / "site.toml";
  TG_ASSIGN_OR_RETURN(std::string text, ReadTextFile(file, 1 << 20));
  constexpr std::string_view kKey = "coordinator = \"tcp://127.0.0.1:";
  const size_t at = text.find(kKey);
  const size_t end = at == std::string::npos ? at : text.find('"', at + kKey.size());
  if (end == std::string::npos) return DataLoss("{} dials no port of loopback", file.native());
  uint16_t port = 0;
  std::from_chars(text.data() + at + kKey.size(), text.data() + end, port);
  TG_ASSIGN_OR_RETURN(std::unique_ptr<WireTap> tap, WireTap::Start(port));
  text.replace(at, end - at, fmt::format("{}{}", kKey, tap->port()));
  taps_.push_back(std::move(tap));
  return WriteFileDurably(file, AsBytes(text), 0600);
}

Status TappedFederation::Begin() {
  TG_RETURN_IF_ERROR(poc_->Start());
  return poc_->Submit();
}

Status TappedFederation::RunUntil(const std::function<bool()>& done, const std::string& what) {
  const int64_t deadline = Now() + kMostMillis;
  while (!done()) {
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const bool ended, poc_->Step());
    if (Now() > deadline) return DeadlineExceeded("{} did not come within a minute", what);
  }
  return OkStatus();
}

Result<cli::PocResult> TappedFederation::RunToTheEnd() {
  const int64_t deadline = Now() + kMostMillis;
  for (;;) {
    TG_ASSIGN_OR_RETURN(const bool ended, poc_->Step());
    if (ended) break;
    if (Now() > deadline) return DeadlineExceeded("the job did not end within a minute");
  }
  TG_ASSIGN_OR_RETURN(cli::PocResult result, poc_->Collect());
  TG_RETURN_IF_ERROR(poc_->Stop());
  return result;
}

const std::string& TappedFederation::CanaryOf(const std::string& name) const {
  for (const Planted& canary : planted_) {
    if (canary.name == name) return canary.text;
  }
  std::abort();
}

std::string TappedFederation::SiteLog(size_t site) const {
  const fs::path log = root() / "poc" / (sites_[site] + ".log");
  return ReadTextFile(log, kMaxLogBytes).value_or("");
}

std::string TappedFederation::Logs() const {
  constexpr size_t kMost = 4000;
  std::string all;
  const auto add = [&all](const std::string& name, const std::string& text) {
    all += "=== " + name + "\n" + text.substr(text.size() > kMost ? text.size() - kMost : 0);
  };
  add("coordinator", ReadTextFile(root() / "poc" / "coordinator.log", kMaxLogBytes).value_or(""));
  for (size_t i = 0; i < sites_.size(); ++i) add(sites_[i], SiteLog(i));
  return all;
}

Result<Found> TappedFederation::SearchAll() const {
  TG_ASSIGN_OR_RETURN(Found all, search_->InTree(root() / "poc"));
  const auto add = [&all](const std::vector<Hit>& hits) {
    all.hits.insert(all.hits.end(), hits.begin(), hits.end());
  };
  for (size_t i = 0; i < taps_.size(); ++i) {
    for (const WireTap::Stream& stream : taps_[i]->Captured()) {
      all.bytes += stream.bytes.size();
      add(search_->InBytes(stream.bytes, sites_[i] + "'s " + stream.name));
    }
  }
  for (const char* shared : {"/tmp", "/var/tmp", "/dev/shm"}) {
    const Found found = search_->InSharedFolder(shared, since_, {root()});
    all.files += found.files;
    all.bytes += found.bytes;
    add(found.hits);
  }
  return all;
}

}  // namespace tidegate::canary
