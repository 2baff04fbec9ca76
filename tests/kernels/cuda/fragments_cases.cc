// The tensor cores' operands lie where NVIDIA's tables for mma.m16n8k16 say (PTX ISA, "Matrix
// Fragments for mma.m16n8k16"), held against them one element at a time.
#include "fragments.h"
#include "tests/kernels/conformance.h"

namespace tidegate::kernels {
namespace {

TEST(Fragments, OneElementMeetsTheRowOfTheOtherOperand) {
  const KernelTable& table = *TestedTable(DType::kBF16);
  std::vector<float> out(256 * 32 * 4, -1);
  Staging staging(table);
  void* place = staging.Place(out.data(), out.size() * sizeof(float));
  LaunchOneInLeft(staging.context(), static_cast<float*>(place));
  staging.Fetch();
  for (int one = 0; one < 256; ++one) {
    // Where the table has element one % 8 of lane one / 8.
    const int g = one / 8 / 4, t = one / 8 % 4, i = one % 8;
    const int row = i % 4 < 2 ? g : g + 8, column = 2 * t + i % 2 + (i < 4 ? 0 : 8);
    for (int lane = 0; lane < 32; ++lane) {
      for (int j = 0; j < 4; ++j) {
        const int of_row = lane / 4 + (j < 2 ? 0 : 8), of_column = lane % 4 * 2 + j % 2;
        const float want = of_row == row ? static_cast<float>(1 + column * 8 + of_column) : 0.0f;
        ASSERT_EQ(out[static_cast<size_t>((one * 32 + lane) * 4 + j)], want)
            << "element " << one << ", lane " << lane << ", result " << j;
      }
    }
  }
}

TEST(Fragments, TilesOfSharedMemoryMultiplyAsMatrices) {
  const KernelTable& table = *TestedTable(DType::kBF16);
  const Values left = Integers(1, 256, 9), right = Integers(2, 256, 9);
  for (const bool transposed : {false, true}) {
    GuardedArray a(DType::kBF16, left), b(DType::kBF16, right);
    std::vector<float> out(256, -1);
    Staging staging(table, 1, true);
    const void* pa = staging.Place(a.bytes().data(), a.bytes().size(), a.offset());
    const void* pb = staging.Place(b.bytes().data(), b.bytes().size(), b.offset());
    void* place = staging.Place(out.data(), out.size() * sizeof(float));
    LaunchThroughTiles(staging.context(), pa, pb, transposed, static_cast<float*>(place));
    staging.Fetch();
    for (size_t i = 0; i < 16; ++i) {
      for (size_t j = 0; j < 16; ++j) {
        double want = 0;
        for (size_t l = 0; l < 16; ++l) {
          want += left[i * 16 + l] * (transposed ? right[j * 16 + l] : right[l * 16 + j]);
        }
        ASSERT_EQ(out[i * 16 + j], want) << i << " " << j;
      }
    }
  }
}

}  // namespace
}  // namespace tidegate::kernels
