// What the trainer of a site does with its gate's messages, killed and stopped in between.
#include "trainer_process.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;

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

// A coordinator's doing: were it the trainer's end, three of them would be the site's.
TEST_F(TrainerProcess, AJobThatIsNotOneOfTheSitesBaseIsToldAndEndsNothing) {
  using Job = protocols::JobManifest;
  const struct {
    const char* what;
    void (*spoil)(Job&);
  } cases[] = {
      {"another base", [](Job& job) { job.base_hash[5] ^= 1; }},
      {"another shape", [](Job& job) { ++job.layout.tensors.items[0].cols; }},
      {"another rank than its layout's", [](Job& job) { ++job.lora_r; }},
      {"a module of which the layout knows nothing", [](Job& job) { job.lora_targets = 3; }},
      {"no module", [](Job& job) { job.lora_targets = 0; }},
      {"rows so short that no record is left", [](Job& job) { job.max_length = 2; }},
      {"rows longer than the base's", [](Job& job) { job.max_length = 1 << 19; }},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.what);
    ASSERT_NO_FATAL_FAILURE(StartOrSkip());
    if (IsSkipped()) return;
    Job job = SampleJob();
    c.spoil(job);
    OpenRound(job);
    const auto told = Next(IpcType::kNoUpdate);
    ASSERT_TRUE(told.has_value()) << Log();
    const auto none = *protocols::Decode<onshore::NoUpdate>(told->body);
    EXPECT_EQ(none.job, IdOf(job));
    EXPECT_EQ(none.round, onshore::kWholeJob);
    ASSERT_TRUE(gate_->Send(IpcType::kStop, onshore::Stop{IdOf(job), 0}).ok());
    EXPECT_EQ(End().end, onshore::End::kClean) << Log();
  }
}

TEST_F(TrainerProcess, RecordsThatNoJobCouldUseEndItWithAReason) {
  ASSERT_TRUE(WriteFileDurably(site_.options().records, AsBytes(std::string("x\n"))).ok());
  ASSERT_NO_FATAL_FAILURE(StartOrSkip());
  if (IsSkipped()) return;
  OpenRound(SampleJob());
  EXPECT_FALSE(Next(IpcType::kNoUpdate).has_value()) << "the job is not at fault";
  EXPECT_EQ(End().exit_status, static_cast<int>(Code::kInvalidArgument));
  EXPECT_NE(Log().find("records.jsonl"), std::string::npos);
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
