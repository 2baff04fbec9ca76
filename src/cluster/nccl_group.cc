#include "cluster/nccl_group.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

namespace tidegate::cluster {
namespace {

using Clock = std::chrono::steady_clock;

// For a communicator to end in good order; one that does not is aborted.
constexpr std::chrono::milliseconds kEndTime{5000};

NcclType TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return kNcclFloat32;
    case DType::kF64:
      return kNcclFloat64;
    case DType::kBf16:
      return kNcclBfloat16;
    case DType::kI64:
      return kNcclInt64;
    case DType::kU8:
      return kNcclUint8;
  }
  return kNcclUint8;
}

class NcclRank final : public NcclGroup {
 public:
  NcclRank(const NcclApi& api, NcclStream stream, const GroupOptions& options)
      : api_(api), stream_(std::move(stream)), options_(options) {}

  ~NcclRank() override {
    const bool ended = comm_ != nullptr && Finish().ok() &&
                       Judge(api_.finalize(comm_), "the end").ok() &&
                       AwaitReady("the end", Clock::now() + kEndTime).ok();
    if (ended) {
      (void)api_.destroy(comm_);
    } else {
      Drop();
    }
  }

  int rank() const override { return bootstrap_->rank(); }
  int size() const override { return bootstrap_->size(); }
  std::string_view backend() const override { return "nccl"; }
  void* stream() const override { return stream_.handle; }

  Status Rejoin(std::shared_ptr<Collectives> bootstrap) override {
    Drop();
    error_ = std::make_unique<FirstError>();
    bootstrap_ = std::move(bootstrap);
    Status status = JoinAll();
    return status.ok() ? status : error_->Set(status);
  }

  Status Finish() override {
    TG_RETURN_IF_ERROR(error_->Get());
    const auto end = Clock::now() + options_.deadline;
    for (int turn = 0;; ++turn) {
      const Result<bool> idle = stream_.idle();
      if (!idle) return Fail(idle.error());
      TG_RETURN_IF_ERROR(error_->Get());
      if (*idle) return OkStatus();
      // A lost peer leaves the stream waiting for ever: NCCL says so here.
      if (const Status status = AsyncError("finish"); !status.ok()) return Fail(status);
      if (Clock::now() > end) return Fail(Late("finish"));
      Pause(turn);
    }
  }

  void Abort(std::string_view reason) override { (void)Fail(Aborted(rank(), reason)); }

 protected:
  Status Run(const Call& call, const void* in, void* out) override {
    TG_RETURN_IF_ERROR(error_->Get());
    if (call.op == Op::kBarrier) {
      TG_RETURN_IF_ERROR(Finish());
      const Status status = bootstrap_->Barrier(call.tag);
      return status.ok() ? status : Fail(status);
    }
    if (call.count == 0) return OkStatus();
    const NcclResult queued = Queue(call, in, out);
    Status status = Judge(queued, call.Describe());
    if (status.ok()) status = AwaitReady(call.Describe(), Clock::now() + options_.deadline);
    return status.ok() ? status : Fail(status);
  }

 private:
  NcclResult Queue(const Call& call, const void* in, void* out) {
    std::lock_guard lock(mutex_);
    if (comm_ == nullptr) return kNcclInvalidUsage;  // aborted from another thread
    const NcclType type = TypeOf(call.dtype);
    switch (call.op) {
      case Op::kAllReduce:
        return api_.all_reduce(in, out, call.count, type, kNcclSum, comm_, stream_.handle);
      case Op::kReduceScatter:
        return api_.reduce_scatter(in, out, call.count, type, kNcclSum, comm_, stream_.handle);
      case Op::kAllGather:
        return api_.all_gather(in, out, call.count, type, comm_, stream_.handle);
      case Op::kBroadcast:
        return api_.broadcast(in, out, call.count, type, call.root, comm_, stream_.handle);
      case Op::kAllToAll:
        return QueueAllToAll(call, static_cast<const uint8_t*>(in), static_cast<uint8_t*>(out));
      case Op::kBarrier:
        break;
    }
    return kNcclInvalidUsage;
  }

  // One group: a send may wait for its receive.
  NcclResult QueueAllToAll(const Call& call, const uint8_t* in, uint8_t* out) {
    const NcclType type = TypeOf(call.dtype);
    NcclResult worst = api_.group_start();
    auto note = [&](NcclResult result) {
      if (worst == kNcclSuccess || worst == kNcclInProgress) worst = result;
    };
    for (int r = 0; r < size(); ++r) {
      const size_t offset = r * call.bytes();
      note(api_.send(in + offset, call.count, type, r, comm_, stream_.handle));
      note(api_.receive(out + offset, call.count, type, r, comm_, stream_.handle));
    }
    note(api_.group_end());
    return worst;
  }

  Status Judge(NcclResult result, std::string_view what) const {
    if (result == kNcclSuccess || result == kNcclInProgress) return OkStatus();
    if (error_->failed()) return error_->Get();
    const char* text = api_.error_string(result);
    const bool ours = result == kNcclInvalidArgument || result == kNcclInvalidUsage;
    return MakeError(ours ? Code::kInternal : Code::kUnavailable, "rank {}: {}: NCCL: {}", rank(),
                     what, text != nullptr ? text : "unknown error");
  }

  Status Late(std::string_view what) const {
    return DeadlineExceeded("rank {} waited {} ms in {} for the other ranks", rank(),
                            options_.deadline.count(), what);
  }

  // OK, also while the communicator still works at something.
  Status AsyncError(std::string_view what, bool* busy = nullptr) {
    std::lock_guard lock(mutex_);
    if (comm_ == nullptr) return error_->Get();
    NcclResult state = kNcclSuccess;
    const NcclResult asked = api_.async_error(comm_, &state);
    if (busy != nullptr) *busy = state == kNcclInProgress;
    return Judge(asked == kNcclSuccess ? state : asked, what);
  }

  // Until the communicator takes the next call.
  Status AwaitReady(std::string_view what, Clock::time_point end) {
    for (int turn = 0;; ++turn) {
      bool busy = false;
      TG_RETURN_IF_ERROR(AsyncError(what, &busy));
      TG_RETURN_IF_ERROR(error_->Get());
      if (!busy) return OkStatus();
      if (Clock::now() > end) return Late(what);
      Pause(turn);
    }
  }

  static void Pause(int turn) {
    if (turn < 1000) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  Status Fail(const Status& status) {
    const bool first = !error_->failed();
    const Status kept = error_->Set(status);
    Drop();
    // The others learn it at their next Barrier, or from NCCL.
    if (first) bootstrap_->Abort(kept.message());
    return kept;
  }

  // Ends what the communicator has on the device.
  void Drop() {
    std::lock_guard lock(mutex_);
    if (comm_ != nullptr) (void)api_.abort(comm_);
    comm_ = nullptr;
  }

  // The id from rank 0, or the reason why there is none.
  Status FetchId(NcclId& id) {
    struct {
      uint8_t failed = 0;
      NcclId id{};
    } message;
    NcclResult made = kNcclSuccess;
    if (rank() == 0) {
      made = api_.get_unique_id(&message.id);
      message.failed = made != kNcclSuccess;
    }
    TG_RETURN_IF_ERROR(bootstrap_->Broadcast("nccl id", &message, sizeof message, DType::kU8, 0));
    if (rank() == 0) TG_RETURN_IF_ERROR(Judge(made, "making an id"));
    if (message.failed != 0) return Unavailable("rank 0 could not make an NCCL id; see its error");
    id = message.id;
    return OkStatus();
  }

  Status JoinOwn() {
    const auto end = Clock::now() + std::min(options_.deadline, kMostJoining);
    NcclId id;
    TG_RETURN_IF_ERROR(FetchId(id));
    NcclConfig config;
    {
      std::lock_guard lock(mutex_);
      const NcclResult begun = api_.init_rank(&comm_, size(), id, rank(), &config);
      TG_RETURN_IF_ERROR(Judge(begun, "joining"));
    }
    return AwaitReady("joining", end);
  }

  Status JoinAll() {
    const Status own = JoinOwn();
    // One that cannot join ends the wait of the others for it.
    if (!own.ok()) {
      Drop();
      bootstrap_->Abort(own.message());
      // What another rank said is the better reason where this one has only waited.
      const Status other = bootstrap_->Barrier("nccl joined");
      return own.code() == Code::kDeadlineExceeded && other.code() == Code::kCancelled ? other
                                                                                       : own;
    }
    const Status all = bootstrap_->Barrier("nccl joined");
    if (!all.ok()) Drop();
    return all;
  }

  const NcclApi& api_;
  const NcclStream stream_;
  const GroupOptions options_;
  std::shared_ptr<Collectives> bootstrap_;
  std::mutex mutex_;  // one call of NCCL at a time
  NcclComm* comm_ = nullptr;
  std::unique_ptr<FirstError> error_ = std::make_unique<FirstError>();
};

}  // namespace

Result<std::unique_ptr<NcclGroup>> JoinNccl(const NcclApi& api,
                                            std::shared_ptr<Collectives> bootstrap,
                                            NcclStream stream, const GroupOptions& options) {
  if (bootstrap == nullptr || !stream.idle) {
    return InvalidArgument(
        "NCCL needs a group that hands out its id, and a stream that can be asked");
  }
  auto group = std::make_unique<NcclRank>(api, std::move(stream), options);
  TG_RETURN_IF_ERROR(group->Rejoin(std::move(bootstrap)));
  return group;
}

}  // namespace tidegate::cluster
