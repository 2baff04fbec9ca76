// What the CPU's products promise beyond right results: the same bits whatever stands beside a row
// and however many threads there are, and that oneDNN chose its fast kernels.
#include <algorithm>

#include "conformance.h"
#include "kernels/internal/matmul.h"

namespace tidegate::kernels {
namespace {

size_t Count(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

Op ForwardOf(int64_t m, int64_t n, int64_t k, const Values& x, const Values& w) {
  return [=](OpRun& run) {
    void* y = run.Out("y", Count(m, n));
    run.table().linear_forward(run.context(), {run.Weights(w, n, k), m, run.In(x), nullptr, y});
  };
}

Op LogitsOf(int64_t m, int64_t n, int64_t k, const Values& x, const Values& w) {
  return [=](OpRun& run) {
    void* logits = run.OutGrad("logits", Count(m, n));
    run.table().logits(run.context(), {run.Weights(w, n, k), m, run.In(x), logits});
  };
}

// By the first row of each number of rows; few rows and many are different kernels.
TEST(Linear, ARowDoesNotDependOnTheOthers) {
  const int64_t n = 99, k = 130;
  const Values w = Random(2, Count(n, k)), x = Random(1, Count(200, k));
  const auto first_row = [&](const KernelTable& table, int64_t m, bool logits) {
    const Values some(x.begin(), x.begin() + m * k);
    OpRun run(table, table.dtype, 2);
    (logits ? LogitsOf(m, n, k, some, w) : ForwardOf(m, n, k, some, w))(run);
    Values y = run.Finish().at(logits ? "logits" : "y").values();
    y.resize(static_cast<size_t>(n));
    return y;
  };
  for (const KernelTable* table : FastTables()) {
    for (const bool logits : {false, true}) {
      const Values alone = first_row(*table, 1, logits), of_nine = first_row(*table, 9, logits);
      for (int64_t m = 2; m <= 8; ++m) {
        EXPECT_EQ(first_row(*table, m, logits), alone) << NameOf(*table) << " " << m;
      }
      for (const int64_t m : {17, 64, 200}) {
        EXPECT_EQ(first_row(*table, m, logits), of_nine) << NameOf(*table) << " " << m;
      }
    }
  }
}

TEST(Linear, WorksInsideAParallelRegionOfTheCaller) {
  const Op forward = ForwardOf(64, 48, 40, Random(1, 64 * 40), Random(2, 48 * 40));
  for (const KernelTable* table : FastTables()) {
    OpRun alone(*table, table->dtype, 2);
    forward(alone);
    OpRun first(*table, table->dtype, 2), second(*table, table->dtype, 2);
#pragma omp parallel sections num_threads(2)
    {
#pragma omp section
      forward(first);
#pragma omp section
      forward(second);
    }
    for (OpRun* run : {&first, &second}) {
      EXPECT_TRUE(run->Finish().at("y").SameBytes(alone.Finish().at("y"))) << NameOf(*table);
    }
  }
}

// A segment's rows must not know in which batch they stand.
TEST(FusedLora, ARowHasTheSameBitsWhateverStandsBesideIt) {
  const auto forward = [](int64_t m) {
    return [m](OpRun& run) {
      const int64_t n = 96, k = 64, r = 5;
      const void* x = run.In(Random(1, Count(m, k)));
      void* y = run.Out("y", Count(m, n));
      const LoraForwardArgs lora{m,
                                 n,
                                 k,
                                 r,
                                 x,
                                 run.In(Random(2, Count(r, k))),
                                 run.In(Random(3, Count(n, r))),
                                 run.Out("u", Count(m, r)),
                                 y};
      run.table().linear_forward(run.context(),
                                 {run.Weights(Random(4, Count(n, k)), n, k), m, x,
                                  run.In(Random(6, Count(m, n))), y, nullptr, &lora});
    };
  };
  for (const KernelTable* table : FastTables()) {
    OpRun whole(*table, table->dtype, 2), part(*table, table->dtype, 1);
    forward(131)(whole);
    forward(70)(part);
    const Values want = whole.Finish().at("y").values(), got = part.Finish().at("y").values();
    EXPECT_TRUE(std::equal(got.begin(), got.end(), want.begin())) << NameOf(*table);
  }
}

// oneDNN alone divides such a sum between threads.
TEST(Linear, ALongTransposedSumHasTheSameBitsForAnyThreadCount) {
  const MatmulSpec shape{DType::kF32, DType::kF32, 16, 70, 4096, true, false, MatmulPost::kSum};
  for (const KernelTable* table : FastTables()) {
    MatmulSpec spec = shape;
    spec.input = table->dtype;
    const Values a = Random(1, Count(spec.k, spec.m)), b = Random(2, Count(spec.k, spec.n));
    std::vector<Values> results;
    for (const int threads : {1, 2, 3, 4}) {
      OpRun run(*table, table->dtype, threads);
      Matmul(run.context(), spec, run.In(a), run.In(b), run.OutGrad("c", Values(16 * 70, 1)));
      results.push_back(run.Finish().at("c").values());
    }
    for (const Values& result : results) EXPECT_EQ(result, results[0]) << NameOf(*table);
    double want = 1;
    for (size_t l = 0; l < 4096; ++l) {
      want += RoundTo(table->dtype, a[l * 16 + 3]) * RoundTo(table->dtype, b[l * 70 + 69]);
    }
    EXPECT_NEAR(results[0][3 * 70 + 69], want, 1e-3);
  }
}

// "ref:any" would be right and a hundred times too slow; nothing else would tell.
TEST(Linear, OneDnnUsesItsFastKernelsForTheShapesOfModels) {
  Context context;
  context.threads = 2;
  const std::vector<std::pair<int64_t, int64_t>> layers = {
      {576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}, {11008, 4096}};
  for (const KernelTable* table : FastTables()) {
    const DType t = table->dtype;
    for (const auto& [n, k] : layers) {
      for (const int64_t m : {5, 77, 512, 2048}) {
        for (const MatmulPost post : {MatmulPost::kNone, MatmulPost::kSum, MatmulPost::kResidual}) {
          for (const MatmulSpec& spec :
               {MatmulSpec{t, t, m, n, k, false, true, post},
                MatmulSpec{t, t, m, n, k, false, true, post, true},
                MatmulSpec{t, t, m, k, n, false, false, post},
                MatmulSpec{t, DType::kF32, m, n, k, false, true, MatmulPost::kNone}}) {
            const std::string name = MatmulImplementation(context, spec);
            EXPECT_TRUE(name.starts_with("brg") || name.find("jit") != std::string::npos)
                << NameOf(*table) << " " << spec.m << "x" << spec.n << "x" << spec.k << ": "
                << name;
          }
        }
      }
    }
  }
}

TEST(Lora, OneDnnUsesItsFastKernelsForThinProducts) {
  Context context;
  context.threads = 2;
  for (const KernelTable* table : FastTables()) {
    const DType t = table->dtype;
    for (const int64_t r : {8, 16, 64}) {
      for (const int64_t width : {192, 576, 1536}) {
        for (const MatmulSpec& spec :
             {MatmulSpec{t, t, 2048, r, width, false, true, MatmulPost::kNone},
              MatmulSpec{t, t, 2048, width, r, false, true, MatmulPost::kSum},
              MatmulSpec{t, t, 2048, r, width, false, false, MatmulPost::kNone},
              MatmulSpec{t, t, 2048, width, r, false, false, MatmulPost::kSum},
              MatmulSpec{t, DType::kF32, r, width, 512, true, false, MatmulPost::kSum}}) {
          const std::string name = MatmulImplementation(context, spec);
          EXPECT_TRUE(name.starts_with("brg") || name.find("jit") != std::string::npos)
              << NameOf(*table) << " r " << r << " width " << width << ": " << name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tidegate::kernels
