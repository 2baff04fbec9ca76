#include "federation/rounds/aggregate_threads.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace tidegate::federation {

unsigned SumThreads() { return std::clamp(std::thread::hardware_concurrency(), 1u, 4u); }

void OnThreads(unsigned threads, size_t tasks, const std::function<void(size_t task)>& run) {
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t task = next++; task < tasks; task = next++) run(task);
  };
  std::vector<std::thread> others;
  for (size_t i = 1; i < std::min<size_t>(threads, tasks); ++i) {
    try {
      others.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // no more threads to be had
    }
  }
  work();
  for (std::thread& thread : others) thread.join();
}

}  // namespace tidegate::federation
