// tidegate-trainer as the supervisor starts it, behind its walls, with a gate played by the test.
#pragma once

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
#include "tests/onshore/trainer/site_samples.h"

namespace tidegate::trainer {

using onshore::BulkKind;
using onshore::ControlMessage;
using onshore::ControlType;
using onshore::IpcType;
using onshore::Peer;

inline constexpr int64_t kWaitMillis = 60'000;

inline int64_t Now() { return SystemClock().MonotonicMillis(); }

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

  // For another verb than federated.
  virtual void Change(onshore::SpawnSpec* /*spec*/) {}

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
    spec.program = program_;
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
                      options.walls,
                      "--device",
                      options.device};
    spec.environment = {"LC_ALL=C", "ASAN_OPTIONS=detect_leaks=0"};
    spec.fds = {control.child.get(), pair_.child.get()};
    spec.log_fd = log_write.get();
    Change(&spec);
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
      statement_ = table->table.text;
      EXPECT_NE(statement_.find("trainer"), std::string::npos) << statement_;
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

  std::filesystem::path program_ = std::filesystem::path(TIDEGATE_BIN_DIR) / "tidegate-trainer";
  std::string statement_;  // of the last start
  SampleSite site_;
  onshore::Channel pair_;
  std::optional<Peer> gate_;
  Fd control_, log_;
  onshore::Child child_;
  uint32_t generation_ = 0;
};

}  // namespace tidegate::trainer
