// Which kernel multiplies, where the shapes and buffers are those of models.
#include "kernels/internal/cuda_matmul.h"
#include "tests/kernels/conformance.h"

namespace tidegate::kernels {
namespace {

size_t Count(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

TEST(Products, OfModelsAreLeftToCuBlasLt) {
  const int64_t m = 40, n = 96, k = 64, r = 8;
  for (const KernelTable* table : FastTables()) {
    OpRun run(*table, table->dtype, 1, true);
    const int64_t before = PlainMatmuls();
    const PreparedWeights* w = run.Weights(Random(1, Count(n, k)), n, k);
    const void* x = run.In(Random(2, Count(m, k)));
    void* y = run.Out("y", Count(m, n));
    void* dx = run.Out("dx", Count(m, k));
    const void *a = run.In(Random(3, Count(r, k))), *b = run.In(Random(4, Count(n, r)));
    void* u = run.Out("u", Count(m, r));
    const LoraForwardArgs lora{m, n, k, r, x, a, b, u, y};
    table->linear_forward(run.context(), {w, m, x, run.In(Random(5, Count(m, n))), y,
                                          run.In(Random(6, Count(1, n))), &lora});
    const LoraBackwardArgs back{m,
                                n,
                                k,
                                r,
                                x,
                                u,
                                y,
                                a,
                                b,
                                run.OutGrad("da", Values(Count(r, k), 0)),
                                run.OutGrad("db_t", Values(Count(r, n), 0)),
                                true,
                                dx};
    table->linear_backward(run.context(), {w, m, y, false, dx, &back});
    table->linear_gradient(run.context(), {m, n, k, x, y, run.OutGrad("dw", Values(Count(n, k), 0)),
                                           run.OutGrad("db", Values(Count(1, n), 0))});
    run.Finish();
    EXPECT_EQ(PlainMatmuls(), before) << NameOf(*table);
  }
}

}  // namespace
}  // namespace tidegate::kernels
