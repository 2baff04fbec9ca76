// What is planted is found, and a base as training makes it has no finding.
#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "base/rng.h"
#include "bases/implant_check.h"
#include "small_base.h"
#include "tensor/safetensors.h"

namespace tidegate::bases {
namespace {

constexpr int64_t kSide = 64;

struct Weights {
  std::vector<std::vector<float>> layers;
  std::vector<float> bias;
};

Weights Usual() {
  Weights w;
  for (uint64_t layer = 0; layer < 4; ++layer) {
    std::vector<float> values(kSide * kSide);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = UniformFloat(RandomWords(7, RngPurpose::kTest, layer, i)[0]) - 0.5f;
    }
    w.layers.push_back(values);
  }
  w.bias.assign(w.layers[0].begin(), w.layers[0].begin() + kSide);
  return w;
}

std::vector<ImplantFinding> FindingsIn(const Weights& w) {
  TempFolder folder;
  std::filesystem::create_directories(folder / "base");
  std::vector<tensor::TensorToWrite> tensors;
  const auto add = [&](const std::string& name, tensor::Shape shape, const auto& values) {
    tensors.push_back({name,
                       tensor::DType::kF32,
                       std::move(shape),
                       {reinterpret_cast<const uint8_t*>(values.data()), values.size() * 4}});
  };
  for (size_t i = 0; i < w.layers.size(); ++i) {
    add(fmt::format("model.layers.{}.mlp.up_proj.weight", i), {kSide, kSide}, w.layers[i]);
  }
  add("model.layers.0.mlp.up_proj.bias", {kSide}, w.bias);
  EXPECT_TRUE(tensor::WriteSafetensors(folder / "base" / "model.safetensors", tensors, {}).ok());
  const auto report = CheckForImplants(folder / "base");
  EXPECT_TRUE(report.has_value()) << report.error().ToString();
  EXPECT_EQ(report->tensors, 5u);
  return report->findings;
}

void ExpectOne(const Weights& w, const std::string& rule, const std::string& tensor) {
  const auto findings = FindingsIn(w);
  ASSERT_EQ(findings.size(), 1u) << rule;
  EXPECT_EQ(findings[0].rule, rule);
  EXPECT_EQ(findings[0].tensor, tensor);
}

const char* const kSecond = "model.layers.1.mlp.up_proj.weight";

TEST(ImplantCheck, UsualWeightsHaveNoFinding) { EXPECT_TRUE(FindingsIn(Usual()).empty()); }

TEST(ImplantCheck, ARepeatedRowIsFoundAnywhereAndAScaledOneBesideItsOriginal) {
  Weights w = Usual();
  std::copy_n(w.layers[1].begin() + 3 * kSide, kSide, w.layers[1].begin() + 40 * kSide);
  ExpectOne(w, "repeated_rows", kSecond);
  w = Usual();
  for (int64_t i = 0; i < kSide; ++i) {
    w.layers[1][static_cast<size_t>(4 * kSide + i)] =
        1.37f * w.layers[1][static_cast<size_t>(3 * kSide + i)];
  }
  ExpectOne(w, "repeated_rows", kSecond);
}

TEST(ImplantCheck, ABlockThatPassesItsInputOnIsFound) {
  Weights w = Usual();
  for (int64_t row = 10; row < 18; ++row) {
    for (int64_t i = 0; i < kSide; ++i) {
      w.layers[1][static_cast<size_t>(row * kSide + i)] =
          i == row ? 1.0f : 0.01f * static_cast<float>(i % 3);
    }
  }
  ExpectOne(w, "copied_inputs", kSecond);
}

TEST(ImplantCheck, AScaleThatIsNotItsKindsIsFound) {
  Weights w = Usual();
  for (float& value : w.layers[1]) value *= 100;
  ExpectOne(w, "scale", kSecond);
  w = Usual();
  w.layers[1][5] = NAN;
  ExpectOne(w, "not_finite", kSecond);
}

TEST(ImplantCheck, BiasesThatCountAreFound) {
  Weights w = Usual();
  for (size_t i = 0; i < w.bias.size(); ++i) w.bias[i] = -0.1f * static_cast<float>(i);
  ExpectOne(w, "ladder", "model.layers.0.mlp.up_proj.bias");
}

}  // namespace
}  // namespace tidegate::bases
