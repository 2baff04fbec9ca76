// Kernels at the shapes of SmolLM2-135M: floating-point operations or bytes a second for each op,
// on every table this machine has. TIDEGATE_BENCH_THREADS sets the threads (default: all CPUs
// allowed).
#include <benchmark/benchmark.h>
#include <sched.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/table.h"

namespace tidegate::kernels {
namespace {

int Threads() {
  static const int threads = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    const char* asked = std::getenv("TIDEGATE_BENCH_THREADS");
    if (asked != nullptr && std::atoi(asked) > 0) return std::atoi(asked);
    return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  }();
  return threads;
}

// Buffers of random activations, kept for the length of a benchmark.
class Arena {
 public:
  explicit Arena(DType dtype) : dtype_(dtype) {
    context_.threads = Threads();
    context_.workspace = &workspace_;
  }
  const Context& context() const { return context_; }

  void* Fill(DType dtype, int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * SizeOf(dtype);
    void* memory = workspace_.Allocate(bytes);
    for (int64_t i = 0; i < count; ++i) {
      const float value =
          UniformFloat(RandomWords(1, RngPurpose::kTest, 0, static_cast<uint64_t>(i))[0]) - 0.5f;
      if (dtype == DType::kF32) {
        static_cast<float*>(memory)[i] = value;
      } else {
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof(bits));
        static_cast<uint16_t*>(memory)[i] = static_cast<uint16_t>(bits >> 16);
      }
    }
    return memory;
  }
  void* Activations(int64_t count) { return Fill(dtype_, count); }
  void* Gradients(int64_t count) { return Fill(GradType(dtype_), count); }

  std::unique_ptr<PreparedWeights> Weights(const KernelTable& table, int64_t n, int64_t k) {
    const WeightFormat format = dtype_ == DType::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16;
    return table.prepare_weights({format, n, k, Activations(n * k)});
  }

 private:
  DType dtype_;
  Workspace workspace_;
  Context context_;
};

using Body = void (*)(benchmark::State&, const KernelTable&, Arena&);

void CountOperations(benchmark::State& state, double each) {
  state.counters["GFLOP/s"] = benchmark::Counter(
      each * 1e-9, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}
void CountBytes(benchmark::State& state, double each) {
  state.counters["GB/s"] = benchmark::Counter(
      each * 1e-9, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

double Product(int64_t a, int64_t b, int64_t c) {
  return 2.0 * static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

// Arguments: rows, out features, in features.
void LinearForward(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto w = arena.Weights(table, n, k);
  const LinearForwardArgs args{w.get(), m, arena.Activations(m * k), nullptr,
                               arena.Activations(m * n)};
  for (auto _ : state) table.linear_forward(arena.context(), args);
  CountOperations(state, Product(m, n, k));
}

void LinearResidual(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto w = arena.Weights(table, n, k);
  const LinearForwardArgs args{w.get(), m, arena.Activations(m * k), arena.Activations(m * n),
                               arena.Activations(m * n)};
  for (auto _ : state) table.linear_forward(arena.context(), args);
  CountOperations(state, Product(m, n, k));
}

void LinearBackward(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto w = arena.Weights(table, n, k);
  const LinearBackwardArgs args{w.get(), m, arena.Activations(m * n), false,
                                arena.Activations(m * k)};
  for (auto _ : state) table.linear_backward(arena.context(), args);
  CountOperations(state, Product(m, n, k));
}

void Gemv(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto w = arena.Weights(table, n, k);
  const LogitsArgs args{w.get(), m, arena.Activations(m * k), arena.Gradients(m * n)};
  for (auto _ : state) table.logits(arena.context(), args);
  CountBytes(state, static_cast<double>(n * k) * static_cast<double>(SizeOf(table.dtype)));
}

constexpr int64_t kRank = 16;

void LoraForward(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2), r = kRank;
  const LoraForwardArgs args{m,
                             n,
                             k,
                             r,
                             arena.Activations(m * k),
                             arena.Activations(r * k),
                             arena.Activations(n * r),
                             arena.Activations(m * r),
                             arena.Activations(m * n)};
  for (auto _ : state) table.lora_forward(arena.context(), args);
  CountOperations(state, Product(m, n + k, r));
}

void LoraBackward(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2), r = kRank;
  const LoraBackwardArgs args{m,
                              n,
                              k,
                              r,
                              arena.Activations(m * k),
                              arena.Activations(m * r),
                              arena.Activations(m * n),
                              arena.Activations(r * k),
                              arena.Activations(n * r),
                              arena.Gradients(r * k),
                              arena.Gradients(r * n),
                              true,
                              arena.Activations(m * k)};
  for (auto _ : state) table.lora_backward(arena.context(), args);
  CountOperations(state, 2 * Product(m, n + k, r));
}

// Arguments: rows, width. Bytes are those read and written once.
void RmsNormForward(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t m = state.range(0), n = state.range(1);
  const RmsNormForwardArgs args{m,
                                n,
                                arena.Activations(m * n),
                                arena.Activations(n),
                                1e-5,
                                arena.Activations(m * n),
                                arena.Gradients(m)};
  for (auto _ : state) table.rmsnorm_forward(arena.context(), args);
  CountBytes(state, 2.0 * static_cast<double>(m * n) * static_cast<double>(SizeOf(table.dtype)));
}

void RmsNormBackward(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t m = state.range(0), n = state.range(1);
  const RmsNormBackwardArgs args{m,
                                 n,
                                 arena.Activations(m * n),
                                 arena.Activations(n),
                                 arena.Gradients(m),
                                 arena.Activations(m * n),
                                 false,
                                 arena.Activations(m * n)};
  for (auto _ : state) table.rmsnorm_backward(arena.context(), args);
  CountBytes(state, 3.0 * static_cast<double>(m * n) * static_cast<double>(SizeOf(table.dtype)));
}

void Rope(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t m = state.range(0), heads = state.range(1) / 64;
  const float* cos = static_cast<float*>(arena.Fill(DType::kF32, m * 32));
  const float* sin = static_cast<float*>(arena.Fill(DType::kF32, m * 32));
  const RopeArgs args{m, heads, 64, cos, sin, false, arena.Activations(m * heads * 64)};
  for (auto _ : state) table.rope(arena.context(), args);
  CountBytes(state,
             2.0 * static_cast<double>(m * heads * 64) * static_cast<double>(SizeOf(table.dtype)));
}

void SwigluForward(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t count = state.range(0) * state.range(1);
  const SwigluForwardArgs args{count, arena.Activations(count), arena.Activations(count),
                               arena.Activations(count)};
  for (auto _ : state) table.swiglu_forward(arena.context(), args);
  CountBytes(state, 3.0 * static_cast<double>(count) * static_cast<double>(SizeOf(table.dtype)));
}

void SwigluBackward(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t count = state.range(0) * state.range(1);
  const SwigluBackwardArgs args{count,
                                arena.Activations(count),
                                arena.Activations(count),
                                arena.Activations(count),
                                arena.Activations(count),
                                arena.Activations(count),
                                arena.Activations(count)};
  for (auto _ : state) table.swiglu_backward(arena.context(), args);
  CountBytes(state, 6.0 * static_cast<double>(count) * static_cast<double>(SizeOf(table.dtype)));
}

void DropoutForward(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t count = state.range(0) * state.range(1);
  const DropoutForwardArgs args{
      count, 0.05, {1, 2, 3}, arena.Activations(count), arena.Activations(count)};
  for (auto _ : state) table.dropout_forward(arena.context(), args);
  CountBytes(state, 2.0 * static_cast<double>(count) * static_cast<double>(SizeOf(table.dtype)));
}

void AdamW(benchmark::State& state, const KernelTable& table, Arena& arena) {
  const int64_t count = state.range(0) * state.range(1);
  float* v = static_cast<float*>(arena.Gradients(count));
  for (int64_t i = 0; i < count; ++i) v[i] = 1;
  const AdamWArgs args{count,
                       arena.Gradients(count),
                       arena.Gradients(count),
                       arena.Gradients(count),
                       v,
                       1,
                       1e-4,
                       0.9,
                       0.999,
                       1e-8,
                       0.01,
                       10};
  for (auto _ : state) table.adamw(arena.context(), args);
  CountBytes(state, 28.0 * static_cast<double>(count));
}

void Register(const std::string& name, Body body, std::vector<std::vector<int64_t>> shapes) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const KernelTable* table = TableFor(Backend::kCpu, dtype);
    if (table == nullptr) continue;
    const std::string full = name + (dtype == DType::kF32 ? "/f32" : "/bf16");
    auto* registered =
        benchmark::RegisterBenchmark(full.c_str(), [table, body](benchmark::State& state) {
          Arena arena(table->dtype);
          body(state, *table, arena);
        });
    registered->UseRealTime()->Unit(benchmark::kMicrosecond);
    for (const std::vector<int64_t>& shape : shapes) registered->Args(shape);
  }
}

void RegisterAll() {
  // q or o, k or v, gate or up, down: rows, out, in.
  const std::vector<std::vector<int64_t>> layers = {
      {2048, 576, 576}, {2048, 192, 576}, {2048, 1536, 576}, {2048, 576, 1536}};
  Register("linear_forward", LinearForward, layers);
  Register("linear_residual", LinearResidual, {{2048, 576, 576}, {2048, 576, 1536}});
  Register("linear_backward", LinearBackward, layers);
  Register("lora_forward", LoraForward, layers);
  Register("lora_backward", LoraBackward, layers);
  Register("gemv", Gemv, {{1, 49152, 576}, {4, 49152, 576}, {1, 1536, 576}, {1, 576, 1536}});
  Register("rmsnorm_forward", RmsNormForward, {{2048, 576}});
  Register("rmsnorm_backward", RmsNormBackward, {{2048, 576}});
  Register("rope", Rope, {{2048, 576}});
  Register("swiglu_forward", SwigluForward, {{2048, 1536}});
  Register("swiglu_backward", SwigluBackward, {{2048, 1536}});
  Register("dropout_forward", DropoutForward, {{2048, 576}});
  Register("adamw", AdamW, {{2048, 2400}});
}

}  // namespace
}  // namespace tidegate::kernels

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  tidegate::kernels::PinThreads(tidegate::kernels::Threads());
  tidegate::kernels::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
