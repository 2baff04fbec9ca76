// Attention and the head with its loss, of SmolLM2-135M's shape: GF/s of the exact causal FLOP.
// Counters: GFLOPS, and tok/s of one layer (attention) or of the head.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <vector>

#include "base/rng.h"
#include "kernels/table.h"

namespace tidegate::kernels {
namespace {

constexpr int64_t kHeads = 9, kKvHeads = 3, kHeadDim = 64;

// Uniform in [-1, 1), f32 or bf16.
class Values {
 public:
  Values(DType dtype, int64_t count) : bytes_(static_cast<size_t>(count) * SizeOf(dtype)) {
    const size_t size = dtype == DType::kBF16 ? 2 : 4;
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t word = RandomWords(1, RngPurpose::kTest, 0, static_cast<uint64_t>(i))[0];
      const float value = 2 * UniformFloat(word) - 1;
      std::memcpy(bytes_.data() + static_cast<size_t>(i) * size,
                  reinterpret_cast<const char*>(&value) + 4 - size, size);
    }
  }
  void* data() { return bytes_.data(); }

 private:
  std::vector<char> bytes_;
};

const KernelTable* TableOf(benchmark::State& state) {
  const DType dtype = state.range(0) == 0 ? DType::kF32 : DType::kBF16;
  const KernelTable* table = TableFor(Backend::kCpu, dtype);
  if (!table) state.SkipWithError("this CPU has no table for the type");
  return table;
}

void Report(benchmark::State& state, double flop, int64_t tokens) {
  using benchmark::Counter;
  const double runs = static_cast<double>(state.iterations());
  state.counters["GFLOPS"] = Counter(flop * runs * 1e-9, Counter::kIsRate);
  state.counters["tok/s"] = Counter(static_cast<double>(tokens) * runs, Counter::kIsRate);
}

// range: type (0 f32, 1 bf16), segment length, segments, threads
struct AttentionCase {
  AttentionCase(DType dtype, const benchmark::State& state)
      : length(state.range(1)),
        segments(state.range(2)),
        t(length * segments),
        q(dtype, t * kHeads * kHeadDim),
        k(dtype, t * kKvHeads * kHeadDim),
        v(dtype, t * kKvHeads * kHeadDim),
        dout(dtype, t * kHeads * kHeadDim),
        out(dtype, t * kHeads * kHeadDim),
        dq(dtype, t * kHeads * kHeadDim),
        dk(dtype, t * kKvHeads * kHeadDim),
        dv(dtype, t * kKvHeads * kHeadDim),
        lse(DType::kF32, t * kHeads),
        context{static_cast<int>(state.range(3)), &workspace} {
    for (int64_t i = 0; i < t; ++i) starts.push_back(static_cast<int32_t>(i / length * length));
    shape = {t, kHeads, kKvHeads, kHeadDim, starts.data()};
  }
  // One product over the pairs that are seen.
  double ProductFlop() const {
    return 2.0 * static_cast<double>(segments * length * (length + 1) / 2 * kHeads * kHeadDim);
  }
  int64_t length, segments, t;
  Values q, k, v, dout, out, dq, dk, dv, lse;
  std::vector<int32_t> starts;
  AttentionShape shape;
  Workspace workspace;
  Context context;
};

void BM_AttentionForward(benchmark::State& state) {
  const KernelTable* table = TableOf(state);
  if (!table) return;
  AttentionCase c(table->dtype, state);
  for (auto _ : state) {
    table->attention_forward(
        c.context, {c.shape, c.q.data(), c.k.data(), c.v.data(), c.out.data(), c.lse.data()});
  }
  Report(state, 2 * c.ProductFlop(), c.t);
}

void BM_AttentionBackward(benchmark::State& state) {
  const KernelTable* table = TableOf(state);
  if (!table) return;
  AttentionCase c(table->dtype, state);
  table->attention_forward(
      c.context, {c.shape, c.q.data(), c.k.data(), c.v.data(), c.out.data(), c.lse.data()});
  for (auto _ : state) {
    table->attention_backward(
        c.context, {c.shape, c.q.data(), c.k.data(), c.v.data(), c.out.data(), c.lse.data(),
                    c.dout.data(), c.dq.data(), c.dk.data(), c.dv.data()});
  }
  Report(state, 5 * c.ProductFlop(), c.t);
}

void AttentionArguments(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"bf16", "length", "segments", "threads"})->UseRealTime();
  for (const int64_t type : {1, 0}) {
    for (const int64_t threads : {1, 2}) {
      bench->Args({type, 512, 4, threads})->Args({type, 2048, 1, threads});
    }
  }
}
BENCHMARK(BM_AttentionForward)->Apply(AttentionArguments);
BENCHMARK(BM_AttentionBackward)->Apply(AttentionArguments);

// One new token; range: type, cached tokens, threads
void BM_AttentionDecode(benchmark::State& state) {
  const KernelTable* table = TableOf(state);
  if (!table) return;
  const int64_t past = state.range(1);
  Workspace workspace;
  const Context context{static_cast<int>(state.range(2)), &workspace};
  Values q(table->dtype, kHeads * kHeadDim), out(table->dtype, kHeads * kHeadDim);
  Values k(table->dtype, (past + 1) * kKvHeads * kHeadDim);
  Values v(table->dtype, (past + 1) * kKvHeads * kHeadDim);
  for (auto _ : state) {
    table->attention_decode(
        context, {1, past, kHeads, kKvHeads, kHeadDim, q.data(), k.data(), v.data(), out.data()});
  }
  Report(state, 4.0 * static_cast<double>((past + 1) * kHeads * kHeadDim), 1);
}
BENCHMARK(BM_AttentionDecode)
    ->ArgNames({"bf16", "past", "threads"})
    ->Args({1, 256, 1})
    ->Args({1, 2048, 1})
    ->Args({1, 2048, 2})
    ->Args({0, 2048, 1})
    ->UseRealTime();

// 512 rows, 576 → 49152; range: type, gradient, threads
void BM_HeadLoss(benchmark::State& state) {
  const KernelTable* table = TableOf(state);
  if (!table) return;
  constexpr int64_t kRows = 512, kVocab = 49152, kWidth = 576;
  Values h(table->dtype, kRows * kWidth), w(table->dtype, kVocab * kWidth);
  Values dh(table->dtype, kRows * kWidth), loss(DType::kF32, kRows);
  std::vector<int32_t> targets(kRows);
  for (size_t i = 0; i < targets.size(); ++i) targets[i] = static_cast<int32_t>(i * 95);
  const WeightFormat format = state.range(0) == 0 ? WeightFormat::kF32 : WeightFormat::kBF16;
  const auto prepared = table->prepare_weights({format, kVocab, kWidth, w.data()});
  Workspace workspace;
  const Context context{static_cast<int>(state.range(2)), &workspace};
  for (auto _ : state) {
    table->head_loss(context, {prepared.get(), kRows, h.data(), targets.data(), nullptr,
                               loss.data(), state.range(1) ? dh.data() : nullptr});
  }
  const double products = state.range(1) ? 2 : 1;
  Report(state, products * 2.0 * kRows * kVocab * kWidth, kRows);
}
BENCHMARK(BM_HeadLoss)
    ->ArgNames({"bf16", "gradient", "threads"})
    ->Args({1, 1, 1})
    ->Args({1, 1, 2})
    ->Args({1, 0, 2})
    ->Args({0, 1, 1})
    ->Args({0, 1, 2})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tidegate::kernels

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  tidegate::kernels::PinThreads(2);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
