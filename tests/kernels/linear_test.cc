#include "conformance.h"
#include "kernels/internal/matmul.h"

namespace tidegate::kernels {
namespace {

struct Shape {
  int64_t m, n, k;
};

// Few rows go to the GEMV, many to oneDNN; odd sizes everywhere, and one large enough to be shared
// between threads.
const std::vector<Shape> kShapes = {{1, 1, 1},     {1, 5, 31},     {2, 7, 33},    {3, 130, 64},
                                    {4, 9, 65},    {1, 1003, 576}, {4, 515, 192}, {5, 3, 1},
                                    {17, 1, 19},   {64, 96, 32},   {33, 71, 129}, {130, 192, 96},
                                    {5, 2100, 16}, {300, 130, 40}, {8, 77, 200},  {9, 77, 200}};

std::string Describe(const char* op, const Shape& s) {
  return std::string(op) + " " + std::to_string(s.m) + "x" + std::to_string(s.n) + "x" +
         std::to_string(s.k);
}

size_t Count(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

struct LinearCase {
  Shape shape;
  Values x, w, residual, dy;
  Values bias{};
};

Op Forward(const LinearCase& c, bool with_residual, bool in_place) {
  return [&c, with_residual, in_place](OpRun& run) {
    const auto& [m, n, k] = c.shape;
    void* y = in_place ? run.Out("y", c.residual) : run.Out("y", Count(m, n));
    const void* residual = in_place ? y : with_residual ? run.In(c.residual) : nullptr;
    const void* bias = c.bias.empty() ? nullptr : run.In(c.bias);
    run.table().linear_forward(run.context(),
                               {run.Weights(c.w, n, k), m, run.In(c.x), residual, y, bias});
  };
}

Op Backward(const LinearCase& c, bool accumulate) {
  return [&c, accumulate](OpRun& run) {
    const auto& [m, n, k] = c.shape;
    void* dx = accumulate ? run.Out("dx", c.x) : run.Out("dx", Count(m, k));
    run.table().linear_backward(run.context(),
                                {run.Weights(c.w, n, k), m, run.In(c.dy), accumulate, dx});
  };
}

Op LogitsOf(const LinearCase& c) {
  return [&c](OpRun& run) {
    const auto& [m, n, k] = c.shape;
    run.table().logits(run.context(), {run.Weights(c.w, n, k), m, run.In(c.x),
                                       run.OutGrad("logits", Count(m, n))});
  };
}

TEST(Linear, AgreesWithTheReference) {
  for (const Shape& s : kShapes) {
    const LinearCase c{s, Random(1, Count(s.m, s.k)), Random(2, Count(s.n, s.k)),
                       Random(3, Count(s.m, s.n)), Random(4, Count(s.m, s.n))};
    Conform(Describe("forward", s), Forward(c, false, false));
    Conform(Describe("forward with residual", s), Forward(c, true, false));
    Conform(Describe("forward in place", s), Forward(c, true, true));
    LinearCase biased = c;
    biased.bias = Random(5, Count(1, s.n));
    Conform(Describe("forward with bias", s), Forward(biased, false, false));
    Conform(Describe("forward with bias and residual", s), Forward(biased, true, false));
    Conform(Describe("forward with bias in place", s), Forward(biased, true, true));
    Conform(Describe("backward", s), Backward(c, false));
    Conform(Describe("backward, added", s), Backward(c, true));
    Conform(Describe("logits", s), LogitsOf(c));
  }
}

TEST(Linear, SmallIntegersAreExact) {
  for (const Shape& s : {Shape{1, 12, 37}, Shape{4, 33, 16}, Shape{40, 31, 61}, Shape{7, 64, 32}}) {
    const LinearCase c{s, Integers(1, Count(s.m, s.k), 2), Integers(2, Count(s.n, s.k), 1),
                       Integers(3, Count(s.m, s.n), 9), Integers(4, Count(s.m, s.n), 1)};
    ConformExactly(Describe("forward", s), Forward(c, true, false));
    ConformExactly(Describe("forward in place", s), Forward(c, true, true));
    LinearCase biased = c;
    biased.bias = Integers(5, Count(1, s.n), 5);
    ConformExactly(Describe("forward with bias", s), Forward(biased, true, false));
    ConformExactly(Describe("backward", s), Backward(c, true));
    ConformExactly(Describe("logits", s), LogitsOf(c));
  }
}

TEST(Linear, ReferenceGradientIsTheSlope) {
  const LinearCase c{{3, 5, 4}, Random(1, 12), Random(2, 20), Random(3, 15), Random(4, 15)};
  const auto loss = [&c](const Values& x) {
    LinearCase moved = c;
    moved.x = x;
    return Dot(c.dy, OnReference(Forward(moved, true, false)).at("y"));
  };
  ExpectGradient("dx", c.x, loss, OnReference(Backward(c, false)).at("dx"));
}

TEST(Linear, NoRowsIsNoWork) {
  const LinearCase c{{0, 5, 4}, {}, Random(2, 20), {}, {}};
  for (const KernelTable* table : AllTables()) {
    for (const Op& op : {Forward(c, false, false), Backward(c, false), LogitsOf(c)}) {
      OpRun run(*table, table->dtype, 2);
      op(run);
      run.Finish();
    }
  }
}

// By the first row of each number of rows; few rows and many are different kernels.
TEST(Linear, ARowDoesNotDependOnTheOthers) {
  const int64_t n = 99, k = 130;
  const Values w = Random(2, Count(n, k)), x = Random(1, Count(200, k));
  const auto first_row = [&](const KernelTable& table, int64_t m, bool logits) {
    const LinearCase c{{m, n, k}, Values(x.begin(), x.begin() + m * k), w, {}, {}};
    OpRun run(table, table.dtype, 2);
    (logits ? LogitsOf(c) : Forward(c, false, false))(run);
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
  const LinearCase c{{64, 48, 40}, Random(1, 64 * 40), Random(2, 48 * 40), {}, {}};
  for (const KernelTable* table : FastTables()) {
    OpRun alone(*table, table->dtype, 2);
    Forward(c, false, false)(alone);
    OpRun first(*table, table->dtype, 2), second(*table, table->dtype, 2);
#pragma omp parallel sections num_threads(2)
    {
#pragma omp section
      Forward(c, false, false)(first);
#pragma omp section
      Forward(c, false, false)(second);
    }
    for (OpRun* run : {&first, &second}) {
      EXPECT_TRUE(run->Finish().at("y").SameBytes(alone.Finish().at("y"))) << NameOf(*table);
    }
  }
}

TEST(Linear, WeightsOfAnotherFormatAreRefused) {
  const float data[4] = {};
  const WeightSource wide{WeightFormat::kF64, 2, 2, data};
  for (const KernelTable* table : FastTables()) {
    EXPECT_EQ(table->prepare_weights(wide), nullptr) << NameOf(*table);
  }
  EXPECT_NE(Reference().prepare_weights({WeightFormat::kF32, 2, 2, data}), nullptr);
  EXPECT_NE(Reference().prepare_weights({WeightFormat::kBF16, 2, 2, data}), nullptr);
}

TEST(Linear, ReferenceReadsEveryWeightFormat) {
  const Values w = RoundTo(DType::kBF16, Random(5, 12)), x = Random(6, 8);
  std::vector<Values> results;
  for (const auto& [format, dtype] :
       {std::pair{WeightFormat::kF64, DType::kF64}, std::pair{WeightFormat::kF32, DType::kF32},
        std::pair{WeightFormat::kBF16, DType::kBF16}}) {
    GuardedArray stored(dtype, w);
    const auto prepared = Reference().prepare_weights({format, 3, 4, stored.data()});
    OpRun run(Reference(), DType::kF64, 1);
    run.table().linear_forward(run.context(),
                               {prepared.get(), 2, run.In(x), nullptr, run.Out("y", 6)});
    results.push_back(run.Finish().at("y").values());
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
  EXPECT_NE(results[0], Values(6, 0));
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

}  // namespace
}  // namespace tidegate::kernels
