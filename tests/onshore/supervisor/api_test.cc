// What a client of the local API asks for and gets.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "base/file.h"
#include "tests/onshore/supervisor/api_fixture.h"

namespace tidegate::onshore {
namespace {

using api::ApiClient;

TEST_F(ApiTest, SaysWhoItIsAndHowTheSiteIs) {
  StartReady();
  ApiClient client = Connect();
  EXPECT_EQ(client.server().site, "lab-1");
  EXPECT_EQ(client.server().uid, ::geteuid());
  api::StatusReply status = Status(client);
  EXPECT_EQ(status.processes[0].pid, static_cast<uint32_t>(LastPid("gate")));
  EXPECT_EQ(status.processes[1].generation, 2u);
  EXPECT_EQ(status.processes[0].walls, 5u);
  EXPECT_EQ(status.processes[2].state, static_cast<uint32_t>(api::ProcessState::kAbsent));
  EXPECT_EQ(status.connected, 0u);
  EXPECT_EQ(status.round, api::kNoNumber);
  EXPECT_EQ(status.train_loss_milli, -1);

  StartTraining();
  Do("link", "event 8 0 0 0 0");
  Do("gate", "gate_state");
  Do("trainer", "event 10 4 5 1234 0");
  Do("trainer", "event 11 3 900 800 1");
  ASSERT_TRUE(LogGets("adapter_evaluated")) << Log();
  ASSERT_TRUE(LogGets("coordinator_connected")) << Log();
  ASSERT_TRUE(Eventually([&] { return Status(client).round == 4; }));
  status = Status(client);
  EXPECT_EQ(api::TextOf(status.job_name), "summer");
  EXPECT_EQ(status.job[0], 'J');
  EXPECT_EQ(status.job_rounds, 9u);
  EXPECT_EQ(status.adapter_version, 3u);
  EXPECT_EQ(status.spool_bytes, 777u);
  EXPECT_EQ(status.open_exports, 2u);
  EXPECT_EQ(status.held_round, api::kNoNumber);
  EXPECT_EQ(status.train_loss_milli, 1234);
  EXPECT_EQ(status.heldout_loss_milli, 800);
  EXPECT_EQ(status.connected, 1u);
  EXPECT_EQ(status.processes[2].state, static_cast<uint32_t>(api::ProcessState::kRunning));
}

TEST_F(ApiTest, AWatchGoesOnFromTheEventThatTheClientKnows) {
  StartReady();
  uint64_t known = 0, epoch = 0;
  {
    ApiClient client = Connect();
    const auto from = client.Watch({});
    ASSERT_TRUE(from) << from.error().ToString();
    epoch = from->epoch;
    EXPECT_EQ(from->oldest, 1u);
    EXPECT_EQ(NextEvent(client, EventCode::kProcessStarted).sequence, 1u) << "what was before";
    Do("gate", "event 1 7 0 0 0");
    const auto event = NextEvent(client, EventCode::kJobAccepted);
    EXPECT_EQ(event.arguments[0], 7);
    EXPECT_EQ(event.source, static_cast<uint32_t>(Source::kGate));
    EXPECT_EQ(client.Watch({}).error().code(), Code::kAlreadyExists);
    known = event.sequence;
  }
  Do("gate", "event 2 0 0 0 0");
  // A child does not speak for the supervisor.
  Do("gate", "event 103 2 0 0 0");
  Do("gate", "event 5 3 0 0 0");
  ASSERT_TRUE(LogGets("update_refused")) << Log();
  ApiClient again = Connect();
  ASSERT_TRUE(again.Watch({epoch, known}));
  for (const EventCode code : {EventCode::kJobRefused, EventCode::kUpdateRefused}) {
    const auto told = again.Next(20'000);
    ASSERT_TRUE(told) << told.error().ToString();
    const auto& event = std::get<api::EventMessage>(*told);
    EXPECT_EQ(event.sequence, ++known);
    EXPECT_EQ(event.lost, 0u);
    EXPECT_EQ(event.code, static_cast<uint32_t>(code));
  }
  ApiClient late = Connect();
  ASSERT_TRUE(late.Watch({0, UINT64_MAX}));
  Do("gate", "event 1 8 0 0 0");
  const auto told = late.Next(20'000);
  ASSERT_TRUE(told) << told.error().ToString();
  EXPECT_EQ(std::get<api::EventMessage>(*told).arguments[0], 8) << "those to come alone";
}

TEST_F(ApiTest, APausedTrainerEndsInGoodOrderAndComesBackWhenItIsResumedAlsoAfterARestart) {
  StartReady();
  StartTraining();
  {
    ApiClient client = Connect();
    ASSERT_TRUE(client.Pause().ok());
    ASSERT_TRUE(TraceGets("trainer", "stop")) << Log();
    ASSERT_TRUE(TraceGets("gate", "trainer gone")) << "its queue for the trainer is not kept";
    Do("gate", "need_trainer");
    Do("gate", "event 1 1 0 0 0");
    ASSERT_TRUE(LogGets("job_accepted")) << Log();
    const api::StatusReply status = Status(client);
    EXPECT_EQ(status.holds, 1u << static_cast<uint32_t>(Hold::kPaused));
    EXPECT_EQ(status.processes[2].state, static_cast<uint32_t>(api::ProcessState::kAbsent));
    ASSERT_TRUE(client.Pause().ok()) << "twice is once";
  }
  supervisor_.Signal(SIGTERM);
  ASSERT_EQ(WaitForEnd(), 0) << Log();
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go", 2)) << Log();
  Do("gate", "need_trainer");
  Do("gate", "event 1 2 0 0 0");
  ASSERT_TRUE(LogGets("job_accepted rounds=2")) << Log();
  EXPECT_EQ(Starts("trainer"), 1) << "still paused";
  ApiClient client = Connect();
  ASSERT_TRUE(client.Resume().ok());
  EXPECT_TRUE(TraceGets("trainer", "go", 2)) << Log();
  EXPECT_EQ(Status(client).holds, 0u);
}

TEST_F(ApiTest, AStoppedJobStaysStoppedAndTheNextOneIsTrained) {
  StartReady();
  ApiClient client = Connect();
  EXPECT_EQ(client.StopJob().code(), Code::kFailedPrecondition) << "there is none";
  StartTraining();
  ASSERT_TRUE(client.StopJob().ok());
  ASSERT_TRUE(TraceGets("trainer", "stop")) << Log();
  ASSERT_TRUE(LogGets("process_ended name=trainer how=clean")) << Log();
  Do("gate", "job_is J summer");
  Do("gate", "need_trainer");
  Do("gate", "event 1 1 0 0 0");
  ASSERT_TRUE(LogGets("job_accepted")) << Log();
  EXPECT_EQ(Starts("trainer"), 1);
  Do("gate", "job_is K winter");
  EXPECT_TRUE(TraceGets("trainer", "go", 2)) << Log();
  EXPECT_EQ(api::TextOf(Status(client).job_name), "winter");
}

TEST_F(ApiTest, ATrainerGetsTheDatasetThatWasSetByPathOrByDescriptor) {
  StartReady();
  StartTraining();
  ApiClient client = Connect();
  auto list = client.Datasets();
  ASSERT_TRUE(list) << list.error().ToString();
  EXPECT_EQ(api::TextOf(list->datasets[0].path), (site_ / "r.jsonl").native());
  EXPECT_EQ(api::TextOf(list->datasets[1].path), "");
  ASSERT_TRUE(client.SetDataset(DatasetKind::kRecords, "/srv/other.jsonl").ok());
  ASSERT_TRUE(TraceGets("trainer", "go", 2)) << Log();
  EXPECT_EQ(Traced("trainer", "stop"), 1) << "the one before ended in good order";
  EXPECT_NE(LastStart("trainer").find(" --records /srv/other.jsonl "), std::string::npos)
      << LastStart("trainer");

  const Fd file = FileWith("given.jsonl", "{}\n", O_RDONLY);
  const auto set = client.SetDataset(DatasetKind::kHeldout, file.get());
  ASSERT_TRUE(set.ok()) << set.ToString();
  ASSERT_TRUE(TraceGets("trainer", "go", 3)) << Log();
  EXPECT_NE(LastStart("trainer").find(" --records /srv/other.jsonl --heldout /dev/fd/5 "),
            std::string::npos)
      << LastStart("trainer");
  list = client.Datasets();
  ASSERT_TRUE(list) << list.error().ToString();
  EXPECT_EQ(list->datasets[1].bytes, 3u);
  EXPECT_EQ(list->datasets[1].source, static_cast<uint32_t>(DatasetSource::kDescriptor));

  // A descriptor is gone with the supervisor: nothing else is trained on in its place.
  supervisor_.Signal(SIGTERM);
  ASSERT_EQ(WaitForEnd(), 0) << Log();
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go", 2)) << Log();
  Do("gate", "need_trainer");
  ApiClient again = Connect();
  ASSERT_TRUE(Eventually([&] {
    return Status(again).holds == 1u << static_cast<uint32_t>(Hold::kDatasetGone);
  })) << Log();
  EXPECT_EQ(Starts("trainer"), 3);
  ASSERT_TRUE(again.ResetDataset(DatasetKind::kHeldout).ok());
  ASSERT_TRUE(TraceGets("trainer", "go", 4)) << Log();
  EXPECT_EQ(LastStart("trainer").find("--heldout"), std::string::npos);
  EXPECT_NE(LastStart("trainer").find("--records /srv/other.jsonl"), std::string::npos);
}

TEST_F(ApiTest, ADatasetThatTheTrainerCannotUseIsHeldAgainstItAndNotAgainstTheSite) {
  StartReady();
  ApiClient client = Connect();
  ASSERT_TRUE(client.Watch({0, UINT64_MAX}));
  Write("mode-trainer", "exit 2");
  ASSERT_TRUE(client.SetDataset(DatasetKind::kRecords, "/srv/missing.jsonl").ok());
  Do("gate", "need_trainer");
  EXPECT_EQ(NextEvent(client, EventCode::kHeld).arguments[0],
            static_cast<int64_t>(Hold::kDatasetRefused));
  EXPECT_EQ(Starts("trainer"), 3);
  Write("mode-trainer", "");
  ASSERT_TRUE(client.ResetDataset(DatasetKind::kRecords).ok());
  EXPECT_TRUE(TraceGets("trainer", "go")) << Log();
}

TEST_F(ApiTest, ALocalJobHasTheClientsDescriptorsAndItsEndIsTold) {
  StartReady();
  Write("mode-trainer", "local exit 3");
  ApiClient client = Connect();
  const Fd flags = FileWith("flags.toml", "base = \"b\"\n", O_RDONLY);
  const Fd data = FileWith("data.jsonl", "{\"text\": \"a record\"}\n", O_RDONLY);
  PipeEnds out = MakePipe(), err = MakePipe();
  const auto job = client.RunLocal({.verb = LocalVerb::kFinetune,
                                    .json = true,
                                    .flags = flags.get(),
                                    .output = out.write.get(),
                                    .errors = err.write.get(),
                                    .data = data.get()});
  ASSERT_TRUE(job) << job.error().ToString();
  out.write.reset();
  err.write.reset();
  EXPECT_EQ(ReadAll(out.read), "3: base = \"b\"\n\n4: {\"text\": \"a record\"}\n\n");
  EXPECT_EQ(ReadAll(err.read), "words\n");
  const auto told = client.Next(20'000);
  ASSERT_TRUE(told) << told.error().ToString();
  const auto& ended = std::get<api::LocalEnded>(*told);
  EXPECT_EQ(ended.job, job->job);
  EXPECT_EQ(ended.exit_status, 3);
  EXPECT_EQ(LastStart("trainer"), "start finetune --flags_fd 3 --site " + site_.native() +
                                      " --walls netns seccomp landlock_fs pinned_address"
                                      " --format json --device cpu --data /dev/fd/4");
  EXPECT_TRUE(LogHas("local_job_started job=1 verb=finetune")) << Log();
  EXPECT_TRUE(LogHas("local_job_ended job=1 how=crash signal=0 status=3")) << Log();
  EXPECT_FALSE(LogHas("a record")) << Log();
}

class LocalJob : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    StartReady();
    flags_ = FileWith("flags.toml", "", O_RDONLY);
  }
  Result<api::RunLocalReply> Run(ApiClient& client, int input = -1) {
    auto reply = client.RunLocal({.verb = LocalVerb::kGenerate,
                                  .flags = flags_.get(),
                                  .output = out_.write.get(),
                                  .errors = out_.write.get(),
                                  .input = input});
    if (reply) {
      EXPECT_TRUE(Eventually([&] { return Traces() > 0; }));
    }
    return reply;
  }
  int Traces() const { return Starts("trainer"); }

  Fd flags_;
  PipeEnds out_ = MakePipe();
};

TEST_F(LocalJob, IsStoppedByItsClient) {
  ApiClient client = Connect();
  const auto job = Run(client);
  ASSERT_TRUE(job) << job.error().ToString();
  EXPECT_EQ(Run(client).error().code(), Code::kAlreadyExists) << "one a connection";
  EXPECT_EQ(client.StopLocal(job->job + 1).code(), Code::kNotFound);
  const auto status = Status(client);
  EXPECT_EQ(status.locals[0].job, job->job);
  EXPECT_EQ(status.locals[0].verb, static_cast<uint32_t>(LocalVerb::kGenerate));
  // It may still be on its way to its handler: killed by the signal then.
  ASSERT_TRUE(client.StopLocal(job->job).ok());
  const auto told = client.Next(20'000);
  ASSERT_TRUE(told) << told.error().ToString();
  EXPECT_NE(std::get<api::LocalEnded>(*told).how, 0u);
  EXPECT_EQ(Status(client).locals[0].job, 0u);
  // The connection may run another one: to the end of its input.
  PipeEnds in = MakePipe();
  ASSERT_TRUE(Run(client, in.read.get()));
  in.write.reset();
  const auto ended = client.Next(20'000);
  ASSERT_TRUE(ended) << ended.error().ToString();
  EXPECT_EQ(std::get<api::LocalEnded>(*ended).how, 0u);
}

TEST_F(LocalJob, EndsWithItsClientAlsoOneThatIsDeaf) {
  Write("mode-trainer", "local deaf");
  std::optional<ApiClient> client = Connect();
  const auto job = Run(*client);
  ASSERT_TRUE(job) << job.error().ToString();
  const auto pid = static_cast<pid_t>(job->pid);
  ASSERT_TRUE(Alive(pid));
  // Its handler is in place when it has spoken.
  char byte = 0;
  ASSERT_EQ(::read(out_.read.get(), &byte, 1), 1);
  client.reset();
  EXPECT_TRUE(Eventually([&] { return !Alive(pid); })) << Log();
  EXPECT_TRUE(LogGets("local_job_ended job=1 how=killed signal=9")) << Log();
}

TEST_F(LocalJob, EndsWithTheSite) {
  ApiClient client = Connect();
  const auto job = Run(client);
  ASSERT_TRUE(job) << job.error().ToString();
  ASSERT_TRUE(client.Shutdown().ok());
  EXPECT_EQ(WaitForEnd(), 0) << Log();
  EXPECT_FALSE(Alive(static_cast<pid_t>(job->pid)));
  EXPECT_TRUE(LogHas("stopping signal=0")) << Log();
  EXPECT_FALSE(std::filesystem::exists(socket())) << "the socket goes with the supervisor";
  EXPECT_EQ(ApiClient::Connect(socket()).error().code(), Code::kUnavailable);
}

// The words of one that did not get through are not those of the next one.
TEST_F(ApiTest, ADecisionWithoutAReasonBeginsWithAnEmptyOne) {
  StartReady();
  ApiClient client = Connect();
  api::DecideRequest request;
  request.decision = 1;
  ASSERT_TRUE(client.Decide(request).ok());
  ASSERT_TRUE(TraceGets("gate", "decision 1"));
  EXPECT_TRUE(TraceGets("gate", "reason 0 ''"));
  const std::string words = "the norm is ten times the last round's";
  words.copy(request.reason.data(), words.size());
  request.decision = 2;
  ASSERT_TRUE(client.Decide(request).ok());
  ASSERT_TRUE(TraceGets("gate", "decision 2"));
  EXPECT_TRUE(TraceGets("gate", "reason 0 '" + words.substr(0, 32) + "'"));
  EXPECT_TRUE(TraceGets("gate", "reason 1 '" + words.substr(32) + "'"));
}

TEST_F(ApiTest, ALostCoordinatorFreesTheTrainerAndAConnectionBringsItBack) {
  Write("site.toml", *ReadTextFile(site_ / "site.toml", 4096) + "free_trainer_seconds = 1\n");
  StartReady();
  Do("link", "event 8 0 0 0 0");
  ASSERT_TRUE(LogGets("coordinator_connected")) << Log();
  StartTraining();
  Do("link", "event 9 0 0 0 0");
  ASSERT_TRUE(LogGets("process_ended name=trainer how=clean")) << Log();
  EXPECT_TRUE(LogHas("training_held why=coordinator_lost")) << Log();
  Do("link", "event 8 0 0 0 0");
  ASSERT_TRUE(TraceGets("trainer", "go", 2)) << Log();
  // It answers nothing, though it is connected; then it does.
  Do("link", "event 16 30 0 0 0");
  ASSERT_TRUE(Eventually([&] { return Traced("trainer", "stop") == 2; })) << Log();
  Do("link", "event 17 0 0 0 0");
  ASSERT_TRUE(TraceGets("trainer", "go", 3)) << Log();
  // A link that dies says nothing, and neither does its next one until it is through.
  ASSERT_EQ(::kill(LastPid("link"), SIGKILL), 0);
  ASSERT_TRUE(Eventually([&] { return Traced("trainer", "stop") == 3; })) << Log();
  EXPECT_TRUE(Alive(supervisor_.pid()));
}

}  // namespace
}  // namespace tidegate::onshore
