// With libFuzzer: writes the target's seeds into the first folder of its command line, the corpus
// that it adds to, so that there is one list of seeds.
#include <filesystem>
#include <fstream>

#include "fuzz.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv);

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  namespace fs = std::filesystem;
  const auto target = tidegate::fuzz::Describe();
  for (int i = 1; i < *argc; ++i) {
    const fs::path folder = (*argv)[i];
    if (!fs::is_directory(folder)) continue;
    for (size_t n = 0; n < target.seeds.size(); ++n) {
      std::ofstream file(folder / ("seed-" + std::to_string(n)), std::ios::binary);
      file << target.seeds[n];
      tidegate::fuzz::Require(file.flush().good(), "a seed can be written");
    }
    break;
  }
  return 0;
}
