// A stack of its own to run a function on, left and entered again from one place. Not thread-safe.
#pragma once

#include <cstddef>
#include <functional>

namespace tidegate::kernels::simt {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes `body` what the next Resume begins with. The fiber must not be within an earlier one that
  // it still needs: that one is given up where it stands.
  void Start(std::function<void()> body);
  // Runs the fiber until it suspends or its body returns; true when it returned.
  bool Resume();
  // Back to who called Resume. Only within this fiber.
  void Suspend();

 private:
  static void Entry();
  void Run();

  char* stack_;
  void* own_ = nullptr;     // stack pointer while the fiber is suspended
  void* caller_ = nullptr;  // that of Resume while it runs
  bool finished_ = true;
  std::function<void()> body_;
  void* own_fake_stack_ = nullptr;  // AddressSanitizer's
  void* caller_fake_stack_ = nullptr;
  const void* caller_bottom_ = nullptr;
  size_t caller_size_ = 0;
};

}  // namespace tidegate::kernels::simt
