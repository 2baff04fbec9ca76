// Checkpoints: what one number of ranks wrote, another reads bit for bit; what is damaged is named.
#include "pretrain/checkpoint.h"

#include <stdlib.h>

#include <algorithm>
#include <cstring>

#include "base/file.h"
#include "pretrain/checkpoint_part.h"
#include "ranks.h"

namespace tidegate::pretrain {
namespace {

namespace fs = std::filesystem;

const train::Identity kRun = {{"data", "7"}, {"seed", "5"}};

class Checkpoints : public testing::Test {
 protected:
  Checkpoints() {
    std::string name = (fs::temp_directory_path() / "tg_pretrain_XXXXXX").native();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    dir_ = name;
  }
  ~Checkpoints() override { fs::remove_all(dir_); }

  static void Begin(Rank& rank) {
    InitialiseMasters(*rank.model, rank.partition, 5, &rank.shard);
    if (!rank.trainer->SpreadWeights().ok()) throw std::runtime_error("spread");
  }
  static void Steps(Rank& rank, int n) {
    for (int i = 0; i < n; ++i) (void)Must(rank.trainer->Step({}));
  }
  void Save(Rank& rank, CheckpointWriter& writer) const {
    ASSERT_TRUE(writer.Save(*rank.model, rank.partition, rank.shard).ok());
    while (!Must(rank.trainer->Step({.saved = writer.PartDone()})).saved) {
    }
    const Status status = writer.Commit(*rank.model, kRun);
    ASSERT_TRUE(status.ok()) << status.ToString();
  }
  // All masters after `total` steps, of which `first` ranks made the steps up to the checkpoint at
  // step 3 and `then` ranks the others.
  std::vector<float> Resumed(int first, int then, int total) const {
    const fs::path dir = dir_ / fmt::format("{}-{}", first, then);
    OnRanks(first, [&](cluster::Collectives* group) {
      Rank rank(TinyConfig(), TinyStep(), group);
      Begin(rank);
      Steps(rank, 3);
      CheckpointWriter writer(dir, rank.rank, rank.ranks, 2);
      Save(rank, writer);
    });
    std::vector<float> out;
    OnRanks(then, [&](cluster::Collectives* group) {
      Rank rank(TinyConfig(), TinyStep(), group);
      const Status status = LoadCheckpoint(dir, 3, kRun, *rank.model, rank.partition, &rank.shard);
      ASSERT_TRUE(status.ok()) << status.ToString();
      ASSERT_EQ(rank.shard.step, 3);
      ASSERT_TRUE(rank.trainer->SpreadWeights().ok());
      Steps(rank, total - 3);
      std::vector<float> masters = Must(rank.trainer->GatherMasters());
      if (rank.rank != 0) return;
      masters.resize(static_cast<size_t>(rank.model->layout().tensors.back().offset));
      out = std::move(masters);
    });
    return out;
  }
  // A checkpoint of one rank at step 1.
  void SaveOne(int keep = 2) {
    Rank rank(TinyConfig(), TinyStep(), nullptr);
    Begin(rank);
    Steps(rank, 1);
    CheckpointWriter writer(dir_, 0, 1, keep);
    Save(rank, writer);
  }
  Status Load(int64_t step, const train::Identity& identity = kRun,
              const model::ModelConfig& config = TinyConfig()) const {
    Rank rank(config, TinyStep(), nullptr);
    return LoadCheckpoint(dir_, step, identity, *rank.model, rank.partition, &rank.shard);
  }

  fs::path dir_;
};

TEST_F(Checkpoints, AnotherNumberOfRanksGoesOnWithTheSameBits) {
  std::vector<float> undisturbed;
  Rank rank(TinyConfig(), TinyStep(), nullptr);
  Begin(rank);
  Steps(rank, 6);
  undisturbed = Must(rank.trainer->GatherMasters());
  undisturbed.resize(static_cast<size_t>(rank.model->layout().tensors.back().offset));
  for (const auto& [first, then] : {std::pair{4, 2}, {1, 4}, {2, 1}, {2, 2}}) {
    EXPECT_EQ(Resumed(first, then, 6), undisturbed) << first << " then " << then;
  }
}

TEST_F(Checkpoints, OnlyTheNewestAreKeptAndTheirBlocksWithThem) {
  Rank rank(TinyConfig(), TinyStep(), nullptr);
  Begin(rank);
  CheckpointWriter writer(dir_, 0, 1, 2);
  size_t blocks = 0;
  int64_t last = 0;
  for (int i = 0; i < 5; ++i) {
    Steps(rank, 1);
    last = rank.shard.step;
    Save(rank, writer);  // which makes steps until it is done
    blocks = 0;
    for (const auto& entry : fs::recursive_directory_iterator(dir_ / "blocks")) {
      blocks += entry.is_regular_file() ? 1 : 0;
    }
  }
  const auto steps = Must(CheckpointSteps(dir_));
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(steps[0], last);
  // Those of two checkpoints, and of the third until the next is written.
  Part part = Must(DecodePart(Must(ReadTextFile(PartFile(dir_, steps[0], 0), kMaxPartBytes)), "p"));
  size_t each = 0;
  for (const auto& content : part.contents) each += content.blocks.size();
  EXPECT_LE(blocks, 3 * each);
  EXPECT_TRUE(Load(steps[0]).ok());
  EXPECT_TRUE(Load(steps[1]).ok());
}

TEST_F(Checkpoints, WithoutItsIndexAStepDoesNotCount) {
  Rank rank(TinyConfig(), TinyStep(), nullptr);
  Begin(rank);
  {
    CheckpointWriter writer(dir_, 0, 1, 2);
    ASSERT_TRUE(writer.Save(*rank.model, rank.partition, rank.shard).ok());
    writer.Wait();
    EXPECT_TRUE(writer.PartDone());
    EXPECT_TRUE(writer.pending());
  }
  EXPECT_TRUE(Must(CheckpointSteps(dir_)).empty());
  EXPECT_TRUE(fs::exists(PartFile(dir_, 0, 0)));
}

TEST_F(Checkpoints, DamageAnywhereIsNamed) {
  SaveOne();
  ASSERT_TRUE(Load(1).ok());
  std::vector<fs::path> files = {PartFile(dir_, 1, 0)};
  for (const auto& entry : fs::recursive_directory_iterator(dir_ / "blocks")) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin() + 1, files.end());
  ASSERT_GE(files.size(), 4u);
  for (const fs::path& file : {files[0], files[1], files.back()}) {
    const Bytes whole = Must(ReadFile(file, kMaxPartBytes));
    Bytes damaged = whole;
    damaged[damaged.size() / 2] ^= 4;
    ASSERT_TRUE(WriteFileDurably(file, damaged).ok());
    const Status status = Load(1);
    EXPECT_EQ(status.code(), Code::kDataLoss) << file << status.ToString();
    ASSERT_TRUE(WriteFileDurably(file, whole).ok());
    ASSERT_TRUE(Load(1).ok());
    fs::remove(file);
    EXPECT_EQ(Load(1).code(), Code::kDataLoss) << file;
    ASSERT_TRUE(WriteFileDurably(file, whole).ok());
  }
  ASSERT_TRUE(WriteFileDurably(IndexFile(dir_, 1), AsBytes("{\"format\":1")).ok());
  EXPECT_EQ(Load(1).code(), Code::kDataLoss);
}

TEST_F(Checkpoints, AnotherRunsCheckpointIsRefusedWithWhatDiffers) {
  SaveOne();
  const Status status = Load(1, {{"data", "8"}, {"seed", "5"}});
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_NE(status.message().find("data was 7 and is 8"), std::string::npos) << status.message();
  model::ModelConfig other = TinyConfig();
  other.intermediate_size = 80;
  const Status shape = Load(1, kRun, other);
  EXPECT_EQ(shape.code(), Code::kFailedPrecondition);
  EXPECT_NE(shape.message().find("mlp.gate_proj"), std::string::npos) << shape.message();
}

TEST_F(Checkpoints, PartsThatLieAreRefused) {
  SaveOne();
  const std::string good = Must(ReadTextFile(PartFile(dir_, 1, 0), kMaxPartBytes));
  const std::pair<const char*, const char*> lies[] = {
      {"\"begin\":0", "\"begin\":-1"},
      {"\"end\":", "\"end\":9999999"},
      {"\"at\":", "\"at\":99999"},
      {"\"store\":0", "\"store\":-2"},
      {"\"bytes\":", "\"bytes\":9"},
      {"\"format\":1", "\"format\":2"},
      // Numbers that JSON has and a count has not.
      {"\"begin\":0", "\"begin\":-1e300"},
      {"\"store\":0", "\"store\":0.5"},
      {"\"store\":0", "\"store\":4294967296"},
      {"\"format\":1", "\"format\":4294967297"},
  };
  for (const auto& [from, to] : lies) {
    std::string text = good;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, std::strlen(from), to);
    EXPECT_FALSE(DecodePart(text, "part")) << to;
  }
  const std::string index = Must(ReadTextFile(IndexFile(dir_, 1), kMaxPartBytes));
  ASSERT_TRUE(DecodeIndex(index, "index"));
  for (const char* step : {"-1", "1e300", "18446744073709551615", "\"1\""}) {
    std::string text = index;
    const size_t at = text.find("\"step\": 1");
    ASSERT_NE(at, std::string::npos);
    text.replace(at, 9, std::string("\"step\": ") + step);
    EXPECT_FALSE(DecodeIndex(text, "index")) << step;
  }
}

}  // namespace
}  // namespace tidegate::pretrain
