// The emulator's own tests: each mistake that kernels make is planted, and must be seen.
#include "emulator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <vector>

#include "kernels/internal/simt.h"

namespace tidegate::kernels::simt {
namespace {

constexpr uint64_t kSchedules[] = {0, 1, 2, 3, 4, 5, 6};

// Runs a kernel on `count` floats and returns them.
std::vector<float> RunKernel(void (*kernel)(float*), int threads, size_t count, unsigned blocks = 1,
                             size_t shared = 0) {
  float* device = nullptr;
  EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&device), count * sizeof(float)), cudaSuccess);
  std::vector<float> out(count, 0);
  const size_t bytes = count * sizeof(float);
  cudaMemcpyAsync(device, out.data(), bytes, cudaMemcpyHostToDevice, nullptr);
  EXPECT_EQ(TryLaunch(kernel, dim3(blocks), dim3(static_cast<unsigned>(threads)), shared, nullptr,
                      device),
            cudaSuccess);
  cudaMemcpyAsync(out.data(), device, bytes, cudaMemcpyDeviceToHost, nullptr);
  try {
    cudaStreamSynchronize(nullptr);
  } catch (...) {
    cudaFree(device);
    throw;
  }
  cudaFree(device);
  return out;
}

// How many of the schedules show that the kernel gives anything but `want` everywhere.
int SchedulesThatShowIt(void (*kernel)(float*), int threads, float want) {
  int shown = 0;
  for (const uint64_t schedule : kSchedules) {
    SetSchedule(schedule);
    bool right = true;
    for (const float value : RunKernel(kernel, threads, static_cast<size_t>(threads))) {
      right = right && value == want;
    }
    shown += right ? 0 : 1;
  }
  SetSchedule(0);
  return shown;
}

std::string ErrorOf(void (*kernel)(float*), int threads) {
  try {
    RunKernel(kernel, threads, static_cast<size_t>(threads));
  } catch (const SimtError& error) {
    return error.what();
  }
  return "";
}

SIMT_DEVICE int Me() { return static_cast<int>(threadIdx.x); }

// The sum of 1 over a block, by way of shared memory.
template <bool kFirst, bool kSecond, bool kAgain>
void Sum(float* out) {
  SIMT_SHARED(float, partial, [4]);
  float sum = 0;
  for (int call = 0; call < (kAgain ? 2 : 1); ++call) {
    float value = 1;
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
    if (kSecond) __syncthreads();
    if (Me() % 32 == 0) partial[Me() / 32] = value + static_cast<float>(call);
    if (kFirst) __syncthreads();
    for (int warp = 0; warp < 4; ++warp) sum += partial[warp];
    sum -= static_cast<float>(4 * call);
  }
  out[Me()] = sum;
}

TEST(Emulator, ARightKernelIsRightInEveryOrder) {
  EXPECT_EQ(SchedulesThatShowIt(Sum<true, true, false>, 128, 128), 0);
  EXPECT_EQ(SchedulesThatShowIt(Sum<true, true, true>, 128, 256), 0);
}

TEST(Emulator, AMissingBarrierBetweenWritingAndReadingIsSeen) {
  EXPECT_EQ(SchedulesThatShowIt(Sum<false, true, false>, 128, 128), 7);
}

TEST(Emulator, AMissingBarrierBeforeMemoryIsUsedAgainIsSeen) {
  EXPECT_GE(SchedulesThatShowIt(Sum<true, false, true>, 128, 256), 5);
}

void Unsummed(float* out) {
  SIMT_SHARED(float, sum, [1]);
  if (Me() == 0) sum[0] += 1;  // never set
  __syncthreads();
  out[Me()] = sum[0];
}

TEST(Emulator, SharedMemoryBeginsAsNaN) { EXPECT_EQ(SchedulesThatShowIt(Unsummed, 64, 1), 7); }

void NeighbourWithoutWarpBarrier(float* out) {
  SIMT_SHARED(float, slots, [32]);
  slots[Me()] = 1;
  out[Me()] = slots[(Me() + 1) % 32];
}
void NeighbourWithWarpBarrier(float* out) {
  SIMT_SHARED(float, slots, [32]);
  slots[Me()] = 1;
  __syncwarp();
  out[Me()] = slots[(Me() + 1) % 32];
}

TEST(Emulator, AMissingWarpBarrierIsSeen) {
  EXPECT_EQ(SchedulesThatShowIt(NeighbourWithoutWarpBarrier, 32, 1), 7);
  EXPECT_EQ(SchedulesThatShowIt(NeighbourWithWarpBarrier, 32, 1), 0);
}

void DivergentBarrier(float* out) {
  if (Me() < 32) {
    __syncthreads();
  } else {
    out[Me()] = 1;
    __syncthreads();
  }
}
void BarrierOfSome(float* out) {
  if (Me() != 5) __syncthreads();
  if (Me() == 5) __syncwarp();
  out[Me()] = 1;
}
void BallotOfSome(float* out) {
  if (Me() % 2 == 0) out[Me()] = static_cast<float>(__ballot_sync(kAllLanes, true));
}
void WarpAtTwoPlaces(float* out) {
  float value = 1;
  if (Me() % 2 == 0) {
    value = __shfl_xor_sync(kAllLanes, value, 1);
  } else {
    value = __shfl_xor_sync(kAllLanes, value, 1);
  }
  out[Me()] = value;
}
void PartOfAWarp(float* out) {
  if (Me() < 16) out[Me()] = __shfl_xor_sync(0xffffu, 1.0f, 1);
}

TEST(Emulator, BarriersThatNotAllReachAreRefused) {
  for (const uint64_t schedule : kSchedules) {
    SetSchedule(schedule);
    EXPECT_NE(ErrorOf(DivergentBarrier, 64).find("divergent"), std::string::npos);
    EXPECT_NE(ErrorOf(BarrierOfSome, 64).find("no thread can go on"), std::string::npos);
    EXPECT_NE(ErrorOf(BallotOfSome, 32).find("no thread can go on"), std::string::npos);
    EXPECT_NE(ErrorOf(WarpAtTwoPlaces, 32).find("lanes are at"), std::string::npos);
    EXPECT_NE(ErrorOf(PartOfAWarp, 32).find("some lanes only"), std::string::npos);
  }
  SetSchedule(0);
}

void EarlyEnd(float* out) {
  out[Me()] = 1;
  if (Me() >= 32) return;
  __syncthreads();
}

TEST(Emulator, ThreadsThatHaveEndedDoNotCountAtABarrier) {
  EXPECT_EQ(SchedulesThatShowIt(EarlyEnd, 64, 1), 0);
}

// Two stages of copies, each lane its own 16 bytes.
template <int kPending, bool kLate>
void Copies(float* out) {
  SIMT_SHARED(float, stage, [2][32][4]);
  SIMT_SHARED(float, source, [32][4]);
  for (int i = 0; i < 4; ++i) {
    source[Me()][i] = 1;
    stage[0][Me()][i] = stage[1][Me()][i] = 0;
  }
  __syncwarp();
  CopyAsync16(stage[0][Me()], source[Me()], true);
  CopyCommit();
  CopyAsync16(stage[1][Me()], source[Me()], true);
  CopyCommit();
  CopyWait<kPending>();
  if (kLate) source[Me()][0] = 5;  // a copy in flight may still read it
  out[Me()] = stage[0][Me()][0] + stage[1][Me()][0];
}

TEST(Emulator, ACopyReadBeforeItWasWaitedForIsSeen) {
  EXPECT_EQ(SchedulesThatShowIt(Copies<0, false>, 32, 2), 0);
  EXPECT_GE(SchedulesThatShowIt(Copies<1, false>, 32, 2), 5);
}

TEST(Emulator, LaunchesBeyondTheHardwareAreRefused) {
  const auto launch = [](dim3 grid, dim3 block, size_t shared) {
    return TryLaunch(EarlyEnd, grid, block, shared, nullptr, static_cast<float*>(nullptr));
  };
  EXPECT_EQ(launch(1, 1056, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(1, 48, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(1, 32, 300 * 1024), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(dim3(1, 70000), 32, 0), cudaErrorInvalidConfiguration);
}

TEST(Emulator, CopiesBetweenHostAndDeviceKnowWhichIsWhich) {
  float* device = nullptr;
  float host[4] = {};
  cudaMalloc(reinterpret_cast<void**>(&device), sizeof(host));
  EXPECT_EQ(cudaMemcpyAsync(host, device, sizeof(host), cudaMemcpyHostToDevice, nullptr),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyAsync(device, host, sizeof(host) + 4, cudaMemcpyHostToDevice, nullptr),
            cudaErrorInvalidValue);
  cudaMemsetAsync(device, 0, sizeof(host), nullptr);
  host[0] = 3;
  EXPECT_EQ(cudaMemcpyAsync(host, device, sizeof(host), cudaMemcpyDeviceToHost, nullptr),
            cudaSuccess);
  EXPECT_EQ(host[0], 3) << "nothing runs before the host waits";
  cudaStreamSynchronize(nullptr);
  EXPECT_EQ(host[0], 0);
  cudaFree(device);
}

#if defined(__SANITIZE_ADDRESS__)
void PastTheEnd(float* out) { out[Me() + 1] = 1; }
void PastShared(float* out) {
  SIMT_DYNAMIC_SHARED(float, shared);
  shared[Me() + 1] = 1;
  out[Me()] = shared[Me() + 1];
}

TEST(EmulatorDeathTest, MemoryPastAnEndIsSeenByAddressSanitizer) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(RunKernel(PastTheEnd, 64, 64), "AddressSanitizer");
  EXPECT_DEATH(RunKernel(PastShared, 64, 64, 1, 64 * sizeof(float)), "AddressSanitizer");
}

TEST(EmulatorDeathTest, DeviceMemoryIsNotTheHostsToRead) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  float* device = nullptr;
  cudaMalloc(reinterpret_cast<void**>(&device), 64);
  EXPECT_DEATH(std::printf("%f", static_cast<double>(device[0])), "AddressSanitizer");
  cudaFree(device);
}
#endif

}  // namespace
}  // namespace tidegate::kernels::simt
