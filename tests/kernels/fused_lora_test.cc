// A linear layer with its low-rank branch in one call: every shape that the kernels cut work by,
// and ranks that are no multiple of anything.
#include "conformance.h"

namespace tidegate::kernels {
namespace {

struct Case {
  int64_t m, n, k, r;
};

// Rows beside multiples of 32, sums in one block and in several, rows so long that panels pass
// them in groups, and sizes that AMX does not take.
const std::vector<Case> kCases = {
    {40, 32, 32, 1},    {32, 64, 96, 16},   {33, 96, 64, 3}, {31, 33, 40, 5},  {130, 64, 32, 33},
    {100, 32, 1504, 8}, {65, 1536, 64, 64}, {3, 64, 64, 16}, {600, 64, 96, 7}, {40, 288, 3136, 4}};

size_t Count(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

std::string Describe(const char* op, const Case& c) {
  return std::string(op) + " " + std::to_string(c.m) + "x" + std::to_string(c.n) + "x" +
         std::to_string(c.k) + " r " + std::to_string(c.r);
}

using Make = Values (*)(uint64_t seed, size_t count);

Op Forward(const Case& c, Make make, bool in_place) {
  return [&c, make, in_place](OpRun& run) {
    const auto& [m, n, k, r] = c;
    const void* x = run.In(make(1, Count(m, k)));
    const Values residual = make(6, Count(m, n));
    void* y = in_place ? run.Out("y", residual) : run.Out("y", Count(m, n));
    const LoraForwardArgs lora{m,
                               n,
                               k,
                               r,
                               x,
                               run.In(make(2, Count(r, k))),
                               run.In(make(3, Count(n, r))),
                               run.Out("u", Count(m, r)),
                               y};
    run.table().linear_forward(
        run.context(), {run.Weights(make(4, Count(n, k)), n, k), m, x,
                        in_place ? y : run.In(residual), y, run.In(make(5, Count(1, n))), &lora});
  };
}

Op Backward(const Case& c, Make make, bool accumulate) {
  return [&c, make, accumulate](OpRun& run) {
    const auto& [m, n, k, r] = c;
    const void* dy = run.In(make(1, Count(m, n)));
    void* dx = accumulate ? run.Out("dx", make(2, Count(m, k))) : run.Out("dx", Count(m, k));
    const LoraBackwardArgs lora{m,
                                n,
                                k,
                                r,
                                run.In(make(3, Count(m, k))),
                                run.In(make(4, Count(m, r))),
                                dy,
                                run.In(make(5, Count(r, k))),
                                run.In(make(6, Count(n, r))),
                                run.OutGrad("da", make(7, Count(r, k))),
                                run.OutGrad("db_t", make(8, Count(r, n))),
                                true,
                                dx};
    run.table().linear_backward(
        run.context(), {run.Weights(make(9, Count(n, k)), n, k), m, dy, accumulate, dx, &lora});
  };
}

Values Any(uint64_t seed, size_t count) { return Random(seed, count); }
Values Small(uint64_t seed, size_t count) { return Integers(seed, count, seed % 2 == 0 ? 1 : 2); }

TEST(FusedLora, AgreesWithTheReference) {
  for (const Case& c : kCases) {
    if (TooLargeHere(static_cast<double>(c.m * c.n * c.k))) continue;
    for (const bool add : {false, true}) {
      Conform(Describe("forward", c), Forward(c, Any, add));
      Conform(Describe("backward", c), Backward(c, Any, add));
    }
  }
}

TEST(FusedLora, SmallIntegersAreExact) {
  // u and v stay whole numbers that bf16 holds.
  for (const Case& c : {Case{40, 32, 32, 3}, Case{33, 64, 32, 2}, Case{36, 32, 64, 1}}) {
    ConformExactly(Describe("forward", c), Forward(c, Small, true));
    ConformExactly(Describe("backward", c), Backward(c, Small, true));
  }
}

}  // namespace
}  // namespace tidegate::kernels
