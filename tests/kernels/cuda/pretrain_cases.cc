// Steps of pretraining on a device: the losses, norms and weights that the CPU gives.
#include <cmath>

#include "tests/kernels/tested.h"
#include "tests/pretrain/ranks.h"

namespace tidegate::pretrain {
namespace {

using kernels::Backend;
using kernels::DType;

struct Curve {
  std::vector<double> losses, norms;
  std::vector<float> masters;
};

Curve Train(Backend backend, DType dtype) {
  StepConfig config = TinyStep();
  config.ordered = false;
  config.global_batch_size = 4;
  config.micro_batch_size = 2;
  Rank rank(TinyConfig(), config, nullptr, {.backend = backend, .dtype = dtype});
  InitialiseMasters(*rank.model, rank.partition, 5, &rank.shard);
  if (!rank.trainer->SpreadWeights().ok()) throw std::runtime_error("spread");
  Curve curve;
  for (int i = 0; i < 3; ++i) {
    const StepOutcome outcome = Must(rank.trainer->Step({}));
    curve.losses.push_back(outcome.result.loss);
    curve.norms.push_back(outcome.result.grad_norm);
  }
  Walks held_out(16);
  curve.losses.push_back(Must(rank.trainer->Evaluate(held_out, 2)));
  curve.masters = Must(rank.trainer->GatherMasters());
  return curve;
}

double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / size);
}

TEST(PretrainOnDevice, StepsAreThoseOfTheCpu) {
  const Curve cpu = Train(Backend::kCpu, DType::kF32);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    if (kernels::TestedTable(dtype) == nullptr) GTEST_SKIP() << "no such kernels here";
    const Curve here = Train(kernels::ThisProgram().backend, dtype);
    const double bound = dtype == DType::kF32 ? 1e-4 : 0.02;
    for (size_t i = 0; i < cpu.losses.size(); ++i) {
      EXPECT_NEAR(here.losses[i], cpu.losses[i], bound * cpu.losses[i]) << i;
    }
    for (size_t i = 0; i < cpu.norms.size(); ++i) {
      EXPECT_NEAR(here.norms[i], cpu.norms[i], 5 * bound * cpu.norms[i]) << i;
    }
    EXPECT_LT(Distance(here.masters, cpu.masters), 10 * bound);
  }
}

TEST(PretrainOnDevice, AStreamSaysWhetherItsWorkIsDone) {
  const kernels::KernelTable* table = kernels::TestedTable(DType::kF32);
  if (table == nullptr) GTEST_SKIP() << "no such kernels here";
  const kernels::Device& device = *table->device;
  kernels::Workspace workspace(device.memory);
  const kernels::Context context{1, &workspace, device.make_stream()};
  constexpr size_t kBytes = 1 << 20;
  void* place = device.memory.allocate(kBytes);
  device.zero(context, place, kBytes);
  while (!device.idle(context)) {
  }
  float last = 1;
  device.to_host(context, &last, static_cast<std::byte*>(place) + kBytes - sizeof(last),
                 sizeof(last));
  device.synchronize(context);
  EXPECT_EQ(last, 0);
  EXPECT_TRUE(device.idle(context));
  device.memory.release(place);
  device.release_stream(context.stream);
}

TEST(PretrainOnDevice, OrderedSumsAreRefused) {
  if (kernels::TestedTable(DType::kF32) == nullptr) GTEST_SKIP() << "no such kernels here";
  const auto model = Must(model::FullModel::Create(
      TinyConfig(), {.backend = kernels::ThisProgram().backend}, {}, FlatMultiple(1)));
  const Partition partition(model->layout(), 1, 0, 1);
  Shard shard = Must(NewShard(*model, partition));
  Walks source(32);
  const auto made = Trainer::Create(*model, source, partition, shard, nullptr, nullptr, TinyStep());
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message().find("--reduction fast"), std::string::npos);
}

}  // namespace
}  // namespace tidegate::pretrain
