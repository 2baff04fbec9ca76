#include "conformance.h"

namespace tidegate::kernels {
namespace {

struct LoraCase {
  int64_t m, n, k, r;
  Values x, a, b, y, dy, da, db_t, dx;
};

size_t Count(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

LoraCase MakeCase(int64_t m, int64_t n, int64_t k, int64_t r) {
  return {m,
          n,
          k,
          r,
          Random(1, Count(m, k)),
          Random(2, Count(r, k)),
          Random(3, Count(n, r)),
          Random(4, Count(m, n)),
          Random(5, Count(m, n)),
          Random(6, Count(r, k)),
          Random(7, Count(r, n)),
          Random(8, Count(m, k))};
}

LoraCase IntegerCase(int64_t m, int64_t n, int64_t k, int64_t r) {
  return {m,
          n,
          k,
          r,
          Integers(1, Count(m, k), 1),
          Integers(2, Count(r, k), 1),
          Integers(3, Count(n, r), 1),
          Integers(4, Count(m, n), 2),
          Integers(5, Count(m, n), 1),
          Integers(6, Count(r, k), 2),
          Integers(7, Count(r, n), 2),
          Integers(8, Count(m, k), 2)};
}

std::string Describe(const char* op, const LoraCase& c) {
  return std::string(op) + " m " + std::to_string(c.m) + " n " + std::to_string(c.n) + " k " +
         std::to_string(c.k) + " r " + std::to_string(c.r);
}

Op Forward(const LoraCase& c) {
  return [&c](OpRun& run) {
    run.table().lora_forward(run.context(),
                             {c.m, c.n, c.k, c.r, run.In(c.x), run.In(c.a), run.In(c.b),
                              run.Out("u", Count(c.m, c.r)), run.Out("y", c.y)});
  };
}

// u as the forward pass of the reference has it, rounded like any activation.
Values KeptU(const LoraCase& c, DType input) {
  OpRun run(Reference(), input, 1);
  Forward(c)(run);
  return run.Finish().at("u").values();
}

enum class Dx { kNone, kSet, kAdd };

Op Backward(const LoraCase& c, const Values& u, Dx dx) {
  return [&c, &u, dx](OpRun& run) {
    void* out = dx == Dx::kNone  ? nullptr
                : dx == Dx::kAdd ? run.Out("dx", c.dx)
                                 : run.Out("dx", Count(c.m, c.k));
    run.table().lora_backward(
        run.context(),
        {c.m, c.n, c.k, c.r, run.In(c.x), run.In(u), run.In(c.dy), run.In(c.a), run.In(c.b),
         run.OutGrad("da", c.da), run.OutGrad("db_t", c.db_t), dx == Dx::kAdd, out});
  };
}

const std::vector<std::vector<int64_t>> kShapes = {
    {1, 3, 5, 1}, {6, 33, 17, 4}, {65, 48, 31, 8}, {513, 40, 24, 16}, {1100, 48, 40, 8}};

TEST(Lora, AgreesWithTheReference) {
  for (const auto& s : kShapes) {
    const LoraCase c = MakeCase(s[0], s[1], s[2], s[3]);
    Conform(Describe("forward", c), Forward(c));
    const Values u = KeptU(c, DType::kF64);
    for (const Dx dx : {Dx::kNone, Dx::kSet, Dx::kAdd}) {
      Conform(Describe("backward", c), Backward(c, u, dx));
    }
  }
}

// With so few columns oneDNN would split the sum over rows between threads, were the rows not cut.
TEST(Lora, LongSumsHaveTheSameBitsForAnyThreadCount) {
  const LoraCase c = MakeCase(2048, 16, 24, 4);
  const Values u = KeptU(c, DType::kF64);
  Conform(Describe("backward", c), Backward(c, u, Dx::kSet));
}

TEST(Lora, SmallIntegersAreExact) {
  const LoraCase c = IntegerCase(70, 12, 8, 3);
  const Values u = KeptU(c, DType::kF64);
  ConformExactly(Describe("forward", c), Forward(c));
  ConformExactly(Describe("backward", c), Backward(c, u, Dx::kAdd));
}

TEST(Lora, ReferenceGradientsAreTheSlopes) {
  LoraCase c = MakeCase(4, 6, 5, 2);
  const Values u = KeptU(c, DType::kF64);
  c.da.assign(c.da.size(), 0);
  c.db_t.assign(c.db_t.size(), 0);
  const auto gradients = OnReference(Backward(c, u, Dx::kSet));
  const auto loss_of = [&c](Values LoraCase::*member) {
    return [&c, member](const Values& at) {
      LoraCase moved = c;
      moved.*member = at;
      return Dot(c.dy, OnReference(Forward(moved)).at("y"));
    };
  };
  ExpectGradient("dx", c.x, loss_of(&LoraCase::x), gradients.at("dx"));
  ExpectGradient("da", c.a, loss_of(&LoraCase::a), gradients.at("da"));
  Values db(c.b.size());
  for (int64_t j = 0; j < c.n; ++j) {
    for (int64_t p = 0; p < c.r; ++p)
      db[Count(j, c.r) + p] = gradients.at("db_t")[Count(p, c.n) + j];
  }
  ExpectGradient("db", c.b, loss_of(&LoraCase::b), db);
}

}  // namespace
}  // namespace tidegate::kernels
