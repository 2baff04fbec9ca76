// What the ranks of a job do together: sums, gathers, broadcasts. One interface, three backends:
// threads of this process (thread_group.h), MPI (mpi_group.h) and NCCL (nccl_group.h).
//
// Every rank makes the same calls in the same order, and each call names itself by a tag. Ranks
// that call different things, under other tags or with other sizes, all get kFailedPrecondition
// that names two of them (threads, MPI; NCCL cannot tell, its deadline ends the call).
//
// Sums are the same bits in every run: for each element a balanced binary tree over the ranks in
// rank order (ordered_sum.h), whatever the backend's transport did. That holds for threads and MPI;
// NCCL chooses an order of its own.
//
// Every wait ends: with the data, with a peer's Abort (kCancelled, its reason), with a lost peer
// (kUnavailable) or at the deadline (kDeadlineExceeded, naming who is missing where it is known).
// A failed group is over: every later call returns the first error. No call keeps a pointer of the
// caller's after it returned, failed or not; NCCL's calls keep them until Finish.
//
// Thread-safety: one thread at a time, any thread (a second call at once is kFailedPrecondition);
// Abort may be called from any thread at any time, as a call of another thread waits.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tidegate::cluster {

// What is summed: f32 and f64 in their own precision; bf16 in f32, rounded once at the end (to
// nearest even); i64 and u8 modulo 2^64 and 2^8.
enum class DType : uint8_t { kF32 = 0, kF64 = 1, kBf16 = 2, kI64 = 3, kU8 = 4 };
size_t SizeOf(DType dtype);
std::string_view DTypeName(DType dtype);

inline constexpr int kMaxRanks = 65536;
inline constexpr size_t kMaxTagBytes = 64;      // longer tags are kInvalidArgument
inline constexpr size_t kMaxReasonBytes = 512;  // of an Abort; what is longer is cut

struct GroupOptions {
  // The longest that one call waits for the other ranks.
  std::chrono::milliseconds deadline = std::chrono::minutes(10);
};

class Collectives {
 public:
  virtual ~Collectives() = default;
  Collectives(const Collectives&) = delete;
  Collectives& operator=(const Collectives&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string_view backend() const = 0;  // "threads", "mpi", "nccl"

  // Counts are elements. Buffers may be null where the count is 0, are aligned to their element,
  // and do not overlap but where said.
  //
  // data[count] becomes the sum over all ranks, the same bits on each.
  virtual Status AllReduce(std::string_view tag, void* data, size_t count, DType dtype) = 0;
  // in[size() * count]; out[count] becomes piece rank() of the sum. `out` may be that piece of
  // `in`; the rest of `in` is then as before.
  virtual Status ReduceScatter(std::string_view tag, const void* in, void* out, size_t count,
                               DType dtype) = 0;
  // out[size() * count] becomes the `in`[count] of all ranks in rank order. `in` may be piece
  // rank() of `out`.
  virtual Status AllGather(std::string_view tag, const void* in, void* out, size_t count,
                           DType dtype) = 0;
  virtual Status Broadcast(std::string_view tag, void* data, size_t count, DType dtype,
                           int root) = 0;
  // in[size() * count], out[size() * count]: piece r of `in` goes to rank r, piece r of `out` is
  // from rank r.
  virtual Status AllToAll(std::string_view tag, const void* in, void* out, size_t count,
                          DType dtype) = 0;
  // Returns when every rank has called it.
  virtual Status Barrier(std::string_view tag) = 0;

  // Waits until the data of all calls so far is there. NCCL's calls return when they are queued on
  // its stream; those of the other backends have ended when they return, and this does nothing.
  virtual Status Finish() { return OkStatus(); }

  // The device's queue that calls go to, of a group whose calls are queued (NCCL): what a call
  // reads must be there when that queue gets to it, not before. Null where calls have ended when
  // they return.
  virtual void* stream() const { return nullptr; }

  // Ends the group for every rank: calls that wait, and all later ones, return kCancelled with this
  // rank and reason. The first one counts. Does not wait for the others.
  virtual void Abort(std::string_view reason) = 0;

 protected:
  Collectives() = default;
};

}  // namespace tidegate::cluster
