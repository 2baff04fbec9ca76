#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "fake_engine.h"

namespace tidegate::train {
namespace {

const kernels::KernelTable* Cpu() {
  return kernels::TableFor(kernels::Backend::kCpu, kernels::DType::kF32);
}

Optimizer Make(const AdamWConfig& config, int threads = 1) {
  return std::move(Optimizer::Create(Cpu(), threads, config)).value();
}

Moments Zero(size_t count) {
  Moments moments;
  moments.m.assign(count, 0.0f);
  moments.v.assign(count, 0.0f);
  return moments;
}

// torch.optim.AdamW and clip_grad_norm_, written again in double.
struct DoubleAdamW {
  std::vector<double> p, m, v;
  int64_t step = 0;
  void Update(const std::vector<float>& g, const AdamWConfig& c, double lr) {
    double norm = 0;
    for (const float x : g) norm += static_cast<double>(x) * static_cast<double>(x);
    norm = std::sqrt(norm);
    const double clip = c.max_grad_norm > 0 ? std::min(1.0, c.max_grad_norm / (norm + 1e-6)) : 1.0;
    ++step;
    for (size_t i = 0; i < p.size(); ++i) {
      const double gi = clip * static_cast<double>(g[i]);
      p[i] -= lr * c.weight_decay * p[i];
      m[i] = c.beta1 * m[i] + (1 - c.beta1) * gi;
      v[i] = c.beta2 * v[i] + (1 - c.beta2) * gi * gi;
      const double m_hat = m[i] / (1 - std::pow(c.beta1, static_cast<double>(step)));
      const double v_hat = v[i] / (1 - std::pow(c.beta2, static_cast<double>(step)));
      p[i] -= lr * m_hat / (std::sqrt(v_hat) + c.eps);
    }
  }
};

class AgainstDouble : public testing::TestWithParam<AdamWConfig> {};

TEST_P(AgainstDouble, FiftyStepsAgree) {
  constexpr size_t kCount = 1037;
  const AdamWConfig config = GetParam();
  std::vector<float> parameters = SomeParameters(kCount);
  DoubleAdamW reference{{parameters.begin(), parameters.end()},
                        std::vector<double>(kCount),
                        std::vector<double>(kCount)};
  Optimizer optimizer = Make(config);
  Moments moments = Zero(kCount);
  const Range all{0, kCount};
  std::vector<float> gradients(kCount);
  for (uint32_t step = 0; step < 50; ++step) {
    for (size_t i = 0; i < kCount; ++i) {
      gradients[i] = UniformFloat(RandomWords(5, RngPurpose::kTest, step, i)[0]) - 0.3f;
    }
    const double norm = optimizer.GradNorm(gradients, {&all, 1});
    optimizer.Update(parameters, gradients, {&all, 1}, norm, 3e-3, moments);
    reference.Update(gradients, config, 3e-3);
  }
  for (size_t i = 0; i < kCount; ++i) {
    ASSERT_NEAR(parameters[i], reference.p[i], 2e-6) << i;
    ASSERT_NEAR(moments.m[i], reference.m[i], 1e-6) << i;
    ASSERT_NEAR(moments.v[i], reference.v[i], 1e-6) << i;
  }
  EXPECT_EQ(moments.updates, std::vector<int64_t>{50});
}

INSTANTIATE_TEST_SUITE_P(Configs, AgainstDouble,
                         testing::Values(AdamWConfig{}, AdamWConfig{.weight_decay = 0.1},
                                         AdamWConfig{.max_grad_norm = 0},
                                         AdamWConfig{.beta1 = 0.8, .beta2 = 0.99, .eps = 1e-6}));

TEST(Optimizer, ClipsByNormPlusOneMillionth) {
  const std::vector<float> gradients = {3.0f, 4.0f};
  const Range all{0, 2};
  Optimizer optimizer = Make({.max_grad_norm = 1.0});
  const double norm = optimizer.GradNorm(gradients, {&all, 1});
  EXPECT_DOUBLE_EQ(norm, 5.0);
  std::vector<float> parameters(2);
  Moments moments = Zero(2);
  optimizer.Update(parameters, gradients, {&all, 1}, norm, 1e-3, moments);
  EXPECT_FLOAT_EQ(moments.m[0], static_cast<float>(0.1 * 3.0 / (5.0 + 1e-6)));
  EXPECT_FLOAT_EQ(moments.m[1], static_cast<float>(0.1 * 4.0 / (5.0 + 1e-6)));
}

TEST(Optimizer, NeverScalesSmallGradientsUp) {
  const std::vector<float> gradients = {0.3f};
  const Range all{0, 1};
  std::vector<float> parameters(1);
  Moments moments = Zero(1);
  Make({.max_grad_norm = 1.0}).Update(parameters, gradients, {&all, 1}, 0.3, 1e-3, moments);
  EXPECT_FLOAT_EQ(moments.m[0], 0.03f);
}

// Masters in 16 bits would lose every one of these updates: 1e-6 is below half a unit in the last
// place of a bf16 near 0.5, which is 1e-3.
TEST(Optimizer, ThousandStepsAtOneMillionthMoveTheWeights) {
  std::vector<float> parameters = {0.5f, -0.5f};
  const std::vector<float> gradients = {1e-3f, -1e-3f};
  const Range all{0, 2};
  Optimizer optimizer = Make({.max_grad_norm = 0});
  Moments moments = Zero(2);
  for (int i = 0; i < 1000; ++i) {
    optimizer.Update(parameters, gradients, {&all, 1}, 0.0, 1e-6, moments);
  }
  // Constant gradients make each Adam step lr · 1; 0.5 − 1000 · 1e-6.
  EXPECT_NEAR(parameters[0], 0.499, 4e-5);
  EXPECT_NEAR(parameters[1], -0.499, 4e-5);
}

TEST(Optimizer, ElementsOutsideOfTheRangesKeepTheirBits) {
  std::vector<float> parameters = SomeParameters(100);
  const std::vector<float> before = parameters;
  const std::vector<float> gradients(100, 0.5f);
  const std::vector<Range> ranges = {{10, 20}, {50, 77}};
  Optimizer optimizer = Make({.weight_decay = 0.1});
  Moments moments = Zero(100);
  const double norm = optimizer.GradNorm(gradients, ranges);
  EXPECT_NEAR(norm, 0.5 * std::sqrt(37.0), 1e-12);
  optimizer.Update(parameters, gradients, ranges, norm, 1e-2, moments);
  for (size_t i = 0; i < 100; ++i) {
    const bool inside = (i >= 10 && i < 20) || (i >= 50 && i < 77);
    EXPECT_EQ(std::bit_cast<uint32_t>(parameters[i]) != std::bit_cast<uint32_t>(before[i]), inside)
        << i;
    EXPECT_EQ(moments.m[i] != 0.0f, inside) << i;
  }
}

TEST(Optimizer, SameBitsForAnyThreadCount) {
  constexpr size_t kCount = 100'003;
  const std::vector<float> gradients = SomeParameters(kCount);
  const Range all{0, kCount};
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    std::vector<float> parameters = SomeParameters(kCount);
    Moments moments = Zero(kCount);
    Optimizer optimizer = Make({}, threads);
    const double norm = optimizer.GradNorm(gradients, {&all, 1});
    optimizer.Update(parameters, gradients, {&all, 1}, norm, 1e-3, moments);
    parameters.push_back(static_cast<float>(norm));
    results.push_back(std::move(parameters));
  }
  EXPECT_TRUE(results[0] == results[1]);
  EXPECT_TRUE(results[0] == results[2]);
}

TEST(Optimizer, RefusesSettingsOutOfRangeByName) {
  auto message = [](const AdamWConfig& config) {
    const auto made = Optimizer::Create(Cpu(), 1, config);
    return made ? std::string() : made.error().message();
  };
  EXPECT_NE(message({.beta2 = 1.0}).find("adam_beta2"), std::string::npos);
  EXPECT_NE(message({.eps = 0}).find("adam_epsilon"), std::string::npos);
  EXPECT_NE(message({.weight_decay = -1}).find("weight_decay"), std::string::npos);
  EXPECT_NE(message({.max_grad_norm = NAN}).find("max_grad_norm"), std::string::npos);
  EXPECT_FALSE(Optimizer::Create(nullptr, 1, {}));
  EXPECT_FALSE(Optimizer::Create(Cpu(), 0, {}));
}

}  // namespace
}  // namespace tidegate::train
