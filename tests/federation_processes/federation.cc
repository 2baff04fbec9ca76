#include "federation.h"

#include <poll.h>

#include <cstdlib>

#include "base/clock.h"
#include "base/file.h"

namespace tidegate::federation_processes {
namespace {

namespace fs = std::filesystem;

constexpr int kLookMillis = 10;
constexpr uint64_t kMaxLogBytes = 256u << 20;

int64_t Now() { return SystemClock().MonotonicMillis(); }

// Of a few lengths, so that packed rows differ. `first` keeps the sites' records apart.
std::string Records(size_t first, size_t count) {
  std::string text;
  for (size_t i = first; i < first + count; ++i) {
    text += fmt::format("{{\"prompt\": \"code {} is in \", \"completion\": \"storage {}{}\"}}\n",
                        i * 37 % 1000, (i * 7) % 10, std::string(i % 5, 'x'));
  }
  return text;
}

std::string JobToml(const JobSetup& job) {
  return fmt::format(
      "{}seed = {}\n[lora]\nr = {}\nalpha = {}\ndropout = {}\n[train]\nlocal_steps = {}\n"
      "batch_size = {}\nmax_length = {}\nlearning_rate = {}\n",
      job.keys, kSeed, job.rank, kAlpha, kDropout, job.local_steps, kBatchSize, kMaxLength,
      kLearningRate);
}

}  // namespace

fs::path TinyBase() { return fs::path(TIDEGATE_SOURCE_DIR) / "tests/golden/tiny_llama"; }

Federation::Federation(const std::vector<SiteSetup>& sites, const JobSetup& job) : sites_(sites) {
  std::string folder = (fs::temp_directory_path() / "tidegate-federation-XXXXXX").native();
  if (::mkdtemp(folder.data()) == nullptr) std::abort();
  dir_ = fs::canonical(folder);
  cli::PocOptions options;
  options.dir = dir_;
  options.base = TinyBase();
  options.programs = TIDEGATE_BIN_DIR;
  options.job_toml = JobToml(job);
  options.threads = 1;
  options.dtype = "f32";
  for (size_t i = 0; i < sites_.size(); ++i) {
    cli::PocSite site;
    site.name = sites_[i].name;
    site.away = sites_[i].away;
    site.records = records(i);
    Status written = WriteFileDurably(site.records, AsBytes(Records(100 * i, 12)));
    if (sites_[i].heldout && written.ok()) {
      site.heldout = dir_ / (site.name + ".heldout.jsonl");
      written = WriteFileDurably(site.heldout, AsBytes(Records(100 * i + 50, 4)));
    }
    if (!written.ok()) std::abort();
    options.sites.push_back(std::move(site));
  }
  poc_ = std::make_unique<cli::Poc>(std::move(options));
}

Federation::~Federation() {
  poc_.reset();
  std::error_code ignored;
  fs::remove_all(dir_, ignored);
}

fs::path Federation::records(size_t site) const { return dir_ / (sites_[site].name + ".jsonl"); }

Status Federation::Begin() {
  TG_RETURN_IF_ERROR(poc_->Start());
  return poc_->Submit();
}

Status Federation::RunToTheEnd(int64_t millis) {
  const int64_t deadline = Now() + millis;
  for (;;) {
    TG_ASSIGN_OR_RETURN(const bool ended, poc_->Step());
    if (ended) break;
    if (Now() > deadline) return DeadlineExceeded("the job did not end within {} ms", millis);
  }
  for (size_t i = 0; i < sites_.size(); ++i) {
    while (!poc_->away(i) && !poc_->done(i)) {
      TG_RETURN_IF_ERROR(poc_->RestartDead());
      if (Now() > deadline) return DeadlineExceeded("site {} did not end", sites_[i].name);
      ::poll(nullptr, 0, kLookMillis);
    }
  }
  return OkStatus();
}

Status Federation::WaitForLine(const fs::path& log, const std::string& text, int64_t millis) {
  const int64_t deadline = Now() + millis;
  for (;;) {
    const auto lines = ReadTextFile(log, kMaxLogBytes);
    if (lines && lines->find(text) != std::string::npos) return OkStatus();
    TG_RETURN_IF_ERROR(poc_->RestartDead());
    if (Now() > deadline) {
      return DeadlineExceeded("{} does not say \"{}\" within {} ms", log.native(), text, millis);
    }
    ::poll(nullptr, 0, kLookMillis);
  }
}

std::string Federation::Logs() const {
  constexpr size_t kMost = 6000;
  std::string all;
  std::vector<fs::path> logs = {poc_->coordinator_log()};
  for (size_t i = 0; i < sites_.size(); ++i) logs.push_back(poc_->site_log(i));
  for (const fs::path& log : logs) {
    const std::string text = ReadTextFile(log, kMaxLogBytes).value_or("");
    all += "=== " + log.filename().native() + "\n";
    all += text.substr(text.size() > kMost ? text.size() - kMost : 0);
  }
  return all;
}

bool WallsMissing(const Status& status) {
  return status.code() == Code::kPermissionDenied &&
         status.message().find("the policy demands walls") != std::string::npos;
}

}  // namespace tidegate::federation_processes
