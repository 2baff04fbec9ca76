#include <array>
#include <cmath>

#include "conformance.h"

namespace tidegate::kernels {
namespace {

size_t Count(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

struct NormCase {
  int64_t m, n;
  double eps;
  Values x, w, dy, dx, rstd;
};

Op NormForward(const NormCase& c, bool with_rstd) {
  return [&c, with_rstd](OpRun& run) {
    run.table().rmsnorm_forward(
        run.context(), {c.m, c.n, run.In(c.x), run.In(c.w), c.eps, run.Out("y", Count(c.m, c.n)),
                        with_rstd ? run.OutGrad("rstd", static_cast<size_t>(c.m)) : nullptr});
  };
}

Op NormBackward(const NormCase& c, bool accumulate) {
  return [&c, accumulate](OpRun& run) {
    void* dx = accumulate ? run.Out("dx", c.dx) : run.Out("dx", Count(c.m, c.n));
    run.table().rmsnorm_backward(run.context(), {c.m, c.n, run.In(c.x), run.In(c.w),
                                                 run.InGrad(c.rstd), run.In(c.dy), accumulate, dx});
  };
}

NormCase MakeNormCase(int64_t m, int64_t n) {
  NormCase c{m,
             n,
             1e-5,
             Random(1, Count(m, n), 3),
             Random(2, static_cast<size_t>(n)),
             Random(3, Count(m, n)),
             Random(4, Count(m, n)),
             {}};
  c.rstd = OnReference(NormForward(c, true)).at("rstd");
  return c;
}

TEST(RmsNorm, AgreesWithTheReference) {
  for (const auto& [m, n] :
       {std::pair<int64_t, int64_t>{1, 1}, {3, 15}, {2, 65}, {7, 577}, {70, 576}, {1, 40000}}) {
    const NormCase c = MakeNormCase(m, n);
    const std::string shape = std::to_string(m) + "x" + std::to_string(n);
    Conform("rmsnorm " + shape, NormForward(c, true));
    Conform("rmsnorm without rstd " + shape, NormForward(c, false));
    Conform("rmsnorm gradient added " + shape, NormBackward(c, true));
    // One value alone is normalised to its sign, and has next to no slope.
    if (n > 1) Conform("rmsnorm gradient " + shape, NormBackward(c, false));
  }
}

TEST(RmsNorm, WorksInPlace) {
  const NormCase c = MakeNormCase(9, 70);
  const Op forward = [&c](OpRun& run) {
    void* y = run.Out("y", c.x);
    run.table().rmsnorm_forward(run.context(), {c.m, c.n, y, run.In(c.w), c.eps, y, nullptr});
  };
  const Op backward = [&c](OpRun& run) {
    void* dx = run.Out("dx", c.dy);
    run.table().rmsnorm_backward(
        run.context(), {c.m, c.n, run.In(c.x), run.In(c.w), run.InGrad(c.rstd), dx, false, dx});
  };
  Conform("rmsnorm in place", forward);
  Conform("rmsnorm gradient in place", backward);
  EXPECT_EQ(OnReference(forward).at("y"), OnReference(NormForward(c, false)).at("y"));
  EXPECT_EQ(OnReference(backward).at("dx"), OnReference(NormBackward(c, false)).at("dx"));
}

TEST(RmsNorm, NormalisedRowsHaveMeanSquareOne) {
  const NormCase c{5, 64, 0, Random(1, 320, 7), Values(64, 1), {}, {}, {}};
  const Values y = OnReference(NormForward(c, false)).at("y");
  EXPECT_NEAR(Dot(y, y) / 320, 1, 1e-12);
}

TEST(RmsNorm, ReferenceGradientIsTheSlope) {
  const NormCase c = MakeNormCase(3, 9);
  const auto loss = [&c](const Values& x) {
    NormCase moved = c;
    moved.x = x;
    return Dot(c.dy, OnReference(NormForward(moved, false)).at("y"));
  };
  ExpectGradient("dx", c.x, loss, OnReference(NormBackward(c, false)).at("dx"));
}

// As transformers does it: rounded to bf16 before the product with w, and after it.
TEST(RmsNorm, BF16RoundsTheNormalisedRowFirst) {
  const KernelTable* table = TestedTable(DType::kBF16);
  if (table == nullptr) GTEST_SKIP() << "no bf16 table: the CPU lacks AVX512-bf16";
  const NormCase c = MakeNormCase(9, 192);
  OpRun run(*table, DType::kBF16, 1);
  NormForward(c, true)(run);
  const Values y = run.Finish().at("y").values(), rstd = run.Finish().at("rstd").values();
  const Values x = RoundTo(DType::kBF16, c.x), w = RoundTo(DType::kBF16, c.w);
  for (size_t i = 0; i < y.size(); ++i) {
    const float normalised = static_cast<float>(x[i]) * static_cast<float>(rstd[i / 192]);
    EXPECT_EQ(y[i], RoundTo(DType::kBF16, RoundTo(DType::kBF16, normalised) * w[i % 192])) << i;
  }
}

struct RopeCase {
  int64_t m, heads, head_dim;
  Values x, cos, sin;
};

RopeCase MakeRopeCase(int64_t m, int64_t heads, int64_t head_dim) {
  RopeCase c{m, heads, head_dim, Random(1, Count(m * heads, head_dim)), {}, {}};
  for (const double angle : Random(2, Count(m, head_dim / 2), 3)) {
    // bf16 values, which every table takes as they are.
    c.cos.push_back(RoundTo(DType::kBF16, std::cos(angle)));
    c.sin.push_back(RoundTo(DType::kBF16, std::sin(angle)));
  }
  return c;
}

Op RopeOf(const RopeCase& c, bool inverse) {
  return [&c, inverse](OpRun& run) {
    run.table().rope(run.context(), {c.m, c.heads, c.head_dim, run.InFloat(c.cos),
                                     run.InFloat(c.sin), inverse, run.Out("x", c.x)});
  };
}

TEST(Rope, AgreesWithTheReference) {
  for (const auto& [m, heads, d] :
       {std::array<int64_t, 3>{1, 1, 2}, {5, 3, 30}, {4, 2, 34}, {70, 9, 64}, {3, 1, 128}}) {
    const RopeCase c = MakeRopeCase(m, heads, d);
    Conform("rope d " + std::to_string(d), RopeOf(c, false));
    Conform("rope inverse d " + std::to_string(d), RopeOf(c, true));
  }
}

TEST(Rope, AQuarterTurnSwapsTheHalves) {
  const RopeCase c{1, 1, 4, {1, 2, 3, 4}, {0, 0}, {1, 1}};
  ConformExactly("quarter turn", RopeOf(c, false));
  EXPECT_EQ(OnReference(RopeOf(c, false)).at("x"), (Values{-3, -4, 1, 2}));
}

TEST(Rope, InverseIsTheGradient) {
  const RopeCase c = MakeRopeCase(3, 2, 6);
  RopeCase gradient = c;
  gradient.x = Random(9, c.x.size());
  const auto loss = [&](const Values& x) {
    RopeCase moved = c;
    moved.x = x;
    return Dot(gradient.x, OnReference(RopeOf(moved, false)).at("x"));
  };
  ExpectGradient("dx", c.x, loss, OnReference(RopeOf(gradient, true)).at("x"));
}

struct SwigluCase {
  Values gate, up, dact;
};

Op SwigluOf(const SwigluCase& c) {
  return [&c](OpRun& run) {
    const size_t count = c.gate.size();
    run.table().swiglu_forward(run.context(), {static_cast<int64_t>(count), run.In(c.gate),
                                               run.In(c.up), run.Out("act", count)});
  };
}

Op SwigluGradient(const SwigluCase& c, bool with_act, bool in_place) {
  return [&c, with_act, in_place](OpRun& run) {
    const size_t count = c.gate.size();
    void* dgate = in_place ? run.Out("dgate", c.dact) : run.Out("dgate", count);
    const void* dact = in_place ? dgate : run.In(c.dact);
    run.table().swiglu_backward(
        run.context(), {static_cast<int64_t>(count), run.In(c.gate), run.In(c.up), dact, dgate,
                        run.Out("dup", count), with_act ? run.Out("act", count) : nullptr});
  };
}

TEST(Swiglu, AgreesWithTheReference) {
  for (const size_t count : {1, 15, 16, 17, 1000, 40007}) {
    if (TooLargeHere(1e3 * static_cast<double>(count))) continue;
    const SwigluCase c{Random(1, count, 8), Random(2, count), Random(3, count)};
    const std::string size = std::to_string(count);
    Conform("swiglu " + size, SwigluOf(c));
    Conform("swiglu gradient " + size, SwigluGradient(c, true, false));
    Conform("swiglu gradient in place " + size, SwigluGradient(c, false, true));
  }
}

TEST(Swiglu, ReferenceGradientsAreTheSlopes) {
  const SwigluCase c{Random(1, 20, 4), Random(2, 20), Random(3, 20)};
  const auto gradients = OnReference(SwigluGradient(c, true, false));
  const auto loss_of = [&c](Values SwigluCase::*member) {
    return [&c, member](const Values& at) {
      SwigluCase moved = c;
      moved.*member = at;
      return Dot(c.dact, OnReference(SwigluOf(moved)).at("act"));
    };
  };
  ExpectGradient("dgate", c.gate, loss_of(&SwigluCase::gate), gradients.at("dgate"));
  ExpectGradient("dup", c.up, loss_of(&SwigluCase::up), gradients.at("dup"));
  EXPECT_EQ(gradients.at("act"), OnReference(SwigluOf(c)).at("act"));
}

TEST(Swiglu, ExponentialIsGoodToAMillionthEverywhere) {
  const KernelTable& table = *TestedTable(DType::kF32);
  SwigluCase c{{}, Values(32001, 1), {}};
  for (int i = -16000; i <= 16000; ++i) c.gate.push_back(i * 0.005 + 1e-4);
  OpRun run(table, DType::kF32, 1);
  SwigluOf(c)(run);
  const Values act = run.Finish().at("act").values();
  double worst = 0;
  for (size_t i = 0; i < act.size(); ++i) {
    const double g = RoundTo(DType::kF32, c.gate[i]);
    const double want = g / (1 + std::exp(-g));
    worst = std::max(worst, std::abs(act[i] - want) / std::abs(want));
  }
  EXPECT_LT(worst, 1e-6);
}

TEST(Swiglu, ExtremeGatesStayFiniteAndNaNStaysNaN) {
  const SwigluCase c{
      {-1e30, -1000, -100, 0, 100, 1000, 1e30, std::nan("")}, Values(8, 1), Values(8, 1)};
  for (const KernelTable* table : FastTables()) {
    OpRun run(*table, table->dtype, 1);
    SwigluGradient(c, true, false)(run);
    for (const auto& [name, output] : run.Finish()) {
      const Values values = output.values();
      for (size_t i = 0; i < 7; ++i) EXPECT_TRUE(std::isfinite(values[i])) << name << i;
      EXPECT_TRUE(std::isnan(values[7])) << name << " on " << NameOf(*table);
    }
    const Values act = run.Finish().at("act").values();
    EXPECT_NEAR(act[2], 0, 1e-30);
    EXPECT_EQ(act[3], 0);
    EXPECT_EQ(act[4], 100);
  }
}

Op ConvertOf(const Values& in, double scale) {
  return [&in, scale](OpRun& run) {
    run.table().convert(run.context(), {static_cast<int64_t>(in.size()), run.InGrad(in), scale,
                                        run.Out("out", in.size())});
  };
}

TEST(Convert, AgreesWithTheReference) {
  for (const size_t count : {1, 33, 40007}) {
    if (TooLargeHere(1e3 * static_cast<double>(count))) continue;
    const Values in = Random(1, count);
    Conform("convert", ConvertOf(in, 2));
    Conform("convert", ConvertOf(in, 0.7));
  }
}

// Every upper half of a float, with lower halves around the tie. Subnormals become zero, as in all
// bf16 instructions.
TEST(Convert, BF16IsNearestEvenWithQuietNaN) {
  const KernelTable* table = TestedTable(DType::kBF16);
  if (table == nullptr) GTEST_SKIP() << "no bf16 table: the CPU lacks AVX512-bf16";
  std::vector<uint32_t> in;
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    if (ThisProgram().small && upper % 61 > 1) continue;
    for (const uint32_t lower : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      in.push_back(upper << 16 | lower);
    }
  }
  std::vector<uint16_t> out(in.size());
  Staging staging(*table, 2);
  const void* from = staging.Array(in.data(), in.size());
  void* to = staging.Place(out.data(), out.size() * sizeof(out[0]));
  table->convert(staging.context(), {static_cast<int64_t>(in.size()), from, 1, to});
  staging.Fetch();
  for (size_t i = 0; i < in.size(); ++i) {
    const uint32_t exponent = in[i] >> 23 & 0xff, fraction = in[i] & 0x7fffff;
    uint32_t want = (in[i] + 0x7fff + (in[i] >> 16 & 1)) >> 16;
    if (exponent == 0) want = in[i] >> 31 << 15;
    if (exponent == 0xff && fraction != 0) want = in[i] >> 16 | 0x40;
    ASSERT_EQ(out[i], want) << std::hex << in[i];
  }
}

TEST(Embedding, CopiesTheRowsOfTheTable) {
  const std::vector<int32_t> ids = {4, 0, 0, 2, 6};
  std::vector<int32_t> many;
  for (int32_t i = 0; i < 130; ++i) many.push_back((i * 5) % 7);
  const Values table = RoundTo(DType::kBF16, Random(1, 7 * 33));
  for (const std::vector<int32_t>& rows : {ids, many}) {
    const Op op = [&](OpRun& run) {
      run.table().embedding(run.context(),
                            {run.Source(table, 7, 33), static_cast<int64_t>(rows.size()),
                             run.InIds(rows), run.Out("out", rows.size() * 33)});
    };
    ConformExactly("embedding", op);
    const Values out = OnReference(op).at("out");
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(out[i], table[static_cast<size_t>(rows[i / 33]) * 33 + i % 33]);
    }
  }
}

}  // namespace
}  // namespace tidegate::kernels
