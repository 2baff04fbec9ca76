// One site alone in a federation against local training with the same options: moments, schedule,
// data cursor and dropout live on across rounds, and the wire changes nothing but what its codec
// says.
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>

#include "books.h"
#include "crypto/hash.h"
#include "federation.h"
#include "federation/rounds/aggregate.h"
#include "federation/rounds/server_optimizer.h"
#include "federation/shared/delta_codec.h"
#include "federation/shared/grid.h"
#include "finetune/session.h"
#include "protocols/update.h"

namespace tidegate::federation_processes {
namespace {

constexpr int kRounds = 3;

// What `tidegate finetune` would be told, by hand: nothing of the trainer's own translation.
finetune::FinetuneConfig LocalConfig(const Federation& federation) {
  finetune::FinetuneConfig config;
  config.base = TinyBase();
  config.data = federation.records(0);
  config.output_dir = federation.dir() / "local";
  config.dtype = "f32";
  config.threads = 1;
  config.lora_r = kRank;
  config.lora_alpha = kAlpha;
  config.lora_dropout = kDropout;
  config.max_length = kMaxLength;
  config.per_device_train_batch_size = kBatchSize;
  config.gradient_accumulation_steps = 1;
  config.learning_rate = kLearningRate;
  config.warmup_ratio = 0;
  config.max_steps = kRounds * kLocalSteps;
  config.seed = kSeed;
  return config;
}

std::unique_ptr<finetune::Session> OpenLocal(const Federation& federation) {
  auto session = finetune::Session::Open(LocalConfig(federation));
  EXPECT_TRUE(session.has_value()) << session.error().ToString();
  return session ? std::move(*session) : nullptr;
}

void Train(finetune::Session& session, int steps) {
  const Status status =
      session.loop().RunSteps(steps, [](const train::StepResult&) { return true; });
  EXPECT_TRUE(status.ok()) << status.ToString();
}

std::vector<float> Snapped(std::vector<float> parameters) {
  EXPECT_TRUE(federation::SnapAllToGrid(parameters).ok());
  return parameters;
}

// Local steps from `start`, the result on the grid of shared adapters.
std::vector<float> TrainRound(finetune::Session& session, const std::vector<float>& start) {
  EXPECT_TRUE(session.loop().SetParameters(start).ok());
  Train(session, kLocalSteps);
  return Snapped(session.state().parameters);
}

double MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return most;
}

class LocalTwin : public testing::Test {
 protected:
  // Runs the job and reads the books. `kill`: the trainer, when it has been told of a round.
  void Run(const std::string& keys, bool kill = false) {
    federation_ = std::make_unique<Federation>(
        std::vector<SiteSetup>{{.name = "north"}},
        JobSetup{fmt::format("rounds = {}\ndeadline_seconds = 600\n{}", kRounds, keys)});
    TIDEGATE_RUNS(*federation_, federation_->Provision());
    TIDEGATE_RUNS(*federation_, federation_->Begin());
    for (int round = 1; kill && round <= kRounds; ++round) {
      TIDEGATE_RUNS(*federation_, federation_->WaitForLine(
                                      federation_->poc().site_log(0),
                                      fmt::format("round_started round={} ", round), kJobMillis));
      const pid_t trainer = federation_->poc().child_pid(0, "trainer");
      if (trainer > 0 && ::kill(trainer, SIGKILL) == 0) ++kills_;
    }
    TIDEGATE_RUNS(*federation_, federation_->RunToTheEnd(kJobMillis));
    ASSERT_TRUE(federation_->Stop().ok());
    auto books = ReadCoordinator(federation_->poc().coordinator_dir());
    ASSERT_TRUE(books.has_value()) << books.error().ToString();
    books_ = std::move(*books);
    ASSERT_EQ(books_.parameters.size(), kRounds + 1u);
  }

  std::unique_ptr<Federation> federation_;
  CoordinatorBooks books_;
  int kills_ = 0;
};

TEST_F(LocalTwin, WithoutACodecEachVersionIsLocalTrainingBitForBit) {
  Run("codec = \"fixed32\"\n");
  if (IsSkipped() || HasFatalFailure()) return;
  const auto local = OpenLocal(*federation_);
  ASSERT_NE(local, nullptr);
  std::vector<float> parameters = Snapped(local->state().parameters);
  EXPECT_EQ(books_.parameters[0], parameters) << "the initial adapter";
  for (size_t round = 1; round <= kRounds; ++round) {
    parameters = TrainRound(*local, parameters);
    EXPECT_EQ(books_.parameters[round], parameters) << "version " << round;
  }
  EXPECT_GT(local->state().cursor.epoch, 0u) << "the records are gone through more than once";

  // The grid is finer than anything that training notices.
  const auto whole = OpenLocal(*federation_);
  ASSERT_NE(whole, nullptr);
  Train(*whole, kRounds * kLocalSteps);
  EXPECT_LT(MaxDifference(whole->state().parameters, books_.Final()), 1e-5);

  // A site that forgot moments, schedule and cursor after a round would not pass.
  const auto forgetful = OpenLocal(*federation_);
  ASSERT_NE(forgetful, nullptr);
  EXPECT_GT(MaxDifference(TrainRound(*forgetful, books_.parameters[1]), books_.parameters[2]),
            1e-4);
}

// The error that int8 states: at most half a scale, which is max|delta| / 127 of 256 values.
TEST_F(LocalTwin, WithInt8EachVersionIsLocalTrainingWithinTheCodecsError) {
  Run("codec = \"int8\"\n");
  if (IsSkipped() || HasFatalFailure()) return;
  const auto local = OpenLocal(*federation_);
  ASSERT_NE(local, nullptr);
  for (size_t round = 1; round <= kRounds; ++round) {
    const std::vector<float>& start = books_.parameters[round - 1];
    const std::vector<float>& version = books_.parameters[round];
    const std::vector<float> result = TrainRound(*local, start);
    size_t first = 0;
    for (const protocols::LayoutTensor& tensor : books_.job.layout.tensors.items) {
      const size_t end = first + static_cast<size_t>(tensor.rows) * tensor.cols;
      for (; first < end;) {
        const size_t group_end = std::min(end, first + size_t{protocols::kInt8Group});
        double most = 0;
        for (size_t i = first; i < group_end; ++i) {
          most = std::max(most, std::abs(double{result[i]} - double{start[i]}));
        }
        // Scale and sum are rounded too: to 24 bits, and to the grid of 2^-28.
        const double bound = most / 127 / 2 * 1.0001 + 0x1p-28;
        for (; first < group_end; ++first) {
          ASSERT_LE(std::abs(double{version[first]} - double{result[first]}), bound)
              << "version " << round << ", value " << first << " in " << tensor.name.text;
        }
      }
    }
    EXPECT_EQ(first, result.size());
    EXPECT_NE(version, result) << "int8 is not exact: this test compares what it says";
  }
}

// int4, rounded by chance, what it lost fed back; the trainer is killed in each round. The twin
// does the same sum beside a trainer that never dies: every version has its bits.
TEST_F(LocalTwin, WithInt4AndErrorFeedbackEachVersionIsTheTwinsWhoeverIsKilled) {
  Run("codec = \"int4\"\nrounding = \"stochastic\"\nerror_feedback = true\n", true);
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_GT(kills_, 0);
  const auto local = OpenLocal(*federation_);
  ASSERT_NE(local, nullptr);
  const protocols::JobManifest& job = books_.job;
  uint8_t seed[8];
  StoreLe64(seed, job.seed);
  const Digest digest = crypto::Sha256::Of(
      {AsBytes("tidegate/v1/rounding"), Bytes{0}, seed, books_.id, AsBytes("north")});
  std::vector<float> kept(books_.parameters[0].size(), 0.0f);
  for (uint32_t round = 1; round <= kRounds; ++round) {
    const std::vector<float>& start = books_.parameters[round - 1];
    std::vector<double> v = federation::Difference(start, TrainRound(*local, start));
    for (size_t i = 0; i < v.size(); ++i) v[i] += static_cast<double>(kept[i]);
    protocols::UpdateHeader header;
    header.round = round;
    header.groups = 3;
    header.codec = protocols::Codec::kInt4;
    header.weight = 1;
    const auto update = federation::EncodeDelta(header, job.layout, v,
                                                {.norm_clip = 10,  // of the site's policy
                                                 .rounding = protocols::Rounding::kStochastic,
                                                 .key = LoadLe64(digest.data())});
    ASSERT_TRUE(update.has_value()) << update.error().ToString();
    const auto view = protocols::UpdateView::Parse(*update, job.layout);
    ASSERT_TRUE(view.has_value());
    federation::WeightedSum sum(v.size());
    ASSERT_TRUE(sum.Add(*view, 1).ok());
    federation::ServerMoments none;
    const auto stepped = federation::ServerStep({}, start, sum.sum(), sum.total_weight(),
                                                job.layout, header.groups, &none);
    ASSERT_TRUE(stepped.has_value()) << stepped.error().ToString();
    EXPECT_TRUE(*stepped == books_.parameters[round]) << "version " << round;
    for (const protocols::UpdateTensor& tensor : view->tensors()) {
      protocols::ForEachValue(
          tensor, [&](uint64_t i, double sent) { kept[i] = static_cast<float>(v[i] - sent); });
    }
  }
}

}  // namespace
}  // namespace tidegate::federation_processes
