#include "tests/onshore/sandbox/small_driver.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace tidegate::onshore {
namespace {

constexpr size_t kReservation = size_t{1} << 40;

std::string Failed(const char* step) { return fmt::format("{} {}", step, errno); }

int ListenOnAnAbstractSocket() {
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = fmt::format("cuda-uvmfd-{}", ::getpid());
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0 && ::listen(fd, 1) == 0) {
    return fd;
  }
  ::close(fd);
  return -1;
}

int NameThread() {
  const std::string path = fmt::format("/proc/self/task/{}/comm", ::gettid());
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const bool whole = ::write(fd, "cuda-small", 10) == 10;
  const int error = whole ? 0 : errno;
  ::close(fd);
  return error;
}

}  // namespace

SmallDriver::~SmallDriver() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  for (const int fd : {listener_, memory_, event_}) {
    if (fd >= 0) ::close(fd);
  }
}

std::string SmallDriver::Start() {
  if ((listener_ = ListenOnAnAbstractSocket()) < 0) return Failed("listen");
  if ((memory_ = ::memfd_create("cuda", MFD_CLOEXEC)) < 0) return Failed("memfd_create");
  if ((event_ = ::eventfd(0, EFD_CLOEXEC)) < 0) return Failed("eventfd");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Failed("pipe2");
  ::close(ends[0]);
  ::close(ends[1]);
  code_ =
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (code_ == MAP_FAILED) return Failed("mmap");
  void* const range =
      ::mmap(nullptr, kReservation, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return Failed("reserve");
  ::munmap(range, kReservation);
  thread_ = std::thread([this] { Serve(); });
  errno = OnItsThread(NameThread);
  return errno == 0 ? "" : Failed("name a thread");
}

void SmallDriver::Serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || call_; });
    if (stop_) return;
    const std::function<int()> call = std::move(call_);
    call_ = nullptr;
    answer_.set_value(call());
  }
}

int SmallDriver::OnItsThread(std::function<int()> call) {
  std::future<int> answer;
  {
    const std::lock_guard lock(mutex_);
    answer_ = std::promise<int>();
    answer = answer_.get_future();
    call_ = std::move(call);
  }
  changed_.notify_one();
  return answer.get();
}

std::string SmallDriver::Work() {
  const int event = event_;
  errno = OnItsThread([event] {
    const uint64_t one = 1;
    return ::write(event, &one, sizeof(one)) == sizeof(one) ? 0 : errno;
  });
  if (errno != 0) return Failed("write an event");
  uint64_t count = 0;
  if (::read(event_, &count, sizeof(count)) != sizeof(count)) return Failed("read an event");
  // The kernel's own answer, not a filter's.
  int bytes = 0;
  if (::ioctl(memory_, FIONREAD, &bytes) != 0 && errno != ENOTTY) return Failed("ioctl");
  void* const memory = ::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE | PROT_EXEC,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Failed("mmap");
  ::munmap(memory, 1 << 20);
  std::thread another([] {});
  another.join();
  const int own = ::eventfd(0, EFD_CLOEXEC);
  if (own < 0) return Failed("eventfd");
  ::close(own);
  return "";
}

}  // namespace tidegate::onshore
