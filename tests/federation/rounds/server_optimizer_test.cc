#include "federation/rounds/server_optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "federation/shared/delta_codec.h"
#include "federation/shared/grid.h"
#include "protocols/strategy.h"

namespace tidegate::federation {
namespace {

using protocols::ServerOptimizer;

protocols::Layout TwoTensors() {
  protocols::Layout layout;
  layout.tensors.items = {{"a", 3, 11, 0}, {"b", 9, 3, 1}};
  return layout;
}
constexpr size_t kCount = 33 + 27;

double Random(uint32_t round, size_t i) {
  return UniformFloat(RandomWords(7, RngPurpose::kTest, round, i)[0]) - 0.5;
}

// The updates of three sites in a round, as their weighted sum on the grid of 2^-32.
std::vector<int64_t> SumOf(uint32_t round, std::vector<double>* mean) {
  std::vector<int64_t> sum(kCount, 0);
  for (int site = 0; site < 3; ++site) {
    for (size_t i = 0; i < kCount; ++i) {
      const double delta = 0.05 * Random(round * 3 + static_cast<uint32_t>(site), i);
      sum[i] += std::llround(delta * 0x1p32) * (site + 1);
    }
  }
  mean->resize(kCount);
  for (size_t i = 0; i < kCount; ++i) (*mean)[i] = static_cast<double>(sum[i]) / 6 * 0x1p-32;
  return sum;
}

// The equations as the papers have them, a value at a time and in double.
struct InDouble {
  ServerRule rule;
  double theta, m = 0, v = rule.tau * rule.tau;
  void Step(double d) {
    const double eta = rule.learning_rate, b1 = rule.beta1, b2 = rule.beta2;
    switch (rule.optimizer) {
      case ServerOptimizer::kFedAvg:
        theta += eta * d;
        return;
      case ServerOptimizer::kFedAvgM:
        m = b1 * m + d;
        theta += eta * m;
        return;
      case ServerOptimizer::kFedAdam:
        m = b1 * m + (1 - b1) * d;
        v = b2 * v + (1 - b2) * d * d;
        break;
      case ServerOptimizer::kFedYogi:
        m = b1 * m + (1 - b1) * d;
        v = v - (1 - b2) * d * d * (v > d * d ? 1 : v < d * d ? -1 : 0);
        break;
    }
    theta += eta * m / (std::sqrt(v) + rule.tau);
  }
};

struct Asked {
  ServerRule rule;
  protocols::Strategy strategy;
};

class Equations : public testing::TestWithParam<Asked> {};

TEST_P(Equations, TwentyRoundsEqualThemInDouble) {
  const ServerRule& rule = GetParam().rule;
  ASSERT_TRUE(CheckServerRule(rule).ok());
  const protocols::Layout layout = TwoTensors();
  std::vector<float> parameters(kCount);
  std::vector<InDouble> twin;
  for (size_t i = 0; i < kCount; ++i) {
    parameters[i] = SnapToGrid(0.1 * Random(1000, i));
    twin.push_back({rule, parameters[i]});
  }
  const std::vector<float> start = parameters;
  ServerMoments moments = FirstMoments(rule, kCount);
  const auto phases = protocols::PhasesOf(GetParam().strategy);
  double moved = 0;
  for (uint32_t round = 0; round < 20; ++round) {
    std::vector<double> mean;
    const std::vector<int64_t> sum = SumOf(round, &mean);
    const uint8_t groups = phases[round % phases.size()];
    auto next = ServerStep(rule, parameters, sum, 6, layout, groups, &moments);
    ASSERT_TRUE(next.has_value()) << next.error().ToString();
    for (size_t i = 0; i < kCount; ++i) {
      const bool shared = (groups >> (i < 33 ? 0 : 1) & 1) != 0;
      if (shared) twin[i].Step(mean[i]);
      EXPECT_TRUE(shared || (*next)[i] == parameters[i]) << "not of this round";
      // A round of the grid each round, and of a float in the moments.
      ASSERT_NEAR((*next)[i], twin[i].theta, 20 * 0x1p-29 + 1e-6 * rule.learning_rate)
          << "round " << round << ", value " << i;
      EXPECT_EQ((*next)[i], SnapToGrid(double{(*next)[i]}));
    }
    parameters = std::move(*next);
  }
  for (size_t i = 0; i < kCount; ++i) moved = std::max(moved, std::abs(twin[i].theta - start[i]));
  EXPECT_GT(moved, 1e-3) << "or there was nothing to compare";
}

INSTANTIATE_TEST_SUITE_P(
    Each, Equations, testing::ValuesIn([] {
      std::vector<Asked> all;
      for (const auto strategy : {protocols::Strategy::kFedIt, protocols::Strategy::kFfaLora,
                                  protocols::Strategy::kRoLora, protocols::Strategy::kFedSaLora}) {
        all.push_back({{ServerOptimizer::kFedAvg, 0.7}, strategy});
        all.push_back({{ServerOptimizer::kFedAvgM, 0.7, 0.9}, strategy});
        all.push_back({{ServerOptimizer::kFedAdam, 1e-3, 0.9, 0.99, 1e-3}, strategy});
        all.push_back({{ServerOptimizer::kFedYogi, 1e-2, 0.9, 0.99, 1e-3}, strategy});
      }
      return all;
    }()));

// A layout of several slices, one of them of a few values; three updates of its phase's groups.
struct Large {
  static constexpr uint32_t kRows = 41'003;
  protocols::Layout layout;
  std::vector<float> start;
  std::vector<Bytes> bytes;
  std::vector<protocols::UpdateView> views;
  std::vector<WeightedSum::Contribution> updates;

  Large(protocols::Codec codec, uint8_t groups) {
    layout.tensors.items = {{"a", kRows, 1, 0}, {"b", 3, 5, 1}, {"c", 2, kRows, 1}};
    const size_t count = 3 * size_t{kRows} + 15;
    for (size_t i = 0; i < count; ++i) start.push_back(SnapToGrid(Random(2000, i)));
    for (uint32_t site = 0; site < 3; ++site) {
      std::vector<float> result = start;
      for (size_t i = 0; i < count; ++i) {
        result[i] = SnapToGrid(double{result[i]} + 0.01 * Random(3000 + site, i));
      }
      protocols::UpdateHeader header;
      header.codec = codec;
      header.groups = groups;
      header.weight = 1;
      bytes.push_back(*EncodeUpdate(header, layout, start, result, 0));
    }
    for (const Bytes& update : bytes)
      views.push_back(*protocols::UpdateView::Parse(update, layout));
    for (uint32_t i = 0; i < 3; ++i) updates.push_back({&views[i], 1 + 1000 * i});
  }
};

TEST(ServerStep, OfUpdatesGivesTheBitsOfTheStepOfTheirSumOnAnyNumberOfThreads) {
  const ServerRule rules[] = {{ServerOptimizer::kFedAvg, 0.7},
                              {ServerOptimizer::kFedAvgM, 0.7, 0.9},
                              {ServerOptimizer::kFedAdam, 1e-3, 0.9, 0.99, 1e-3},
                              {ServerOptimizer::kFedYogi, 1e-2, 0.9, 0.99, 1e-3}};
  for (const auto codec : {protocols::Codec::kInt8, protocols::Codec::kFixed32}) {
    for (const uint8_t groups : {uint8_t{1}, uint8_t{2}, protocols::kBothGroups}) {
      const Large large(codec, groups);
      WeightedSum sum(large.start.size());
      ASSERT_TRUE(sum.Add(large.updates).ok());
      for (const ServerRule& rule : rules) {
        ServerMoments expected_moments = FirstMoments(rule, large.start.size());
        const auto expected = ServerStep(rule, large.start, sum.sum(), sum.total_weight(),
                                         large.layout, groups, &expected_moments);
        ASSERT_TRUE(expected.has_value()) << expected.error().ToString();
        EXPECT_NE(*expected, large.start);
        for (const unsigned threads : {1u, 3u}) {
          ServerMoments moments = FirstMoments(rule, large.start.size());
          EXPECT_EQ(*ServerStep(rule, large.start, large.updates, large.layout, groups, &moments,
                                threads),
                    *expected);
          EXPECT_EQ(moments, expected_moments);
        }
      }
    }
  }
}

TEST(ServerStep, OfUpdatesRefusesWhatASumRefuses) {
  Large large(protocols::Codec::kInt8, protocols::kBothGroups);
  ServerMoments none;
  const auto code = [&](std::span<const float> parameters) {
    return ServerStep({}, parameters, large.updates, large.layout, protocols::kBothGroups, &none)
        .error()
        .code();
  };
  EXPECT_EQ(code(std::span(large.start).first(100)), Code::kInvalidArgument);
  large.updates[1].weight = 0;
  EXPECT_EQ(code(large.start), Code::kInvalidArgument);
  large.updates.clear();
  EXPECT_EQ(code(large.start), Code::kFailedPrecondition);
}

// With momentum 0 FedAvgM is FedAvg, to the bit; the adaptive ones are not.
TEST(ServerStep, WithoutMomentumFedAvgMIsFedAvg) {
  std::vector<double> mean;
  const auto sum = SumOf(1, &mean);
  const std::vector<float> start(kCount, 0.25f);
  const auto step = [&](const ServerRule& rule) {
    ServerMoments moments = FirstMoments(rule, kCount);
    return *ServerStep(rule, start, sum, 6, TwoTensors(), protocols::kBothGroups, &moments);
  };
  const auto average = step({ServerOptimizer::kFedAvg, 1.0});
  EXPECT_EQ(step({ServerOptimizer::kFedAvgM, 1.0, 0.0}), average);
  EXPECT_NE(step({ServerOptimizer::kFedAdam, 1.0, 0.0, 0.0, 1e-3}), average);
  for (size_t i = 0; i < kCount; ++i) EXPECT_EQ(average[i], SnapToGrid(0.25 + mean[i]));
}

TEST(ServerStep, WhatDoesNotFitIsRefused) {
  const ServerRule adam{ServerOptimizer::kFedAdam, 1e-3, 0.9, 0.99, 1e-3};
  const std::vector<float> start(kCount);
  const std::vector<int64_t> sum(kCount);
  ServerMoments none, good = FirstMoments(adam, kCount);
  const auto step = [&](size_t values, uint64_t weight, ServerMoments moments) {
    return ServerStep(adam, start, std::span(sum).first(values), weight, TwoTensors(),
                      protocols::kBothGroups, &moments)
        .has_value();
  };
  EXPECT_TRUE(step(kCount, 6, good));
  EXPECT_FALSE(step(kCount, 0, good)) << "no update";
  EXPECT_FALSE(step(kCount - 1, 6, good));
  EXPECT_FALSE(step(kCount, 6, none));
  protocols::Layout longer = TwoTensors();
  longer.tensors.items[0].rows = 1000;
  EXPECT_FALSE(ServerStep(adam, start, sum, 6, longer, protocols::kBothGroups, &good).has_value());
}

TEST(ServerRule, NumbersOutOfRangeAreNamed) {
  const auto told = [](const ServerRule& rule) { return CheckServerRule(rule).ToString(); };
  EXPECT_NE(told({ServerOptimizer::kFedAvg, 0}).find("server_learning_rate 0"), std::string::npos);
  EXPECT_NE(told({ServerOptimizer::kFedAvg, 1, 0.9}).find("beta1 0.9"), std::string::npos);
  EXPECT_NE(told({ServerOptimizer::kFedAvgM, 1, 1}).find("beta1 1"), std::string::npos);
  EXPECT_NE(told({ServerOptimizer::kFedAvgM, 1, 0.9, 0.99}).find("beta2"), std::string::npos);
  EXPECT_NE(told({ServerOptimizer::kFedAdam, 1, 0.9, 0.99, 0}).find("tau 0"), std::string::npos);
  EXPECT_NE(told({ServerOptimizer::kFedYogi, NAN, 0.9, 0.99, 1e-3}).find("learning_rate"),
            std::string::npos);
}

}  // namespace
}  // namespace tidegate::federation
