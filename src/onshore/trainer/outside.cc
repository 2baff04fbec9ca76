#include "onshore/trainer/outside.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <deque>

#include "base/file.h"
#include "base/log.h"
#include "crypto/hash.h"
#include "federation/shared/delta_codec.h"
#include "federation/shared/grid.h"
#include "federation/shared/layout.h"
#include "model/adapter.h"
#include "model/config.h"
#include "onshore/api/round_reader.h"
#include "onshore/ipc/peer.h"
#include "onshore/start/start.h"
#include "onshore/start/stop.h"
#include "onshore/trainer/adapter_view.h"
#include "onshore/trainer/round_update.h"
#include "onshore/trainer/site_start.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;
using onshore::IpcType;
using onshore::api::RoundFrame;
using onshore::api::RoundFrameType;
using onshore::api::RoundMessage;

constexpr size_t kReadAtOnce = 32 << 10;
// Beside an adapter's values: names, shapes, padding.
constexpr uint64_t kWeightsBeside = 16 << 20;
constexpr uint32_t kMostMilli = 1'000'000;

// Frames over the client's two pipes. Nothing here waits, whatever the client does to the pipes'
// flags, which are its own too: what poll() calls ready is read, and written by so much as fits
// then. And nothing grows with what it does not read.
class Pipes {
 public:
  bool wants_write() const { return !out_.empty(); }
  bool closed() const { return closed_; }
  // A client that does not read what is wrong with its updates is not listened to meanwhile.
  bool listens() const { return CountOf(RoundFrameType::kBad) < kMostBad; }

  void Say(RoundFrame frame, std::string_view text, ByteSpan weights = {}) {
    const auto type = static_cast<RoundFrameType>(frame.type);
    // The round before can be trained no more.
    if (type == RoundFrameType::kRound) KeepLatest(type, 0);
    if (type == RoundFrameType::kResult) KeepLatest(type, kMostResults - 1);
    frame.text_bytes = text.size();
    frame.weights_bytes = weights.size();
    const auto* head = reinterpret_cast<const uint8_t*>(&frame);
    Bytes bytes(head, head + sizeof(frame));
    bytes.insert(bytes.end(), text.begin(), text.end());
    bytes.insert(bytes.end(), weights.begin(), weights.end());
    out_.push_back({type, std::move(bytes)});
  }

  void Write() {
    while (!out_.empty() && Ready(STDOUT_FILENO, POLLOUT)) {
      const Bytes& bytes = out_.front().bytes;
      const ssize_t n = ::write(STDOUT_FILENO, bytes.data() + at_,
                                std::min<size_t>(bytes.size() - at_, PIPE_BUF));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n < 0) {
        closed_ = true;
        return;
      }
      at_ += static_cast<size_t>(n);
      if (at_ < bytes.size()) continue;
      out_.pop_front();
      at_ = 0;
    }
  }

  // A whole update; nothing when there is none yet. kDataLoss for bytes that are none.
  Result<std::optional<RoundMessage>> Read(uint64_t most_weights) {
    for (;;) {
      TG_ASSIGN_OR_RETURN(const size_t missing, reader_.Missing(most_weights));
      if (missing == 0) break;
      if (!listens() || !Ready(STDIN_FILENO, POLLIN)) return std::nullopt;
      uint8_t bytes[kReadAtOnce];
      const ssize_t n = ::read(STDIN_FILENO, bytes, std::min(missing, sizeof(bytes)));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return std::nullopt;
      if (n <= 0) {
        closed_ = true;
        return std::nullopt;
      }
      reader_.Add({bytes, static_cast<size_t>(n)});
    }
    RoundMessage message = reader_.Take();
    if (message.frame.type != static_cast<uint32_t>(RoundFrameType::kUpdate)) {
      return DataLoss("what came over the pipe is no update");
    }
    return std::optional<RoundMessage>(std::move(message));
  }

 private:
  struct Frame {
    RoundFrameType type;
    Bytes bytes;
  };
  static constexpr int64_t kMostBad = 8, kMostResults = 64;  // that wait to be read

  static bool Ready(int fd, short events) {
    pollfd one{fd, events, 0};
    return ::poll(&one, 1, 0) > 0;
  }
  int64_t CountOf(RoundFrameType type) const {
    return std::count_if(out_.begin(), out_.end(),
                         [type](const Frame& frame) { return frame.type == type; });
  }
  // Of those that no byte has left of.
  void KeepLatest(RoundFrameType type, int64_t most) {
    auto it = out_.begin() + (at_ > 0 ? 1 : 0);
    int64_t over = CountOf(type) - most;
    while (it != out_.end() && over > 0) {
      if (it->type != type) {
        ++it;
        continue;
      }
      it = out_.erase(it);
      --over;
    }
  }

  onshore::api::RoundReader reader_;
  std::deque<Frame> out_;
  size_t at_ = 0;  // in the first of them
  bool closed_ = false;
};

// The update that was handed over last, on disk: one that is held is asked for again once people
// have decided, and whoever trained it may be gone by then. Whose it is stays with it: the ledger
// is to say so, whichever client is there when it leaves.
class KeptUpdate {
 public:
  struct Found {
    uint32_t uid = 0;
    Bytes update;
  };

  explicit KeptUpdate(fs::path file) : file_(std::move(file)) {}

  Status Keep(const protocols::Id16& job, uint32_t round, uint32_t uid, ByteSpan update) const {
    Bytes bytes = Head(job, round);
    Put(uid, &bytes);
    bytes.insert(bytes.end(), update.begin(), update.end());
    return WriteFileDurably(file_, bytes, 0600);
  }
  std::optional<Found> Of(const protocols::Id16& job, uint32_t round) const {
    const Bytes head = Head(job, round);
    const size_t begin = head.size() + sizeof(uint32_t);
    const auto bytes = ReadFile(file_, onshore::MaxBulkBytes(onshore::BulkKind::kUpdate) + begin);
    if (!bytes || bytes->size() < begin || !std::equal(head.begin(), head.end(), bytes->begin())) {
      return std::nullopt;
    }
    Found found;
    for (size_t i = 0; i < sizeof(uint32_t); ++i) {
      found.uid |= static_cast<uint32_t>((*bytes)[head.size() + i]) << (8 * i);
    }
    found.update.assign(bytes->begin() + static_cast<ptrdiff_t>(begin), bytes->end());
    return found;
  }

 private:
  static void Put(uint32_t number, Bytes* out) {
    for (int shift = 0; shift < 32; shift += 8) {
      out->push_back(static_cast<uint8_t>(number >> shift));
    }
  }
  static Bytes Head(const protocols::Id16& job, uint32_t round) {
    constexpr std::string_view kMagic = "TTK2";  // files before it said no uid
    Bytes head(kMagic.begin(), kMagic.end());
    head.insert(head.end(), job.begin(), job.end());
    Put(round, &head);
    return head;
  }
  fs::path file_;
};

class OutsideLoop {
 public:
  OutsideLoop(const OutsideOptions& options, std::string statement)
      : options_(options),
        statement_(std::move(statement)),
        gate_(Fd(onshore::kFirstPeerFd), options.site.generation),
        dir_(TrainerDir(options.site) / "outside"),
        kept_(dir_ / "update") {}

  Status Run() {
    TG_ASSIGN_OR_RETURN(base_, model::LoadHfConfig(options_.site.base / "config.json"));
    std::error_code error;
    fs::create_directories(dir_ / "in", error);
    if (error) return ErrnoStatus("make", dir_.native(), error.value());
    TG_RETURN_IF_ERROR(gate_.SendHello(false));
    while (!ended_ && !pipes_.closed()) {
      TG_ASSIGN_OR_RETURN(const bool stop, onshore::StopAsked());
      if (stop) return OkStatus();
      TG_RETURN_IF_ERROR(gate_.Flush());
      TG_ASSIGN_OR_RETURN(const auto received, gate_.Receive());
      if (received) TG_RETURN_IF_ERROR(Handle(*received));
      pipes_.Write();
      TG_ASSIGN_OR_RETURN(const auto message, pipes_.Read(MostWeights()));
      if (message) TG_RETURN_IF_ERROR(HandleUpdate(*message));
      if (!received && !message && !pipes_.closed()) TG_RETURN_IF_ERROR(Wait());
    }
    pipes_.Write();
    return OkStatus();
  }

 private:
  Status Wait() {
    pollfd fds[] = {
        {gate_.fd(), static_cast<short>(POLLIN | (gate_.WantsWrite() ? POLLOUT : 0)), 0},
        {onshore::kControlFd, POLLIN, 0},
        {pipes_.listens() ? STDIN_FILENO : -1, POLLIN, 0},
        {pipes_.wants_write() ? STDOUT_FILENO : -1, POLLOUT, 0}};
    return onshore::WaitFor(fds, -1);
  }

  uint64_t MostWeights() const {
    const uint64_t values = start_.size();
    return std::min(values * sizeof(float) + kWeightsBeside, onshore::api::kMaxRoundWeights);
  }

  Status Handle(const onshore::Peer::Received& received) {
    if (received.bulk) return HandleBulk(*received.bulk);
    switch (received.type) {
      case IpcType::kHello:
        TG_RETURN_IF_ERROR(gate_.Send(IpcType::kIsolation, onshore::Isolation{statement_}));
        return gate_.Send(IpcType::kOutside, onshore::Outside{options_.uid});
      case IpcType::kRoundStart: {
        const auto start = protocols::Decode<onshore::RoundStart>(received.body);
        return start ? Begin(*start) : OkStatus();
      }
      case IpcType::kRoundResult: {
        const auto result = protocols::Decode<onshore::RoundResult>(received.body);
        if (result) TellResult(*result);
        return OkStatus();
      }
      case IpcType::kStop:
        ended_ = true;
        return OkStatus();
      default:
        return OkStatus();
    }
  }

  Status HandleBulk(const onshore::Bulk& bulk) {
    if (bulk.kind == onshore::BulkKind::kJob) {
      auto manifest = protocols::Decode<protocols::JobManifest>(bulk.bytes);
      if (!manifest) return DataLoss("a job manifest: {}", manifest.error().reason);
      job_ = std::move(*manifest);
      const Digest digest = crypto::Sha256::Of(bulk.bytes);
      std::copy_n(digest.begin(), id_.size(), id_.begin());
      if (const Status fits = CheckJobFits(*job_, id_, options_.site, base_); !fits.ok()) {
        job_.reset();
        return gate_.Send(IpcType::kNoUpdate, onshore::NoUpdate{id_, onshore::kWholeJob,
                                                                static_cast<uint8_t>(fits.code())});
      }
      adapter_ = model::Adapter::CreateZero(base_, federation::LoraOf(*job_));
      return OkStatus();
    }
    if (bulk.kind != onshore::BulkKind::kParameters || !job_) return OkStatus();
    std::vector<float> values(adapter_->parameters().size());
    if (bulk.bytes.size() != values.size() * sizeof(float)) {
      return DataLoss("adapter version {} has another size than its layout says", bulk.index);
    }
    std::memcpy(values.data(), bulk.bytes.data(), bulk.bytes.size());
    start_ = std::move(values);
    version_ = bulk.index;
    return OkStatus();
  }

  RoundFrame FrameOf(RoundFrameType type, uint32_t round) const {
    RoundFrame frame;
    frame.type = static_cast<uint32_t>(type);
    frame.job = id_;
    frame.round = round;
    return frame;
  }

  Status Begin(const onshore::RoundStart& start) {
    if (!job_ || start.job != id_ || version_ != start.adapter_version) return OkStatus();
    round_ = start;
    if (const auto kept = kept_.Of(id_, start.round)) {
      return Send(kept->uid, kept->update);
    }
    std::copy(start_.begin(), start_.end(), adapter_->parameters().begin());
    TG_RETURN_IF_ERROR(model::SavePeft(dir_, *adapter_, options_.site.base.filename().native()));
    TG_ASSIGN_OR_RETURN(const std::string config,
                        ReadTextFile(dir_ / "adapter_config.json", onshore::api::kMaxRoundText));
    TG_ASSIGN_OR_RETURN(const Bytes weights,
                        ReadFile(dir_ / "adapter_model.safetensors", MostWeights()));
    RoundFrame frame = FrameOf(RoundFrameType::kRound, start.round);
    frame.adapter_version = start.adapter_version;
    frame.local_steps = job_->local_steps;
    frame.norm_clip = start.norm_clip;
    pipes_.Say(frame, config, weights);
    return OkStatus();
  }

  void TellResult(const onshore::RoundResult& result) {
    if (!round_ || result.job != id_ || result.round != round_->round) return;
    RoundFrame frame = FrameOf(RoundFrameType::kResult, result.round);
    frame.code = static_cast<uint32_t>(result.outcome);
    pipes_.Say(frame, result.reason.text);
    round_.reset();
  }

  // What is wrong with it is the client's to hear; the round stays open.
  Status HandleUpdate(const RoundMessage& message) {
    const Result<Bytes> update = Encode(message);
    if (!update) {
      RoundFrame frame = FrameOf(RoundFrameType::kBad, message.frame.round);
      frame.code = static_cast<uint32_t>(update.error().code());
      pipes_.Say(frame, update.error().message());
      return OkStatus();
    }
    TG_RETURN_IF_ERROR(kept_.Keep(id_, round_->round, options_.uid, *update));
    return Send(options_.uid, *update);
  }

  // Whose it is before it: it may be of the client before this one.
  Status Send(uint32_t uid, const Bytes& update) {
    TG_RETURN_IF_ERROR(gate_.Send(IpcType::kOutside, onshore::Outside{uid}));
    return gate_.SendBulk(onshore::BulkKind::kUpdate, {}, round_->round, update);
  }

  Result<Bytes> Encode(const RoundMessage& message) {
    const RoundFrame& frame = message.frame;
    if (!round_ || frame.job != id_ || frame.round != round_->round) {
      return FailedPrecondition("round {} of this job is not open; train the round that was given",
                                frame.round);
    }
    TG_RETURN_IF_ERROR(
        WriteFileDurably(dir_ / "in" / "adapter_config.json", AsBytes(message.text), 0600));
    TG_RETURN_IF_ERROR(
        WriteFileDurably(dir_ / "in" / "adapter_model.safetensors", message.weights, 0600));
    TG_ASSIGN_OR_RETURN(const model::Adapter adapter, model::LoadPeft(dir_ / "in", base_));
    TG_ASSIGN_OR_RETURN(const protocols::Layout layout, federation::LayoutOf(adapter));
    const model::LoraConfig& lora = adapter.lora();
    if (layout != job_->layout || lora.r != job_->lora_r || lora.alpha != job_->lora_alpha) {
      return InvalidArgument(
          "the adapter has another shape than the job's (r {}, alpha {}, {} tensors); train the "
          "one that was given",
          job_->lora_r, job_->lora_alpha, job_->layout.tensors.items.size());
    }
    std::vector<float> result = start_;
    const AdapterView view(adapter_->tensors(), adapter.tensors());
    view.PutShared(adapter.parameters(), job_->phase_groups.items.at(round_->phase), result);
    size_t saturated = 0;
    TG_RETURN_IF_ERROR(federation::SnapResultToGrid(start_, result, &saturated));
    std::vector<double> delta = federation::Difference(start_, result);
    return federation::EncodeDelta(HeaderOf(*job_, id_, options_.site.name, *round_, WithOf(frame)),
                                   job_->layout, delta,
                                   {.norm_clip = round_->norm_clip,
                                    .rounding = job_->rounding,
                                    .key = RoundingKey(*job_, id_, options_.site.name)});
  }

  TrainedWith WithOf(const RoundFrame& frame) const {
    const uint32_t most =
        job_->weighting == protocols::Weighting::kEqual ? 1 : std::max(job_->max_weight, 1u);
    return {std::clamp(frame.weight, 1u, most), std::min(frame.train_loss_milli, kMostMilli),
            std::min(frame.heldout_loss_milli, kMostMilli)};
  }

  const OutsideOptions& options_;
  std::string statement_;
  onshore::Peer gate_;
  fs::path dir_;
  KeptUpdate kept_;
  Pipes pipes_;
  model::ModelConfig base_;
  std::optional<protocols::JobManifest> job_;
  protocols::Id16 id_{};
  std::optional<model::Adapter> adapter_;
  std::vector<float> start_;
  std::optional<uint32_t> version_;
  std::optional<onshore::RoundStart> round_;
  bool ended_ = false;
};

Status RunWalled(const OutsideOptions& options) {
  onshore::CatchStopSignals();
  std::signal(SIGPIPE, SIG_IGN);
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO}) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
      return ErrnoStatus("prepare", "the client's pipe", errno);
    }
  }
  TG_ASSIGN_OR_RETURN(onshore::Started started, StartOnSite(options.site));
  OutsideLoop loop(options, std::move(started.statement));
  return loop.Run();
}

}  // namespace

CLI::App* AddOutsideVerb(CLI::App& app, OutsideOptions& options) {
  CLI::App* verb = app.add_subcommand(
      "outside", "Hands a site's rounds to a client; started by tidegate-onshore, not by hand");
  AddSiteOptions(*verb, options.site);
  verb->add_option("--outside_uid", options.uid, "the client's uid")->required();
  return verb;
}

int RunOutside(const OutsideOptions& options) {
  const Status status = RunWalled(options);
  if (status.ok() || status.code() == Code::kCancelled) return 0;
  LogError("outside_trainer_ended {}", status.ToString());
  return static_cast<int>(status.code());
}

}  // namespace tidegate::trainer
