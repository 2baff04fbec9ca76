#include "runlog/event_file.h"

#include <unistd.h>

#include <cmath>

#include "tests/runlog/event_reader.h"

namespace tidegate::runlog {
namespace {

namespace fs = std::filesystem;

class EventFiles : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::path(testing::TempDir()) / fmt::format("tgevents-{}", ::getpid());
    fs::remove_all(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::vector<ReadEvent> Read(const char* name) const {
    const auto bytes = ReadFile(dir_ / name, 1 << 20);
    EXPECT_TRUE(bytes) << name;
    return bytes ? ReadEvents(*bytes) : std::vector<ReadEvent>();
  }

  fs::path dir_;
  ManualClock clock_{1'500'000'000'250};
};

TEST(EventRecord, HasTheChecksumsOfKnownAnswers) {
  EXPECT_EQ(SlowCrc32c(AsBytes("123456789")), 0xe3069283u);
  // The first record that TensorFlow and torch write: wall time 0, file_version brain.Event:2.
  Bytes event(9, 0);
  event[0] = 0x09;
  const std::string version =
      "\x1a\x0d"
      "brain.Event:2";
  event.insert(event.end(), version.begin(), version.end());
  EXPECT_EQ(ToHex(EventRecord(event)),
            "1800000000000000a37f4b22"
            "0900000000000000001a0d627261696e2e4576656e743a32"
            "eedf28a3");
}

TEST_F(EventFiles, HoldAVersionThenTheScalarsOfEachStep) {
  auto file = EventFile::Open(dir_, 0, clock_).value();
  const Scalar train[] = {{"train/loss", 2.5}, {"train/learning_rate", 1e-4}};
  ASSERT_TRUE(file.Write(1, train).ok());
  clock_.Advance(1500);
  const Scalar eval[] = {{"eval/loss", -0.0}};
  ASSERT_TRUE(file.Write(300'000'000'000, eval).ok());

  const auto events = Read("events.out.tfevents.00000000.tidegate");
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].file_version, "brain.Event:2");
  EXPECT_EQ(events[0].step, 0);
  EXPECT_EQ(events[1].wall_time, 1'500'000'000.25);
  EXPECT_EQ(events[1].step, 1);
  ASSERT_EQ(events[1].scalars.size(), 2u);
  EXPECT_EQ(events[1].scalars[0], std::pair(std::string("train/loss"), 2.5f));
  EXPECT_EQ(events[1].scalars[1], std::pair(std::string("train/learning_rate"), 1e-4f));
  EXPECT_EQ(events[2].wall_time, 1'500'000'001.75);
  EXPECT_EQ(events[2].step, 300'000'000'000);
  EXPECT_TRUE(std::signbit(events[2].scalars.at(0).second));
}

TEST_F(EventFiles, AResumeAddsAFileThatTakesLaterStepsBack) {
  const Scalar loss[] = {{"train/loss", 1}};
  ASSERT_TRUE(EventFile::Open(dir_, 0, clock_).value().Write(1, loss).ok());
  ASSERT_TRUE(EventFile::Open(dir_, 12, clock_).value().Write(13, loss).ok());
  ASSERT_TRUE(EventFile::Open(dir_, 20, clock_).value().Write(21, loss).ok());
  const fs::path other = dir_ / "events.out.tfevents.99999999.somebody.7";
  ASSERT_TRUE(WriteFileDurably(other, AsBytes("x")).ok());

  ASSERT_TRUE(EventFile::Open(dir_, 12, clock_).value().Write(13, loss).ok());
  EXPECT_EQ(Read("events.out.tfevents.00000000.tidegate").size(), 2u);
  const auto resumed = Read("events.out.tfevents.00000012.tidegate");
  ASSERT_EQ(resumed.size(), 3u) << "an earlier start after step 12 is replaced";
  EXPECT_EQ(resumed[0].file_version, "brain.Event:2");
  EXPECT_TRUE(resumed[1].session_start);
  EXPECT_EQ(resumed[1].step, 13);
  EXPECT_EQ(resumed[2].step, 13);
  EXPECT_FALSE(fs::exists(dir_ / "events.out.tfevents.00000020.tidegate"));
  EXPECT_TRUE(fs::exists(other)) << "what is not ours stays";
}

}  // namespace
}  // namespace tidegate::runlog
