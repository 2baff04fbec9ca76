// A fuzz target: one file <name>_fuzz.cc that defines LLVMFuzzerTestOneInput and Describe. It is
// built twice: with driver.cc, which runs a fixed number of mutations of the seeds in every build
// and in CTest, and under clang with libFuzzer (README.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace tidegate::fuzz {

struct Target {
  std::vector<std::string> seeds;
  // What an input of n bytes may make the process hold at most, in bytes asked of operator new:
  // memory + memory_per_byte * n. The driver ends the program over it.
  size_t memory = 4u << 20;
  size_t memory_per_byte = 64;
};

// Defined by each target.
Target Describe();

// Ends the program, naming the claim, where `holds` is false.
void Require(bool holds, std::string_view claim);

// A file of the source tree, by its path from the root. Ends the program when it can't be read.
std::string SourceFile(std::string_view path);

// A file of protocols/vectors/v1, from its hex.
std::string WireVector(std::string_view name);

inline std::string Text(ByteSpan bytes) { return std::string(AsText(bytes)); }

// A folder of its own for parsers that open files; removed at the end of the program.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::string& path() const { return path_; }
  // Not durable: a fuzzer has nothing to lose.
  void Put(std::string_view name, std::string_view content, unsigned mode = 0600) const;
  void Remove(std::string_view name) const;

 private:
  std::string path_;
};

}  // namespace tidegate::fuzz
