#include "emulator.h"

#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "fiber.h"
#include "grid.h"
#include "kernels/internal/simt.h"

namespace tidegate::kernels::simt {
namespace emulated {

Thread* self = nullptr;

}  // namespace emulated

namespace {

using emulated::Thread;

constexpr size_t kSlot = 64;  // bytes that a lane may give in one exchange

struct Place {
  const char* file = nullptr;
  int line = 0;
  bool operator==(const Place&) const = default;
};

std::string NameOf(const Place& place) {
  return std::string(place.file ? place.file : "?") + ":" + std::to_string(place.line);
}

struct PendingCopy {
  void* to;
  const void* from;
  bool wanted;
  void Land() const {
    if (wanted) {
      std::memcpy(to, from, 16);
    } else {
      std::memset(to, 0, 16);
    }
  }
};

enum class State : uint8_t { kRunnable, kAtBlock, kAtWarp, kDone };

struct Lane {
  Fiber fiber;
  Thread thread;
  State state = State::kDone;
  Place place;
  std::vector<std::vector<PendingCopy>> copies;  // groups, the last one open
};

struct Warp {
  uint32_t runnable = 0, waiting = 0;
  Place place;
  int parity = 0;
  alignas(16) unsigned char slots[2][kWarp][kSlot];
};

struct SharedBlock {
  const void* key;
  std::unique_ptr<unsigned char[]> memory;
};

std::unique_ptr<unsigned char[]> Poisoned(size_t bytes) {
  std::unique_ptr<unsigned char[]> memory(new unsigned char[bytes]);
  std::memset(memory.get(), 0xff, bytes);
  return memory;
}

// One block at a time; fibers are kept for the next one.
class Machine {
 public:
  void set_schedule(uint64_t schedule) {
    schedule_ = schedule;
    random_.seed(schedule);
  }

  void Run(const Grid& grid) {
    const int64_t blocks = int64_t{grid.grid.x} * grid.grid.y * grid.grid.z;
    std::vector<int64_t> order(static_cast<size_t>(blocks));
    std::iota(order.begin(), order.end(), 0);
    if (schedule_ == 1) std::reverse(order.begin(), order.end());
    if (schedule_ > 1) std::shuffle(order.begin(), order.end(), random_);
    for (const int64_t block : order) RunBlock(grid, block);
  }

  void* StaticShared(const void* key, size_t bytes) {
    for (const SharedBlock& shared : static_shared_) {
      if (shared.key == key) return shared.memory.get();
    }
    static_bytes_ += bytes;
    if (static_bytes_ > 48 * 1024) Fail("more than 48 KiB of static shared memory");
    static_shared_.push_back({key, Poisoned(bytes)});
    return static_shared_.back().memory.get();
  }
  void* DynamicShared() { return dynamic_shared_.get(); }

  void BlockBarrier(const Place& place) {
    if (at_block_ == 0) {
      block_place_ = place;
    } else if (block_place_ != place) {
      Fail("divergent __syncthreads: " + NameOf(block_place_) + " and " + NameOf(place));
    }
    ++at_block_;
    Wait(State::kAtBlock, place);
  }

  // Where all lanes of the warp have given a value: the values, until the lane's next exchange.
  const unsigned char* Exchange(uint32_t mask, const void* own, size_t bytes, const Place& place) {
    Warp& warp = warps_[static_cast<size_t>(WarpOf())];
    const uint32_t bit = 1u << LaneOf();
    if (mask != kAllLanes) Fail("a warp operation of some lanes only, at " + NameOf(place));
    if (bytes > kSlot) Fail("too large a value for an exchange, at " + NameOf(place));
    if (warp.waiting == 0) {
      warp.place = place;
    } else if (warp.place != place) {
      Fail("a warp's lanes are at " + NameOf(warp.place) + " and " + NameOf(place));
    }
    const int parity = warp.parity;
    if (bytes > 0) std::memcpy(warp.slots[parity][LaneOf()], own, bytes);
    warp.waiting |= bit;
    if (warp.waiting == kAllLanes) {
      warp.waiting = 0;
      warp.parity ^= 1;
      warp.runnable = kAllLanes;
      for (int lane = 0; lane < kWarp; ++lane) {
        lanes_[static_cast<size_t>(WarpOf() * kWarp + lane)]->state = State::kRunnable;
      }
    } else {
      Wait(State::kAtWarp, place);
    }
    return warp.slots[parity][0];
  }

  void CopyAsync(const PendingCopy& copy) {
    if ((reinterpret_cast<uintptr_t>(copy.to) | reinterpret_cast<uintptr_t>(copy.from)) % 16 != 0) {
      Fail("a copy of 16 bytes is not aligned to them");
    }
    // As late as the program allows, or at once.
    if (schedule_ != 1 && (schedule_ == 0 || random_() % 2 == 0)) return copy.Land();
    Running().copies.back().push_back(copy);
  }
  void CopyCommit() { Running().copies.emplace_back(); }
  void CopyWait(int pending) {
    auto& groups = Running().copies;
    const size_t keep = static_cast<size_t>(pending) + 1;
    while (groups.size() > keep) {
      for (const PendingCopy& copy : groups.front()) copy.Land();
      groups.erase(groups.begin());
    }
  }

 private:
  Lane& Running() { return *lanes_[static_cast<size_t>(running_)]; }
  int WarpOf() const { return running_ / kWarp; }
  int LaneOf() const { return running_ % kWarp; }

  [[noreturn]] void Fail(const std::string& what) { throw SimtError(what); }

  void Wait(State state, const Place& place) {
    Lane& lane = Running();
    lane.state = state;
    lane.place = place;
    warps_[static_cast<size_t>(WarpOf())].runnable &= ~(1u << LaneOf());
    lane.fiber.Suspend();
  }

  void Prepare(const Grid& grid, int64_t block) {
    const int threads = static_cast<int>(grid.block.x);
    while (lanes_.size() < static_cast<size_t>(threads)) lanes_.push_back(std::make_unique<Lane>());
    warps_.assign(static_cast<size_t>(threads / kWarp), Warp{});
    priority_.resize(warps_.size());
    std::iota(priority_.begin(), priority_.end(), 0);
    if (schedule_ == 1) std::reverse(priority_.begin(), priority_.end());
    if (schedule_ > 1) std::shuffle(priority_.begin(), priority_.end(), random_);
    static_shared_.clear();
    static_bytes_ = 0;
    dynamic_shared_ = Poisoned(grid.shared);
    error_ = nullptr;
    at_block_ = 0;
    alive_ = threads;
    const dim3 g = grid.grid;
    const dim3 at(static_cast<unsigned>(block % g.x), static_cast<unsigned>(block / g.x % g.y),
                  static_cast<unsigned>(block / g.x / g.y));
    for (int i = 0; i < threads; ++i) {
      Lane& lane = *lanes_[static_cast<size_t>(i)];
      lane.thread = {dim3(static_cast<unsigned>(i), 0, 0), at, grid.block, g};
      lane.state = State::kRunnable;
      lane.copies.assign(1, {});
      lane.fiber.Start([this, &grid] {
        try {
          grid.thread();
        } catch (...) {
          error_ = std::current_exception();
        }
      });
    }
    for (Warp& warp : warps_) warp.runnable = kAllLanes;
  }

  void RunBlock(const Grid& grid, int64_t block) {
    Prepare(grid, block);
    while (alive_ > 0) {
      running_ = Pick();
      if (running_ < 0) {
        if (!ReleaseBarrier()) throw SimtError("no thread can go on: " + Waiting());
        continue;
      }
      Lane& lane = Running();
      emulated::self = &lane.thread;
      const bool done = lane.fiber.Resume();
      if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      if (done) {
        lane.state = State::kDone;
        warps_[static_cast<size_t>(WarpOf())].runnable &= ~(1u << LaneOf());
        --alive_;
      }
    }
    if (at_block_ != 0) throw SimtError("threads wait at " + NameOf(block_place_) + " for ever");
  }

  // The thread to run: the first warp that can, as far as it can.
  int Pick() {
    if (schedule_ > 1 && random_() % 64 == 0) {
      std::shuffle(priority_.begin(), priority_.end(), random_);
    }
    for (const int warp : priority_) {
      uint32_t runnable = warps_[static_cast<size_t>(warp)].runnable;
      if (runnable == 0) continue;
      int lane = __builtin_ctz(runnable);
      if (schedule_ == 1) lane = 31 - __builtin_clz(runnable);
      if (schedule_ > 1) {
        for (uint64_t skip = random_() % static_cast<uint64_t>(__builtin_popcount(runnable));
             skip > 0; --skip) {
          runnable &= runnable - 1;
        }
        lane = __builtin_ctz(runnable);
      }
      return warp * kWarp + lane;
    }
    return -1;
  }

  // Threads that have ended don't count, as on hardware.
  bool ReleaseBarrier() {
    if (at_block_ == 0 || at_block_ != alive_) return false;
    at_block_ = 0;
    for (size_t i = 0; i < warps_.size() * kWarp; ++i) {
      if (lanes_[i]->state != State::kAtBlock) continue;
      lanes_[i]->state = State::kRunnable;
      warps_[i / kWarp].runnable |= 1u << (i % kWarp);
    }
    return true;
  }

  std::string Waiting() const {
    int at_warp = 0;
    Place warp_place;
    for (size_t i = 0; i < warps_.size() * kWarp; ++i) {
      if (lanes_[i]->state != State::kAtWarp) continue;
      ++at_warp;
      warp_place = lanes_[i]->place;
    }
    return std::to_string(at_block_) + " threads wait at a block's barrier (" +
           NameOf(block_place_) + "), " + std::to_string(at_warp) + " in a warp operation (" +
           NameOf(warp_place) + "), " + std::to_string(alive_) + " have not ended";
  }

  uint64_t schedule_ = 0;
  std::mt19937_64 random_{0};
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<Warp> warps_;
  std::vector<int> priority_;
  std::vector<SharedBlock> static_shared_;
  size_t static_bytes_ = 0;
  std::unique_ptr<unsigned char[]> dynamic_shared_;
  std::exception_ptr error_;
  int running_ = -1, alive_ = 0, at_block_ = 0;
  Place block_place_;
};

Machine& TheMachine() {
  static Machine machine;
  [[maybe_unused]] static const bool seeded = [] {
    machine.set_schedule(ScheduleOfEnvironment());
    return true;
  }();
  return machine;
}

float Half(uint32_t pair, int upper) { return FloatOf(upper ? pair & 0xffff0000u : pair << 16); }

}  // namespace

void SetSchedule(uint64_t schedule) { TheMachine().set_schedule(schedule); }

uint64_t ScheduleOfEnvironment() {
  const char* schedule = std::getenv("TIDEGATE_SIMT_SCHEDULE");
  return schedule ? std::strtoull(schedule, nullptr, 10) : 0;
}

void RunGrid(const Grid& grid) { TheMachine().Run(grid); }

namespace emulated {

void* StaticShared(const void* key, size_t bytes) { return TheMachine().StaticShared(key, bytes); }
void* DynamicShared() { return TheMachine().DynamicShared(); }
void BlockBarrier(const char* file, int line) { TheMachine().BlockBarrier({file, line}); }
void WarpBarrier(uint32_t mask, const char* file, int line) {
  TheMachine().Exchange(mask, nullptr, 0, {file, line});
}
void Exchange(uint32_t mask, const void* own, void* all, size_t bytes, const char* file, int line) {
  const unsigned char* slots = TheMachine().Exchange(mask, own, bytes, {file, line});
  for (size_t lane = 0; lane < kWarp; ++lane) {
    std::memcpy(static_cast<unsigned char*>(all) + lane * bytes, slots + lane * kSlot, bytes);
  }
}
void CopyAsync16(void* shared, const void* global, bool wanted) {
  TheMachine().CopyAsync({shared, global, wanted});
}
void CopyCommit() { TheMachine().CopyCommit(); }
void CopyWait(int pending) { TheMachine().CopyWait(pending); }

}  // namespace emulated

void Mma16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const char* file,
              int line) {
  struct Fragment {
    uint32_t a[4], b[2];
  };
  Fragment own = {{a[0], a[1], a[2], a[3]}, {b0, b1}}, all[kWarp];
  emulated::Exchange(kAllLanes, &own, all, sizeof(own), file, line);
  const int lane = static_cast<int>(emulated::self->thread.x) % kWarp, g = lane / 4, t = lane % 4;
  for (int l = 0; l < 4; ++l) {             // the lane that holds the columns of a
    for (int half = 0; half < 2; ++half) {  // columns 2l and 2l + 8
      for (int c = 0; c < 2; ++c) {
        const float low = Half(all[4 * g + l].a[2 * half], c);
        const float high = Half(all[4 * g + l].a[2 * half + 1], c);
        for (int n = 0; n < 2; ++n) {
          const float right = Half(all[4 * (2 * t + n) + l].b[half], c);
          d[n] += low * right;
          d[2 + n] += high * right;
        }
      }
    }
  }
}

namespace {

void LoadTiles(uint32_t (&r)[4], const void* row, bool transposed, const char* file, int line) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    throw SimtError("ldmatrix of a row that is not aligned to 16 bytes, at " +
                    NameOf({file, line}));
  }
  const void* all[kWarp];
  emulated::Exchange(kAllLanes, &row, all, sizeof(row), file, line);
  const int lane = static_cast<int>(emulated::self->thread.x) % kWarp, g = lane / 4, t = lane % 4;
  for (int tile = 0; tile < 4; ++tile) {
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i) {
      const int of_row = transposed ? 2 * t + i : g, of_column = transposed ? g : 2 * t + i;
      pair[i] = static_cast<const uint16_t*>(all[8 * tile + of_row])[of_column];
    }
    r[tile] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
  // The hardware reads for all lanes at once; here a lane that runs ahead could write first.
  emulated::WarpBarrier(kAllLanes, file, -line);
}

}  // namespace

void LoadMatrix4(uint32_t (&r)[4], const void* row, const char* file, int line) {
  LoadTiles(r, row, false, file, line);
}
void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row, const char* file, int line) {
  LoadTiles(r, row, true, file, line);
}

}  // namespace tidegate::kernels::simt
