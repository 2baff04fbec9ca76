#include "kernels/quantize.h"

#include <cmath>

#include "conformance.h"

namespace tidegate::kernels {
namespace {

constexpr WeightFormat kFormats[] = {WeightFormat::kInt8, WeightFormat::kNf4,
                                     WeightFormat::kNf4Double};

std::string FormatName(WeightFormat format) {
  return format == WeightFormat::kInt8  ? "int8"
         : format == WeightFormat::kNf4 ? "nf4"
                                        : "nf4 double";
}

std::vector<float> Floats(const Values& values) { return {values.begin(), values.end()}; }

std::vector<unsigned char> Quantized(WeightFormat format, int64_t n, int64_t k,
                                     const std::vector<float>& w, int threads = 1) {
  std::vector<unsigned char> bytes(QuantizedBytes(format, n, k));
  Quantize(threads, format, n, k, w.data(), bytes.data());
  return bytes;
}

// What the reference multiplies by: x is the identity.
Values Unpacked(WeightFormat format, int64_t n, int64_t k,
                const std::vector<unsigned char>& bytes) {
  const auto prepared = Reference().prepare_weights({format, n, k, bytes.data()});
  Values eye(static_cast<size_t>(k * k), 0.0);
  for (int64_t i = 0; i < k; ++i) eye[static_cast<size_t>(i * k + i)] = 1;
  OpRun run(Reference(), DType::kF64, 1);
  void* y = run.Out("y", static_cast<size_t>(k * n));
  run.table().linear_forward(run.context(), {prepared.get(), k, run.In(eye), nullptr, y});
  const Values columns = run.Finish().at("y").values();
  Values w(columns.size());
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < k; ++i) {
      w[static_cast<size_t>(j * k + i)] = columns[static_cast<size_t>(i * n + j)];
    }
  }
  return w;
}

struct Shape {
  int64_t m, n, k;
};

// One row is unpacked in parts, a few go to the GEMV, many to oneDNN. Blocks that end within a row,
// a last block that is not full, an odd count of codes, and a matrix of several parts.
const std::vector<Shape> kShapes = {{1, 1, 1},   {1, 130, 96}, {3, 7, 33},     {4, 64, 128},
                                    {17, 1, 19}, {33, 71, 65}, {1, 700, 1000}, {64, 96, 64}};

TEST(Quantized, LinearAgreesWithTheReference) {
  for (const WeightFormat format : kFormats) {
    for (const auto& [m, n, k] : kShapes) {
      const auto count = [](int64_t a, int64_t b) { return static_cast<size_t>(a * b); };
      const Values x = Random(1, count(m, k)), w = Random(2, count(n, k), 0.1);
      const Values residual = Random(3, count(m, n)), dy = Random(4, count(m, n));
      const Values bias = Random(5, count(1, n));
      const std::string what = FormatName(format) + " " + std::to_string(m) + "x" +
                               std::to_string(n) + "x" + std::to_string(k);
      Conform("forward, " + what, [&](OpRun& run) {
        void* y = run.Out("y", count(m, n));
        run.table().linear_forward(run.context(), {run.Weights(w, n, k, format), m, run.In(x),
                                                   run.In(residual), y, run.In(bias)});
      });
      Conform("backward, " + what, [&](OpRun& run) {
        void* dx = run.Out("dx", x);
        run.table().linear_backward(run.context(),
                                    {run.Weights(w, n, k, format), m, run.In(dy), true, dx});
      });
      Conform("logits, " + what, [&](OpRun& run) {
        void* logits = run.OutGrad("logits", count(m, n));
        run.table().logits(run.context(), {run.Weights(w, n, k, format), m, run.In(x), logits});
      });
    }
  }
}

TEST(Quantized, AValueIsAtMostHalfAStepOff) {
  const int64_t n = 30, k = 96;
  const std::vector<float> w = Floats(Random(7, static_cast<size_t>(n * k)));
  const Values eight = Unpacked(WeightFormat::kInt8, n, k, Quantized(WeightFormat::kInt8, n, k, w));
  const Values four = Unpacked(WeightFormat::kNf4, n, k, Quantized(WeightFormat::kNf4, n, k, w));
  const Values twice =
      Unpacked(WeightFormat::kNf4Double, n, k, Quantized(WeightFormat::kNf4Double, n, k, w));
  for (size_t i = 0; i < w.size(); ++i) {
    EXPECT_NEAR(eight[i], w[i], 1.0 / 254 + 1e-6);
    EXPECT_NEAR(four[i], w[i], (1.0 - 0.6961928) / 2 + 1e-6);  // the widest gap
    EXPECT_NEAR(twice[i], four[i], 0.02);
  }
  EXPECT_NE(twice, four);
}

TEST(Quantized, TheLargestOfEachBlockIsExact) {
  std::vector<float> w = Floats(Random(9, 256));
  for (size_t block = 0; block < 4; ++block) w[block * 64 + 5] = block % 2 == 0 ? 3.5f : -3.5f;
  const Values four =
      Unpacked(WeightFormat::kNf4, 2, 128, Quantized(WeightFormat::kNf4, 2, 128, w));
  for (size_t block = 0; block < 4; ++block) EXPECT_EQ(four[block * 64 + 5], w[block * 64 + 5]);
}

TEST(Quantized, ZerosStayZeros) {
  for (const WeightFormat format : kFormats) {
    const std::vector<float> w(3 * 64, 0.0f);
    for (const double value : Unpacked(format, 3, 64, Quantized(format, 3, 64, w))) {
      EXPECT_EQ(value, 0) << FormatName(format);
    }
  }
}

TEST(Quantized, ThreadsChangeNoByte) {
  const std::vector<float> w = Floats(Random(3, 300 * 70));
  for (const WeightFormat format : kFormats) {
    EXPECT_EQ(Quantized(format, 300, 70, w, 1), Quantized(format, 300, 70, w, 3))
        << FormatName(format);
  }
}

TEST(Quantized, BytesAValue) {
  const double count = 11008.0 * 4096.0;
  const auto share = [count](WeightFormat format) {
    return static_cast<double>(QuantizedBytes(format, 11008, 4096)) / count;
  };
  EXPECT_NEAR(share(WeightFormat::kInt8), 1.001, 0.001);
  EXPECT_NEAR(share(WeightFormat::kNf4), 0.5625, 0.0001);
  EXPECT_NEAR(share(WeightFormat::kNf4Double), 0.5159, 0.0001);
  EXPECT_EQ(QuantizedBytes(WeightFormat::kBF16, 11008, 4096), 0u);
}

}  // namespace
}  // namespace tidegate::kernels
