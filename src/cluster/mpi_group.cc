#include "cluster/mpi_group.h"

// The C interface alone.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "cluster/checked_collectives.h"
#include "cluster/ordered_sum.h"

namespace tidegate::cluster {
namespace {

using Clock = std::chrono::steady_clock;

// What MPI reads and writes while a call runs: of this size, whatever the call's.
constexpr size_t kStagingBytes = size_t{8} << 20;
// An all_reduce of at most this much over all ranks is gathered and summed by each.
constexpr size_t kSmallBytes = size_t{64} << 10;
// Rank 0 knows who is missing: the others leave it this long to say so.
constexpr std::chrono::milliseconds kGrace{2000};
// Until a notice of failure has left; small messages leave at once.
constexpr std::chrono::milliseconds kNoticeTime{500};

constexpr size_t kNoticeBytes = 8 + 2 * kMaxReasonBytes;
enum MessageTag : int { kHeader = 1, kVerdict = 2, kNotice = 3 };

// Everything that MPI may still use after a failed call. It is then never freed.
struct State {
  std::mutex mpi;  // MPI_THREAD_SERIALIZED: one call of MPI at a time
  MPI_Comm calls = MPI_COMM_NULL;
  MPI_Comm data = MPI_COMM_NULL;
  MPI_Comm control = MPI_COMM_NULL;
  std::array<uint8_t, kCallBytes> header{};
  std::vector<std::array<uint8_t, kCallBytes>> headers;  // rank 0: one a rank
  uint8_t verdict = 0;
  std::array<uint8_t, kNoticeBytes> notice_in{};
  std::array<uint8_t, kNoticeBytes> notice_out{};
  MPI_Request notice = MPI_REQUEST_NULL;
  std::vector<uint8_t> send;
  std::vector<uint8_t> receive;
};

Status MpiStatus(int error, std::string_view what) {
  if (error == MPI_SUCCESS) return OkStatus();
  char text[MPI_MAX_ERROR_STRING + 1] = "";
  int length = 0;
  MPI_Error_string(error, text, &length);
  return Unavailable("{}: MPI: {}", what, std::string_view(text, length));
}

class MpiRank final : public CheckedCollectives {
 public:
  explicit MpiRank(const GroupOptions& options)
      : options_(options), state_(std::make_unique<State>()) {}

  ~MpiRank() override {
    const bool joined = state_->control != MPI_COMM_NULL;
    if (joined && !error_.failed() && Barrier("(the end of the group)").ok() && Finalize().ok()) {
      return;
    }
    (void)state_.release();  // MPI may still write into it
  }

  Status Join() {
    int initialized = 0;
    TG_RETURN_IF_ERROR(MpiStatus(MPI_Initialized(&initialized), "starting"));
    if (initialized != 0) return FailedPrecondition("MPI can be joined once in a process");
    int provided = MPI_THREAD_SINGLE;
    TG_RETURN_IF_ERROR(
        MpiStatus(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "starting"));
    if (provided < MPI_THREAD_SERIALIZED) {
      return Unsupported(
          "this MPI has no MPI_THREAD_SERIALIZED; use one that has (Debian's OpenMPI)");
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    if (size_ > kMaxRanks) return InvalidArgument("{} ranks, at most {}", size_, kMaxRanks);
    for (MPI_Comm* comm : {&state_->calls, &state_->data, &state_->control}) {
      TG_RETURN_IF_ERROR(MpiStatus(MPI_Comm_dup(MPI_COMM_WORLD, comm), "joining"));
      MPI_Comm_set_errhandler(*comm, MPI_ERRORS_RETURN);
    }
    if (rank_ == 0) state_->headers.resize(size_);
    return MpiStatus(MPI_Irecv(state_->notice_in.data(), kNoticeBytes, MPI_BYTE, MPI_ANY_SOURCE,
                               kNotice, state_->control, &state_->notice),
                     "joining");
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string_view backend() const override { return "mpi"; }
  void Abort(std::string_view reason) override { (void)Fail(Aborted(rank_, reason)); }

 protected:
  Status Run(const Call& call, const void* in, void* out) override {
    TG_RETURN_IF_ERROR(error_.Get());
    call_ = &call;
    deadline_ = Clock::now() + options_.deadline;
    Status status = Agree();
    if (status.ok()) {
      status = Move(call, static_cast<const uint8_t*>(in), static_cast<uint8_t*>(out));
    }
    return status.ok() ? status : Fail(status);
  }

 private:
  // Keeps the first error and tells it to the others, unless it came from them.
  Status Fail(const Status& status) {
    if (error_.failed()) return error_.Get();
    const Status kept = error_.Set(status);
    // Two threads may fail at once: one of them tells.
    if (told_.exchange(true)) return kept;
    std::vector<MPI_Request> sent(size_, MPI_REQUEST_NULL);
    auto& notice = state_->notice_out;
    const std::string_view text = std::string_view(kept.message()).substr(0, kNoticeBytes - 8);
    notice[0] = static_cast<uint8_t>(kept.code());
    StoreLe32(&notice[4], static_cast<uint32_t>(text.size()));
    std::copy(text.begin(), text.end(), notice.begin() + 8);
    {
      std::lock_guard lock(state_->mpi);
      for (int r = 0; r < size_; ++r) {
        if (r == rank_) continue;
        MPI_Isend(notice.data(), kNoticeBytes, MPI_BYTE, r, kNotice, state_->control, &sent[r]);
      }
    }
    const auto end = Clock::now() + kNoticeTime;
    for (int done = 0; done == 0 && Clock::now() < end; Pause(0)) {
      std::lock_guard lock(state_->mpi);
      if (MPI_Testall(size_, sent.data(), &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS) break;
    }
    return kept;
  }

  // A notice of another rank, if one is there. The lock is held.
  Status PollNotice() {
    int there = 0;
    TG_RETURN_IF_ERROR(
        MpiStatus(MPI_Test(&state_->notice, &there, MPI_STATUS_IGNORE), call_->Describe()));
    if (there == 0 || error_.failed()) return error_.Get();
    told_ = true;
    const auto& notice = state_->notice_in;
    const size_t length = std::min<size_t>(LoadLe32(&notice[4]), kNoticeBytes - 8);
    const auto code = static_cast<Code>(std::clamp<int>(notice[0], 1, 13));
    return error_.Set(Status(code, std::string(reinterpret_cast<const char*>(&notice[8]), length)));
  }

  // Other processes may need this core to get where we wait for them.
  static void Pause(int turn) {
    if (turn < 200) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  // Polls until `done` says so; it returns the code of its MPI call. The lock is held while it
  // runs.
  template <typename Done>
  Status Await(const Done& done, std::chrono::milliseconds grace = {}) {
    for (int turn = 0;; ++turn) {
      {
        std::lock_guard lock(state_->mpi);
        bool ended = false;
        TG_RETURN_IF_ERROR(MpiStatus(done(ended), call_->Describe()));
        if (ended) return OkStatus();
        TG_RETURN_IF_ERROR(PollNotice());
      }
      if (Clock::now() > deadline_ + grace) {
        return DeadlineExceeded("rank {} waited {} ms in {}", rank_, options_.deadline.count(),
                                call_->Describe());
      }
      Pause(turn);
    }
  }

  Status AwaitAll(std::span<MPI_Request> requests, std::chrono::milliseconds grace = {}) {
    return Await(
        [&](bool& ended) {
          int flag = 0;
          const int error = MPI_Testall(static_cast<int>(requests.size()), requests.data(), &flag,
                                        MPI_STATUSES_IGNORE);
          ended = flag != 0;
          return error;
        },
        grace);
  }

  // Starts an operation of MPI and waits for it.
  template <typename Start>
  Status Do(const Start& start) {
    MPI_Request request = MPI_REQUEST_NULL;
    {
      std::lock_guard lock(state_->mpi);
      TG_RETURN_IF_ERROR(MpiStatus(start(&request), call_->Describe()));
    }
    return AwaitAll({&request, 1}, kGrace);
  }

  // All ranks call the same thing, or none goes on.
  Status Agree() {
    if (size_ == 1) return OkStatus();
    if (rank_ == 0) return AgreeAsFirst();
    MPI_Request requests[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    state_->header = EncodeCall(*call_);
    {
      std::lock_guard lock(state_->mpi);
      TG_RETURN_IF_ERROR(MpiStatus(
          MPI_Irecv(&state_->verdict, 1, MPI_BYTE, 0, kVerdict, state_->calls, &requests[0]),
          call_->Describe()));
      TG_RETURN_IF_ERROR(MpiStatus(MPI_Isend(state_->header.data(), kCallBytes, MPI_BYTE, 0,
                                             kHeader, state_->calls, &requests[1]),
                                   call_->Describe()));
    }
    return AwaitAll(requests, kGrace);
  }

  Status AgreeAsFirst() {
    std::vector<MPI_Request> requests(size_, MPI_REQUEST_NULL);
    {
      std::lock_guard lock(state_->mpi);
      for (int r = 1; r < size_; ++r) {
        TG_RETURN_IF_ERROR(MpiStatus(MPI_Irecv(state_->headers[r].data(), kCallBytes, MPI_BYTE, r,
                                               kHeader, state_->calls, &requests[r]),
                                     call_->Describe()));
      }
    }
    std::vector<bool> came(size_, false);
    int left = size_ - 1;
    Status disagreed;
    const Status waited = Await([&](bool& ended) {
      while (left > 0 && disagreed.ok()) {
        int rank = MPI_UNDEFINED;
        int flag = 0;
        const int error = MPI_Testany(size_, requests.data(), &rank, &flag, MPI_STATUS_IGNORE);
        if (error != MPI_SUCCESS || flag == 0 || rank == MPI_UNDEFINED) return error;
        came[rank] = true;
        --left;
        disagreed = CompareWith(rank);
      }
      ended = true;
      return MPI_SUCCESS;
    });
    if (!disagreed.ok()) return disagreed;
    if (waited.code() == Code::kDeadlineExceeded) return Late(came);
    TG_RETURN_IF_ERROR(waited);
    {
      std::lock_guard lock(state_->mpi);
      for (int r = 1; r < size_; ++r) {
        TG_RETURN_IF_ERROR(MpiStatus(
            MPI_Isend(&state_->verdict, 1, MPI_BYTE, r, kVerdict, state_->calls, &requests[r]),
            call_->Describe()));
      }
    }
    return AwaitAll(requests);
  }

  Status CompareWith(int rank) const {
    TG_ASSIGN_OR_RETURN(const Call call, DecodeCall(state_->headers[rank].data()));
    return call == *call_ ? OkStatus() : Mismatch(0, *call_, rank, call);
  }

  Status Late(const std::vector<bool>& came) const {
    std::string missing;
    for (int r = 1; r < size_; ++r) {
      if (!came[r]) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", r);
    }
    return DeadlineExceeded("rank 0 waited {} ms in {} for ranks {}", options_.deadline.count(),
                            call_->Describe(), missing.substr(0, kMaxReasonBytes));
  }

  Status Move(const Call& call, const uint8_t* in, uint8_t* out) {
    if (call.op == Op::kBarrier || call.count == 0) return OkStatus();
    if (call.op == Op::kAllReduce) {
      return call.bytes() * size_ <= kSmallBytes ? SmallAllReduce(call, out)
                                                 : LargeAllReduce(call, out);
    }
    // Elements of each rank's piece that are under way at once.
    const size_t element = SizeOf(call.dtype);
    const size_t pieces = call.op == Op::kBroadcast ? 1 : size_;
    const size_t step = std::max<size_t>(1, kStagingBytes / pieces / element);
    Reserve(std::min<size_t>(step, call.count) * element * pieces);
    for (size_t at = 0; at < call.count; at += step) {
      const size_t bytes = std::min<size_t>(step, call.count - at) * element;
      TG_RETURN_IF_ERROR(MovePart(call, in, out, at * element, bytes));
    }
    return OkStatus();
  }

  void Reserve(size_t bytes) {
    if (state_->send.size() < bytes) state_->send.resize(bytes);
    if (state_->receive.size() < bytes) state_->receive.resize(bytes);
  }

  // `bytes` at `offset` of each piece.
  Status MovePart(const Call& call, const uint8_t* in, uint8_t* out, size_t offset, size_t bytes) {
    const size_t stride = call.bytes();
    uint8_t* send = state_->send.data();
    uint8_t* receive = state_->receive.data();
    switch (call.op) {
      case Op::kBroadcast:
        if (rank_ == call.root) std::memcpy(send, in + offset, bytes);
        TG_RETURN_IF_ERROR(BroadcastStaged(bytes, call.root));
        if (rank_ != call.root) std::memcpy(out + offset, send, bytes);
        return OkStatus();
      case Op::kAllGather:
        std::memcpy(send, in + offset, bytes);
        TG_RETURN_IF_ERROR(GatherStaged(bytes));
        break;
      default:
        for (int r = 0; r < size_; ++r) {
          std::memcpy(send + r * bytes, in + r * stride + offset, bytes);
        }
        TG_RETURN_IF_ERROR(SwapStaged(bytes));
    }
    if (call.op == Op::kReduceScatter) {
      SumReceived(bytes, out + offset, call.dtype);
    } else {
      for (int r = 0; r < size_; ++r) {
        std::memcpy(out + r * stride + offset, receive + r * bytes, bytes);
      }
    }
    return OkStatus();
  }

  Status BroadcastStaged(size_t bytes, int root) {
    return Do([&](MPI_Request* request) {
      return MPI_Ibcast(state_->send.data(), static_cast<int>(bytes), MPI_BYTE, root, state_->data,
                        request);
    });
  }
  Status GatherStaged(size_t bytes) {
    return Do([&](MPI_Request* request) {
      return MPI_Iallgather(state_->send.data(), static_cast<int>(bytes), MPI_BYTE,
                            state_->receive.data(), static_cast<int>(bytes), MPI_BYTE, state_->data,
                            request);
    });
  }
  Status SwapStaged(size_t bytes) {
    return Do([&](MPI_Request* request) {
      return MPI_Ialltoall(state_->send.data(), static_cast<int>(bytes), MPI_BYTE,
                           state_->receive.data(), static_cast<int>(bytes), MPI_BYTE, state_->data,
                           request);
    });
  }

  // The sum of the pieces that came, `bytes` each.
  void SumReceived(size_t bytes, void* out, DType dtype) const {
    std::vector<const void*> pieces(size_);
    for (int r = 0; r < size_; ++r) pieces[r] = state_->receive.data() + r * bytes;
    SumOrdered(pieces, out, bytes / SizeOf(dtype), dtype);
  }

  Status SmallAllReduce(const Call& call, uint8_t* data) {
    Reserve(call.bytes() * size_);
    std::memcpy(state_->send.data(), data, call.bytes());
    TG_RETURN_IF_ERROR(GatherStaged(call.bytes()));
    SumReceived(call.bytes(), data, call.dtype);
    return OkStatus();
  }

  // Each rank sums its slice of a part, then all gather the slices.
  Status LargeAllReduce(const Call& call, uint8_t* data) {
    const size_t element = SizeOf(call.dtype);
    const size_t most = std::max<size_t>(1, kStagingBytes / size_ / element);
    Reserve(most * size_ * element);
    for (size_t at = 0; at < call.count;) {
      const size_t part = std::min<size_t>(most * size_, call.count - at);
      const size_t slice = (part + size_ - 1) / size_ * element;
      // The last slices may be short: what lies behind is summed as well, and dropped.
      std::memset(state_->send.data() + part * element, 0, slice * size_ - part * element);
      std::memcpy(state_->send.data(), data + at * element, part * element);
      TG_RETURN_IF_ERROR(SwapStaged(slice));
      SumReceived(slice, state_->send.data(), call.dtype);
      TG_RETURN_IF_ERROR(GatherStaged(slice));
      std::memcpy(data + at * element, state_->receive.data(), part * element);
      at += part;
    }
    return OkStatus();
  }

  Status Finalize() {
    std::lock_guard lock(state_->mpi);
    TG_RETURN_IF_ERROR(MpiStatus(MPI_Cancel(&state_->notice), "the end"));
    TG_RETURN_IF_ERROR(MpiStatus(MPI_Wait(&state_->notice, MPI_STATUS_IGNORE), "the end"));
    for (MPI_Comm* comm : {&state_->calls, &state_->data, &state_->control}) MPI_Comm_free(comm);
    return MpiStatus(MPI_Finalize(), "the end");
  }

  const GroupOptions options_;
  std::unique_ptr<State> state_;
  int rank_ = 0;
  int size_ = 1;
  FirstError error_;
  std::atomic<bool> told_ = false;
  const Call* call_ = nullptr;  // the one that runs
  Clock::time_point deadline_;
};

}  // namespace

bool HasMpi() { return true; }

Result<std::unique_ptr<Collectives>> JoinMpi(const GroupOptions& options) {
  auto group = std::make_unique<MpiRank>(options);
  TG_RETURN_IF_ERROR(group->Join());
  return group;
}

}  // namespace tidegate::cluster
