#include "cluster/tcp_group.h"

#include <poll.h>

#include <algorithm>
#include <cstring>

#include "cluster/checked_collectives.h"
#include "cluster/ordered_sum.h"

namespace tidegate::cluster {
namespace {

using Clock = std::chrono::steady_clock;

enum FrameKind : uint8_t { kCall = 1, kResult = 2, kFailure = 3 };

// Rank 0 knows who is missing: the others leave it this long to say so.
constexpr std::chrono::milliseconds kGrace{2000};
// For the notice of a failure, which is small.
constexpr std::chrono::milliseconds kNoticeTime{500};

// Bytes of a call that a rank sends to rank 0, and that come back to it.
size_t BytesUp(const Call& call, int rank, int size) {
  switch (call.op) {
    case Op::kAllReduce:
    case Op::kAllGather:
      return call.bytes();
    case Op::kReduceScatter:
    case Op::kAllToAll:
      return call.bytes() * size;
    case Op::kBroadcast:
      return rank == call.root ? call.bytes() : 0;
    case Op::kBarrier:
      return 0;
  }
  return 0;
}

size_t BytesDown(const Call& call, int rank, int size) {
  switch (call.op) {
    case Op::kAllReduce:
    case Op::kReduceScatter:
      return call.bytes();
    case Op::kAllGather:
    case Op::kAllToAll:
      return call.bytes() * size;
    case Op::kBroadcast:
      return rank == call.root ? 0 : call.bytes();
    case Op::kBarrier:
      return 0;
  }
  return 0;
}

Bytes EncodeFailure(const Status& status) {
  const std::string_view text = std::string_view(status.message()).substr(0, 2 * kMaxReasonBytes);
  Bytes bytes(1 + text.size());
  bytes[0] = static_cast<uint8_t>(status.code());
  std::copy(text.begin(), text.end(), bytes.begin() + 1);
  return bytes;
}

Status DecodeFailure(ByteSpan bytes) {
  if (bytes.empty() || bytes[0] < 1 || bytes[0] > 13 || bytes.size() > 1 + 2 * kMaxReasonBytes) {
    return DataLoss("a rank sent a failure that is none");
  }
  return Status(static_cast<Code>(bytes[0]), std::string(AsText(bytes.subspan(1))));
}

class TcpRank : public CheckedCollectives {
 public:
  TcpRank(int rank, int size, std::vector<RankChannel> peers, const GroupOptions& options)
      : rank_(rank), size_(size), options_(options), peers_(std::move(peers)) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string_view backend() const override { return "tcp"; }
  void Abort(std::string_view reason) override { (void)Fail(Aborted(rank_, reason)); }

 protected:
  Status Run(const Call& call, const void* in, void* out) override {
    TG_RETURN_IF_ERROR(error_.Get());
    TG_RETURN_IF_ERROR(CheckSize(call));
    const Status status =
        Exchange(call, static_cast<const uint8_t*>(in), static_cast<uint8_t*>(out));
    return status.ok() ? status : Fail(status);
  }

  virtual Status Exchange(const Call& call, const uint8_t* in, uint8_t* out) = 0;

  Until EndOfCall(std::chrono::milliseconds grace) const {
    return {.end = Clock::now() + options_.deadline + grace, .stop = &stopped_};
  }

  Status SendTo(RankChannel& peer, FrameKind kind, ByteSpan content, const Until& until) {
    std::lock_guard lock(sending_);
    return peer.Send(kind, content, until);
  }

  const int rank_;
  const int size_;
  const GroupOptions options_;
  std::vector<RankChannel> peers_;  // rank 0: one a rank, [0] closed; else rank 0 alone

 private:
  // The same on every rank, so that all refuse the call.
  Status CheckSize(const Call& call) {
    const uint64_t most = (kMaxFrameBytes - kCallBytes) / size_;
    if (call.bytes() <= most) return OkStatus();
    return Fail(ResourceExhausted(
        "{}: a group over TCP moves at most {} bytes a rank in a call; use MPI or NCCL for data",
        call.Describe(), most));
  }

  // Keeps the first error, tells it to whom this rank is connected, and wakes a call that waits.
  Status Fail(const Status& status) {
    const bool first = !told_.exchange(true);
    const Status kept = error_.Set(status);
    stopped_ = true;
    if (!first) return kept;
    const Bytes notice = EncodeFailure(kept);
    std::lock_guard lock(sending_);
    for (RankChannel& peer : peers_) {
      if (!peer.open()) continue;
      // One that is gone, or full, learns it from the end of the connection.
      (void)peer.Send(kFailure, notice, {.end = Clock::now() + kNoticeTime});
      peer.EndSending();
    }
    return kept;
  }

  FirstError error_;
  std::atomic<bool> told_ = false;
  std::atomic<bool> stopped_ = false;
  std::mutex sending_;
};

// Ranks 1 and on: the call and its data go to rank 0, what it is worth comes back.
class TcpLeaf final : public TcpRank {
 public:
  using TcpRank::TcpRank;

 protected:
  Status Exchange(const Call& call, const uint8_t* in, uint8_t* out) override {
    const Until until = EndOfCall(kGrace);
    const auto header = EncodeCall(call);
    Bytes content(header.begin(), header.end());
    if (const size_t up = BytesUp(call, rank_, size_); up > 0) {
      content.insert(content.end(), in, in + up);
    }
    TG_RETURN_IF_ERROR(SendTo(peers_[0], kCall, content, until));
    TG_ASSIGN_OR_RETURN(const RankChannel::Frame frame, peers_[0].Receive(until));
    if (frame.kind == kFailure) return DecodeFailure(frame.content);
    if (frame.kind != kResult || frame.content.size() != BytesDown(call, rank_, size_)) {
      return DataLoss("rank 0 answered {} with something else", call.Describe());
    }
    std::copy(frame.content.begin(), frame.content.end(), out);
    return OkStatus();
  }
};

class TcpHub final : public TcpRank {
 public:
  using TcpRank::TcpRank;

 protected:
  Status Exchange(const Call& call, const uint8_t* in, uint8_t* out) override {
    TG_ASSIGN_OR_RETURN(const std::vector<Bytes> frames, Collect(call));
    std::vector<const uint8_t*> ins(size_);
    ins[0] = in;
    for (int r = 1; r < size_; ++r) ins[r] = frames[r].data() + kCallBytes;
    const Until until = EndOfCall({});
    // A sum is the same for all: made once. Every rank's answer is made before any of `out` is
    // written, which may be a part of `in`.
    std::vector<Bytes> results(size_);
    if (call.op == Op::kAllReduce) {
      results[0] = Sum(call, ins, 0);
    } else {
      for (int r = 0; r < size_; ++r) results[r] = ResultFor(call, ins, r);
    }
    for (int r = 1; r < size_; ++r) {
      const Bytes& result = call.op == Op::kAllReduce ? results[0] : results[r];
      TG_RETURN_IF_ERROR(SendTo(peers_[r], kResult, result, until));
    }
    std::copy(results[0].begin(), results[0].end(), out);
    return OkStatus();
  }

 private:
  // The frame of each rank, once all of them called the same.
  Result<std::vector<Bytes>> Collect(const Call& call) {
    const Until until = EndOfCall({});
    std::vector<Bytes> frames(size_);
    int missing = size_ - 1;
    while (true) {
      std::vector<pollfd> entries;
      for (int r = 1; r < size_; ++r) {
        if (!frames[r].empty()) continue;
        TG_ASSIGN_OR_RETURN(std::optional<RankChannel::Frame> frame, peers_[r].Poll());
        if (!frame) {
          entries.push_back({.fd = peers_[r].fd(), .events = POLLIN, .revents = 0});
          continue;
        }
        TG_RETURN_IF_ERROR(Compare(call, r, *frame));
        frames[r] = std::move(frame->content);
        --missing;
      }
      if (missing == 0) return frames;
      if (until.stop->load()) return Cancelled("the group ended");
      if (until.passed()) return Unexpected(Late(call, frames));
      ::poll(entries.data(), entries.size(), until.PollMillis());
    }
  }

  Status Compare(const Call& call, int rank, const RankChannel::Frame& frame) const {
    if (frame.kind == kFailure) return DecodeFailure(frame.content);
    if (frame.kind != kCall || frame.content.size() < kCallBytes) {
      return DataLoss("rank {} sent what is no call", rank);
    }
    TG_ASSIGN_OR_RETURN(const Call theirs, DecodeCall(frame.content.data()));
    if (theirs != call) return Mismatch(0, call, rank, theirs);
    if (frame.content.size() != kCallBytes + BytesUp(call, rank, size_)) {
      return DataLoss("rank {} sent {} bytes for {}", rank, frame.content.size(), call.Describe());
    }
    return OkStatus();
  }

  Status Late(const Call& call, const std::vector<Bytes>& frames) const {
    std::string missing;
    for (int r = 1; r < size_ && missing.size() < kMaxReasonBytes; ++r) {
      if (frames[r].empty()) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", r);
    }
    return DeadlineExceeded("rank 0 waited {} ms in {} for ranks {}", options_.deadline.count(),
                            call.Describe(), missing);
  }

  static Bytes Sum(const Call& call, const std::vector<const uint8_t*>& ins, size_t offset) {
    Bytes sum(call.bytes());
    if (sum.empty()) return sum;
    // What came in frames is not aligned to its elements.
    std::vector<Bytes> aligned;
    std::vector<const void*> pieces;
    for (const uint8_t* in : ins) {
      aligned.emplace_back(in + offset, in + offset + call.bytes());
      pieces.push_back(aligned.back().data());
    }
    SumOrdered(pieces, sum.data(), call.count, call.dtype);
    return sum;
  }

  Bytes ResultFor(const Call& call, const std::vector<const uint8_t*>& ins, int rank) const {
    const size_t bytes = call.bytes();
    Bytes result;
    if (bytes == 0) return result;
    switch (call.op) {
      case Op::kReduceScatter:
        return Sum(call, ins, rank * bytes);
      case Op::kAllGather:
        for (const uint8_t* in : ins) result.insert(result.end(), in, in + bytes);
        return result;
      case Op::kAllToAll:
        for (const uint8_t* in : ins) {
          result.insert(result.end(), in + rank * bytes, in + (rank + 1) * bytes);
        }
        return result;
      case Op::kBroadcast:
        if (rank != call.root) result.assign(ins[call.root], ins[call.root] + bytes);
        return result;
      default:
        return result;
    }
  }
};

}  // namespace

Result<std::unique_ptr<Collectives>> HostTcpGroup(const Fd& listener, int size,
                                                  const crypto::Secret<32>& secret,
                                                  const GroupOptions& options) {
  if (size < 1 || size > kMaxRanks) return InvalidArgument("{} ranks: 1 to {}", size, kMaxRanks);
  const Until until{.end = Clock::now() + options.deadline};
  TG_ASSIGN_OR_RETURN(std::vector<RankChannel> peers, AwaitRanks(listener, size, secret, until));
  return std::make_unique<TcpHub>(0, size, std::move(peers), options);
}

Result<std::unique_ptr<Collectives>> JoinTcpGroup(const std::string& address, int rank, int size,
                                                  const crypto::Secret<32>& secret,
                                                  const GroupOptions& options) {
  if (size < 2 || size > kMaxRanks || rank < 1 || rank >= size) {
    return InvalidArgument("rank {} of {}: ranks 1 to size-1 join, rank 0 hosts", rank, size);
  }
  const Until until{.end = Clock::now() + options.deadline};
  TG_ASSIGN_OR_RETURN(RankChannel peer, MeetRankZero(address, rank, size, secret, until));
  std::vector<RankChannel> peers;
  peers.push_back(std::move(peer));
  return std::make_unique<TcpLeaf>(rank, size, std::move(peers), options);
}

}  // namespace tidegate::cluster
