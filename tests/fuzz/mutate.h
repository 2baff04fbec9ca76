// The driver's mutations: input number `i` is a function of the seeds and of `i` alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tidegate::fuzz {

class Mutator {
 public:
  // `seeds` is not empty. Words of the seeds become the dictionary, beside one of its own.
  explicit Mutator(std::vector<std::string> seeds);

  // Bytes flipped, cut, put in, repeated and moved, lengths overwritten, numbers replaced, words
  // and brackets put in, pieces of other seeds; one to five of these, at most about twice the seed.
  std::string Input(uint64_t i) const;

 private:
  std::vector<std::string> seeds_;
  std::vector<std::string> words_;
};

}  // namespace tidegate::fuzz
