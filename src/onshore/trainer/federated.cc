#include "onshore/trainer/federated.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <deque>

#include "base/file.h"
#include "base/log.h"
#include "crypto/hash.h"
#include "finetune/dataset.h"
#include "finetune/loaded_base.h"
#include "kernels/table.h"
#include "model/config.h"
#include "onshore/ipc/peer.h"
#include "onshore/start/start.h"
#include "onshore/start/stop.h"
#include "onshore/trainer/federated_job.h"
#include "onshore/trainer/site_start.h"

namespace tidegate::trainer {
namespace {

using onshore::EventCode;
using onshore::IpcType;

// Of an event; -1 for a loss that is no number.
int64_t Milli(double loss) {
  return std::isfinite(loss) ? std::llround(std::clamp(loss, 0.0, 1e6) * 1000.0) : -1;
}

Result<Digest> FileDigest(const std::filesystem::path& path, uint64_t* bytes) {
  TG_ASSIGN_OR_RETURN(const Fd fd, OpenToRead(path));
  crypto::Sha256 hash;
  Bytes part(1 << 20);
  *bytes = 0;
  for (;;) {
    const ssize_t n = ::pread(fd.get(), part.data(), part.size(), static_cast<off_t>(*bytes));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unexpected(ErrnoStatus("read", path.native(), errno));
    if (n == 0) return hash.Finish();
    hash.Update(ByteSpan(part).first(static_cast<size_t>(n)));
    *bytes += static_cast<uint64_t>(n);
  }
}

// The states of a job are of its records: their order, the place in them. Where others were set
// since, moments, schedule and place begin anew from the next round's adapter, and a round under
// way with them.
Status BeginAnewWithOtherRecords(const std::filesystem::path& job_dir, const Digest& records) {
  const std::filesystem::path note = job_dir / "records.sha256";
  const std::string digest = ToHex(records) + "\n";
  const auto before = ReadTextFile(note, 256);
  if (before && *before == digest) return OkStatus();
  if (!before && before.error().code() != Code::kNotFound) return before.error();
  std::error_code error;
  if (before) {
    // The new digest last: after a crash in between the rest is removed again.
    std::filesystem::remove(job_dir / "round.json", error);
    // Its files alone: behind the walls there is no rmdir().
    for (std::filesystem::directory_iterator it(job_dir / "state", error), end; !error && it != end;
         it.increment(error)) {
      std::filesystem::remove(it->path(), error);
    }
    if (error == std::errc::no_such_file_or_directory) error.clear();
  }
  if (!error) std::filesystem::create_directories(job_dir, error);
  if (error) return ErrnoStatus("begin anew in", job_dir.native(), error.value());
  return WriteFileDurably(note, AsBytes(digest), 0600);
}

// Everything between the gate's messages and the job.
class Loop {
 public:
  Loop(const SiteOptions& options, std::string statement)
      : options_(options),
        statement_(std::move(statement)),
        gate_(Fd(onshore::kFirstPeerFd), options.generation) {}

  // Until the gate says that the job has ended, or the supervisor or a signal says stop (OK), or
  // something ends the process (an error).
  Status Run() {
    TG_RETURN_IF_ERROR(gate_.SendHello(false));
    while (!ended_) {
      TG_ASSIGN_OR_RETURN(const bool stop, onshore::StopAsked());
      if (stop) return OkStatus();
      TG_RETURN_IF_ERROR(ReceiveAll());
      if (!inbox_.empty()) {
        const onshore::Peer::Received message = std::move(inbox_.front());
        inbox_.pop_front();
        TG_RETURN_IF_ERROR(Handle(message));
      } else if (pending_) {
        TG_RETURN_IF_ERROR(DoRound());
      } else {
        TG_RETURN_IF_ERROR(Wait());
      }
    }
    return OkStatus();
  }

 private:
  // What the gate may have said and nobody has dealt with: more stays in the pair.
  static constexpr size_t kMaxInbox = 64;

  Status Wait() {
    pollfd fds[2] = {
        {gate_.fd(), static_cast<short>(POLLIN | (gate_.WantsWrite() ? POLLOUT : 0)), 0},
        {onshore::kControlFd, POLLIN, 0}};
    return onshore::WaitFor(fds, -1);
  }

  Status ReceiveAll() {
    TG_RETURN_IF_ERROR(gate_.Flush());
    while (inbox_.size() < kMaxInbox) {
      TG_ASSIGN_OR_RETURN(auto received, gate_.Receive());
      if (!received) break;
      if (received->type != IpcType::kHello) {
        inbox_.push_back(std::move(*received));
        continue;
      }
      // Another gate: what the one before asked for, this one asks for again.
      inbox_.clear();
      pending_.reset();
      TG_RETURN_IF_ERROR(gate_.Send(IpcType::kIsolation, onshore::Isolation{statement_}));
    }
    return OkStatus();
  }

  Status Handle(const onshore::Peer::Received& received) {
    if (received.bulk) return HandleBulk(*received.bulk);
    if (received.type == IpcType::kRoundStart) {
      const auto start = protocols::Decode<onshore::RoundStart>(received.body);
      if (start) pending_ = *start;
    }
    if (received.type == IpcType::kRoundResult) {
      const auto result = protocols::Decode<onshore::RoundResult>(received.body);
      if (result && pending_ && pending_->round == result->round) pending_.reset();
    }
    if (received.type == IpcType::kStop) ended_ = true;
    return OkStatus();
  }

  static bool MustStop() {
    const auto stop = onshore::StopAsked();
    return !stop || *stop;
  }

  // What the gate says during a round is dealt with after it, but that nobody wants it any more.
  RoundWish Wish(uint32_t round) {
    if (MustStop()) return RoundWish::kPause;
    if (!ReceiveAll().ok()) return RoundWish::kPause;  // the same error ends the loop
    for (const onshore::Peer::Received& message : inbox_) {
      if (message.type == IpcType::kStop) return RoundWish::kDrop;
      if (message.type != IpcType::kRoundResult) continue;
      const auto result = protocols::Decode<onshore::RoundResult>(message.body);
      if (result && result->round == round &&
          result->outcome == onshore::RoundOutcome::kAbandoned) {
        return RoundWish::kDrop;
      }
    }
    return RoundWish::kGoOn;
  }

  Status HandleBulk(const onshore::Bulk& bulk) {
    if (bulk.kind == onshore::BulkKind::kJob) {
      // A gate that was started again may not have heard it.
      if (job_ && bulk.bytes == job_bytes_) return TellDataset();
      if (job_) return FailedPrecondition("a trainer lives for one job; this is another");
      return Open(bulk.bytes);
    }
    if (bulk.kind == onshore::BulkKind::kParameters && job_) {
      const Status status = job_->SetAdapter(bulk.index, bulk.bytes);
      // The loop sees the same.
      return status.code() == Code::kCancelled ? OkStatus() : status;
    }
    return OkStatus();
  }

  // What is wrong with the job is told to the gate, and ends the job, not the trainer: the
  // coordinator chose it. What is wrong at the site ends the trainer.
  Status Open(const Bytes& job) {
    auto manifest = protocols::Decode<protocols::JobManifest>(job);
    if (!manifest) return DataLoss("a job manifest: {}", manifest.error().reason);
    const protocols::Id16 id = IdOf(job);
    TG_ASSIGN_OR_RETURN(const model::ModelConfig base,
                        model::LoadHfConfig(options_.base / "config.json"));
    if (const Status fits = CheckJobFits(*manifest, id, options_, base); !fits.ok()) {
      return TellNoJob(id, fits);
    }
    TG_RETURN_IF_ERROR(ReadDatasets());
    TG_RETURN_IF_ERROR(BeginAnewWithOtherRecords(JobDir(options_, id), dataset_.records));
    auto opened = FederatedJob::Open(job, options_, Events());
    if (!opened) {
      // Above all another base than the job's; or no record is left of what the job has cut off.
      const Code code = opened.error().code();
      const bool of_job =
          code == Code::kFailedPrecondition || (code == Code::kInvalidArgument && CheckSite().ok());
      return of_job ? TellNoJob(id, opened.error()) : opened.error();
    }
    job_ = std::move(*opened);
    job_bytes_ = job;
    return TellDataset();
  }

  // Whether the records would do for a job that asks for nothing.
  Status CheckSite() const {
    TG_ASSIGN_OR_RETURN(const finetune::LoadedBase base,
                        finetune::LoadedBase::LoadText(options_.base));
    const finetune::DataOptions whole{base.config.max_positions, false};
    for (const std::filesystem::path& path : {options_.records, options_.heldout}) {
      if (path.empty()) continue;
      TG_ASSIGN_OR_RETURN([[maybe_unused]] const finetune::Dataset usable,
                          finetune::LoadDataset(path, base, whole));
    }
    return OkStatus();
  }

  Status TellNoJob(const protocols::Id16& job, const Status& status) {
    LogWarning("job_does_not_fit {}", status.ToString());
    return gate_.Send(IpcType::kNoUpdate, onshore::NoUpdate{job, onshore::kWholeJob,
                                                            static_cast<uint8_t>(status.code())});
  }

  Status DoRound() {
    const onshore::RoundStart start = *pending_;
    pending_.reset();
    if (!job_ || start.job != job_->id() || job_->version() != start.adapter_version) {
      return OkStatus();  // the gate sends again what is missing after its next hello
    }
    const uint32_t gate = gate_.peer_generation();
    const Result<Bytes> update = job_->RunRound(start);
    if (!update && update.error().code() == Code::kCancelled) return OkStatus();
    if (!update) return TellNone(start, update.error());
    TG_RETURN_IF_ERROR(ReceiveAll());
    // A gate that was started again meanwhile gets what it asks for, when it does.
    if (gate_.peer_generation() != gate) return OkStatus();
    for (const onshore::Peer::Received& message : inbox_) {
      // Another round is open, or none.
      if (message.type == IpcType::kRoundStart || message.type == IpcType::kRoundResult ||
          message.type == IpcType::kStop) {
        return OkStatus();
      }
    }
    return gate_.SendBulk(onshore::BulkKind::kUpdate, {}, start.round, *update);
  }

  // Before any update: in the ledger the exports stand behind what they were made of.
  Status TellDataset() {
    dataset_.job = job_->id();
    return gate_.Send(IpcType::kDataset, dataset_);
  }

  Status ReadDatasets() {
    TG_ASSIGN_OR_RETURN(dataset_.records, FileDigest(options_.records, &dataset_.records_bytes));
    if (options_.heldout.empty()) return OkStatus();
    uint64_t ignored = 0;
    TG_ASSIGN_OR_RETURN(dataset_.heldout, FileDigest(options_.heldout, &ignored));
    return OkStatus();
  }

  static protocols::Id16 IdOf(ByteSpan job) {
    protocols::Id16 id{};
    const Digest digest = crypto::Sha256::Of(job);
    std::copy_n(digest.begin(), id.size(), id.begin());
    return id;
  }

  // What the numbers made impossible is the round's end, not the trainer's; the rest is.
  Status TellNone(const onshore::RoundStart& start, const Status& status) {
    if (status.code() != Code::kFailedPrecondition && status.code() != Code::kInvalidArgument) {
      return status;
    }
    return gate_.Send(IpcType::kNoUpdate, onshore::NoUpdate{start.job, start.round,
                                                            static_cast<uint8_t>(status.code())});
  }

  Progress Events() {
    const uint32_t generation = options_.generation;
    Progress progress;
    progress.trained = [generation](uint32_t round, int64_t steps, double loss) {
      onshore::SendEvent(EventCode::kTrained, generation, {round, steps, Milli(loss), 0});
    };
    progress.evaluated = [generation](uint32_t version, double before, double after, bool kept) {
      onshore::SendEvent(EventCode::kEvaluated, generation,
                         {version, Milli(before), Milli(after), kept ? 1 : 0});
    };
    progress.wish = [this](uint32_t round) { return Wish(round); };
    progress.stop = MustStop;
    return progress;
  }

  const SiteOptions& options_;
  std::string statement_;
  onshore::Peer gate_;
  std::unique_ptr<FederatedJob> job_;
  Bytes job_bytes_;
  onshore::Dataset dataset_;  // what the trainer has opened
  std::optional<onshore::RoundStart> pending_;
  std::deque<onshore::Peer::Received> inbox_;
  bool ended_ = false;  // the job
};

Status RunWalled(const SiteOptions& options) {
  onshore::CatchStopSignals();
  TG_ASSIGN_OR_RETURN(onshore::Started started, StartOnSite(options));
  Loop loop(options, std::move(started.statement));
  return loop.Run();
}

}  // namespace

CLI::App* AddFederatedVerb(CLI::App& app, SiteOptions& options) {
  CLI::App* verb = app.add_subcommand(
      "federated", "Trains a site's rounds; started by tidegate-onshore, not by hand");
  AddSiteOptions(*verb, options);
  verb->add_option("--records", options.records, "private records, JSONL")->required();
  verb->add_option("--heldout", options.heldout, "held-out records, JSONL");
  verb->add_option("--threads", options.threads, "threads to train with");
  verb->add_option("--dtype", options.dtype, "auto, bf16 or f32");
  verb->add_option("--device", options.device, "cpu or cuda");
  return verb;
}

int RunFederated(const SiteOptions& options) {
  const Status status = RunWalled(options);
  // Told to stop before it had begun: an end in good order too.
  if (status.ok() || status.code() == Code::kCancelled) return 0;
  LogError("federated_trainer_ended {}", status.ToString());
  return static_cast<int>(status.code());
}

}  // namespace tidegate::trainer
