// Runs a function for 0 … count - 1 on some threads. The first error in the order of numbers is
// returned, whichever thread met it; the functions may not depend on each other.
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "base/status.h"

namespace tidegate::corpus {

template <typename Work>
Status ForEach(size_t count, int threads, const Work& work) {
  std::vector<Status> ends(count);
  std::atomic<size_t> next = 0;
  const auto run = [&] {
    for (size_t i = next++; i < count; i = next++) ends[i] = work(i);
  };
  {
    std::vector<std::jthread> others;
    for (size_t t = 1; t < std::min<size_t>(static_cast<size_t>(threads), count); ++t) {
      others.emplace_back(run);
    }
    run();
  }
  for (Status& end : ends) {
    if (!end.ok()) return std::move(end);
  }
  return OkStatus();
}

}  // namespace tidegate::corpus
