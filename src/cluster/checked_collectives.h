// What the backends share: a call is checked, described and handed on as one value.
#pragma once

#include <array>
#include <atomic>
#include <mutex>

#include "cluster/collectives.h"

namespace tidegate::cluster {

enum class Op : uint8_t {
  kAllReduce = 0,
  kReduceScatter = 1,
  kAllGather = 2,
  kBroadcast = 3,
  kAllToAll = 4,
  kBarrier = 5
};

// What all ranks must agree on.
struct Call {
  Op op = Op::kBarrier;
  DType dtype = DType::kU8;
  int root = 0;
  uint64_t count = 0;
  std::string tag;

  friend bool operator==(const Call&, const Call&) = default;
  // "all_reduce 'layer0.A' of 8 f32"
  std::string Describe() const;
  size_t bytes() const { return static_cast<size_t>(count) * SizeOf(dtype); }
};

// A call in bytes of one length, and back (kDataLoss for what is no call).
inline constexpr size_t kCallBytes = 16 + kMaxTagBytes;
std::array<uint8_t, kCallBytes> EncodeCall(const Call& call);
Result<Call> DecodeCall(const uint8_t* bytes);

// The error when two ranks are found to disagree.
Status Mismatch(int rank_a, const Call& a, int rank_b, const Call& b);
// The error that every rank of an aborted group has.
Status Aborted(int rank, std::string_view reason);
// What is kept of an Abort's reason.
std::string_view CutReason(std::string_view reason);

// The first error of a group; later ones are dropped. Thread-safe.
class FirstError {
 public:
  // What it is now; OK while nothing was set.
  Status Get() const;
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // Keeps the first; returns what is kept.
  Status Set(Status status);

 private:
  mutable std::mutex mutex_;
  std::atomic<bool> failed_ = false;
  Status status_;
};

class CheckedCollectives : public Collectives {
 public:
  Status AllReduce(std::string_view tag, void* data, size_t count, DType dtype) final;
  Status ReduceScatter(std::string_view tag, const void* in, void* out, size_t count,
                       DType dtype) final;
  Status AllGather(std::string_view tag, const void* in, void* out, size_t count,
                   DType dtype) final;
  Status Broadcast(std::string_view tag, void* data, size_t count, DType dtype, int root) final;
  Status AllToAll(std::string_view tag, const void* in, void* out, size_t count, DType dtype) final;
  Status Barrier(std::string_view tag) final;

 protected:
  // `call` is well formed, the pointers are there where it has bytes, and no other call runs.
  virtual Status Run(const Call& call, const void* in, void* out) = 0;

 private:
  Status Check(const Call& call, const void* in, const void* out) const;
  Status Checked(const Call& call, const void* in, void* out);

  std::atomic<bool> running_ = false;
};

}  // namespace tidegate::cluster
