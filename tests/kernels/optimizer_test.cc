#include <cmath>

#include "conformance.h"

namespace tidegate::kernels {
namespace {

struct AdamCase {
  Values p, g, m, v;
  double grad_scale, lr, beta1, beta2, eps, weight_decay;
  int64_t step;
};

Op AdamOf(const AdamCase& c) {
  return [&c](OpRun& run) {
    run.table().adamw(run.context(),
                      {static_cast<int64_t>(c.p.size()), run.OutGrad("p", c.p), run.InGrad(c.g),
                       run.OutGrad("m", c.m), run.OutGrad("v", c.v), c.grad_scale, c.lr, c.beta1,
                       c.beta2, c.eps, c.weight_decay, c.step});
  };
}

Values Squares(Values values) {
  for (double& value : values) value *= value;
  return values;
}

TEST(AdamW, AgreesWithTheReference) {
  for (const size_t count : {1, 31, 1100, 40007}) {
    if (TooLargeHere(1e3 * static_cast<double>(count))) continue;
    for (const int64_t step : {1, 2, 100, 100000}) {
      const AdamCase c{Random(1, count),
                       Random(2, count),
                       Random(3, count),
                       Squares(Random(4, count, 2)),
                       0.5,
                       0.01,
                       0.9,
                       0.999,
                       1e-8,
                       0.1,
                       step};
      Conform("adamw", AdamOf(c));
    }
  }
}

TEST(AdamW, FirstStepMovesByTheLearningRateAgainstTheGradient) {
  const AdamCase c{{1, -2, 3}, {0.5, -4, 0}, Values(3, 0), Values(3, 0), 1, 0.01,
                   0.9,        0.999,        1e-8,         0.1,          1};
  const Values p = OnReference(AdamOf(c)).at("p");
  EXPECT_NEAR(p[0], 1 * (1 - 0.001) - 0.01, 1e-9);
  EXPECT_NEAR(p[1], -2 * (1 - 0.001) + 0.01, 1e-9);
  EXPECT_NEAR(p[2], 3 * (1 - 0.001), 1e-12);
}

TEST(AdamW, MomentsForgetWithTheirRates) {
  const AdamCase c{{0}, {2}, {4}, {8}, 0.5, 0.1, 0.75, 0.5, 0, 0, 2};
  const auto out = OnReference(AdamOf(c));
  EXPECT_DOUBLE_EQ(out.at("m")[0], 3.25);  // 0.75·4 + 0.25·1
  EXPECT_DOUBLE_EQ(out.at("v")[0], 4.5);   // 0.5·8 + 0.5·1
  EXPECT_DOUBLE_EQ(out.at("p")[0], -0.1 * (3.25 / 0.4375) / std::sqrt(4.5 / 0.75));
}

double SumOn(const KernelTable& table, const Values& x, int threads) {
  OpRun run(table, table.dtype, threads);
  double sum = std::nan("");
  table.sum_squares(run.context(),
                    {static_cast<int64_t>(x.size()), run.InGrad(x), run.OutDouble(&sum)});
  run.Finish();
  return sum;
}

TEST(SumSquares, IsExactForIntegersAndTheSameForAnyThreadCount) {
  for (const size_t count : {0, 1, 7, 4095, 4097, 100003}) {
    const Values x = Integers(1, count, 50);
    for (const KernelTable* table : AllTables()) {
      for (const int threads : {1, 2, 3}) EXPECT_EQ(SumOn(*table, x, threads), Dot(x, x));
    }
  }
  const Values x = RoundTo(DType::kF32, Random(2, 100003));
  for (const KernelTable* table : AllTables()) {
    const double one = SumOn(*table, x, 1);
    EXPECT_NEAR(one, Dot(x, x), 1e-9 * one);
    for (const int threads : {2, 3}) EXPECT_EQ(SumOn(*table, x, threads), one);
  }
}

}  // namespace
}  // namespace tidegate::kernels
