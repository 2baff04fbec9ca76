// Rounds that the caller trains itself: frames over two pipes with a walled trainer of the site
// (onshore/api/rounds.h).
#include "onshore/api/round_reader.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <csignal>
#include <ctime>

#include "base/bytes.h"
#include "sdk/process.h"
#include "sdk/site.h"

struct tg_rounds {
  std::timed_mutex mutex;
  tidegate::onshore::api::ApiClient client;
  tidegate::Fd from, to;  // what the trainer says, and what it reads
  tidegate::onshore::api::RoundReader reader;
  tidegate::Bytes out;  // that it has not read yet
  size_t out_at = 0;
  // The round that was given last, and what was said of it.
  std::optional<tidegate::onshore::api::RoundFrame> round;
};

namespace tidegate::sdk {
namespace {

namespace fs = std::filesystem;
using onshore::api::RoundFrame;
using onshore::api::RoundFrameType;
using onshore::api::RoundMessage;

constexpr size_t kAtOnce = 32 << 10;

Error Ended() {
  return Unavailable(
      "the site's trainer for programs outside has ended: its job is over, or the site stopped it");
}

// SIGPIPE of a pipe whose reader is gone is this thread's alone, and is taken away again.
class NoSigPipe {
 public:
  NoSigPipe() {
    ::sigemptyset(&pipe_);
    ::sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    ::sigpending(&pending);
    was_pending_ = ::sigismember(&pending, SIGPIPE) == 1;
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~NoSigPipe() {
    const timespec now{};
    if (!was_pending_) (void)::sigtimedwait(&pipe_, nullptr, &now);
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoSigPipe(const NoSigPipe&) = delete;
  NoSigPipe& operator=(const NoSigPipe&) = delete;

 private:
  sigset_t pipe_, before_;
  bool was_pending_ = false;
};

Status Write(tg_rounds& rounds, const Call& call) {
  const NoSigPipe quiet;
  while (rounds.out_at < rounds.out.size()) {
    const ssize_t n = ::write(rounds.to.get(), rounds.out.data() + rounds.out_at,
                              rounds.out.size() - rounds.out_at);
    if (n > 0) rounds.out_at += static_cast<size_t>(n);
    if (n >= 0 || errno == EINTR) continue;
    if (errno != EAGAIN) return Ended();
    TG_RETURN_IF_ERROR(WaitFor(rounds.to.get(), POLLOUT, call));
  }
  rounds.out.clear();
  rounds.out_at = 0;
  return OkStatus();
}

Result<RoundMessage> Read(tg_rounds& rounds, const Call& call) {
  for (;;) {
    TG_ASSIGN_OR_RETURN(const size_t missing,
                        rounds.reader.Missing(onshore::api::kMaxRoundWeights));
    if (missing == 0) return rounds.reader.Take();
    uint8_t bytes[kAtOnce];
    const ssize_t n = ::read(rounds.from.get(), bytes, std::min(missing, sizeof(bytes)));
    if (n == 0) return Ended();
    if (n > 0) {
      rounds.reader.Add({bytes, static_cast<size_t>(n)});
    } else if (errno == EAGAIN) {
      TG_RETURN_IF_ERROR(WaitFor(rounds.from.get(), POLLIN, call));
    } else if (errno != EINTR) {
      return Unexpected(ErrnoStatus("read", "from the trainer", errno));
    }
  }
}

Status SaveRound(const RoundMessage& message, const fs::path& dir) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) return ErrnoStatus("make", dir.native(), error.value());
  TG_RETURN_IF_ERROR(WriteFileDurably(dir / "adapter_config.json", AsBytes(message.text)));
  return WriteFileDurably(dir / "adapter_model.safetensors", message.weights);
}

Result<tg_round> Next(tg_rounds& rounds, const fs::path& dir, const Call& call) {
  for (;;) {
    TG_ASSIGN_OR_RETURN(const RoundMessage message, Read(rounds, call));
    // The result of a round that nobody asked for any more is passed over.
    if (message.frame.type != static_cast<uint32_t>(RoundFrameType::kRound)) continue;
    TG_RETURN_IF_ERROR(SaveRound(message, dir));
    rounds.round = message.frame;
    tg_round out{};
    out.round = message.frame.round;
    out.adapter_version = message.frame.adapter_version;
    out.local_steps = message.frame.local_steps;
    out.norm_clip = message.frame.norm_clip;
    SetText(ToHex(message.frame.job), out.job);
    return out;
  }
}

uint32_t Milli(double loss) {
  return std::isfinite(loss) && loss > 0
             ? static_cast<uint32_t>(std::lround(std::min(loss, 1000.0) * 1000))
             : 0;
}

Status Submit(tg_rounds& rounds, const fs::path& dir, const tg_trained& trained, const Call& call) {
  if (!rounds.round) return FailedPrecondition("no round is open; tg_rounds_next gives one");
  if (rounds.out.empty()) {
    TG_ASSIGN_OR_RETURN(const std::string config,
                        ReadTextFile(dir / "adapter_config.json", onshore::api::kMaxRoundText));
    TG_ASSIGN_OR_RETURN(const Bytes weights, ReadFile(dir / "adapter_model.safetensors",
                                                      onshore::api::kMaxRoundWeights));
    RoundFrame frame;
    frame.type = static_cast<uint32_t>(RoundFrameType::kUpdate);
    frame.job = rounds.round->job;
    frame.round = rounds.round->round;
    frame.weight = trained.weight;
    frame.train_loss_milli = Milli(trained.train_loss);
    frame.heldout_loss_milli = Milli(trained.heldout_loss);
    frame.text_bytes = config.size();
    frame.weights_bytes = weights.size();
    const auto* head = reinterpret_cast<const uint8_t*>(&frame);
    rounds.out.assign(head, head + sizeof(frame));
    rounds.out.insert(rounds.out.end(), config.begin(), config.end());
    rounds.out.insert(rounds.out.end(), weights.begin(), weights.end());
  }
  return Write(rounds, call);
}

Result<tg_round_result> ResultOf(tg_rounds& rounds, const Call& call) {
  for (;;) {
    TG_ASSIGN_OR_RETURN(const RoundMessage message, Read(rounds, call));
    const RoundFrame& frame = message.frame;
    const auto type = static_cast<RoundFrameType>(frame.type);
    if (type == RoundFrameType::kBad && frame.code > 0 && frame.code <= TG_INTERNAL) {
      return MakeError(static_cast<Code>(frame.code), "{}", message.text);
    }
    if (type == RoundFrameType::kRound) {
      return Unavailable("round {} is over without a verdict; the site has another one open",
                         rounds.round ? rounds.round->round : 0);
    }
    if (type != RoundFrameType::kResult) continue;
    tg_round_result out{};
    out.round = frame.round;
    out.outcome = frame.code;
    SetText(message.text, out.reason);
    return out;
  }
}

Status NonBlocking(const Fd& fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags >= 0 && ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) == 0) return OkStatus();
  return ErrnoStatus("prepare", "a pipe", errno);
}

}  // namespace
}  // namespace tidegate::sdk

using namespace tidegate::sdk;  // NOLINT: what follows is C
using tidegate::OkStatus;
using tidegate::Status;

int32_t tg_rounds_open(tg_site* site, const tg_call* given, tg_rounds** out, tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(site), NotNull(out);
    const Call call(given);
    TG_ASSIGN_OR_RETURN(ApiClient client, ConnectAgain(*site, call));
    TG_ASSIGN_OR_RETURN(PipeEnds in, MakePipe());
    TG_ASSIGN_OR_RETURN(PipeEnds back, MakePipe());
    TG_RETURN_IF_ERROR(client.TrainOutside(in.read.get(), back.write.get()));
    TG_RETURN_IF_ERROR(NonBlocking(in.write));
    TG_RETURN_IF_ERROR(NonBlocking(back.read));
    *out = new tg_rounds{
        {}, std::move(client), std::move(back.read), std::move(in.write), {}, {}, 0, {}};
    return OkStatus();
  });
}

void tg_rounds_close(tg_rounds* rounds) { delete rounds; }

int32_t tg_rounds_next(tg_rounds* rounds, const char* dir, const tg_call* given, tg_round* out,
                       tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(rounds);
    TG_RETURN_IF_ERROR(CheckStruct(out, sizeof(*out), "tg_round"));
    TG_ASSIGN_OR_RETURN(const std::string folder, Given(dir, "the folder"));
    const Call call(given);
    const Locked lock(rounds->mutex, call);
    TG_RETURN_IF_ERROR(lock.status());
    TG_ASSIGN_OR_RETURN(const tg_round round, Next(*rounds, folder, call));
    return Fill(round, out, "tg_round");
  });
}

int32_t tg_rounds_submit(tg_rounds* rounds, const char* dir, const tg_trained* trained,
                         const tg_call* given, tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(rounds);
    TG_RETURN_IF_ERROR(CheckStruct(trained, sizeof(*trained), "tg_trained"));
    TG_ASSIGN_OR_RETURN(const std::string folder, Given(dir, "the folder"));
    const Call call(given);
    const Locked lock(rounds->mutex, call);
    TG_RETURN_IF_ERROR(lock.status());
    return Submit(*rounds, folder, *trained, call);
  });
}

int32_t tg_rounds_result(tg_rounds* rounds, const tg_call* given, tg_round_result* out,
                         tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(rounds);
    TG_RETURN_IF_ERROR(CheckStruct(out, sizeof(*out), "tg_round_result"));
    const Call call(given);
    const Locked lock(rounds->mutex, call);
    TG_RETURN_IF_ERROR(lock.status());
    TG_ASSIGN_OR_RETURN(const tg_round_result result, ResultOf(*rounds, call));
    return Fill(result, out, "tg_round_result");
  });
}
