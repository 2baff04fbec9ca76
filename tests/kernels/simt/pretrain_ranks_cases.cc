// Pretraining on two ranks with a GPU each: two processes with an emulated GPU, and NCCL played by
// calls that are queued on an emulated stream, which runs at once, and travel over TCP. So a sum
// that does not wait for the pass that makes its gradients adds what is not there yet.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <sstream>

#include "cluster/nccl_group.h"
#include "emulator.h"
#include "tests/cluster/tcp_fixture.h"
#include "tests/kernels/tested.h"
#include "tests/pretrain/ranks.h"

extern char** environ;

namespace tidegate::pretrain {
namespace {

using cluster::Collectives;
using kernels::Backend;
using kernels::DType;

constexpr const char* kPeer = "TIDEGATE_TEST_PEER";  // of the other rank: two addresses
constexpr int kSeconds = 60;

// What NCCL's calls go over, and the first error of one.
std::unique_ptr<Collectives> wire;
Status failed;

cluster::DType TypeOf(cluster::NcclType type) {
  return type == cluster::kNcclBfloat16 ? cluster::DType::kBf16 : cluster::DType::kF32;
}

cluster::NcclResult Queue(cluster::NcclStreamHandle stream, std::function<Status()> call) {
  kernels::simt::EnqueueWork(static_cast<cudaStream_t>(stream), [call = std::move(call)] {
    if (failed.ok()) failed = call();
  });
  // At once, as a GPU may: what it does not follow has not run yet.
  cudaStreamSynchronize(static_cast<cudaStream_t>(stream));
  return cluster::kNcclSuccess;
}

cluster::NcclApi QueuedNccl() {
  using namespace cluster;  // NOLINT: its names, in this function alone
  NcclApi api;
  api.get_unique_id = [](NcclId*) { return kNcclSuccess; };
  api.init_rank = [](NcclComm** comm, int, NcclId, int, NcclConfig*) {
    *comm = reinterpret_cast<NcclComm*>(&wire);
    return kNcclSuccess;
  };
  api.finalize = [](NcclComm*) { return kNcclSuccess; };
  api.destroy = api.abort = [](NcclComm*) { return kNcclSuccess; };
  api.async_error = [](NcclComm*, NcclResult* error) {
    *error = failed.ok() ? kNcclSuccess : kNcclRemoteError;
    return kNcclSuccess;
  };
  api.error_string = [](NcclResult) { return failed.message().c_str(); };
  api.reduce_scatter = [](const void* in, void* out, size_t count, NcclType type, int, NcclComm*,
                          NcclStreamHandle stream) {
    return Queue(stream, [=] { return wire->ReduceScatter("sum", in, out, count, TypeOf(type)); });
  };
  api.all_gather = [](const void* in, void* out, size_t count, NcclType type, NcclComm*,
                      NcclStreamHandle stream) {
    return Queue(stream, [=] { return wire->AllGather("all", in, out, count, TypeOf(type)); });
  };
  return api;
}

StepConfig Steps() {
  StepConfig config = TinyStep();
  config.ordered = false;
  config.global_batch_size = 4;
  config.micro_batch_size = 1;
  return config;
}

// Of several buckets, so that the sums of the first run as the pass goes on.
model::ModelConfig Shape() {
  model::ModelConfig config = TinyConfig();
  config.hidden_size = 96;
  config.intermediate_size = 192;
  config.head_dim = 24;
  config.num_kv_heads = 4;
  config.vocab_size = 1200;
  return config;
}

struct Curve {
  std::vector<double> losses, norms;
  std::vector<float> masters;  // on rank 0
};

Curve Train(Rank& rank) {
  InitialiseMasters(*rank.model, rank.partition, 5, &rank.shard);
  if (const Status s = rank.trainer->SpreadWeights(); !s.ok()) {
    throw std::runtime_error(s.ToString());
  }
  Curve curve;
  for (int i = 0; i < 2; ++i) {
    const StepOutcome outcome = Must(rank.trainer->Step({}));
    curve.losses.push_back(outcome.result.loss);
    curve.norms.push_back(outcome.result.grad_norm);
  }
  curve.masters = Must(rank.trainer->GatherMasters());
  return curve;
}

// On this process' GPU, with what goes between the ranks over `control` and the wire.
Curve TrainWith(std::shared_ptr<Collectives> control) {
  static const cluster::NcclApi api = QueuedNccl();
  const kernels::Device& device = *kernels::TestedTable(DType::kF32)->device;
  void* const stream = device.make_stream();
  const auto idle = [&device, stream]() -> Result<bool> {
    return device.idle({1, nullptr, stream});
  };
  Curve curve;
  {
    const auto data = Must(cluster::JoinNccl(api, control, {stream, idle},
                                             {.deadline = std::chrono::seconds(kSeconds)}));
    Rank rank(Shape(), Steps(), control.get(), {.backend = Backend::kCuda}, 1, data.get());
    EXPECT_GE(rank.partition.buckets().size(), 3u);
    curve = Train(rank);
  }
  device.release_stream(stream);
  return curve;
}

// This test program again, for that one case. Killed where it outlives the test.
class OtherRank {
 public:
  explicit OtherRank(const std::string& addresses) {
    ::setenv(kPeer, addresses.c_str(), 1);
    std::string self = "/proc/self/exe", filter = "--gtest_filter=PretrainRanksOnDevice.TheOther";
    char* words[] = {self.data(), filter.data(), nullptr};
    if (::posix_spawn(&pid_, self.c_str(), nullptr, nullptr, words, environ) != 0) pid_ = -1;
    ::unsetenv(kPeer);
  }
  ~OtherRank() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  // Whether its case passed.
  bool Ended() {
    int status = -1;
    const bool ended = pid_ > 0 && ::waitpid(pid_, &status, 0) == pid_;
    pid_ = -1;
    return ended && status == 0;
  }

 private:
  pid_t pid_ = -1;
};

const cluster::GroupOptions kOptions{.deadline = std::chrono::seconds(kSeconds)};

TEST(PretrainRanksOnDevice, TwoTrainWhatOneDoes) {
  if (std::getenv(kPeer) != nullptr) return;
  const cluster::Loopback control, calls;
  OtherRank other(control.address + " " + calls.address);
  std::shared_ptr<Collectives> group =
      Must(cluster::HostTcpGroup(control.listener, 2, cluster::SecretOf(1), kOptions));
  wire = Must(cluster::HostTcpGroup(calls.listener, 2, cluster::SecretOf(2), kOptions));
  const Curve two = TrainWith(group);
  EXPECT_TRUE(other.Ended());
  wire.reset();

  Rank alone(Shape(), Steps(), nullptr, {.backend = Backend::kCuda});
  const Curve one = Train(alone);
  ASSERT_EQ(two.losses.size(), one.losses.size());
  for (size_t i = 0; i < one.losses.size(); ++i) {
    EXPECT_NEAR(two.losses[i], one.losses[i], 1e-5 * one.losses[i]) << i;
    EXPECT_NEAR(two.norms[i], one.norms[i], 1e-4 * one.norms[i]) << i;
  }
  // Of the flat layout each has its own filling at the end.
  double difference = 0, size = 0;
  for (size_t i = 0; i < std::min(one.masters.size(), two.masters.size()); ++i) {
    difference += std::pow(static_cast<double>(one.masters[i] - two.masters[i]), 2);
    size += std::pow(static_cast<double>(one.masters[i]), 2);
  }
  ASSERT_GT(size, 0);
  EXPECT_LT(std::sqrt(difference / size), 1e-4);
}

TEST(PretrainRanksOnDevice, TheOther) {
  const char* addresses = std::getenv(kPeer);
  if (addresses == nullptr) GTEST_SKIP() << "the other process of TwoTrainWhatOneDoes";
  std::istringstream words(addresses);
  std::string control, calls;
  words >> control >> calls;
  std::shared_ptr<Collectives> group =
      Must(cluster::JoinTcpGroup(control, 1, 2, cluster::SecretOf(1), kOptions));
  wire = Must(cluster::JoinTcpGroup(calls, 1, 2, cluster::SecretOf(2), kOptions));
  EXPECT_EQ(TrainWith(group).losses.size(), 2u);
  wire.reset();
}

}  // namespace
}  // namespace tidegate::pretrain
