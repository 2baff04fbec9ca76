// Pretraining with its sums by NCCL on the GPU that is there: one rank, as NCCL takes no two of one
// GPU. Its stream follows the pass' events; losses, norms and weights are those of a rank alone.
#include "cluster/nccl_group.h"
#include "pretrain/device_group.h"
#include "tests/kernels/tested.h"
#include "tests/pretrain/ranks.h"

namespace tidegate::pretrain {
namespace {

StepConfig Steps() {
  StepConfig config = TinyStep();
  config.ordered = false;
  return config;
}

std::vector<double> Train(Rank& rank) {
  InitialiseMasters(*rank.model, rank.partition, 5, &rank.shard);
  if (const Status s = rank.trainer->SpreadWeights(); !s.ok()) {
    throw std::runtime_error(s.ToString());
  }
  std::vector<double> numbers;
  for (int i = 0; i < 3; ++i) {
    const StepOutcome outcome = Must(rank.trainer->Step({}));
    numbers.insert(numbers.end(), {outcome.result.loss, outcome.result.grad_norm});
  }
  return numbers;
}

TEST(PretrainWithNccl, OneRankTrainsAsOneAlone) {
  if (const auto api = cluster::LoadNccl(); !api) GTEST_SKIP() << api.error().message();
  const model::ComputeOptions compute{.backend = kernels::ThisProgram().backend};
  auto groups = Must(cluster::MakeThreadGroup(1, {}));
  const std::shared_ptr<cluster::Collectives> control = std::move(groups[0]);
  const auto data = Must(JoinGpus(control, {.deadline = std::chrono::seconds(60)}));
  ASSERT_NE(data->stream(), nullptr);
  Rank through(TinyConfig(), Steps(), control.get(), compute, 1, data.get());
  Rank alone(TinyConfig(), Steps(), nullptr, compute);
  EXPECT_EQ(Train(through), Train(alone));
}

}  // namespace
}  // namespace tidegate::pretrain
