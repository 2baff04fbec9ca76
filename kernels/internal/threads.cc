#include "kernels/internal/threads.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <vector>

#include "kernels/table.h"

namespace tidegate::kernels {
namespace {

// The CPUs for the team of this thread, worker i on cpus[i]; empty when it isn't pinned. OpenMP
// ends the workers that a smaller team doesn't need and starts new ones later, which begin on the
// CPU of the thread that starts them; `team` is the size that was pinned last.
struct Pinning {
  std::vector<int> cpus;
  int team = 0;
};
thread_local Pinning pinning;

void PinTeam(int threads) {
  const std::vector<int>& cpus = pinning.cpus;
#pragma omp parallel num_threads(threads)
  {
    const size_t i = static_cast<size_t>(omp_get_thread_num());
    if (i < cpus.size()) {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(cpus[i], &set);
      // Refused means slower, not wrong.
      sched_setaffinity(0, sizeof(set), &set);
    }
  }
  pinning.team = threads;
}

}  // namespace

void PinThreads(int threads) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (threads < 1 || !pinning.cpus.empty() || sched_getaffinity(0, sizeof(set), &set) != 0) return;
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  if (cpus.size() < static_cast<size_t>(threads)) return;
  pinning.cpus = std::move(cpus);
  PinTeam(threads);
}

ScopedThreads::ScopedThreads(int threads)
    : before_(omp_get_max_threads()),
      threads_(omp_in_parallel() != 0 ? 1 : std::clamp(threads, 1, omp_get_thread_limit())),
      dynamic_(omp_get_dynamic() != 0) {
  // OMP_DYNAMIC would give fewer threads when the machine is busy.
  if (dynamic_) omp_set_dynamic(0);
  if (threads_ != before_) omp_set_num_threads(threads_);
  // A team of one uses no worker, so it leaves those that wait as they are.
  if (!pinning.cpus.empty() && threads_ > 1 && threads_ != pinning.team) PinTeam(threads_);
}

ScopedThreads::~ScopedThreads() {
  if (omp_get_max_threads() != before_) omp_set_num_threads(before_);
  if (dynamic_) omp_set_dynamic(1);
}

}  // namespace tidegate::kernels
