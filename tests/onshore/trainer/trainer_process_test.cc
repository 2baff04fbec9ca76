// tidegate-trainer as the supervisor starts it, behind its walls, with a gate played by the test.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>

#include "base/clock.h"
#include "onshore/ipc/control.h"
#include "onshore/ipc/peer.h"
#include "onshore/sandbox/spawn.h"
#include "onshore/sandbox/statement.h"
#include "onshore/trainer/federated_job.h"
#include "site_samples.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;
using onshore::BulkKind;
using onshore::ControlMessage;
using onshore::ControlType;
using onshore::IpcType;
using onshore::Peer;

constexpr int64_t kWaitMillis = 60'000;

int64_t Now() { return SystemClock().MonotonicMillis(); }

class TrainerProcess : public testing::Test {
 protected:
  void SetUp() override {
    pair_ = *onshore::MakeChannel();
    gate_.emplace(std::move(pair_.supervisor), 1000);
  }
  void TearDown() override {
    if (child_.pid <= 0) return;
    EXPECT_TRUE(onshore::Kill(child_).ok());
    EXPECT_TRUE(onshore::Reap(child_, true).has_value());
  }

  // Starts the trainer and says GO; false when it ended before READY.
  bool Start() {
    ++generation_;
    onshore::Channel control = *onshore::MakeChannel();
    int pipe_fds[2];
    EXPECT_EQ(::pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
    log_ = Fd(pipe_fds[0]);
    const Fd log_write(pipe_fds[1]);
    const SiteOptions& options = site_.options();
    onshore::SpawnSpec spec;
    spec.program = fs::path(TIDEGATE_BIN_DIR) / "tidegate-trainer";
    spec.arguments = {"federated",
                      "--generation",
                      std::to_string(generation_),
                      "--dir",
                      options.site.native(),
                      "--name",
                      options.name,
                      "--base",
                      options.base.native(),
                      "--records",
                      options.records.native(),
                      "--heldout",
                      options.heldout.native(),
                      "--threads",
                      "1",
                      "--dtype",
                      "f32",
                      "--walls",
                      options.walls};
    spec.environment = {"LC_ALL=C", "ASAN_OPTIONS=detect_leaks=0"};
    spec.fds = {control.child.get(), pair_.child.get()};
    spec.log_fd = log_write.get();
    child_ = *onshore::Spawn(spec);
    control.child.reset();
    control_ = std::move(control.supervisor);
    if (!Control(ControlType::kReady)) return false;
    ControlMessage go;
    go.type = ControlType::kGo;
    go.generation = generation_;
    return ::send(control_.get(), &go, sizeof(go), MSG_NOSIGNAL) == sizeof(go);
  }
  // Started and greeted; skips where the machine has no such walls.
  void StartOrSkip() {
    if (Start()) {
      const auto hello = Next(IpcType::kIsolation);
      ASSERT_TRUE(hello.has_value()) << Log();
      const auto table = protocols::Decode<onshore::Isolation>(hello->body);
      ASSERT_TRUE(table.has_value());
      EXPECT_NE(table->table.text.find("trainer"), std::string::npos) << table->table.text;
      return;
    }
    const std::string log = Log();
    ASSERT_NE(log.find("PERMISSION_DENIED"), std::string::npos) << log;
    GTEST_SKIP() << "this machine cannot raise the trainer's walls: " << log;
  }
  std::optional<ControlMessage> Control(ControlType type) {
    for (const int64_t end = Now() + kWaitMillis; Now() < end;) {
      pollfd p{control_.get(), POLLIN, 0};
      if (::poll(&p, 1, 1000) <= 0) continue;
      ControlMessage message;
      const ssize_t n = ::recv(control_.get(), &message, sizeof(message), MSG_DONTWAIT);
      if (n != sizeof(message)) return std::nullopt;
      if (message.type == type) return message;
    }
    return std::nullopt;
  }
  std::string Log() {
    char buffer[8192];
    const ssize_t n = ::read(log_.get(), buffer, sizeof(buffer));
    return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : "";
  }
  // The next message of this type, or nothing when the trainer ended first.
  std::optional<Peer::Received> Next(IpcType type) {
    for (const int64_t end = Now() + kWaitMillis; Now() < end;) {
      if (!gate_->Flush().ok()) return std::nullopt;
      auto received = gate_->Receive();
      if (!received) return std::nullopt;
      if (*received && (*received)->type == type) return std::move(**received);
      if (*received) continue;
      pollfd p[2] = {{gate_->fd(), POLLIN, 0}, {child_.pidfd.get(), POLLIN, 0}};
      if (::poll(p, 2, 1000) > 0 && p[0].revents == 0) return std::nullopt;
    }
    return std::nullopt;
  }
  // Job, parameters, round: what the gate says after each HELLO.
  void OpenRound(const protocols::JobManifest& job) {
    ASSERT_TRUE(gate_->SendBulk(BulkKind::kJob, {}, 0, protocols::Encode(job)).ok());
    ASSERT_TRUE(gate_->SendBulk(BulkKind::kParameters, {}, 0, BytesOf(InitialParameters())).ok());
    const onshore::RoundStart start{.job = IdOf(job), .round = 1, .adapter_version = 0};
    ASSERT_TRUE(gate_->Send(IpcType::kRoundStart, start).ok());
  }
  Bytes Update() {
    const auto received = Next(IpcType::kBulkBegin);
    EXPECT_TRUE(received && received->bulk) << Log();
    if (!received || !received->bulk) return {};
    EXPECT_EQ(received->bulk->kind, BulkKind::kUpdate);
    EXPECT_EQ(received->bulk->index, 1u);
    return received->bulk->bytes;
  }
  // Waits until round 1 is under way: it is noted before its first step.
  bool RoundBegins(const protocols::JobManifest& job) const {
    for (const int64_t end = Now() + kWaitMillis; Now() < end;) {
      const auto note = LoadRoundNote(site_.job_dir(job));
      if (note && *note) return true;
      ::usleep(2000);
    }
    return false;
  }
  void SendSignal(int signal) const { EXPECT_EQ(::kill(child_.pid, signal), 0); }
  void SendStop() const {
    ControlMessage stop;
    stop.type = ControlType::kStop;
    stop.generation = generation_;
    EXPECT_EQ(::send(control_.get(), &stop, sizeof(stop), MSG_NOSIGNAL),
              static_cast<ssize_t>(sizeof(stop)));
  }
  // How it ended, within a bound.
  onshore::ChildEnd End() {
    pollfd p{child_.pidfd.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&p, 1, static_cast<int>(kWaitMillis)), 1) << "the trainer did not end";
    if (p.revents == 0) {
      EXPECT_TRUE(onshore::Kill(child_).ok());
    }
    const auto end = onshore::Reap(child_, true);
    child_ = {};
    return end && *end ? **end : onshore::ChildEnd{};
  }

  SampleSite site_;
  onshore::Channel pair_;
  std::optional<Peer> gate_;
  Fd control_, log_;
  onshore::Child child_;
  uint32_t generation_ = 0;
};

// fixed32 is exact and is never scaled: over the clip there is no update. That ends the round, not
// the trainer.
TEST_F(TrainerProcess, ARoundWithoutAnUpdateIsToldAndTheNextOneIsTrained) {
  const protocols::JobManifest job = SampleJob();
  ASSERT_NO_FATAL_FAILURE(StartOrSkip());
  if (IsSkipped()) return;
  ASSERT_TRUE(gate_->SendBulk(BulkKind::kJob, {}, 0, protocols::Encode(job)).ok());
  ASSERT_TRUE(gate_->SendBulk(BulkKind::kParameters, {}, 0, BytesOf(InitialParameters())).ok());
  onshore::RoundStart start{.job = IdOf(job), .round = 1, .adapter_version = 0, .norm_clip = 1e-9};
  ASSERT_TRUE(gate_->Send(IpcType::kRoundStart, start).ok());
  const auto told = Next(IpcType::kNoUpdate);
  ASSERT_TRUE(told.has_value()) << Log();
  const auto none = *protocols::Decode<onshore::NoUpdate>(told->body);
  EXPECT_EQ(none.job, start.job);
  EXPECT_EQ(none.round, 1u);
  EXPECT_EQ(none.code, static_cast<uint8_t>(Code::kFailedPrecondition));
  start.norm_clip = 0;
  ASSERT_TRUE(gate_->Send(IpcType::kRoundStart, start).ok());
  EXPECT_FALSE(Update().empty());
}

TEST_F(TrainerProcess, AKillInTheRoundLeadsToTheSameBytesAndStopEndsIt) {
  const protocols::JobManifest job = SampleJob();
  ASSERT_NO_FATAL_FAILURE(StartOrSkip());
  if (IsSkipped()) return;
  OpenRound(job);
  const Bytes first = Update();
  ASSERT_FALSE(first.empty());
  const auto view = protocols::UpdateView::Parse(first, job.layout);
  ASSERT_TRUE(view.has_value()) << view.error().reason;
  EXPECT_GT(view->L2Norm(), 0);

  // Killed with its update sent but not receipted, then with the round just told.
  for (const bool told : {false, true}) {
    if (told) OpenRound(job);
    ASSERT_TRUE(onshore::Kill(child_).ok());
    EXPECT_EQ(End().signal, SIGKILL);
    ASSERT_TRUE(Start()) << Log();
    ASSERT_TRUE(Next(IpcType::kIsolation)) << Log();
    OpenRound(job);
    EXPECT_TRUE(Update() == first) << "other bytes after a kill";
  }
  ASSERT_TRUE(gate_->Send(IpcType::kStop, onshore::Stop{IdOf(job), 1}).ok());
  const onshore::ChildEnd end = End();
  EXPECT_EQ(end.end, onshore::End::kClean) << Log();
}

// Told by the supervisor, or by somebody's kill -TERM, in the middle of a round.
TEST_F(TrainerProcess, ToldToStopItEndsInOrderAndGoesOnFromThatStep) {
  for (const bool by_signal : {false, true}) {
    SCOPED_TRACE(by_signal ? "SIGTERM" : "kStop");
    protocols::JobManifest job = SampleJob();
    job.local_steps = 200;
    job.seed = by_signal ? 1 : 2;  // a job of its own
    ASSERT_NO_FATAL_FAILURE(StartOrSkip());
    if (IsSkipped()) return;
    OpenRound(job);
    ASSERT_TRUE(RoundBegins(job)) << Log();
    by_signal ? SendSignal(SIGTERM) : SendStop();
    EXPECT_EQ(End().end, onshore::End::kClean) << Log();
    const auto note = LoadRoundNote(site_.job_dir(job));
    ASSERT_TRUE(note && *note);
    EXPECT_GT((*note)->at_step, 0) << "stopped before its first step was saved";
    EXPECT_FALSE((*note)->trained) << "the round had ended before";
    const auto mode = std::filesystem::status(site_.trainer()).permissions();
    EXPECT_EQ(mode & std::filesystem::perms::all, std::filesystem::perms::owner_all);

    ASSERT_TRUE(Start()) << Log();
    ASSERT_TRUE(Next(IpcType::kIsolation)) << Log();
    OpenRound(job);
    const Bytes update = Update();
    ASSERT_TRUE(gate_->Send(IpcType::kStop, onshore::Stop{IdOf(job), 1}).ok());
    EXPECT_EQ(End().end, onshore::End::kClean) << Log();

    SampleSite undisturbed;
    const auto whole = FederatedJob::Open(protocols::Encode(job), undisturbed.options(), {});
    ASSERT_TRUE(whole.has_value());
    ASSERT_TRUE((*whole)->SetAdapter(0, BytesOf(InitialParameters())).ok());
    const auto expected = (*whole)->RunRound({.job = IdOf(job), .round = 1, .adapter_version = 0});
    ASSERT_TRUE(expected.has_value());
    EXPECT_TRUE(update == *expected);
  }
}

// The gate says that a round is over: the trainer is free at once, and trains the next one as if
// that had not been.
TEST_F(TrainerProcess, ARoundThatIsAbandonedIsLeftAtTheNextStep) {
  protocols::JobManifest job = SampleJob();
  job.local_steps = 20'000;  // minutes: nobody waits for its end
  ASSERT_NO_FATAL_FAILURE(StartOrSkip());
  if (IsSkipped()) return;
  OpenRound(job);
  ASSERT_TRUE(RoundBegins(job)) << Log();
  const onshore::RoundResult gone{IdOf(job), 1, onshore::RoundOutcome::kAbandoned, ""};
  ASSERT_TRUE(gate_->Send(IpcType::kRoundResult, gone).ok());
  // It hears the gate again: this ends it.
  ASSERT_TRUE(gate_->Send(IpcType::kStop, onshore::Stop{IdOf(job), 0}).ok());
  EXPECT_EQ(End().end, onshore::End::kClean) << Log();
  const auto note = LoadRoundNote(site_.job_dir(job));
  ASSERT_TRUE(note && *note);
  EXPECT_EQ((*note)->at_step, 0) << "nothing of it was kept";
  EXPECT_FALSE(fs::exists(site_.job_dir(job) / "state"));
}

TEST_F(TrainerProcess, AJobForAnotherBaseEndsItWithAReason) {
  ASSERT_NO_FATAL_FAILURE(StartOrSkip());
  if (IsSkipped()) return;
  protocols::JobManifest job = SampleJob();
  job.base_hash[5] ^= 1;
  OpenRound(job);
  EXPECT_FALSE(Next(IpcType::kBulkBegin).has_value()) << "it sent something";
  EXPECT_EQ(End().exit_status, 4);
  EXPECT_NE(Log().find("give the site the job's base"), std::string::npos);
}

TEST_F(TrainerProcess, ALossThatIsNotFiniteIsToldAndMakesNoUpdate) {
  ASSERT_NO_FATAL_FAILURE(StartOrSkip());
  if (IsSkipped()) return;
  protocols::JobManifest job = SampleJob();
  job.learning_rate = 100;
  job.max_grad_norm = 0;
  job.local_steps = 20;
  OpenRound(job);
  const auto told = Next(IpcType::kNoUpdate);
  ASSERT_TRUE(told.has_value()) << Log();
  EXPECT_EQ(protocols::Decode<onshore::NoUpdate>(told->body)->code,
            static_cast<uint8_t>(Code::kFailedPrecondition));
  SendStop();
  EXPECT_EQ(End().exit_status, 0);
  EXPECT_EQ(Log().find("storage"), std::string::npos) << "no word of a record in a log";
}

}  // namespace
}  // namespace tidegate::trainer
