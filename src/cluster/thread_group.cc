#include "cluster/thread_group.h"

#include <condition_variable>
#include <cstring>
#include <mutex>

#include "cluster/checked_collectives.h"
#include "cluster/ordered_sum.h"

namespace tidegate::cluster {
namespace {

struct Seat {
  bool arrived = false;
  bool gone = false;
  Call call;
  const void* in = nullptr;
  void* out = nullptr;
};

// Where the ranks meet. A call has two parts: all arrive, which a deadline, an abort or a rank that
// left may end; then all work on each other's buffers, which is bounded and always ends for all, so
// that no buffer goes away under a rank that reads it.
class Meeting {
 public:
  Meeting(int size, const GroupOptions& options) : options_(options), seats_(size) {}

  int size() const { return static_cast<int>(seats_.size()); }
  const Seat& seat(int rank) const { return seats_[rank]; }

  Status Arrive(int rank, const Call& call, const void* in, void* out) {
    std::unique_lock lock(mutex_);
    TG_RETURN_IF_ERROR(error_.Get());
    seats_[rank] = {.arrived = true, .call = call, .in = in, .out = out};
    for (int other = 0; other < size(); ++other) {
      if (seats_[other].gone) return Fail(Gone(other));
      if (seats_[other].arrived && seats_[other].call != call) {
        const int low = std::min(rank, other);
        const int high = std::max(rank, other);
        return Fail(Mismatch(low, seats_[low].call, high, seats_[high].call));
      }
    }
    const uint64_t turn = turn_;
    if (++arrived_ == size()) {
      NextTurn();
      for (Seat& seat : seats_) seat.arrived = false;
      return OkStatus();
    }
    const bool moved = changed_.wait_for(lock, options_.deadline,
                                         [&] { return turn_ != turn || error_.failed(); });
    if (turn_ != turn) return OkStatus();
    if (!moved) return Fail(Late(rank, call));
    return error_.Get();
  }

  // Every rank is at work and comes here: waits for all of them.
  void WorkDone() {
    std::unique_lock lock(mutex_);
    const uint64_t turn = turn_;
    if (++arrived_ == size()) {
      NextTurn();
    } else {
      changed_.wait(lock, [&] { return turn_ != turn; });
    }
  }

  void Abort(int rank, std::string_view reason) {
    std::lock_guard lock(mutex_);
    (void)Fail(Aborted(rank, reason));
  }

  void Leave(int rank) {
    std::lock_guard lock(mutex_);
    seats_[rank].gone = true;
    if (arrived_ > 0) (void)Fail(Gone(rank));
  }

 private:
  static Status Gone(int rank) { return Unavailable("rank {} has left the group", rank); }

  Status Late(int rank, const Call& call) const {
    std::string missing;
    for (int other = 0; other < size(); ++other) {
      if (!seats_[other].arrived)
        missing += fmt::format("{}{}", missing.empty() ? "" : ", ", other);
    }
    return DeadlineExceeded("rank {} waited {} ms in {} for ranks {}", rank,
                            options_.deadline.count(), call.Describe(), missing);
  }

  void NextTurn() {
    arrived_ = 0;
    ++turn_;
    changed_.notify_all();
  }

  Status Fail(Status status) {
    changed_.notify_all();
    return error_.Set(std::move(status));
  }

  const GroupOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Seat> seats_;
  int arrived_ = 0;
  uint64_t turn_ = 0;
  FirstError error_;
};

class ThreadRank final : public CheckedCollectives {
 public:
  ThreadRank(std::shared_ptr<Meeting> meeting, int rank)
      : meeting_(std::move(meeting)), rank_(rank) {}
  ~ThreadRank() override { meeting_->Leave(rank_); }

  int rank() const override { return rank_; }
  int size() const override { return meeting_->size(); }
  std::string_view backend() const override { return "threads"; }
  void Abort(std::string_view reason) override { meeting_->Abort(rank_, reason); }

 protected:
  Status Run(const Call& call, const void* in, void* out) override {
    TG_RETURN_IF_ERROR(meeting_->Arrive(rank_, call, in, out));
    Work(call, out);
    meeting_->WorkDone();
    return OkStatus();
  }

 private:
  const uint8_t* In(int rank) const { return static_cast<const uint8_t*>(meeting_->seat(rank).in); }

  static void Copy(void* to, const void* from, size_t bytes) {
    if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
  }

  // The sum over ranks of `count` elements at this offset of each one's `in`.
  void Sum(void* out, size_t offset_bytes, size_t count, DType dtype) const {
    std::vector<const void*> pieces(size());
    for (int r = 0; r < size(); ++r) pieces[r] = In(r) + offset_bytes;
    SumOrdered(pieces, out, count, dtype);
  }

  void Work(const Call& call, void* out) {
    auto* to = static_cast<uint8_t*>(out);
    const size_t bytes = call.bytes();
    switch (call.op) {
      case Op::kAllReduce:
        return AllReduceWork(call, to);
      case Op::kReduceScatter:
        if (call.count > 0) Sum(out, rank_ * bytes, call.count, call.dtype);
        return;
      case Op::kAllGather:
        for (int r = 0; r < size(); ++r) Copy(to + r * bytes, In(r), bytes);
        return;
      case Op::kBroadcast:
        return Copy(out, In(call.root), bytes);
      case Op::kAllToAll:
        for (int r = 0; r < size(); ++r) Copy(to + r * bytes, In(r) + rank_ * bytes, bytes);
        return;
      case Op::kBarrier:
        return;
    }
  }

  // Each rank sums a slice into its own data, where no other rank reads it; then each fetches the
  // slices of the others, where no one sums.
  void AllReduceWork(const Call& call, uint8_t* data) {
    const size_t element = SizeOf(call.dtype);
    const size_t slice = (call.count + size() - 1) / size();
    auto begin = [&](int r) { return std::min<size_t>(call.count, r * slice); };
    const size_t mine = begin(rank_);
    if (begin(rank_ + 1) > mine) {
      Sum(data + mine * element, mine * element, begin(rank_ + 1) - mine, call.dtype);
    }
    meeting_->WorkDone();
    for (int r = 0; r < size(); ++r) {
      const size_t offset = begin(r) * element;
      Copy(data + offset, In(r) + offset, (begin(r + 1) - begin(r)) * element);
    }
  }

  const std::shared_ptr<Meeting> meeting_;
  const int rank_;
};

}  // namespace

Result<std::vector<std::unique_ptr<Collectives>>> MakeThreadGroup(int size,
                                                                  const GroupOptions& options) {
  if (size < 1 || size > kMaxThreadRanks) {
    return InvalidArgument("a group of {} threads: it has 1 to {}", size, kMaxThreadRanks);
  }
  auto meeting = std::make_shared<Meeting>(size, options);
  std::vector<std::unique_ptr<Collectives>> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<ThreadRank>(meeting, rank));
  }
  return ranks;
}

}  // namespace tidegate::cluster
