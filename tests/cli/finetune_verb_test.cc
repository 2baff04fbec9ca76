// `tidegate finetune` as a user runs it: what it leaves, and what a signal, a kill, a full disk or
// a second run do to it. The walls of the machine stand.
#include <sched.h>
#include <sys/mount.h>

#include <cmath>

#include "verb_fixture.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class FinetuneVerb : public VerbFixture {
 protected:
  void SetUp() override {
    VerbFixture::SetUp();
    data_ = Records("train.jsonl", 40);
  }

  // Packed rows of 64 tokens, eight rows a step.
  std::vector<std::string> Words(const std::string& out,
                                 const std::vector<std::string>& more = {}) const {
    const std::vector<std::string> words = {"finetune",
                                            "--base",
                                            kTinyBase.native(),
                                            "--data",
                                            data_,
                                            "--out",
                                            At(out),
                                            "--dtype",
                                            "f32",
                                            "--threads",
                                            "1",
                                            "--lora-r",
                                            "4",
                                            "--max-length",
                                            "64",
                                            "--max-steps",
                                            "40",
                                            "--save-steps",
                                            "7",
                                            "--lora-dropout",
                                            "0.1",
                                            "--logging-steps",
                                            "1",
                                            "--learning-rate",
                                            "0.005"};
    return With(words, more);
  }
  RunResult Finetune(const std::string& out, const std::vector<std::string>& more = {},
                     const RunOptions& options = {}) const {
    return Tidegate(Words(out, more), options);
  }
  std::vector<json> Metrics(const std::string& out) const {
    std::vector<json> lines;
    std::istringstream text(Read(root_ / out / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) lines.push_back(Parsed(line));
    return lines;
  }
  // The step lines without what the clock decides.
  std::vector<json> Steps(const std::string& out) const {
    std::vector<json> steps;
    for (json& line : Metrics(out)) {
      if (line["event"] != "step") continue;
      line.erase("tokens_per_second");
      steps.push_back(std::move(line));
    }
    return steps;
  }
  // Where the last start went on.
  size_t ResumedAt(const std::string& out) const {
    size_t step = 0;
    for (const json& line : Metrics(out)) {
      if (line["event"] == "start") step = line["resumed_at"];
    }
    return step;
  }
  // That two runs ended with the same adapter and the same steps.
  void ExpectSameRuns(const std::string& one, const std::string& other) const {
    for (const char* file : {"adapter_model.safetensors", "adapter_config.json"}) {
      EXPECT_TRUE(Read(root_ / one / file) == Read(root_ / other / file)) << file;
    }
    EXPECT_EQ(Steps(one), Steps(other));
  }

  std::string data_;
};

// Sends `signal` when the progress line of a step is there.
RunOptions SignalAtStep(int step, int signal) {
  RunOptions options;
  options.signal_when = [step, signal](const std::string& err) {
    return err.find("step " + std::to_string(step) + "/") != std::string::npos ? signal : 0;
  };
  return options;
}

TEST_F(FinetuneVerb, ADeviceThatIsNoneOrNotHereIsRefusedByName) {
  const RunResult none = Finetune("out", {"--device", "gpu"});
  EXPECT_EQ(none.exit_code, static_cast<int>(Code::kInvalidArgument)) << none.err;
  EXPECT_NE(none.err.find("--device gpu is not known; give cpu or cuda"), std::string::npos)
      << none.err;
  if (fs::exists("/dev/nvidiactl")) return;
  const RunResult absent = Finetune("out", {"--device", "cuda"});
  EXPECT_EQ(absent.exit_code, static_cast<int>(Code::kUnsupported)) << absent.err;
  EXPECT_NE(absent.err.find("--device cuda: "), std::string::npos) << absent.err;
  EXPECT_NE(absent.err.find("use --device cpu"), std::string::npos) << absent.err;
}

TEST_F(FinetuneVerb, WritesAPeftFolderMetricsAndAReport) {
  const std::string held_out = Records("held_out.jsonl", 6);
  const RunResult run = Finetune("out", {"--format", "json", "--eval-data", held_out});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json report = Parsed(run.out);
  EXPECT_EQ(report["output_dir"], At("out"));
  EXPECT_EQ(report["steps"], 40);
  EXPECT_EQ(report["stopped"], false);
  EXPECT_EQ(report["train"]["used"], 40);
  EXPECT_GT(report["tokens_per_second"].get<double>(), 0);
  EXPECT_NE(run.err.find("step 40/40"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("ETA"), std::string::npos) << run.err;

  const json config = Parsed(Read(root_ / "out/adapter_config.json"));
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["base_model_name_or_path"], kTinyBase.native());
  EXPECT_EQ(JsonOf({"adapter", "inspect", At("out"), "--base", kTinyBase.native()})["tensors"], 42);

  const std::vector<json> lines = Metrics("out");
  EXPECT_EQ(lines.front()["event"], "start");
  EXPECT_EQ(lines.back()["event"], "end");
  EXPECT_EQ(Steps("out").size(), 40u);
  int64_t step = 0;
  for (const json& line : lines) {
    if (line["event"] != "step") continue;
    EXPECT_EQ(line["step"], ++step);
    for (const char* key : {"loss", "learning_rate", "grad_norm", "tokens_per_second"}) {
      ASSERT_TRUE(line[key].is_number()) << key << line;
    }
  }
  EXPECT_EQ(Read(root_ / "out/metrics.jsonl").find("storage"), std::string::npos)
      << "metrics hold no word of a record";

  // What the run says of the adapter is what eval finds, and it has learnt.
  const std::vector<std::string> eval = {
      "eval",         "--base", kTinyBase.native(), "--data", held_out, "--dtype", "f32",
      "--max-length", "64",     "--threads",        "1"};
  const double after = JsonOf(With(eval, {"--adapter", At("out")}))["nll"];
  EXPECT_NEAR(after, report["eval_nll"].get<double>(), 1e-6);
  EXPECT_LT(after, 0.7 * JsonOf(eval)["nll"].get<double>());
}

TEST_F(FinetuneVerb, SignalsAndKillsChangeNothingInTheEnd) {
  ASSERT_EQ(Finetune("whole").exit_code, 0);
  for (const int signal : {SIGINT, SIGTERM}) {
    const std::string out = "stopped" + std::to_string(signal);
    const RunResult stopped = Finetune(out, {}, SignalAtStep(3, signal));
    ASSERT_EQ(stopped.exit_code, 11) << stopped.err;
    EXPECT_NE(stopped.err.find("CANCELLED: stopped by a signal after step"), std::string::npos);
    EXPECT_NE(stopped.err.find("--resume"), std::string::npos) << stopped.err;
    EXPECT_FALSE(fs::exists(root_ / out / "adapter_model.safetensors"));
    const size_t done = Steps(out).size();
    EXPECT_LT(done, 40u);
    const RunResult resumed = Finetune(out, {"--resume"});
    ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
    EXPECT_EQ(ResumedAt(out), done) << "a signal loses no step";
    ExpectSameRuns("whole", out);
  }
  for (const bool child : {false, true}) {
    const std::string out = child ? "killed_child" : "killed";
    RunOptions options = SignalAtStep(18, SIGKILL);
    options.signal_child = child;
    const RunResult killed = Finetune(out, {}, options);
    ASSERT_EQ(killed.exit_code, child ? 5 : 128 + SIGKILL) << killed.err;
    EXPECT_EQ(killed.err.find("--resume goes on from the last saved step") != std::string::npos,
              child)
        << killed.err;
    EXPECT_FALSE(fs::exists(root_ / out / "adapter_model.safetensors"));
    const RunResult resumed = Finetune(out, {"--resume"});
    ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
    EXPECT_EQ(ResumedAt(out) % 7, 0u) << "of a state that --save-steps wrote";
    EXPECT_GE(ResumedAt(out), 14u);
    ExpectSameRuns("whole", out);
  }
}

TEST_F(FinetuneVerb, TheNumberOfThreadsDoesNotChangeTheAdapter) {
  const std::vector<std::string> few = {
      "--max-steps", "2", "--warmup-ratio", "0", "--gradient-accumulation-steps", "2"};
  ASSERT_EQ(Finetune("one", few).exit_code, 0);
  ASSERT_EQ(Finetune("two", With(few, {"--threads", "2"})).exit_code, 0);
  ExpectSameRuns("one", "two");
}

TEST_F(FinetuneVerb, AFolderWithARunIsGoneOnWithOrLeftAlone) {
  const std::vector<std::string> few = {"--max-steps", "2"};
  ASSERT_EQ(Finetune("out", few).exit_code, 0);
  const auto before = Snapshot(root_ / "out");
  const RunResult again = Finetune("out", few);
  EXPECT_EQ(again.exit_code, 3);
  EXPECT_NE(again.err.find(At("out") + " holds a training state of step 2; give --resume"),
            std::string::npos)
      << again.err;
  const std::string other_data = Records("other.jsonl", 39);
  const struct {
    std::vector<std::string> change;
    const char* told;
  } cases[] = {
      {{"--learning-rate", "0.001"}, "learning_rate was 0.005 and is 0.001"},
      {{"--lora-r", "8"}, "lora_r was 4 and is 8"},
      {{"--seed", "7"}, "seed was 42 and is 7"},
      {{"--max-length", "60"}, "max_length was 64 and is 60"},
      {{"--packing", "false"}, "packing was true and is false"},
      {{"--per-device-train-batch-size", "2"}, "per_device_train_batch_size was 1 and is 2"},
      {{"--assistant-only-loss", "false"}, "assistant_only_loss was true and is false"},
      {{"--max-steps", "3"}, "total steps was 2 and is 3"},
      {{"--data", other_data}, "data plan was "},
      {{"--base", kUntiedBase.native()}, "base was "},
  };
  for (const auto& c : cases) {
    const RunResult refused = Finetune("out", With(With(few, {"--resume"}), c.change));
    EXPECT_EQ(refused.exit_code, 4) << c.told;
    EXPECT_NE(refused.err.find(c.told), std::string::npos) << refused.err;
    EXPECT_NE(refused.err.find("belongs to another run"), std::string::npos) << refused.err;
  }
  EXPECT_TRUE(Snapshot(root_ / "out") == before) << "a refusal leaves every byte as it was";
  const RunResult resumed = Finetune("out", {"--max-steps", "2", "--resume"});
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_NE(resumed.out.find("2 of 2, none was left to do"), std::string::npos) << resumed.out;
  EXPECT_EQ(Read(root_ / "out/adapter_model.safetensors"),
            before.at(At("out/adapter_model.safetensors")));
}

TEST_F(FinetuneVerb, TwoRunsAtOnceDoNotShareAFolder) {
  ASSERT_EQ(Finetune("whole").exit_code, 0);
  RunResult second;
  RunOptions while_it_runs;
  while_it_runs.signal_when = [&](const std::string& err) {
    if (second.exit_code < 0 && err.find("step 2/") != std::string::npos) {
      second = Finetune("out", {"--resume"});
    }
    return 0;
  };
  ASSERT_EQ(Finetune("out", {}, while_it_runs).exit_code, 0);
  EXPECT_EQ(second.exit_code, 4);
  EXPECT_NE(second.err.find("another run is writing to " + At("out")), std::string::npos)
      << second.err;
  ExpectSameRuns("whole", "out");
}

TEST_F(FinetuneVerb, ALossThatIsNotFiniteEndsTheRunWithTheStateBeforeIt) {
  const RunResult run =
      Finetune("out", {"--learning-rate", "100", "--max-grad-norm", "0", "--warmup-ratio", "0"});
  EXPECT_EQ(run.exit_code, 4);
  EXPECT_NE(run.err.find("not finite"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("lower the learning rate (now "), std::string::npos) << run.err;
  EXPECT_FALSE(fs::exists(root_ / "out/adapter_model.safetensors"));
  const std::vector<json> steps = Steps("out");
  ASSERT_GE(steps.size(), 1u);
  ASSERT_LT(steps.size(), 40u);
  for (const json& step : steps) EXPECT_TRUE(step["loss"].is_number()) << step;
  char name[32];
  std::snprintf(name, sizeof(name), "step-%08zu.tgstate", steps.size());
  EXPECT_TRUE(fs::exists(root_ / "out/state" / name)) << name;
}

// Under a limit of 40 kB metrics fit, states and adapters do not.
TEST_F(FinetuneVerb, AFullDiskKeepsTheLastStateAndSaysWhatToDo) {
  ASSERT_EQ(Finetune("whole").exit_code, 0);
  ASSERT_EQ(Finetune("out", {}, SignalAtStep(2, SIGTERM)).exit_code, 11);
  const auto state = Snapshot(root_ / "out/state");
  RunOptions full;
  full.max_file_bytes = 40'000;
  const RunResult no_state = Finetune("out", {"--resume"}, full);
  EXPECT_EQ(no_state.exit_code, 5);
  for (const char* part :
       {".tgstate", "File too large", "of 40 is saved in", "free space", "--resume"}) {
    EXPECT_NE(no_state.err.find(part), std::string::npos) << part << ": " << no_state.err;
  }
  EXPECT_TRUE(Snapshot(root_ / "out/state") == state) << "no state is lost, none is half";
  ASSERT_EQ(Finetune("out", {"--resume"}).exit_code, 0);
  ExpectSameRuns("whole", "out");

  fs::remove(root_ / "out/adapter_model.safetensors");
  const RunResult no_adapter = Finetune("out", {"--resume"}, full);
  EXPECT_EQ(no_adapter.exit_code, 5);
  EXPECT_NE(no_adapter.err.find("adapter_model.safetensors"), std::string::npos) << no_adapter.err;
  EXPECT_NE(no_adapter.err.find("step 40 of 40 is saved"), std::string::npos) << no_adapter.err;
  EXPECT_EQ(Finetune("out", {"--resume"}).exit_code, 0);
  ExpectSameRuns("whole", "out");
}

TEST_F(FinetuneVerb, AFileSystemWithoutSpaceIsToldByItsName) {
  const fs::path out = root_ / "small";
  fs::create_directory(out);
  RunOptions options;
  options.before_exec = [&out] {
    return ::unshare(CLONE_NEWNS) == 0 &&
           ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           ::mount("none", out.c_str(), "tmpfs", 0, "size=48k") == 0;
  };
  const RunResult run = Finetune("small", {"--max-steps", "2"}, options);
  if (run.exit_code == 126) GTEST_SKIP() << "this user cannot mount a small tmpfs";
  EXPECT_EQ(run.exit_code, 5);
  EXPECT_NE(run.err.find("No space left on device"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("free space"), std::string::npos) << run.err;
}

TEST_F(FinetuneVerb, AReportThatIsLostIsNoSuccess) {
  RunOptions options;
  options.out_path = "/dev/full";
  const RunResult run = Finetune("out", {"--max-steps", "1"}, options);
  EXPECT_EQ(run.exit_code, 9);
  EXPECT_NE(run.err.find("cannot write to standard output"), std::string::npos) << run.err;
  EXPECT_TRUE(fs::exists(root_ / "out/adapter_model.safetensors")) << "the work itself is done";
}

}  // namespace
}  // namespace tidegate::cli
