// Attention against the reference, and the promises that the model relies on: segments do not see
// each other, thread counts do not change bits, nothing is written outside.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <ostream>

#include "kernels/table.h"
#include "tests/kernels/kernel_buffers.h"

namespace tidegate::kernels {
namespace {

struct Case {
  std::vector<int64_t> segments;  // lengths
  int64_t heads, kv_heads, head_dim;
  int64_t t() const { return std::accumulate(segments.begin(), segments.end(), int64_t{0}); }
  double work() const { return static_cast<double>(t() * t() * heads * head_dim) / 2; }
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  out << c.heads << "/" << c.kv_heads << " heads of " << c.head_dim << ", segments";
  for (const int64_t n : c.segments) out << " " << n;
  return out;
}

std::vector<int32_t> StartsOf(const std::vector<int64_t>& segments) {
  std::vector<int32_t> starts;
  for (const int64_t n : segments) {
    const int32_t at = static_cast<int32_t>(starts.size());
    for (int64_t i = 0; i < n; ++i) starts.push_back(at);
  }
  return starts;
}

struct Inputs {
  std::vector<double> q, k, v, dout;
};

Inputs RandomInputs(DType dtype, const Case& c, double score_amplitude = 1.5) {
  const int64_t queries = c.t() * c.heads * c.head_dim, keys = c.t() * c.kv_heads * c.head_dim;
  return {RandomValues(dtype, queries, 1, score_amplitude), RandomValues(dtype, keys, 2, 1.5),
          RandomValues(dtype, keys, 3, 1.0), RandomValues(dtype, queries, 4, 1.0)};
}

// Forward and backward of one table on one case.
struct Outcome {
  Outcome(const KernelTable& table, const Case& c, const Inputs& in, int threads = 1)
      : out(table.dtype, c.t() * c.heads * c.head_dim),
        lse(GradType(table.dtype), c.heads * c.t()),
        dq(table.dtype, c.t() * c.heads * c.head_dim),
        dk(table.dtype, c.t() * c.kv_heads * c.head_dim),
        dv(table.dtype, c.t() * c.kv_heads * c.head_dim) {
    const std::vector<int32_t> starts = StartsOf(c.segments);
    const Buffer q_values(table.dtype, in.q), k_values(table.dtype, in.k);
    const Buffer v_values(table.dtype, in.v), dout_values(table.dtype, in.dout);
    Staging staging(table, threads, true);
    const Context& context = staging.context();
    const AttentionShape shape = {c.t(), c.heads, c.kv_heads, c.head_dim,
                                  staging.Array(starts.data(), starts.size())};
    const void *q = q_values.In(staging), *k = k_values.In(staging), *v = v_values.In(staging);
    void *o = out.In(staging), *l = lse.In(staging);
    table.attention_forward(context, {shape, q, k, v, o, l});
    table.attention_backward(context, {shape, q, k, v, o, l, dout_values.In(staging),
                                       dq.In(staging), dk.In(staging), dv.In(staging)});
    staging.Fetch();
  }
  bool GuardsIntact() const {
    return out.GuardsIntact() && lse.GuardsIntact() && dq.GuardsIntact() && dk.GuardsIntact() &&
           dv.GuardsIntact();
  }
  Buffer out, lse, dq, dk, dv;
};

// Limits, as parts of the reference's rms: largest, rms.
struct Limits {
  double out, out_rms, gradient, gradient_rms, lse;
};
Limits LimitsFor(DType dtype) {
  if (dtype == DType::kF32) return {2e-5, 2e-6, 5e-5, 4e-6, 2e-6};
  return {5e-2, 4e-3, 1e-1, 8e-3, 2e-5};
}

const KernelTable& RefTable() { return *TableFor(Backend::kRef, DType::kF64); }

class Attention : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    table_ = TestedTable(GetParam());
    if (!table_) GTEST_SKIP() << "this CPU has no AVX512-bf16, so there is no bf16 table";
  }
  const KernelTable* table_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Types, Attention, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& type) {
                           return type.param == DType::kF32 ? std::string("F32")
                                                            : std::string("BF16");
                         });

TEST_P(Attention, EqualsTheReference) {
  const Case cases[] = {
      {{1}, 2, 1, 64},
      {{2}, 4, 4, 32},
      {{63}, 9, 3, 64},
      {{64}, 9, 3, 64},
      {{65}, 2, 1, 64},
      {{300}, 9, 3, 64},
      {{577}, 2, 1, 64},
      {{200}, 4, 4, 128},
      {{130}, 2, 1, 96},
      {{70}, 2, 1, 256},
      {{130}, 2, 1, 16},
      {{130}, 3, 1, 80},
      {{90}, 2, 1, 24},   // not cut into tiles
      {{40}, 2, 1, 320},  // nor this
      {{1, 1, 1, 1}, 2, 1, 32},
      {{64, 64, 64}, 2, 1, 64},
      {{1, 63, 64, 1, 191}, 2, 1, 64},
      {{5, 300, 1, 77}, 9, 3, 64},
      {{17, 17, 17, 17, 17, 17, 17, 17}, 4, 4, 32},
      {{400, 3, 500}, 2, 1, 128},
      {std::vector<int64_t>(128, 16), 64, 32, 16},  // so many blocks that a GPU shares no group
  };
  const Limits limits = LimitsFor(GetParam());
  for (const Case& c : cases) {
    if (TooLargeHere(c.work())) continue;
    SCOPED_TRACE(testing::PrintToString(c));
    const Inputs in = RandomInputs(GetParam(), c);
    const Outcome want(RefTable(), c, in);
    const Outcome got(*table_, c, in, 2);
    ExpectClose("out", got.out.Values(), want.out.Values(), limits.out, limits.out_rms);
    ExpectClose("lse", got.lse.Values(), want.lse.Values(), limits.lse, limits.lse);
    ExpectClose("dq", got.dq.Values(), want.dq.Values(), limits.gradient, limits.gradient_rms);
    ExpectClose("dk", got.dk.Values(), want.dk.Values(), limits.gradient, limits.gradient_rms);
    ExpectClose("dv", got.dv.Values(), want.dv.Values(), limits.gradient, limits.gradient_rms);
    EXPECT_TRUE(got.GuardsIntact());
  }
}

TEST_P(Attention, ThreadsDoNotChangeBits) {
  for (const Case& c : {Case{{700}, 9, 3, 64}, Case{{100, 1, 400}, 2, 1, 128}}) {
    if (TooLargeHere(c.work())) continue;
    const Inputs in = RandomInputs(GetParam(), c);
    const Outcome one(*table_, c, in, 1);
    for (const int threads : {2, 3}) {
      const Outcome many(*table_, c, in, threads);
      EXPECT_EQ(one.out.Bits(), many.out.Bits());
      EXPECT_EQ(one.lse.Bits(), many.lse.Bits());
      EXPECT_EQ(one.dq.Bits(), many.dq.Bits());
      EXPECT_EQ(one.dk.Bits(), many.dk.Bits());
      EXPECT_EQ(one.dv.Bits(), many.dv.Bits());
    }
  }
}

TEST_P(Attention, ASegmentDoesNotFeelItsNeighbours) {
  const Case c = {{70, 150, 33}, 2, 1, 64};
  const int64_t begin = 70, end = 220;
  const Inputs in = RandomInputs(GetParam(), c);
  Inputs other = in;
  const auto disturb = [&](std::vector<double>& values, int64_t width) {
    for (int64_t i = 0; i < c.t(); ++i) {
      if (i >= begin && i < end) continue;
      for (int64_t d = 0; d < width; ++d) values[static_cast<size_t>(i * width + d)] *= -3.0;
    }
  };
  const int64_t queries = c.heads * c.head_dim, keys = c.kv_heads * c.head_dim;
  disturb(other.q, queries);
  disturb(other.k, keys);
  disturb(other.v, keys);
  disturb(other.dout, queries);
  const Outcome a(*table_, c, in), b(*table_, c, other);
  EXPECT_EQ(a.out.Bits(begin * queries, end * queries), b.out.Bits(begin * queries, end * queries));
  EXPECT_EQ(a.dq.Bits(begin * queries, end * queries), b.dq.Bits(begin * queries, end * queries));
  EXPECT_EQ(a.dk.Bits(begin * keys, end * keys), b.dk.Bits(begin * keys, end * keys));
  EXPECT_EQ(a.dv.Bits(begin * keys, end * keys), b.dv.Bits(begin * keys, end * keys));
  EXPECT_NE(a.out.Bits(0, begin * queries), b.out.Bits(0, begin * queries));
}

TEST_P(Attention, ASegmentAtATileBoundaryHasTheBitsItHasAlone) {
  const Case packed = {{256, 131}, 2, 1, 64}, alone = {{131}, 2, 1, 64};
  const Inputs in = RandomInputs(GetParam(), packed);
  const auto tail = [&](const std::vector<double>& v, int64_t width) {
    return std::vector<double>(v.begin() + 256 * width, v.end());
  };
  const Inputs rest = {tail(in.q, 128), tail(in.k, 64), tail(in.v, 64), tail(in.dout, 128)};
  const Outcome a(*table_, packed, in), b(*table_, alone, rest);
  EXPECT_EQ(a.out.Bits(256 * 128, 387 * 128), b.out.Bits());
  EXPECT_EQ(a.dv.Bits(256 * 64, 387 * 64), b.dv.Bits());
}

TEST_P(Attention, TheFirstRowOfASegmentIsItsValue) {
  const Case c = {{100, 100}, 2, 1, 64};
  const Inputs in = RandomInputs(GetParam(), c);
  const Outcome run(*table_, c, in);
  const std::vector<double> out = run.out.Values();
  for (const size_t row : {size_t{0}, size_t{100}}) {
    for (size_t h = 0; h < 2; ++h) {
      for (size_t d = 0; d < 64; ++d) {
        EXPECT_NEAR(out[(row * 2 + h) * 64 + d], in.v[row * 64 + d], 1e-6);
      }
    }
  }
}

TEST_P(Attention, HugeScoresStayFinite) {
  const Case c = {{150, 3}, 2, 1, 64};
  // |q·k|/8 up to about 1e4
  const Inputs in = RandomInputs(GetParam(), c, 5e3);
  const Outcome want(RefTable(), c, in), got(*table_, c, in);
  for (const Buffer* buffer : {&got.out, &got.lse, &got.dq, &got.dk, &got.dv}) {
    for (const double value : buffer->Values()) ASSERT_TRUE(std::isfinite(value));
  }
  const std::vector<double> lse = want.lse.Values();
  EXPECT_GT(*std::max_element(lse.begin(), lse.end()), 9e3);
  ExpectClose("lse", got.lse.Values(), lse, 1e-5, 1e-6);
  // Softmax is next to a step here: the largest weight decides.
  ExpectClose("out", got.out.Values(), want.out.Values(), 5e-2, 5e-3);
}

TEST_P(Attention, DecodingEqualsTheReference) {
  struct Decode {
    int64_t m, past, heads, kv_heads, head_dim;
  };
  const Decode cases[] = {{1, 0, 9, 3, 64},    {1, 1, 2, 1, 32},    {1, 511, 9, 3, 64},
                          {1, 512, 4, 4, 128}, {1, 1300, 9, 3, 64}, {3, 700, 9, 3, 64},
                          {7, 0, 4, 4, 16},    {31, 600, 2, 1, 80}, {32, 600, 2, 1, 64},
                          {100, 33, 9, 3, 64}, {2, 40, 2, 1, 24},   {1, 100, 32, 2, 128}};
  const Limits limits = LimitsFor(GetParam());
  for (const Decode& d : cases) {
    if (TooLargeHere(static_cast<double>(d.m * (d.past + d.m) * d.heads * d.head_dim))) continue;
    SCOPED_TRACE(testing::Message() << "m " << d.m << " past " << d.past << " heads " << d.heads
                                    << "/" << d.kv_heads << " of " << d.head_dim);
    const int64_t keys = (d.past + d.m) * d.kv_heads * d.head_dim;
    const int64_t queries = d.m * d.heads * d.head_dim;
    const auto q = RandomValues(GetParam(), queries, 5, 1.5);
    const auto k = RandomValues(GetParam(), keys, 6, 1.5);
    const auto v = RandomValues(GetParam(), keys, 7, 1.0);
    const auto decode = [&](const KernelTable& table, int threads) {
      Buffer out(table.dtype, queries);
      const Buffer qb(table.dtype, q), kb(table.dtype, k), vb(table.dtype, v);
      Staging staging(table, threads, true);
      table.attention_decode(staging.context(),
                             {d.m, d.past, d.heads, d.kv_heads, d.head_dim, qb.In(staging),
                              kb.In(staging), vb.In(staging), out.In(staging)});
      staging.Fetch();
      EXPECT_TRUE(out.GuardsIntact());
      return out;
    };
    const Buffer got = decode(*table_, 1);
    ExpectClose("out", got.Values(), decode(RefTable(), 1).Values(), limits.out, limits.out_rms);
    EXPECT_EQ(got.Bits(), decode(*table_, 2).Bits());
    EXPECT_EQ(got.Bits(), decode(*table_, 3).Bits());
  }
}

TEST(AttentionReference, GradientsAreFiniteDifferences) {
  const Case c = {{3, 1, 4}, 4, 2, 6};
  Inputs in = RandomInputs(DType::kF64, c);
  const Outcome run(RefTable(), c, in);
  const auto objective = [&] {
    const std::vector<double> out = Outcome(RefTable(), c, in).out.Values();
    return std::inner_product(out.begin(), out.end(), in.dout.begin(), 0.0);
  };
  const auto check = [&](std::vector<double>& values, const std::vector<double>& gradient) {
    for (size_t i = 0; i < values.size(); i += 5) {
      const double before = values[i], step = 1e-5;
      values[i] = before + step;
      const double above = objective();
      values[i] = before - step;
      const double below = objective();
      values[i] = before;
      EXPECT_NEAR((above - below) / (2 * step), gradient[i], 1e-8) << i;
    }
  };
  check(in.q, run.dq.Values());
  check(in.k, run.dk.Values());
  check(in.v, run.dv.Values());
}

}  // namespace
}  // namespace tidegate::kernels
