// Runs a function on each rank of a group at once, a thread a rank.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cluster/collectives.h"

namespace tidegate::cluster {

// What failed, a line a rank; empty when every rank was OK. All ranks have ended before any of them
// is destroyed.
inline std::string OnThreads(std::vector<std::unique_ptr<Collectives>> group,
                             const std::function<Status(Collectives&)>& run) {
  std::vector<Status> ends(group.size());
  {
    std::vector<std::jthread> threads;
    for (size_t r = 0; r < group.size(); ++r) {
      threads.emplace_back([&, r] { ends[r] = run(*group[r]); });
    }
  }
  std::string failures;
  for (size_t r = 0; r < group.size(); ++r) {
    if (!ends[r].ok()) failures += "rank " + std::to_string(r) + ": " + ends[r].ToString() + "\n";
  }
  return failures;
}

}  // namespace tidegate::cluster
