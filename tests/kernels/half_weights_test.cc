// The table of floats multiplies weights that are held in bf16 to the very bits that it gets from
// the floats that they stand for.
#include "conformance.h"

namespace tidegate::kernels {
namespace {

struct Shape {
  int64_t m, n, k;
};

// As Quantized has them: the GEMV, oneDNN, odd sizes, several tiles of the head.
const std::vector<Shape> kShapes = {{1, 1, 1},    {1, 130, 96},   {3, 7, 33},
                                    {8, 77, 200}, {17, 5, 19},    {33, 71, 65},
                                    {64, 96, 64}, {1, 700, 1000}, {40, 513, 64}};

size_t Count(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

// Every op that reads a weight matrix, on these weights.
void RunAll(OpRun& run, const Shape& s, WeightFormat format, GuardedArray& stored) {
  const auto& [m, n, k] = s;
  const WeightSource source = {format, n, k, run.Place(stored)};
  const KernelTable& t = run.table();
  const auto prepared = t.prepare_weights(source);
  ASSERT_NE(prepared, nullptr);
  const void* x = run.In(Random(1, Count(m, k)));
  const void* dy = run.In(Random(2, Count(m, n)));
  t.linear_forward(run.context(), {prepared.get(), m, x, run.In(Random(3, Count(m, n))),
                                   run.Out("y", Count(m, n)), run.In(Random(4, Count(1, n)))});
  t.linear_backward(run.context(), {prepared.get(), m, dy, false, run.Out("dx", Count(m, k))});
  t.logits(run.context(), {prepared.get(), m, x, run.OutGrad("logits", Count(m, n))});
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < m; ++i) ids.push_back(static_cast<int32_t>((i * 7 + n - 1) % n));
  const int32_t* rows = run.InIds(ids);
  t.embedding(run.context(), {source, m, rows, run.Out("rows", Count(m, k))});
  void* lse = run.OutGrad("lse", Count(1, m));
  t.head_loss(run.context(), {prepared.get(), m, x, rows, nullptr, run.OutGrad("loss", Count(1, m)),
                              run.Out("dh", Count(m, k)), lse});
  t.head_gradient(run.context(), {prepared.get(), m, x, rows, nullptr, lse,
                                  run.OutGrad("dw", Values(Count(n, k), 0.0))});
}

TEST(HalfWeights, TheTableOfFloatsGetsTheBitsOfTheirFloats) {
  const KernelTable& table = *TestedTable(DType::kF32);
  for (const Shape& s : kShapes) {
    const Values w = RoundTo(DType::kBF16, Random(5, Count(s.n, s.k), 0.5));
    GuardedArray halves(DType::kBF16, w), floats(DType::kF32, w);
    for (const int threads : {1, 3}) {
      OpRun half(table, DType::kF32, threads), whole(table, DType::kF32, threads);
      RunAll(half, s, WeightFormat::kBF16, halves);
      RunAll(whole, s, WeightFormat::kF32, floats);
      const auto& want = whole.Finish();
      for (const auto& [name, output] : half.Finish()) {
        EXPECT_TRUE(output.SameBytes(want.at(name)))
            << name << " of " << s.m << "x" << s.n << "x" << s.k;
      }
    }
  }
}

}  // namespace
}  // namespace tidegate::kernels
