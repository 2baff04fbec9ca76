#include "onshore/supervisor/supervisor.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>

#include "base/file.h"
#include "onshore/sandbox/walls.h"
#include "tests/onshore/supervisor/site_fixture.h"

namespace tidegate::onshore {
namespace {

TEST_F(SupervisorTest, GateAndLinkGetGoAndATrainerStartsWhenTheGateAsks) {
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
  const std::string dir = " --dir " + site_.native() + " --walls ";
  const std::string records = " --records " + (site_ / "r.jsonl").native();
  EXPECT_EQ(LastStart("gate"),
            "start --generation 1" + dir + kDefaultDemanded.ToString() + records);
  EXPECT_EQ(LastStart("link"), "start --generation 2" + dir + kDefaultDemanded.ToString() +
                                   " --address tcp://127.0.0.1:7443 --stripes 1" + records);
  EXPECT_TRUE(LogHas("process_ready name=gate walls=0x5"));
  // Ctrl-C in a terminal must not reach them before the supervisor has told them to stop.
  EXPECT_EQ(::getsid(LastPid("gate")), LastPid("gate"));
  // Only the gate may ask, and only in its own generation.
  Do("link", "need_trainer");
  Do("gate", "stale_need_trainer");
  Do("gate", "event 1 4 0 0 0");
  ASSERT_TRUE(LogGets("gate: job_accepted rounds=4")) << Log();
  EXPECT_EQ(Starts("trainer"), 0);
  Do("gate", "need_trainer");
  ASSERT_TRUE(TraceGets("trainer", "go")) << Log();
  Do("gate", "need_trainer");  // says it again
  EXPECT_EQ(LastStart("trainer"), "start federated --generation 3" + dir +
                                      kDefaultDemanded.ToString() + records +
                                      " --name lab-1 --base " + (site_ / "model").native() +
                                      " --threads 3 --dtype auto --device cpu");
  EXPECT_EQ(Starts("trainer"), 1);
}

class StopSignalTest : public SupervisorTest, public ::testing::WithParamInterface<int> {};

TEST_P(StopSignalTest, ToldToStopTheChildrenEndInOrderAndTheSupervisorWithZero) {
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
  Do("gate", "need_trainer");
  ASSERT_TRUE(TraceGets("trainer", "go")) << Log();
  supervisor_.Signal(GetParam());
  EXPECT_EQ(WaitForEnd(), 0) << Log();
  for (const char* name : {"gate", "link", "trainer"}) {
    EXPECT_EQ(Traced(name, "stop"), 1) << name;
    EXPECT_FALSE(Alive(LastPid(name))) << name;
    EXPECT_TRUE(LogHas(std::string("process_ended name=") + name + " how=clean")) << Log();
  }
}
INSTANTIATE_TEST_SUITE_P(Signals, StopSignalTest, ::testing::Values(SIGTERM, SIGINT, SIGHUP));

TEST_F(SupervisorTest, AChildThatDoesNotStopIsKilled) {
  Write("mode-link", "ignore_stop");
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
  supervisor_.Signal(SIGTERM);
  EXPECT_EQ(WaitForEnd(), 0) << Log();
  EXPECT_EQ(Traced("link", "stop"), 1);
  EXPECT_FALSE(Alive(LastPid("link")));
  EXPECT_TRUE(LogHas("process_killed name=link: not stopped after 10 s")) << Log();
}

TEST_F(SupervisorTest, NoChildOutlivesASupervisorThatIsKilled) {
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
  Do("gate", "need_trainer");
  ASSERT_TRUE(TraceGets("trainer", "go")) << Log();
  const pid_t pids[] = {LastPid("gate"), LastPid("link"), LastPid("trainer")};
  for (const pid_t pid : pids) ASSERT_TRUE(Alive(pid));
  supervisor_.Signal(SIGKILL);
  EXPECT_EQ(WaitForEnd(), 128 + SIGKILL);
  EXPECT_TRUE(Eventually(
      [&] {
        return std::none_of(std::begin(pids), std::end(pids), [](pid_t p) { return Alive(p); });
      },
      1000));
}

TEST_F(SupervisorTest, ARestartedLinkReadsWhatItsPredecessorLeftInThePair) {
  Write("mode-link", "deaf");
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
  // The gate has said HELLO once, link has not read it; link's own HELLO came to the gate.
  ASSERT_TRUE(TraceGets("gate", "hello 2")) << Log();
  Write("mode-link", "");
  ASSERT_EQ(::kill(LastPid("link"), SIGKILL), 0);
  EXPECT_TRUE(TraceGets("link", "hello 1")) << Log();
  EXPECT_TRUE(TraceGets("gate", "hello 3")) << Log();
  EXPECT_EQ(Traced("gate", "go"), 1) << "the gate was not restarted";
  EXPECT_TRUE(LogHas("process_ended name=link how=killed signal=9"));
}

TEST_F(SupervisorTest, ARestartedGateMeetsTheSameTrainerAndLink) {
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
  Do("gate", "need_trainer");
  ASSERT_TRUE(TraceGets("trainer", "go") && TraceGets("gate", "hello 3")) << Log();
  const pid_t trainer = LastPid("trainer"), link = LastPid("link");
  ASSERT_EQ(::kill(LastPid("gate"), SIGKILL), 0);
  ASSERT_TRUE(TraceGets("gate", "go", 2)) << Log();
  EXPECT_TRUE(LastStart("gate").starts_with("start --generation 4 ")) << LastStart("gate");
  EXPECT_TRUE(TraceGets("link", "hello 4"));
  EXPECT_TRUE(Alive(trainer) && Alive(link));
  EXPECT_EQ(Starts("trainer"), 1);
}

TEST_F(SupervisorTest, AWallHitEndsTheSiteWithTheNameOfTheProcess) {
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
  Do("link", "sigsys");
  EXPECT_EQ(WaitForEnd(), static_cast<int>(Code::kInternal)) << Log();
  EXPECT_TRUE(LogHas("INTERNAL: link made a forbidden system call (SIGSYS)")) << Log();
  EXPECT_EQ(Starts("link"), 1);
  EXPECT_EQ(Traced("gate", "stop"), 1) << "the others end in good order";
}

TEST_F(SupervisorTest, AChildThatSaysThreeTimesThatItCannotRunEndsTheSiteWithItsCode) {
  Write("mode-gate", "exit 2");
  StartSite();
  EXPECT_EQ(WaitForEnd(), static_cast<int>(Code::kNotFound)) << Log();
  EXPECT_EQ(Starts("gate"), 3);
  EXPECT_TRUE(LogHas("NOT_FOUND: gate cannot run")) << Log();
  EXPECT_TRUE(LogHas("gate: the reason, and no newline\n")) << Log();
}

TEST_F(SupervisorTest, AnErrorThatPassesIsTriedAgain) {
  Write("mode-link", "exit 9");  // kUnavailable
  StartSite();
  ASSERT_TRUE(Eventually([&] { return Starts("link") >= 4; })) << Log();
  Write("mode-link", "");
  EXPECT_TRUE(TraceGets("link", "go")) << Log();
  EXPECT_TRUE(Alive(supervisor_.pid()));
}

TEST_F(SupervisorTest, AChildThatIsNotReadyInTimeIsKilledAndStartedAgain) {
  Write("site.toml", *ReadTextFile(site_ / "site.toml", 4096) + "ready_seconds = 1\n");
  Write("mode-link", "never_ready");
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go")) << Log();
  ASSERT_TRUE(Eventually([&] { return Starts("link") >= 2; })) << Log();
  EXPECT_TRUE(LogHas("process_killed name=link: not ready after 1 s")) << Log();
  EXPECT_TRUE(LogHas("process_ended name=link how=killed signal=9")) << Log();
  const pid_t second = LastPid("link");
  Write("mode-link", "");
  ASSERT_TRUE(TraceGets("link", "go")) << Log();
  EXPECT_FALSE(Alive(second)) << "its mode was read at its start: killed as the first was";
  EXPECT_EQ(Starts("link"), 3);
  EXPECT_EQ(Starts("gate"), 1) << "the gate was ready and is left alone";
}

TEST_F(SupervisorTest, OneSupervisorRunsForASite) {
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go")) << Log();
  const auto second = RunCommand(Command(), 20'000);
  ASSERT_TRUE(second) << second.error().message();
  EXPECT_EQ(second->exit_code, static_cast<int>(Code::kFailedPrecondition));
  EXPECT_NE(second->errors.find("another tidegate-onshore runs for this site"), std::string::npos);
  EXPECT_EQ(Starts("gate"), 1);
  supervisor_.Signal(SIGKILL);
  ASSERT_EQ(WaitForEnd(), 128 + SIGKILL);
  ASSERT_TRUE(Eventually([&] { return !Alive(LastPid("gate")) && !Alive(LastPid("link")); }));
  // The lock goes with the process that holds it; the generations go on.
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go", 2)) << Log();
  EXPECT_TRUE(LastStart("gate").starts_with("start --generation 3 ")) << LastStart("gate");
}

TEST_F(SupervisorTest, OnceEndsWhenTheJobHasEndedAndTheTrainerIsGone) {
  StartSite({"--once"});
  ASSERT_TRUE(TraceGets("gate", "go")) << Log();
  Do("gate", "need_trainer");
  ASSERT_TRUE(TraceGets("trainer", "go")) << Log();
  Do("gate", "job_ended");
  ASSERT_TRUE(LogGets("job_ended adapter_version=7")) << Log();
  EXPECT_EQ(WaitForEnd(300), -1) << "the trainer still writes its results";
  Do("trainer", "exit 0");
  EXPECT_EQ(WaitForEnd(), 0) << Log();
  EXPECT_EQ(Starts("trainer"), 1);
  EXPECT_EQ(Traced("gate", "stop"), 1);
}

TEST_F(SupervisorTest, ATrainerThatIsKilledWhileItsJobEndsIsStartedAgain) {
  StartSite({"--once"});
  ASSERT_TRUE(TraceGets("gate", "go")) << Log();
  Do("gate", "need_trainer");
  ASSERT_TRUE(TraceGets("trainer", "go")) << Log();
  Do("gate", "job_ended");
  ASSERT_TRUE(LogGets("job_ended adapter_version=7")) << Log();
  ASSERT_EQ(::kill(LastPid("trainer"), SIGKILL), 0);
  ASSERT_TRUE(TraceGets("trainer", "go", 2)) << Log();
  // Killed before the gate says it: the same.
  ASSERT_EQ(::kill(LastPid("trainer"), SIGKILL), 0);
  Do("gate", "job_ended");
  ASSERT_TRUE(TraceGets("trainer", "go", 3)) << Log();
  Do("trainer", "exit 0");
  EXPECT_EQ(WaitForEnd(), 0) << Log();
  EXPECT_EQ(Starts("trainer"), 3);
}

TEST_F(SupervisorTest, WithoutOnceTheSiteWaitsForTheNextJob) {
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go")) << Log();
  Do("gate", "need_trainer");
  ASSERT_TRUE(TraceGets("trainer", "go")) << Log();
  Do("gate", "job_ended");
  ASSERT_TRUE(LogGets("job_ended")) << Log();
  // The next job comes while the trainer of the last one still ends.
  Do("gate", "need_trainer");
  Do("gate", "event 1 1 0 0 0");
  ASSERT_TRUE(LogGets("job_accepted")) << Log();
  Do("trainer", "exit 0");
  EXPECT_TRUE(TraceGets("trainer", "go", 2)) << Log();
  Do("gate", "job_ended");
  ASSERT_TRUE(Eventually([&] { return Log().rfind("job_ended") != Log().find("job_ended"); }));
  Do("trainer", "exit 0");
  ASSERT_TRUE(LogGets("process_ended name=trainer how=clean"));
  EXPECT_EQ(WaitForEnd(500), -1) << Log();
  EXPECT_EQ(Starts("trainer"), 2);
}

TEST_F(SupervisorTest, WhatChildrenSayIsOnePrintableLineAndATrainersWordsGoNowhere) {
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
  Do("gate", "say one\x1b[2J\r\nsecond line\n");
  EXPECT_TRUE(LogGets("INFO onshore gate: one?[2J?\n")) << Log();
  EXPECT_TRUE(LogGets("INFO onshore gate: second line\n")) << Log();
  Do("gate", "need_trainer");
  ASSERT_TRUE(TraceGets("trainer", "go")) << Log();
  Do("trainer", "say a record\n");
  Do("trainer", "event 10 2 5 1234 0");
  ASSERT_TRUE(LogGets("trainer: round_trained round=2 steps=5 loss_milli=1234")) << Log();
  EXPECT_FALSE(LogHas("a record"));
  Do("gate", "say last words");
  Do("gate", "exit 1");
  EXPECT_TRUE(LogGets("gate: last words\n")) << Log();
}

TEST_F(SupervisorTest, AChildThatFloodsNeitherFillsTheLogNorHoldsUpTheOthers) {
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
  Do("link", "flood");
  ASSERT_TRUE(TraceGets("link", "did flood")) << Log();
  Do("gate", "event 1 9 0 0 0");
  ASSERT_TRUE(LogGets("gate: job_accepted rounds=9")) << Log();
  EXPECT_LT(Log().size(), 60'000u);
  ASSERT_TRUE(Eventually([&] {
    Do("link", "event 9 0 0 0 0");
    return LogHas("log_lines_dropped name=link count=");
  })) << Log();
}

TEST_F(SupervisorTest, AProgramThatIsMissingIsNamed) {
  std::filesystem::remove(programs_ / "tidegate-link");
  StartSite();
  EXPECT_EQ(WaitForEnd(), static_cast<int>(Code::kNotFound)) << Log();
  EXPECT_TRUE(LogHas("tidegate-link")) << Log();
  EXPECT_EQ(Traced("gate", "go"), 0);
}

TEST_F(SupervisorTest, AnotherCommandLineOrFolderIsAnError) {
  const std::string program = (programs_ / "tidegate-onshore").native();
  EXPECT_EQ(RunCommand({program}, 20'000)->exit_code, 64);
  EXPECT_EQ(RunCommand({program, "--dir", "/nonexistent/site"}, 20'000)->exit_code,
            static_cast<int>(Code::kNotFound));
  Write("generation", "many");
  StartSite();
  EXPECT_EQ(WaitForEnd(), static_cast<int>(Code::kDataLoss)) << Log();
  EXPECT_TRUE(LogHas("generation does not hold a number")) << Log();
}

TEST_F(SupervisorTest, SeparateUidsReachTheChildrenAndWhatTheTrainersMayNotReadIsNamed) {
  if (::geteuid() != 0) GTEST_SKIP() << "separate_uids: needs a start as root, errno 1";
  const auto config = ReadTextFile(site_ / "site.toml", 1 << 20);
  ASSERT_TRUE(config);
  Write("site.toml", *config + "separate_uids = [61001, 61002, 61003]\n");
  std::filesystem::create_directory(site_ / "model");
  Write("r.jsonl", "{}\n");
  const auto refused_for = [&](const std::filesystem::path& path) {
    StartSite();
    EXPECT_EQ(WaitForEnd(), static_cast<int>(Code::kPermissionDenied)) << Log();
    EXPECT_TRUE(LogHas("the trainer's uid 61001 may not use " + path.native() + ";")) << Log();
    EXPECT_EQ(Starts("gate"), 0);
  };
  refused_for(root_);  // of mkdtemp: 0700
  std::filesystem::permissions(root_, std::filesystem::perms(0711));
  std::filesystem::permissions(site_ / "r.jsonl", std::filesystem::perms(0600));
  refused_for(site_ / "r.jsonl");
  ASSERT_EQ(::chown((site_ / "r.jsonl").c_str(), 61001, 61001), 0);
  std::ofstream(site_ / "model/weights") << "w";
  std::filesystem::permissions(site_ / "model/weights", std::filesystem::perms(0600));
  refused_for(site_ / "model/weights");
  std::filesystem::permissions(site_ / "model/weights", std::filesystem::perms(0644));
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
  Do("gate", "need_trainer");
  ASSERT_TRUE(TraceGets("trainer", "go")) << Log();
  for (const auto& [name, uid] :
       {std::pair{"trainer", " --uid 61001 "}, std::pair{"gate", " --uid 61002 "},
        std::pair{"link", " --uid 61003 "}}) {
    EXPECT_NE(LastStart(name).find(uid), std::string::npos) << LastStart(name);
  }
}

}  // namespace
}  // namespace tidegate::onshore
