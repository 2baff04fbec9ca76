// Quantized weights against bitsandbytes' own (tests/golden/make_quantized.py), and models on them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "golden_model.h"
#include "kernels/quantize.h"

namespace tidegate::model {
namespace {

using kernels::WeightFormat;
using tensor::SafetensorsFile;

constexpr int64_t kRows = 130, kColumns = 128, kBlocks = kRows * kColumns / 64;

class QuantizedGolden : public testing::Test {
 protected:
  std::vector<unsigned char> Quantize(WeightFormat format, const std::string& name) {
    std::vector<unsigned char> bytes(kernels::QuantizedBytes(format, kRows, kColumns));
    kernels::Quantize(1, format, kRows, kColumns, Floats(golden_, name).data(), bytes.data());
    return bytes;
  }
  kernels::QuantizedView View(WeightFormat format, const std::vector<unsigned char>& bytes) {
    return kernels::ViewOf(format, kRows, kColumns, bytes.data());
  }
  ByteSpan Stored(const std::string& name) { return Must(golden_.Get(name))->bytes; }
  static ByteSpan Bytes(const void* data, size_t size) {
    return {static_cast<const uint8_t*>(data), size};
  }

  const SafetensorsFile golden_ =
      Must(SafetensorsFile::Open(GoldenDir("formats") / "quantized.safetensors"));
};

bool Same(ByteSpan a, ByteSpan b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

TEST_F(QuantizedGolden, Nf4HasTheirBytes) {
  const auto bytes = Quantize(WeightFormat::kNf4, "w");
  const auto view = View(WeightFormat::kNf4, bytes);
  EXPECT_TRUE(Same(Stored("nf4.codes"), Bytes(view.codes, kRows * kColumns / 2)));
  EXPECT_TRUE(Same(Stored("nf4.absmax"), Bytes(view.scales, 4 * kBlocks)));
  EXPECT_TRUE(Same(Stored("nf4.values"), Bytes(kernels::kNf4Values.data(), 64)));
}

TEST_F(QuantizedGolden, DoubleQuantizationHasTheirBytes) {
  const auto bytes = Quantize(WeightFormat::kNf4Double, "w");
  const auto view = View(WeightFormat::kNf4Double, bytes);
  EXPECT_TRUE(Same(Stored("nf4.codes"), Bytes(view.codes, kRows * kColumns / 2)));
  EXPECT_TRUE(Same(Stored("double.map"), Bytes(view.scale_map, 4 * 256)));
  // Their mean is a float sum; ours is one of doubles.
  EXPECT_FLOAT_EQ(view.offset, Floats(golden_, "double.offset")[0]);
  EXPECT_TRUE(Same(Stored("double.absmax"), Bytes(view.scale_codes, kBlocks)));
  const auto outer = Floats(golden_, "double.outer");
  ASSERT_EQ(outer.size(), 2u);
  for (size_t i = 0; i < 2; ++i) EXPECT_FLOAT_EQ(view.scales[i], outer[i]);
}

TEST_F(QuantizedGolden, Int8HasTheirScalesAndCodes) {
  const auto bytes = Quantize(WeightFormat::kInt8, "int8.w");
  const auto view = View(WeightFormat::kInt8, bytes);
  // Where a value lies in the middle of two codes, their float arithmetic may fall to either side.
  const ByteSpan codes = Stored("int8.codes");
  ASSERT_EQ(codes.size(), static_cast<size_t>(kRows * kColumns));
  int differing = 0;
  for (size_t i = 0; i < codes.size(); ++i) {
    const int theirs = static_cast<int8_t>(codes[i]), ours = static_cast<int8_t>(view.codes[i]);
    ASSERT_LE(std::abs(theirs - ours), 1) << i;
    differing += theirs != ours ? 1 : 0;
  }
  EXPECT_LE(differing, 16);  // of 16,640
  EXPECT_TRUE(Same(Stored("int8.absmax"), Bytes(view.scales, 4 * kRows)));
}

TEST_F(QuantizedGolden, UnpacksToTheirValues) {
  const auto bytes = Quantize(WeightFormat::kNf4Double, "w");
  const auto view = View(WeightFormat::kNf4Double, bytes);
  const auto theirs = Floats(golden_, "double.bf16");
  for (int64_t i = 0; i < kRows * kColumns; ++i) {
    const uint8_t pair = view.codes[i / 2];
    const float value = kernels::kNf4Values[i % 2 == 0 ? pair >> 4 : pair & 15] *
                        kernels::ScaleOf(WeightFormat::kNf4Double, view, kColumns, i);
    ASSERT_NEAR(value, theirs[static_cast<size_t>(i)], std::abs(value) / 256) << i;
  }
}

// Losses move a little, and by less the more bits there are; gradients stay alive.
TEST(QuantizedModel, LossesAreNearThePlainModels) {
  const SafetensorsFile trace =
      Must(SafetensorsFile::Open(GoldenDir("tiny_llama") / "trace.safetensors"));
  const auto batch = Pack(Sequences(trace, 0, true));
  const auto loss = [&batch](Quantization quantization) {
    const auto base =
        Must(Base::Load(GoldenDir("tiny_llama"), {.threads = 2, .quantization = quantization}));
    const LossSum sum = Must(Must(Engine::Create(base, LoraConfig()))->Evaluate(batch));
    return sum.loss / static_cast<double>(sum.targets);
  };
  const double plain = loss(Quantization::kNone);
  const double eight = std::abs(loss(Quantization::kInt8) - plain);
  const double four = std::abs(loss(Quantization::kNf4) - plain);
  const double twice = std::abs(loss(Quantization::kNf4Double) - plain);
  EXPECT_GT(eight, 0);
  EXPECT_LT(eight, 0.01);
  EXPECT_GT(four, eight);
  EXPECT_LT(four, 0.2);
  EXPECT_LT(twice, 0.2);
  EXPECT_NE(twice, four);
}

// The fast kernels unpack to what the reference computes with.
TEST(QuantizedModel, GradientsEqualTheReference) {
  const SafetensorsFile trace =
      Must(SafetensorsFile::Open(GoldenDir("tiny_qwen3") / "trace.safetensors"));
  const auto batch = Pack(Sequences(trace, 0));
  LoraConfig lora;
  lora.r = 4;
  lora.targets = Must(ParseTargets("all-linear"));
  const auto gradients = [&](const ComputeOptions& options) {
    const auto base = Must(Base::Load(GoldenDir("tiny_qwen3"), options));
    const auto engine = Must(Engine::Create(base, lora));
    Adapter adapter = Adapter::Create(base->config(), lora, 7);
    for (float& value : adapter.parameters()) value += 0.01f;  // B alive
    engine->SetParameters(adapter.parameters());
    (void)Must(engine->ForwardBackward(batch, 0, 0));
    std::vector<float> out(adapter.parameters().size());
    engine->TakeGradients(1.0, out);
    return out;
  };
  for (const Quantization quantization : {Quantization::kInt8, Quantization::kNf4Double}) {
    const auto want = gradients({.backend = kernels::Backend::kRef,
                                 .dtype = kernels::DType::kF64,
                                 .quantization = quantization});
    const auto got = gradients({.threads = 2, .quantization = quantization});
    double difference = 0, size = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      difference += (got[i] - want[i]) * (got[i] - want[i]);
      size += want[i] * want[i];
    }
    ASSERT_GT(size, 0);
    EXPECT_LT(std::sqrt(difference / size), 1e-4) << QuantizationName(quantization);
  }
}

}  // namespace
}  // namespace tidegate::model
