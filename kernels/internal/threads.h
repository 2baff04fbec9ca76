// How kernels use OpenMP threads.
#pragma once

namespace tidegate::kernels {

// While it lives, OpenMP regions started by this thread (oneDNN's included) have threads() threads:
// as many as asked for, or fewer where OpenMP would refuse them (OMP_THREAD_LIMIT, a region within
// a region). Whoever plans for a number of threads must plan for threads(): oneDNN leaves out the
// work of threads that it planned for and didn't get. Also puts workers that OpenMP started anew
// back on their CPU after PinThreads.
class ScopedThreads {
 public:
  explicit ScopedThreads(int threads);
  ~ScopedThreads();
  int threads() const { return threads_; }
  ScopedThreads(const ScopedThreads&) = delete;
  ScopedThreads& operator=(const ScopedThreads&) = delete;

 private:
  int before_, threads_;
  bool dynamic_;
};

}  // namespace tidegate::kernels
