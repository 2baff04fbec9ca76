// Runs the tests where there is a GPU. Elsewhere it says what is missing and ends with 77, which
// CTest counts as skipped; with TIDEGATE_REQUIRE_GPU=1 as failed.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <iostream>

#include "tests/kernels/tested.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  using tidegate::kernels::DType;
  if (tidegate::kernels::TestedTable(DType::kF32) != nullptr) return RUN_ALL_TESTS();
  const char* required = std::getenv("TIDEGATE_REQUIRE_GPU");
  const bool fails = required != nullptr && std::strcmp(required, "1") == 0;
  std::cerr << (fails ? "FAILED: " : "SKIPPED: ")
            << "the tests on a GPU: " << tidegate::kernels::WhyNoCuda() << "\n";
  return fails ? 1 : 77;
}
