// `tidegate simulate` in one process and over ranks of MPI, with walled trainers: the same bytes.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "base/file.h"
#include "base/subprocess.h"
#include "cluster/mpi_group.h"
#include "cluster/thread_group.h"
#include "simulate/rank.h"

namespace tidegate::simulate {
namespace {

namespace fs = std::filesystem;

constexpr int kWithinMillis = 100'000;

class Ranks : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tg-simulate-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    std::ofstream(folder_ / "job.toml")
        << "rounds = 2\nsites_per_round = 5\n[lora]\nr = 4\nalpha = 8\n[train]\nlocal_steps = 2\n"
           "batch_size = 2\nmax_length = 64\nlearning_rate = 5e-3\n";
    std::ofstream records(folder_ / "records.jsonl");
    for (int i = 0; i < 30; ++i) {
      records << fmt::format("{{\"prompt\":\"{} and \",\"completion\":\"{}\"}}\n", i, i + 1);
    }
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  std::vector<std::string> Words(const std::string& out) const {
    return {(folder_ / "job.toml").native(),
            "--light",
            "2000",
            "--records",
            (folder_ / "records.jsonl").native(),
            "--base",
            TIDEGATE_SOURCE_DIR "/tests/golden/tiny_llama",
            "--dtype",
            "f32",
            "--out",
            (folder_ / out).native()};
  }
  CommandResult Simulate(const std::string& out, const std::vector<std::string>& more = {}) const {
    // No leak report of MPI's on the way out.
    std::vector<std::string> command = {"env", "ASAN_OPTIONS=detect_leaks=0",
                                        TIDEGATE_BIN_DIR "/tidegate", "simulate"};
    const std::vector<std::string> words = Words(out);
    command.insert(command.end(), words.begin(), words.end());
    command.insert(command.end(), more.begin(), more.end());
    const auto done = RunCommand(command, kWithinMillis);
    EXPECT_TRUE(done.has_value()) << (done ? "" : done.error().ToString());
    return done.value_or(CommandResult{-1, "", ""});
  }
  // Processes of this test whose words contain `part`.
  std::vector<pid_t> Running(const std::string& part) const {
    std::vector<pid_t> out;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const int pid = std::atoi(entry.path().filename().c_str());
      std::ifstream file(entry.path() / "cmdline");
      std::string words((std::istreambuf_iterator<char>(file)), {});
      std::replace(words.begin(), words.end(), '\0', ' ');
      const bool ours = pid > 0 && words.find(folder_.native() + "/job.toml") != std::string::npos;
      if (ours && words.find(part) != std::string::npos) out.push_back(pid);
    }
    std::sort(out.begin(), out.end());
    return out;
  }
  static bool Within(const std::function<bool()>& there) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kWithinMillis);
    while (!there()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return true;
  }
  std::string Content(const std::string& file) const {
    const auto bytes = ReadFile(folder_ / file, 16 << 20);
    return bytes ? std::string(bytes->begin(), bytes->end()) : "";
  }

  fs::path folder_;
};

TEST_F(Ranks, TwoOfMpiGiveTheBytesOfOneProcess) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "OpenMPI is not instrumented: ThreadSanitizer sees races in it";
#endif
  if (!cluster::HasMpi()) GTEST_SKIP() << "this build has no MPI (libopenmpi-dev)";
  const CommandResult one = Simulate("one");
  ASSERT_EQ(one.exit_code, 0) << one.errors;
  const CommandResult two = Simulate("two", {"--nproc", "2", "--format", "json"});
  ASSERT_EQ(two.exit_code, 0) << two.errors;
  EXPECT_NE(two.output.find("\"ranks\": 2"), std::string::npos) << two.output;
  for (const char* file : {"adapter/adapter_model.safetensors", "rounds.jsonl"}) {
    const std::string expected = Content(std::string("one/") + file);
    EXPECT_FALSE(expected.empty());
    EXPECT_EQ(Content(std::string("two/") + file), expected) << file;
  }
  // The folder is taken now, and it is one rank that says so.
  const CommandResult again = Simulate("two", {"--nproc=2"});
  EXPECT_NE(again.exit_code, 0);
  EXPECT_NE(again.errors.find("is not empty"), std::string::npos) << again.errors;
}

// Neither a rank nor a trainer goes on alone.
TEST_F(Ranks, ASignalAndAKilledRankLeaveNoProcess) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "OpenMPI is not instrumented: ThreadSanitizer sees races in it";
#endif
  if (!cluster::HasMpi()) GTEST_SKIP() << "this build has no MPI (libopenmpi-dev)";
  std::ofstream(folder_ / "job.toml")
      << "rounds = 1000\nsites_per_round = 100\n[train]\nlocal_steps = 2\nmax_length = 64\n";
  for (const bool killed : {false, true}) {
    const std::string out = killed ? "killed" : "signalled";
    std::vector<std::string> command = {TIDEGATE_BIN_DIR "/tidegate", "simulate", "--nproc", "2"};
    const std::vector<std::string> words = Words(out);
    command.insert(command.end(), words.begin(), words.end());
    auto child = ChildProcess::Start(command, folder_ / (out + ".log"));
    ASSERT_TRUE(child.has_value());
    ASSERT_TRUE(Within([&] { return fs::exists(folder_ / out / "rounds.jsonl"); }))
        << Content(out + ".log");
    if (killed) {
      const std::vector<pid_t> ranks = Running("tidegate-simulate --deadline");
      ASSERT_FALSE(ranks.empty());
      ::kill(ranks.back(), SIGKILL);
    } else {
      child->Signal(SIGTERM);
    }
    const std::optional<int> code = child->Wait(kWithinMillis);
    EXPECT_EQ(code, killed ? 128 + SIGKILL : static_cast<int>(Code::kCancelled))
        << Content(out + ".log");
    EXPECT_TRUE(Within([&] { return Running("").empty(); })) << Running("").size();
  }
}

// No rank waits for one whose trainer is gone.
TEST_F(Ranks, ATrainerThatEndsEndsTheOthers) {
  auto group = cluster::MakeThreadGroup(2, {.deadline = std::chrono::seconds(60)});
  ASSERT_TRUE(group.has_value());
  fs::create_directories(folder_ / "out");
  const Fd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  std::vector<Result<int>> codes(2, 0);
  std::vector<std::thread> threads;
  for (size_t rank : {0u, 1u}) {
    threads.emplace_back([&, rank] {
      std::vector<std::string> argv = {TIDEGATE_BIN_DIR "/tidegate-trainer", "simulate"};
      const std::vector<std::string> words = Words("out");
      argv.insert(argv.end(), words.begin(), words.end());
      if (rank == 1) argv = {"/bin/false"};
      codes[rank] = PlayRank(argv, *(*group)[rank], null.get());
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_FALSE(codes[0].has_value());
  EXPECT_EQ(codes[0].error().code(), Code::kCancelled);
  EXPECT_NE(codes[0].error().message().find("the trainer of rank 1 ended with exit code 1"),
            std::string::npos)
      << codes[0].error().ToString();
  ASSERT_TRUE(codes[1].has_value());
  EXPECT_EQ(*codes[1], 1);
}

}  // namespace
}  // namespace tidegate::simulate
