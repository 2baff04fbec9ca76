// tidegate-pretrain as its users start it: alone, under mpirun, and started again when a rank is
// killed.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "base/file.h"
#include "base/json.h"
#include "base/subprocess.h"
#include "cluster/mpi_group.h"
#include "ranks.h"
#include "tokens/sharded_tokens.h"

namespace tidegate::pretrain {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kMostMillis = 60'000;

class Processes : public testing::Test {
 protected:
  Processes() {
    std::string name = (fs::temp_directory_path() / "tg_pretrain_XXXXXX").native();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    dir_ = name;
    model::ModelConfig config = TinyConfig();
    config.num_layers = 1;
    std::ofstream(dir_ / "config.json") << ToHfJson(config);
    WriteTokens();
  }
  ~Processes() override { fs::remove_all(dir_); }

  void WriteTokens() const {
    fs::create_directories(dir_ / "tokens");
    tokens::TokenIndex index;
    index.kind = {.vocab_size = 300, .tokenizer = 1};
    Walks walks(2000);
    for (int i = 0; i < 2; ++i) {
      std::vector<int32_t> ids(2001);
      ASSERT_TRUE(walks.Read(static_cast<uint64_t>(i), ids).ok());
      const std::string file = fmt::format("shard-{}.tokens", i);
      auto writer = Must(tokens::ShardWriter::Create(dir_ / "tokens" / file, index.kind));
      ASSERT_TRUE(writer.Append(ids).ok());
      writer.EndDocument();
      index.shards.push_back({file, Must(writer.Finish())});
      ++index.documents;
    }
    ASSERT_TRUE(tokens::WriteTokenIndex(dir_ / "tokens", index).ok());
  }

  std::vector<std::string> Command(const std::string& out,
                                   const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words = {std::string(TIDEGATE_BIN_DIR) + "/tidegate-pretrain",
                                      "--model_config=" + (dir_ / "config.json").native(),
                                      "--data=" + (dir_ / "tokens").native(),
                                      "--eval-data=" + (dir_ / "tokens").native(),
                                      "--output_dir=" + (dir_ / out).native(),
                                      "--dtype=f32",
                                      "--threads=1",
                                      "--max_length=16",
                                      "--per_device_train_batch_size=1",
                                      "--global_batch_size=4",
                                      "--max_steps=30",
                                      "--learning_rate=1e-2",
                                      "--save_steps=3",
                                      "--eval_sequences=4",
                                      "--save_dtype=f32",
                                      "--deadline=20"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static CommandResult Run(const std::vector<std::string>& command) {
    return Must(RunCommand(command, kMostMillis));
  }
  Bytes Weights(const std::string& out) const {
    return Must(ReadFile(dir_ / out / "base/model.safetensors", 1 << 28));
  }
  // The steps of metrics.jsonl that say so, in order.
  std::vector<int64_t> StepsOf(const std::string& out) const {
    std::ifstream file(dir_ / out / "metrics.jsonl");
    std::vector<int64_t> steps;
    for (std::string line; std::getline(file, line);) {
      const json entry = json::parse(line);
      if (entry.at("event") == "step") steps.push_back(entry.at("step").get<int64_t>());
    }
    return steps;
  }

  fs::path dir_;
};

TEST_F(Processes, OneRankTrainsAndSaysWhatCameOut) {
  const CommandResult result = Run(Command("out", {"--format=json"}));
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const json report = json::parse(result.output);
  EXPECT_EQ(report.at("steps"), 30);
  EXPECT_LT(report.at("held_out_nll").get<double>(), 5.5);
  EXPECT_TRUE(fs::exists(dir_ / "out/base/config.json"));
  EXPECT_NE(result.errors.find("30/30"), std::string::npos) << result.errors;
}

TEST_F(Processes, WhatIsWrongIsNamedWithItsExitCode) {
  EXPECT_EQ(Run({Command("out")[0], "--help"}).exit_code, 0);
  EXPECT_EQ(Run({Command("out")[0]}).exit_code, 64);
  const auto expect = [&](const std::vector<std::string>& more, int code, const char* what) {
    const CommandResult result = Run(Command("out", more));
    EXPECT_EQ(result.exit_code, code) << result.errors;
    EXPECT_NE(result.errors.find(what), std::string::npos) << result.errors;
  };
  expect({"--data=" + (dir_ / "nothing").native()}, 2, "nothing");
  expect({"--max_length=64000"}, 1, "64000");
  expect({"--per_device_train_batch_size=3"}, 1, "global_batch_size 4");
  expect({"--reduction=quick"}, 1, "quick");
  expect({"--device=tpu"}, 1, "tpu");
  expect({"--learning_rate=0.1", "--lr_scheduler_type=steep"}, 1, "warmup_stable_decay");
}

TEST_F(Processes, ASignalEndsItWithItsStateSaved) {
  auto child = Must(ChildProcess::Start(Command("out", {"--max_steps=100000"}), dir_ / "log"));
  for (int i = 0; i < kMostMillis / 10 && StepsOf("out").size() < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  child.Signal(SIGTERM);
  EXPECT_EQ(child.Wait(kMostMillis).value_or(-1), 11);
  const auto steps = StepsOf("out");
  ASSERT_FALSE(steps.empty());
  EXPECT_TRUE(fs::exists(dir_ / "out/checkpoints" / fmt::format("step-{:08}", steps.back()) /
                         "index.json"));
}

class UnderMpi : public Processes {
 protected:
  void SetUp() override {
    if (!cluster::HasMpi()) GTEST_SKIP() << "this build has no MPI (libopenmpi-dev)";
    // Open MPI leaves memory behind at its end.
    ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
  }
  // Process ids of the ranks of the latest start, from its log.
  std::map<int, pid_t> Ranks() const {
    std::ifstream log(dir_ / "log");
    std::map<int, pid_t> pids;
    for (std::string line; std::getline(log, line);) {
      int rank = 0, of = 0, pid = 0;
      const size_t at = line.find("rank_started rank=");
      if (at == std::string::npos) continue;
      if (std::sscanf(line.c_str() + at, "rank_started rank=%d of=%d pid=%d", &rank, &of, &pid) ==
          3) {
        pids[rank] = pid;
      }
    }
    return pids;
  }
};

TEST_F(UnderMpi, RanksChangeNoBit) {
  ASSERT_EQ(Run(Command("one")).exit_code, 0);
  for (const int ranks : {2, 4}) {
    const std::string out = fmt::format("{}", ranks);
    const CommandResult result = Run(Command(out, {fmt::format("--nproc={}", ranks)}));
    ASSERT_EQ(result.exit_code, 0) << result.errors;
    EXPECT_EQ(Weights(out), Weights("one"));
  }
}

// Rank 0 and another one are killed as soon as a file of a checkpoint has come: between two steps,
// as parts are written, as the index is, at the end. The launcher starts the ranks again each time.
TEST_F(UnderMpi, KilledRanksLoseNoStep) {
  ASSERT_EQ(Run(Command("whole")).exit_code, 0);
  auto child = Must(ChildProcess::Start(Command("parts", {"--nproc=2"}), dir_ / "log"));
  // What must have come before each kill.
  const std::vector<std::pair<std::string, int>> kills = {
      {"metrics.jsonl", 0},
      {"checkpoints/step-00000003", 1},
      {"checkpoints/step-00000006/part-0001.json", 0},
      {"checkpoints/step-00000012/part-0000.json", 1},
      {"checkpoints/step-00000018/index.json", 0},
      {"checkpoints/step-00000027/index.json", 1}};
  int killed = 0;
  std::map<int, pid_t> last;
  for (const auto& [file, rank] : kills) {
    for (int i = 0; i < kMostMillis / 2; ++i) {
      const auto ranks = Ranks();
      const bool fresh = ranks.size() == 2 && (last.empty() || ranks.at(rank) != last[rank]);
      if (fresh && fs::exists(dir_ / "parts" / file)) break;
      if (child.Wait(0)) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    last = Ranks();
    if (child.Wait(0) || last.size() != 2) break;
    if (::kill(last[rank], SIGKILL) == 0) ++killed;
  }
  EXPECT_EQ(child.Wait(kMostMillis).value_or(-1), 0) << Must(ReadTextFile(dir_ / "log", 1 << 20));
  EXPECT_GE(killed, 4);
  EXPECT_EQ(Weights("parts"), Weights("whole"));
  const auto steps = StepsOf("parts");
  ASSERT_EQ(steps.size(), 30u);  // each once
  for (size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(steps[i], static_cast<int64_t>(i) + 1);
}

TEST_F(UnderMpi, ASignalToTheLauncherEndsAllRanksWithTheirStateSaved) {
  auto child =
      Must(ChildProcess::Start(Command("out", {"--nproc=2", "--max_steps=100000"}), dir_ / "log"));
  for (int i = 0; i < kMostMillis / 10 && StepsOf("out").size() < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  child.Signal(SIGTERM);
  EXPECT_EQ(child.Wait(kMostMillis).value_or(-1), 11);
  const auto steps = StepsOf("out");
  ASSERT_FALSE(steps.empty());
  EXPECT_TRUE(fs::exists(dir_ / "out/checkpoints" / fmt::format("step-{:08}", steps.back()) /
                         "index.json"));
  EXPECT_EQ(Must(ReadTextFile(dir_ / "log", 1 << 20)).find("starting_again"), std::string::npos);
}

TEST_F(UnderMpi, AnErrorOfOneRankEndsTheJobOnce) {
  std::ofstream(dir_ / "tokens/shard-1.tokens") << "damaged";
  const CommandResult result = Run(Command("out", {"--nproc=2"}));
  EXPECT_EQ(result.exit_code, 1) << result.errors;
  EXPECT_NE(result.errors.find("shard-1.tokens"), std::string::npos) << result.errors;
  EXPECT_EQ(result.errors.find("starting_again"), std::string::npos) << result.errors;
}

TEST_F(UnderMpi, ARankAloneOnAGpuThatIsNotThereIsTold) {
  const CommandResult result =
      Run(Command("out", {"--nproc=2", "--device=cuda", "--reduction=fast"}));
  if (result.exit_code == 0) GTEST_SKIP() << "this machine has GPUs";
  EXPECT_NE(result.errors.find("GPU"), std::string::npos) << result.errors;
}

}  // namespace
}  // namespace tidegate::pretrain
