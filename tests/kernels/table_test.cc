#include <sched.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "conformance.h"

namespace tidegate::kernels {
namespace {

TEST(Table, EverySlotIsFilled) {
  for (const KernelTable* table : AllTables()) {
    // The function pointers, from the first to the end of the struct.
    const size_t begin = offsetof(KernelTable, prepare_weights);
    for (size_t at = begin; at < sizeof(KernelTable); at += sizeof(void*)) {
      void* slot;
      std::memcpy(&slot, reinterpret_cast<const char*>(table) + at, sizeof(slot));
      EXPECT_NE(slot, nullptr) << NameOf(*table) << ", slot " << (at - begin) / sizeof(void*);
    }
  }
}

TEST(Table, TablesAreWhatWasAskedFor) {
  EXPECT_EQ(Reference().dtype, DType::kF64);
  EXPECT_EQ(TableFor(Backend::kRef, DType::kF32), nullptr);
  EXPECT_EQ(TableFor(Backend::kCpu, DType::kF64), nullptr);
  ASSERT_NE(TableFor(Backend::kCpu, DType::kF32), nullptr);
  for (const KernelTable* table : FastTables()) {
    EXPECT_EQ(table->backend, Backend::kCpu);
    EXPECT_EQ(TableFor(Backend::kCpu, table->dtype), table);
  }
}

// A test program is started with DNNL_MAX_CPU_ISA to stand for an older machine.
TEST(Table, InstructionSetFollowsTheMachineAndItsLimit) {
  const char* limit = std::getenv("DNNL_MAX_CPU_ISA");
  const std::string isa = TableFor(Backend::kCpu, DType::kF32)->isa;
  const bool bf16 = TableFor(Backend::kCpu, DType::kBF16) != nullptr;
  EXPECT_EQ(bf16, isa == "avx512bf16" || isa == "amx-bf16");
  if (limit == nullptr) {
    EXPECT_EQ(bf16, __builtin_cpu_supports("avx512bf16") != 0);
  } else if (std::string(limit) == "SSE41") {
    EXPECT_EQ(isa, "sse4");
  } else if (std::string(limit) == "AVX2") {
    EXPECT_EQ(isa, __builtin_cpu_supports("avx2") ? "avx2" : "sse4");
  } else if (std::string(limit) == "AVX512_CORE") {
    EXPECT_FALSE(bf16);
  } else if (std::string(limit) == "AVX512_CORE_BF16") {
    EXPECT_NE(isa, "amx-bf16");
  }
}

TEST(Workspace, BlocksAreAlignedDistinctAndFreedByTheirScope) {
  Workspace workspace;
  EXPECT_EQ(workspace.high_water(), 0u);
  {
    const Workspace::Scope outer(workspace);
    char* a = static_cast<char*>(workspace.Allocate(100));
    std::memset(a, 1, 100);
    char* inner_memory;
    {
      const Workspace::Scope inner(workspace);
      inner_memory = static_cast<char*>(workspace.Allocate(3'000'000));  // a block of its own
      std::memset(inner_memory, 2, 3'000'000);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(inner_memory) % 64, 0u);
    }
    const Workspace::Scope again(workspace);
    EXPECT_EQ(workspace.Allocate(2'900'000), inner_memory);
    EXPECT_EQ(a[99], 1);
  }
  EXPECT_GE(workspace.high_water(), 3'000'100u);
  EXPECT_LE(workspace.high_water(), 3'000'300u);
}

TEST(Workspace, ReusesItsMemoryAndServesEmptyRequests) {
  Workspace workspace;
  for (int round = 0; round < 100; ++round) {
    const Workspace::Scope scope(workspace);
    for (int i = 0; i < 20; ++i) std::memset(workspace.Allocate(50'000), i, 50'000);
    EXPECT_NE(workspace.Allocate(0), nullptr);
  }
  EXPECT_LT(workspace.high_water(), 20 * 50'100u + 64);
  EXPECT_THROW(workspace.Allocate(SIZE_MAX), std::bad_alloc);
}

// In a thread of its own, because pinning lasts.
TEST(Pinning, EachWorkerGetsOneCpuAndResultsStay) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  const int cpus = CPU_COUNT(&before);
  std::thread([cpus] {
    const auto allowed = [] {
      cpu_set_t set;
      EXPECT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
      return CPU_COUNT(&set);
    };
    PinThreads(cpus + 1);  // more threads than CPUs: left alone
    EXPECT_EQ(allowed(), cpus);
    PinThreads(cpus);
    EXPECT_EQ(allowed(), 1);
    const Values x = Random(1, 70'000);
    Conform("convert after pinning", [&x](OpRun& run) {
      run.table().convert(run.context(), {static_cast<int64_t>(x.size()), run.InGrad(x), 1,
                                          run.Out("out", x.size())});
    });
  }).join();
  cpu_set_t after;
  ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
  EXPECT_EQ(CPU_COUNT(&after), cpus) << "only the calling thread's team is pinned";
}

}  // namespace
}  // namespace tidegate::kernels
