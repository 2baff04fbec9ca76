// Work cut into tasks, for the threads of one sum.
#pragma once

#include <cstddef>
#include <functional>

namespace tidegate::federation {

// So many as this machine runs at once, at most four: a sum is bound by memory beyond.
unsigned SumThreads();

// Calls run(0) … run(tasks − 1), each once, on the calling thread and up to threads − 1 others, in
// any order; returns when all have returned. Where the machine gives fewer threads, fewer do it.
// `run` must not throw.
void OnThreads(unsigned threads, size_t tasks, const std::function<void(size_t task)>& run);

}  // namespace tidegate::federation
