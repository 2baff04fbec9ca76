// How kernels use OpenMP threads.
#pragma once

namespace tidegate::kernels {

// While it lives, OpenMP regions started by this thread (oneDNN's included) have `threads` threads.
// Also puts workers that OpenMP started anew back on their CPU after PinThreads.
class ScopedThreads {
 public:
  explicit ScopedThreads(int threads);
  ~ScopedThreads();
  ScopedThreads(const ScopedThreads&) = delete;
  ScopedThreads& operator=(const ScopedThreads&) = delete;

 private:
  int before_;
};

}  // namespace tidegate::kernels
