// The driver of the emulated GPU: what CUDA's does when it starts, and its thread stays.
#include <cuda_runtime_api.h>

#include <cstdio>

#include "tests/onshore/sandbox/small_driver.h"

int TidegateEmulatedDriverStart() {
  static auto* const driver = new tidegate::onshore::SmallDriver;  // lives as long as the process
  const std::string failed = driver->Start();
  if (failed.empty()) return 0;
  std::fprintf(stderr, "the emulated driver cannot start: %s\n", failed.c_str());
  return cudaErrorOperatingSystem;
}
