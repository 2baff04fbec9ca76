#include "conformance.h"

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

}  // namespace
}  // namespace tidegate::kernels
