// A site's trainer on a GPU: its rounds are the CPU's but for rounding, to the same bytes after a
// kill, and its isolation statement names what the driver keeps open.
#include <cmath>
#include <filesystem>

#include "tests/onshore/trainer/trainer_process.h"

namespace tidegate::trainer {
namespace {

class TrainerOnAGpu : public TrainerProcess {
 protected:
  void SetUp() override {
    TrainerProcess::SetUp();
    program_ = TIDEGATE_GPU_TRAINER;
    site_.options().device = "cuda";
  }
};

std::vector<double> Values(const Bytes& update, const protocols::Layout& layout) {
  const auto view = protocols::UpdateView::Parse(update, layout);
  EXPECT_TRUE(view.has_value()) << view.error().reason;
  std::vector<double> values;
  if (!view) return values;
  for (const protocols::UpdateTensor& tensor : view->tensors()) {
    protocols::ForEachValue(tensor, [&values](uint64_t, double value) { values.push_back(value); });
  }
  return values;
}

TEST_F(TrainerOnAGpu, TrainsARoundAndAKillLeadsToTheSameBytes) {
  const protocols::JobManifest job = SampleJob();
  ASSERT_NO_FATAL_FAILURE(StartOrSkip());
  if (IsSkipped()) return;
  OpenRound(job);
  const Bytes update = Update();
  ASSERT_FALSE(update.empty());

  ASSERT_TRUE(onshore::Kill(child_).ok());
  EXPECT_EQ(End().signal, SIGKILL);
  ASSERT_TRUE(Start()) << Log();
  ASSERT_TRUE(Next(IpcType::kIsolation)) << Log();
  OpenRound(job);
  EXPECT_TRUE(Update() == update) << "other bytes after a kill";
  ASSERT_TRUE(gate_->Send(IpcType::kStop, onshore::Stop{IdOf(job), 1}).ok());
  EXPECT_EQ(End().end, onshore::End::kClean) << Log();

  SampleSite on_cpu;
  const auto same = FederatedJob::Open(protocols::Encode(job), on_cpu.options(), {});
  ASSERT_TRUE(same.has_value()) << same.error().ToString();
  ASSERT_TRUE((*same)->SetAdapter(0, BytesOf(InitialParameters())).ok());
  const auto expected = (*same)->RunRound({.job = IdOf(job), .round = 1, .adapter_version = 0});
  ASSERT_TRUE(expected.has_value());
  const auto got = Values(update, job.layout), want = Values(*expected, job.layout);
  ASSERT_EQ(got.size(), want.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  EXPECT_LT(std::sqrt(difference / size), 1e-2);
}

TEST_F(TrainerOnAGpu, TheStatementNamesTheDevicesThatStayOpen) {
  ASSERT_NO_FATAL_FAILURE(StartOrSkip());
  if (IsSkipped()) return;
  const auto statement = onshore::DecodeStatement(statement_);
  ASSERT_TRUE(statement.has_value()) << statement.error().message();
  EXPECT_TRUE(onshore::CheckNoneOpen(statement->rows).ok());
  EXPECT_EQ(!statement->devices.empty(), std::filesystem::exists("/dev/nvidiactl"));
}

}  // namespace
}  // namespace tidegate::trainer
