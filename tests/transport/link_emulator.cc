#include "link_emulator.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <deque>
#include <list>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

#include "base/file.h"

namespace tidegate::transport {
namespace {

using Time = std::chrono::steady_clock::time_point;
using Millis = std::chrono::duration<double, std::milli>;

constexpr size_t kSliceBytes = 4096;       // on a slow line: 8 ms at 4 Mbit/s
constexpr size_t kFastSliceBytes = 65536;  // on one without a rate
// What waits before the line; the rest waits at its sender. Less, and the line idles whenever this
// thread comes late on a busy machine.
constexpr double kQueueMillis = 100;
constexpr size_t kMostUnderWay = 64u << 20;

Time Now() { return std::chrono::steady_clock::now(); }
Time After(Time from, double millis) {
  return from + std::chrono::duration_cast<Time::duration>(Millis(millis));
}

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

struct Slice {
  Time arrival;
  Bytes bytes;
  size_t written = 0;
};

// Bytes from one socket to the other.
struct Pipe {
  int from = -1, to = -1;
  bool up = false;
  bool ended = false;  // the sender has no more
  std::deque<Slice> under_way;
  size_t waiting = 0;
};

struct Connection {
  Fd near, far;
  Pipe pipes[2];
  double more_delay = 0;  // its jitter's base: connections overtake each other
  uint64_t number = 0;
  bool dead = false;
};

class Emulator final : public LinkEmulator {
 public:
  Emulator(const LinkOptions& options, int target, Fd listener, int port, Fd wake)
      : options_(options),
        target_(target),
        listener_(std::move(listener)),
        port_(port),
        wake_(std::move(wake)),
        random_(options.seed),
        damage_every_(options.damage_every) {
    thread_ = std::thread([this] { Run(); });
  }
  ~Emulator() override {
    stop_ = true;
    Wake();
    thread_.join();
  }

  int port() const override { return port_; }
  void Cut(bool also_refuse) override {
    refuse_ = also_refuse;
    ++wanted_cuts_;
    Wake();
  }
  void CutNewest() override {
    cut_newest_ = true;
    Wake();
  }
  void Stall() override { stalled_ = true; }
  void Restore() override {
    refuse_ = false;
    stalled_ = false;
    Wake();
  }
  void SetDamage(uint64_t every) override { damage_every_ = every; }
  Counts counts() const override {
    const std::lock_guard lock(mutex_);
    return counts_;
  }

 private:
  void Wake() const {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof(one));
  }

  void Run() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    while (!stop_) {
      Wait();
      while (cuts_done_ < wanted_cuts_) {
        ++cuts_done_;
        CutNow();
      }
      if (cut_newest_.exchange(false) && !connections_.empty()) CutOne(Newest());
      Accept();
      if (!stalled_) {
        for (Connection& c : connections_) {
          for (Pipe& pipe : c.pipes) {
            if (!c.dead && (!Take(c, pipe) || !Deliver(c, pipe))) c.dead = true;
          }
        }
      }
      std::erase_if(connections_, [](const Connection& c) { return c.dead; });
      if (!connections_.empty())
        connections_.splice(connections_.end(), connections_, connections_.begin());
    }
  }

  bool HasRoom(const Pipe& pipe) const {
    if (pipe.ended || pipe.waiting >= kMostUnderWay) return false;
    return options_.bits_per_second <= 0 ||
           line_free_[pipe.up ? 0 : 1] <= After(Now(), kQueueMillis);
  }

  // Until a socket or the next slice is due.
  void Wait() {
    std::vector<pollfd> fds = {{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    double millis = 100;
    for (const Connection& c : connections_) {
      for (const Pipe& pipe : c.pipes) {
        if (stalled_) continue;
        if (HasRoom(pipe)) {
          fds.push_back({pipe.from, POLLIN, 0});
        } else if (!pipe.ended) {
          millis = std::min(millis, 2.0);
        }
        if (pipe.under_way.empty()) continue;
        const double left = Millis(pipe.under_way.front().arrival - Now()).count();
        if (left <= 0) {
          fds.push_back({pipe.to, POLLOUT, 0});
        } else {
          millis = std::min(millis, left);
        }
      }
    }
    timespec wait{};
    wait.tv_nsec = static_cast<long>(std::min(millis, 900.0) * 1e6);
    ::ppoll(fds.data(), fds.size(), &wait, nullptr);
    uint64_t count;
    if (fds[0].revents != 0) [[maybe_unused]]
      const ssize_t n = ::read(wake_.get(), &count, 8);
  }

  void Accept() {
    for (;;) {
      Fd near(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!near.valid()) return;
      if (refuse_) {
        Reset(near);
        continue;
      }
      Fd far(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const sockaddr_in to = Loopback(target_);
      // The far side is down: the near one sees its connection end.
      if (!far.valid() ||
          ::connect(far.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) {
        Reset(near);
        continue;
      }
      const int on = 1;
      for (const Fd* fd : {&near, &far}) {
        ::setsockopt(fd->get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      }
      ::fcntl(far.get(), F_SETFL, O_NONBLOCK);
      Connection& c = connections_.emplace_back();
      c.pipes[0] = {near.get(), far.get(), true, false, {}, 0};
      c.pipes[1] = {far.get(), near.get(), false, false, {}, 0};
      c.near = std::move(near);
      c.far = std::move(far);
      c.more_delay = Uniform() * options_.jitter_millis;
      const std::lock_guard lock(mutex_);
      c.number = ++counts_.connections;
      if (cut_at_) {
        const auto millis = static_cast<int64_t>(Millis(Now() - *cut_at_).count());
        counts_.slowest_redial_millis = std::max(counts_.slowest_redial_millis, millis);
        cut_at_.reset();
      }
    }
  }

  // Onto the line: false when the connection is over.
  bool Take(Connection& c, Pipe& pipe) {
    const bool limited = options_.bits_per_second > 0;
    for (int i = 0; i < 16 && HasRoom(pipe); ++i) {
      Bytes bytes(limited ? kSliceBytes : kFastSliceBytes);
      const ssize_t n = ::recv(pipe.from, bytes.data(), bytes.size(), 0);
      if (n < 0) return errno == EAGAIN || errno == EINTR;
      if (n == 0) {
        pipe.ended = true;
        break;
      }
      bytes.resize(static_cast<size_t>(n));
      Damage(bytes, pipe.up);
      Time& free = line_free_[pipe.up ? 0 : 1];
      free = std::max(free, Now());
      if (limited) free = After(free, 8e3 * static_cast<double>(n) / options_.bits_per_second);
      Time arrival = After(free, options_.delay_millis + c.more_delay * Uniform());
      if (!pipe.under_way.empty()) arrival = std::max(arrival, pipe.under_way.back().arrival);
      pipe.waiting += bytes.size();
      pipe.under_way.push_back({arrival, std::move(bytes)});
      if (limited) break;  // the others' turn
    }
    return true;
  }

  // Off the line: false when the connection is over.
  bool Deliver(Connection& c, Pipe& pipe) {
    while (!pipe.under_way.empty() && pipe.under_way.front().arrival <= Now()) {
      Slice& slice = pipe.under_way.front();
      const ssize_t n = ::send(pipe.to, slice.bytes.data() + slice.written,
                               slice.bytes.size() - slice.written, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0) return errno == EAGAIN || errno == EINTR;
      slice.written += static_cast<size_t>(n);
      Count(pipe.up, static_cast<uint64_t>(n));
      if (slice.written < slice.bytes.size()) return true;
      pipe.waiting -= slice.bytes.size();
      pipe.under_way.pop_front();
      if (next_cut_ < options_.cuts.size() && up_bytes_ >= options_.cuts[next_cut_]) {
        ++next_cut_;
        CutNow();
        return !c.dead;
      }
    }
    if (pipe.ended && pipe.under_way.empty()) ::shutdown(pipe.to, SHUT_WR);
    return !(c.pipes[0].ended && c.pipes[1].ended && c.pipes[0].under_way.empty() &&
             c.pipes[1].under_way.empty());
  }

  void Count(bool up, uint64_t n) {
    if (up) up_bytes_ += n;
    const std::lock_guard lock(mutex_);
    (up ? counts_.up_bytes : counts_.down_bytes) += n;
  }

  void Damage(Bytes& bytes, bool up) {
    uint64_t& taken = taken_[up ? 0 : 1];
    const int64_t flip = up ? options_.flip_up : options_.flip_down;
    const auto at = static_cast<uint64_t>(flip);
    if (flip >= 0 && at >= taken && at - taken < bytes.size()) {
      bytes[at - taken] ^= static_cast<uint8_t>(1u << at % 8);
      const std::lock_guard lock(mutex_);
      ++counts_.damaged;
    }
    taken += bytes.size();
    const uint64_t every = damage_every_;
    if (every == 0) return;
    if (std::bernoulli_distribution(std::min(
            1.0, static_cast<double>(bytes.size()) / static_cast<double>(every)))(random_)) {
      bytes[random_() % bytes.size()] ^= static_cast<uint8_t>(1u << random_() % 8);
      const std::lock_guard lock(mutex_);
      ++counts_.damaged;
    }
  }

  static void Reset(const Fd& fd) {
    const linger hard{1, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  }
  static void CutOne(Connection& c) {
    Reset(c.near);
    Reset(c.far);
    c.dead = true;
  }
  Connection& Newest() {
    return *std::max_element(connections_.begin(), connections_.end(),
                             [](const auto& a, const auto& b) { return a.number < b.number; });
  }
  void CutNow() {
    for (Connection& c : connections_) CutOne(c);
    const std::lock_guard lock(mutex_);
    ++counts_.cuts;
    if (!cut_at_) cut_at_ = Now();
  }
  double Uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }

  const LinkOptions options_;
  const int target_;
  const Fd listener_;
  const int port_;
  const Fd wake_;
  std::mt19937_64 random_;
  std::atomic<uint64_t> damage_every_;
  std::atomic<bool> stop_ = false, refuse_ = false, stalled_ = false, cut_newest_ = false;
  std::atomic<uint64_t> wanted_cuts_ = 0;
  // The thread's.
  uint64_t cuts_done_ = 0, up_bytes_ = 0;
  uint64_t taken_[2] = {};
  size_t next_cut_ = 0;
  Time line_free_[2] = {};
  std::list<Connection> connections_;
  std::optional<Time> cut_at_;

  mutable std::mutex mutex_;
  Counts counts_;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<LinkEmulator>> LinkEmulator::Start(int port, const LinkOptions& options) {
  Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  if (!listener.valid() ||
      ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listener.get(), 64) != 0 ||
      ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return Unexpected(ErrnoStatus("listen on", "a port of 127.0.0.1", errno));
  }
  Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return Unexpected(ErrnoStatus("make", "an eventfd", errno));
  return std::make_unique<Emulator>(options, port, std::move(listener), ntohs(address.sin_port),
                                    std::move(wake));
}

}  // namespace tidegate::transport
