#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define WITH_ASAN(...) __VA_ARGS__
#else
#define WITH_ASAN(...)
#endif

#if !defined(__x86_64__)
#error "the SIMT emulator's fibers are written for x86-64"
#endif

extern "C" void tidegate_simt_switch(void** save, void* load);

// Registers that a call keeps, then the other stack. A jump, since a return to another stack would
// be mispredicted each time.
asm(R"(
.text
.type tidegate_simt_switch, @function
.globl tidegate_simt_switch
tidegate_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size tidegate_simt_switch, . - tidegate_simt_switch
)");

namespace tidegate::kernels::simt {
namespace {

constexpr size_t kGuardPage = 4096;
constexpr size_t kStack = 256 * 1024;

Fiber* entering = nullptr;

}  // namespace

Fiber::Fiber() {
  void* memory = mmap(nullptr, kGuardPage + kStack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardPage, PROT_NONE);
  stack_ = static_cast<char*>(memory) + kGuardPage;
}

Fiber::~Fiber() { munmap(stack_ - kGuardPage, kGuardPage + kStack); }

void Fiber::Start(std::function<void()> body) {
  body_ = std::move(body);
  finished_ = false;
  // What an abandoned body left poisoned would be taken for its own by the next.
  WITH_ASAN(__asan_unpoison_memory_region(stack_, kStack);)
  WITH_ASAN(own_fake_stack_ = nullptr;)
  // As the switch will pop them: six registers, then where to jump to. At Entry the stack is as
  // after a call: 8 bytes off a multiple of 16.
  uintptr_t* top = reinterpret_cast<uintptr_t*>(stack_ + kStack - 64);
  *--top = 0;
  *--top = reinterpret_cast<uintptr_t>(&Fiber::Entry);
  for (int i = 0; i < 6; ++i) *--top = 0;
  own_ = top;
}

void Fiber::Entry() { entering->Run(); }

void Fiber::Run() {
  WITH_ASAN(__sanitizer_finish_switch_fiber(nullptr, &caller_bottom_, &caller_size_);)
  body_();
  finished_ = true;
  WITH_ASAN(__sanitizer_start_switch_fiber(nullptr, caller_bottom_, caller_size_);)
  tidegate_simt_switch(&own_, caller_);
  __builtin_unreachable();
}

bool Fiber::Resume() {
  entering = this;
  WITH_ASAN(__sanitizer_start_switch_fiber(&caller_fake_stack_, stack_, kStack);)
  tidegate_simt_switch(&caller_, own_);
  WITH_ASAN(__sanitizer_finish_switch_fiber(caller_fake_stack_, nullptr, nullptr);)
  return finished_;
}

void Fiber::Suspend() {
  WITH_ASAN(__sanitizer_start_switch_fiber(&own_fake_stack_, caller_bottom_, caller_size_);)
  tidegate_simt_switch(&own_, caller_);
  WITH_ASAN(__sanitizer_finish_switch_fiber(own_fake_stack_, &caller_bottom_, &caller_size_);)
}

}  // namespace tidegate::kernels::simt
