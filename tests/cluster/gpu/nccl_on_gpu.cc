// The real NCCL on one GPU: every call, its data on the device, an abort and a new start. Ends with
// 77 where there is no GPU or no NCCL, as tests/kernels/cuda does.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <vector>

#include "cluster/nccl_group.h"
#include "cluster/thread_group.h"
#include "kernels/table.h"

namespace tidegate::cluster {
namespace {

const kernels::KernelTable* Table() {
  return kernels::TableFor(kernels::Backend::kCuda, kernels::DType::kF32);
}

class NcclOnGpu : public testing::Test {
 protected:
  NcclOnGpu() {
    context_.stream = device_.make_stream();
    data_ = static_cast<float*>(device_.memory.allocate(kCount * sizeof(float)));
    out_ = static_cast<float*>(device_.memory.allocate(kCount * sizeof(float)));
  }
  ~NcclOnGpu() override {
    group_.reset();
    device_.memory.release(data_);
    device_.memory.release(out_);
    device_.release_stream(context_.stream);
  }

  static std::shared_ptr<Collectives> Alone() {
    return std::move((*MakeThreadGroup(1, GroupOptions{}))[0]);
  }

  void Join() {
    const NcclStream stream{.handle = context_.stream, .idle = [this]() -> Result<bool> {
                              device_.synchronize(context_);
                              return true;
                            }};
    auto group = JoinNccl(**LoadNccl(), Alone(), stream, {});
    ASSERT_TRUE(group.has_value()) << group.error().ToString();
    group_ = std::move(*group);
    for (size_t i = 0; i < kCount; ++i) host_[i] = static_cast<float>(i) * 0.5f;
    device_.to_device(context_, data_, host_.data(), kCount * sizeof(float));
    device_.zero(context_, out_, kCount * sizeof(float));
  }

  // One rank's sum, gather and exchange are what it has itself.
  void ExpectOwn(const Status& status, const float* at) {
    ASSERT_TRUE(status.ok()) << status.ToString();
    ASSERT_TRUE(group_->Finish().ok());
    std::vector<float> back(kCount);
    device_.to_host(context_, back.data(), at, kCount * sizeof(float));
    device_.synchronize(context_);
    EXPECT_EQ(back, host_);
  }

  static constexpr size_t kCount = 100'003;
  const kernels::Device& device_ = *Table()->device;
  kernels::Context context_;
  float* data_ = nullptr;
  float* out_ = nullptr;
  std::vector<float> host_ = std::vector<float>(kCount);
  std::unique_ptr<NcclGroup> group_;
};

TEST_F(NcclOnGpu, EachCallOfOneRankGivesItsOwnData) {
  ASSERT_NO_FATAL_FAILURE(Join());
  ExpectOwn(group_->AllReduce("sum", data_, kCount, DType::kF32), data_);
  ExpectOwn(group_->Broadcast("tell", data_, kCount, DType::kF32, 0), data_);
  ExpectOwn(group_->ReduceScatter("scatter", data_, out_, kCount, DType::kF32), out_);
  ExpectOwn(group_->AllGather("gather", data_, out_, kCount, DType::kF32), out_);
  ExpectOwn(group_->AllToAll("swap", data_, out_, kCount, DType::kF32), out_);
  EXPECT_TRUE(group_->Barrier("meet").ok());
}

TEST_F(NcclOnGpu, AfterAnAbortItJoinsAgain) {
  ASSERT_NO_FATAL_FAILURE(Join());
  group_->Abort("a test");
  EXPECT_EQ(group_->AllReduce("sum", data_, kCount, DType::kF32).code(), Code::kCancelled);
  const Status again = group_->Rejoin(Alone());
  ASSERT_TRUE(again.ok()) << again.ToString();
  ExpectOwn(group_->AllReduce("sum", data_, kCount, DType::kF32), data_);
}

}  // namespace
}  // namespace tidegate::cluster

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const auto nccl = tidegate::cluster::LoadNccl();
  std::string missing;
  if (tidegate::cluster::Table() == nullptr) missing = tidegate::kernels::WhyNoCuda();
  if (!nccl) missing = nccl.error().message();
  if (missing.empty()) return RUN_ALL_TESTS();
  const char* required = std::getenv("TIDEGATE_REQUIRE_GPU");
  const bool fails = required != nullptr && std::strcmp(required, "1") == 0;
  std::cerr << (fails ? "FAILED: " : "SKIPPED: ") << "NCCL on a GPU: " << missing << "\n";
  return fails ? 1 : 77;
}
