// The head's sweep against the reference: row counts and vocabularies that are no multiple of a
// tile, weights a row, evaluation, extremes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels/table.h"
#include "tests/kernels/kernel_buffers.h"

namespace tidegate::kernels {
namespace {

struct Case {
  int64_t m, vocab, k;
};

struct Inputs {
  std::vector<double> h, w;
  std::vector<int32_t> targets;
  std::vector<float> weights;
};

Inputs RandomInputs(DType dtype, const Case& c, double amplitude = 1.0) {
  Inputs in = {RandomValues(dtype, c.m * c.k, 11, amplitude),
               RandomValues(dtype, c.vocab * c.k, 12, 0.5),
               {},
               {}};
  for (int64_t i = 0; i < c.m; ++i) {
    const auto words = RandomWords(13, RngPurpose::kTest, 0, static_cast<uint64_t>(i));
    in.targets.push_back(
        static_cast<int32_t>(UniformBelow(words[0], static_cast<uint32_t>(c.vocab))));
    in.weights.push_back(2.0f * UniformFloat(words[1]));
  }
  // The ends of the vocabulary, where tiles are cut.
  in.targets.front() = static_cast<int32_t>(c.vocab - 1);
  in.targets.back() = 0;
  return in;
}

WeightFormat FormatOf(DType dtype) {
  return dtype == DType::kF64   ? WeightFormat::kF64
         : dtype == DType::kF32 ? WeightFormat::kF32
                                : WeightFormat::kBF16;
}

struct Outcome {
  Outcome(const KernelTable& table, const Case& c, const Inputs& in, int threads = 1,
          bool gradient = true, bool weighted = true)
      : loss(GradType(table.dtype), c.m), dh(table.dtype, c.m * c.k) {
    const Buffer h(table.dtype, in.h), w(table.dtype, in.w);
    Staging staging(table, threads, true);
    const auto prepared =
        table.prepare_weights({FormatOf(table.dtype), c.vocab, c.k, w.In(staging)});
    const float* weights = weighted ? staging.Array(in.weights.data(), in.weights.size()) : nullptr;
    table.head_loss(
        staging.context(),
        {prepared.get(), c.m, h.In(staging), staging.Array(in.targets.data(), in.targets.size()),
         weights, loss.In(staging), gradient ? dh.In(staging) : nullptr});
    staging.Fetch();
    high_water = staging.workspace().high_water();
    EXPECT_TRUE(loss.GuardsIntact());
    EXPECT_TRUE(dh.GuardsIntact());
  }
  Buffer loss, dh;
  size_t high_water;
};

const KernelTable& RefTable() { return *TableFor(Backend::kRef, DType::kF64); }

struct Limits {
  double loss, dh, dh_rms;
};
Limits LimitsFor(DType dtype) {
  if (dtype == DType::kF32) return {2e-6, 3e-5, 3e-6};
  return {2e-6, 4e-2, 4e-3};  // bf16 inputs are exact: the loss keeps the quality of f32
}

class HeadLoss : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    table_ = TestedTable(GetParam());
    if (!table_) GTEST_SKIP() << "this CPU has no AVX512-bf16, so there is no bf16 table";
  }
  const KernelTable* table_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Types, HeadLoss, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& type) {
                           return type.param == DType::kF32 ? std::string("F32")
                                                            : std::string("BF16");
                         });

TEST_P(HeadLoss, EqualsTheReference) {
  const Case cases[] = {{1, 1, 8},       {1, 300, 64},   {2, 512, 33},    {31, 513, 64},
                        {33, 1025, 48},  {130, 1000, 7}, {511, 1537, 32}, {513, 600, 64},
                        {1030, 777, 16}, {3, 9001, 8},   {2050, 40, 8}};
  const Limits limits = LimitsFor(GetParam());
  for (const Case& c : cases) {
    if (TooLargeHere(static_cast<double>(c.m * c.vocab * c.k))) continue;
    SCOPED_TRACE(testing::Message() << c.m << " rows, vocabulary " << c.vocab << ", k " << c.k);
    const Inputs in = RandomInputs(GetParam(), c);
    const Outcome want(RefTable(), c, in), got(*table_, c, in, 2);
    const auto loss = want.loss.Values();
    for (size_t i = 0; i < loss.size(); ++i) {
      ASSERT_NEAR(got.loss.Values()[i], loss[i], limits.loss * (1 + std::abs(loss[i]))) << i;
    }
    if (c.vocab > 1) {
      ExpectClose("dh", got.dh.Values(), want.dh.Values(), limits.dh, limits.dh_rms);
    } else {
      // One word: the probability is one and the gradient nothing.
      for (const double g : got.dh.Values()) EXPECT_NEAR(g, 0.0, 1e-6);
    }
  }
}

TEST_P(HeadLoss, WeightsScaleTheGradientAndNotTheLoss) {
  const Case c = {40, 700, 32};
  const Inputs in = RandomInputs(GetParam(), c);
  const Outcome weighted(*table_, c, in), plain(*table_, c, in, 1, true, false);
  EXPECT_EQ(weighted.loss.Bits(), plain.loss.Bits());
  const auto a = weighted.dh.Values(), b = plain.dh.Values();
  std::vector<double> want(b.size());
  for (size_t i = 0; i < b.size(); ++i) {
    want[i] = b[i] * static_cast<double>(in.weights[i / static_cast<size_t>(c.k)]);
  }
  ExpectClose("dh", a, want, GetParam() == DType::kF32 ? 1e-6 : 3e-2,
              GetParam() == DType::kF32 ? 1e-6 : 3e-3);
}

TEST_P(HeadLoss, EvaluationHasTheSameLossAndWritesNoGradient) {
  const Case c = {100, 1300, 40};
  const Inputs in = RandomInputs(GetParam(), c);
  const Outcome training(*table_, c, in), evaluation(*table_, c, in, 1, false);
  EXPECT_EQ(training.loss.Bits(), evaluation.loss.Bits());
  EXPECT_EQ(evaluation.dh.Bits(), Buffer(GetParam(), c.m * c.k).Bits());
}

TEST_P(HeadLoss, ThreadsDoNotChangeBits) {
  const Case c = {600, 1100, 64};
  if (!ThisProgram().repeats) GTEST_SKIP() << "one thread runs the emulator";
  const Inputs in = RandomInputs(GetParam(), c);
  const Outcome one(*table_, c, in, 1);
  for (const int threads : {2, 3}) {
    const Outcome many(*table_, c, in, threads);
    EXPECT_EQ(one.loss.Bits(), many.loss.Bits());
    EXPECT_EQ(one.dh.Bits(), many.dh.Bits());
  }
}

TEST_P(HeadLoss, HugeLogitsStayFinite) {
  const Case c = {64, 900, 64};
  const Inputs in = RandomInputs(GetParam(), c, 2e3);
  const Outcome want(RefTable(), c, in), got(*table_, c, in);
  const auto loss = want.loss.Values();
  EXPECT_GT(*std::max_element(loss.begin(), loss.end()), 1e4);
  for (size_t i = 0; i < loss.size(); ++i) {
    ASSERT_NEAR(got.loss.Values()[i], loss[i], 1e-2 + 1e-6 * loss[i]);
  }
  for (const double g : got.dh.Values()) ASSERT_TRUE(std::isfinite(g));
}

TEST_P(HeadLoss, ScratchDoesNotGrowWithTheVocabulary) {
  const Case small = {64, 1024, 32}, large = {64, 8192, 32};
  const Outcome a(*table_, small, RandomInputs(GetParam(), small));
  const Outcome b(*table_, large, RandomInputs(GetParam(), large));
  EXPECT_EQ(a.high_water, b.high_water);
}

TEST(HeadLossReference, GradientIsFiniteDifferences) {
  const Case c = {5, 11, 6};
  Inputs in = RandomInputs(DType::kF64, c);
  const std::vector<double> gradient = Outcome(RefTable(), c, in).dh.Values();
  const auto objective = [&] {
    const std::vector<double> loss = Outcome(RefTable(), c, in).loss.Values();
    double sum = 0;
    for (size_t i = 0; i < loss.size(); ++i) sum += loss[i] * static_cast<double>(in.weights[i]);
    return sum;
  };
  for (size_t i = 0; i < in.h.size(); ++i) {
    const double before = in.h[i], step = 1e-5;
    in.h[i] = before + step;
    const double above = objective();
    in.h[i] = before - step;
    const double below = objective();
    in.h[i] = before;
    EXPECT_NEAR((above - below) / (2 * step), gradient[i], 1e-8) << i;
  }
}

}  // namespace
}  // namespace tidegate::kernels
