#include "train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <filesystem>

#include "base/checksum.h"
#include "base/file.h"
#include "fake_engine.h"

namespace tidegate::train {
namespace {

namespace fs = std::filesystem;

const Identity kIdentity = {{"base", "1111"}, {"data plan", "2222"}, {"learning_rate", "0.0002"}};

TrainState SomeState(int64_t step) {
  TrainState state = TrainState::Start(SomeParameters(1000), 0xfedcba9876543210u);
  state.moments.m = SomeParameters(1000);
  state.moments.v = SomeParameters(1000);
  state.parameters[3] = -0.0f;
  state.parameters[4] = 1e-42f;
  state.moments.updates = {step - 1};
  state.step = step;
  state.micro_steps = static_cast<uint32_t>(4 * step);
  state.cursor = {2, 17};
  state.tokens_seen = 123456789012;
  state.targets_seen = 98765;
  state.skipped_windows = 1;
  state.best = {7, 0.1 + 0.2, 3, "abcdef"};
  return state;
}

class Checkpoints : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              fmt::format("tgstate-{}-{}", ::getpid(),
                          testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST_F(Checkpoints, CountsOfSeveralPartsComeBack) {
  TrainState state = SomeState(5);
  state.moments.updates = {4, 0, 7};
  const auto loaded = DecodeState(EncodeState(state, kIdentity), "a state");
  ASSERT_TRUE(loaded.has_value()) << loaded.error().ToString();
  EXPECT_EQ(loaded->state.moments.updates, state.moments.updates);
}

TEST_F(Checkpoints, RoundTripKeepsEveryBit) {
  const TrainState state = SomeState(42);
  const Bytes bytes = EncodeState(state, kIdentity);
  const LoadedState loaded = DecodeState(bytes, "state").value();
  EXPECT_EQ(loaded.identity, kIdentity);
  EXPECT_EQ(loaded.state.best.nll, 0.1 + 0.2);
  EXPECT_EQ(loaded.state.seed, 0xfedcba9876543210u);
  EXPECT_EQ(loaded.state.cursor, (tokens::Cursor{2, 17}));
  EXPECT_EQ(EncodeState(loaded.state, loaded.identity), bytes);
}

TEST_F(Checkpoints, EveryDamagedByteAndEveryCutIsFound) {
  const Bytes good = EncodeState(SomeState(42), kIdentity);
  for (size_t at = 0; at < good.size(); at += at < 900 ? 1 : 97) {
    Bytes bad = good;
    bad[at] ^= 0x10;
    const auto loaded = DecodeState(bad, "state");
    ASSERT_FALSE(loaded) << at;
    EXPECT_EQ(loaded.error().code(), Code::kDataLoss) << at;
    EXPECT_FALSE(DecodeState(ByteSpan(good).first(at), "state")) << at;
  }
}

TEST_F(Checkpoints, AHeaderWithNumbersOfAnotherKindIsRefused) {
  const Bytes good = EncodeState(SomeState(42), kIdentity);
  const std::string header = "\"step\":42,";
  for (const char* step : {"\"step\":1e9,", "\"step\":-9 ,", "\"step\":4.5,"}) {
    Bytes bytes = good;
    const auto at = std::search(bytes.begin(), bytes.end(), header.begin(), header.end());
    ASSERT_NE(at, bytes.end());
    bytes.erase(at, at + static_cast<std::ptrdiff_t>(header.size()));
    bytes.insert(at, step, step + std::string_view(step).size());
    StoreLe64(&bytes[8], LoadLe64(&bytes[8]) + std::string_view(step).size() - header.size());
    StoreLe64(&bytes[bytes.size() - 8], ChecksumOf(ByteSpan(bytes).first(bytes.size() - 8)));
    const auto loaded = DecodeState(bytes, "state");
    ASSERT_FALSE(loaded) << step;
    EXPECT_NE(loaded.error().message().find("'step' is out of range"), std::string::npos)
        << loaded.error().message();
  }
}

TEST_F(Checkpoints, AnotherRunIsRefusedNamingAllThatDiffers) {
  const CheckpointStore store(folder_);
  ASSERT_TRUE(store.Save(SomeState(5), kIdentity).ok());
  Identity other = kIdentity;
  other["base"] = "9999";
  other["learning_rate"] = "0.001";
  const auto loaded = store.LoadNewest(other);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(loaded.error().message().find("base was 1111 and is 9999"), std::string::npos);
  EXPECT_NE(loaded.error().message().find("learning_rate was 0.0002"), std::string::npos);
  EXPECT_EQ(loaded.error().message().find("data plan"), std::string::npos);
  EXPECT_TRUE(store.LoadNewest(kIdentity).value().has_value());
}

TEST_F(Checkpoints, AnotherInstructionSetIsToldAndNotRefused) {
  Identity here = kIdentity, there = kIdentity;
  here[std::string(kAboutPrefix) + "kernels"] = "avx512";
  there[std::string(kAboutPrefix) + "kernels"] = "avx2";
  testing::internal::CaptureStderr();
  EXPECT_TRUE(CheckIdentity(here, there, "state").ok());
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_NE(told.find("was avx512 and is avx2"), std::string::npos) << told;
}

TEST_F(Checkpoints, TheNewestTwoAreKept) {
  const CheckpointStore store(folder_);
  EXPECT_FALSE(store.LoadNewest(kIdentity).value().has_value());
  for (const int64_t step : {3, 10, 200}) {
    ASSERT_TRUE(store.Save(SomeState(step), kIdentity).ok());
  }
  EXPECT_EQ(store.Steps().value(), (std::vector<int64_t>{10, 200}));
  EXPECT_EQ(store.LoadNewest(kIdentity).value()->step, 200);
}

TEST_F(Checkpoints, AStateIsReadByItsStep) {
  const CheckpointStore store(folder_);
  for (const int64_t step : {3, 10}) ASSERT_TRUE(store.Save(SomeState(step), kIdentity).ok());
  EXPECT_EQ(store.Load(3, kIdentity).value().micro_steps, 12u);
  EXPECT_EQ(store.Load(4, kIdentity).error().code(), Code::kNotFound);
  EXPECT_EQ(store.Load(3, {{"base", "2222"}}).error().code(), Code::kFailedPrecondition);
}

TEST_F(Checkpoints, ADamagedNewestFallsBackToTheOneBefore) {
  const CheckpointStore store(folder_);
  ASSERT_TRUE(store.Save(SomeState(3), kIdentity).ok());
  ASSERT_TRUE(store.Save(SomeState(4), kIdentity).ok());
  fs::resize_file(store.PathOf(4), 1000);
  EXPECT_EQ(store.LoadNewest(kIdentity).value()->step, 3);
  fs::resize_file(store.PathOf(3), 1000);
  const auto loaded = store.LoadNewest(kIdentity);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), Code::kDataLoss);
}

TEST_F(Checkpoints, AFullDiskLeavesTheLastGoodState) {
  const CheckpointStore store(folder_);
  ASSERT_TRUE(store.Save(SomeState(3), kIdentity).ok());
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = store.Save(SomeState(4), kIdentity);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(store.LoadNewest(kIdentity).value()->step, 3);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace tidegate::train
