#include "cluster/checked_collectives.h"

#include <algorithm>
#include <limits>

#include "base/bytes.h"

namespace tidegate::cluster {
namespace {

constexpr std::string_view kOpNames[] = {"all_reduce", "reduce_scatter", "all_gather",
                                         "broadcast",  "all_to_all",     "barrier"};

// Of all buffers of a call together: sizes are computed without fear of an overflow.
constexpr uint64_t kMaxCallBytes = std::numeric_limits<uint64_t>::max() / 16;

}  // namespace

std::string Call::Describe() const {
  const std::string_view name = kOpNames[static_cast<size_t>(op)];
  if (op == Op::kBarrier) return fmt::format("{} '{}'", name, tag);
  std::string text = fmt::format("{} '{}' of {} {}", name, tag, count, DTypeName(dtype));
  if (op == Op::kBroadcast) text += fmt::format(" from rank {}", root);
  return text;
}

std::array<uint8_t, kCallBytes> EncodeCall(const Call& call) {
  std::array<uint8_t, kCallBytes> bytes{};
  bytes[0] = static_cast<uint8_t>(call.op);
  bytes[1] = static_cast<uint8_t>(call.dtype);
  bytes[2] = static_cast<uint8_t>(call.tag.size());
  StoreLe32(&bytes[4], static_cast<uint32_t>(call.root));
  StoreLe64(&bytes[8], call.count);
  std::copy(call.tag.begin(), call.tag.end(), bytes.begin() + 16);
  return bytes;
}

Result<Call> DecodeCall(const uint8_t* bytes) {
  if (bytes[0] > static_cast<uint8_t>(Op::kBarrier) ||
      bytes[1] > static_cast<uint8_t>(DType::kU8) || bytes[2] > kMaxTagBytes) {
    return DataLoss("a rank sent what is no call; do all ranks run the same program?");
  }
  Call call;
  call.op = static_cast<Op>(bytes[0]);
  call.dtype = static_cast<DType>(bytes[1]);
  call.root = static_cast<int>(LoadLe32(bytes + 4));
  call.count = LoadLe64(bytes + 8);
  call.tag.assign(reinterpret_cast<const char*>(bytes + 16), bytes[2]);
  return call;
}

Status Mismatch(int rank_a, const Call& a, int rank_b, const Call& b) {
  return FailedPrecondition("ranks called different things: rank {} {}, rank {} {}", rank_a,
                            a.Describe(), rank_b, b.Describe());
}

Status Aborted(int rank, std::string_view reason) {
  return Cancelled("rank {} ended the group: {}", rank, CutReason(reason));
}

std::string_view CutReason(std::string_view reason) { return reason.substr(0, kMaxReasonBytes); }

Status FirstError::Get() const {
  if (!failed()) return OkStatus();
  std::lock_guard lock(mutex_);
  return status_;
}

Status FirstError::Set(Status status) {
  std::lock_guard lock(mutex_);
  if (status_.ok()) status_ = std::move(status);
  failed_.store(!status_.ok(), std::memory_order_release);
  return status_;
}

Status CheckedCollectives::AllReduce(std::string_view tag, void* data, size_t count, DType dtype) {
  return Checked({Op::kAllReduce, dtype, 0, count, std::string(tag)}, data, data);
}

Status CheckedCollectives::ReduceScatter(std::string_view tag, const void* in, void* out,
                                         size_t count, DType dtype) {
  return Checked({Op::kReduceScatter, dtype, 0, count, std::string(tag)}, in, out);
}

Status CheckedCollectives::AllGather(std::string_view tag, const void* in, void* out, size_t count,
                                     DType dtype) {
  return Checked({Op::kAllGather, dtype, 0, count, std::string(tag)}, in, out);
}

Status CheckedCollectives::Broadcast(std::string_view tag, void* data, size_t count, DType dtype,
                                     int root) {
  return Checked({Op::kBroadcast, dtype, root, count, std::string(tag)}, data, data);
}

Status CheckedCollectives::AllToAll(std::string_view tag, const void* in, void* out, size_t count,
                                    DType dtype) {
  return Checked({Op::kAllToAll, dtype, 0, count, std::string(tag)}, in, out);
}

Status CheckedCollectives::Barrier(std::string_view tag) {
  return Checked({Op::kBarrier, DType::kU8, 0, 0, std::string(tag)}, nullptr, nullptr);
}

Status CheckedCollectives::Check(const Call& call, const void* in, const void* out) const {
  if (call.tag.empty() || call.tag.size() > kMaxTagBytes) {
    return InvalidArgument("a collective's tag has {} bytes, it must have 1 to {}", call.tag.size(),
                           kMaxTagBytes);
  }
  const uint64_t largest = kMaxCallBytes / static_cast<uint64_t>(size()) / SizeOf(call.dtype);
  if (call.count > largest) return InvalidArgument("{}: at most {}", call.Describe(), largest);
  if (call.root < 0 || call.root >= size()) {
    return InvalidArgument("{}: there are {} ranks", call.Describe(), size());
  }
  if (call.count > 0 && (in == nullptr || out == nullptr)) {
    return InvalidArgument("{}: a buffer is null", call.Describe());
  }
  return OkStatus();
}

Status CheckedCollectives::Checked(const Call& call, const void* in, void* out) {
  if (running_.exchange(true, std::memory_order_acquire)) {
    return FailedPrecondition(
        "rank {}: {} while another call runs: a group is for one thread at a time", rank(),
        call.Describe());
  }
  Status status = Check(call, in, out);
  // The others would wait for a call that is not made.
  if (!status.ok()) Abort(status.message());
  if (status.ok()) status = Run(call, in, out);
  running_.store(false, std::memory_order_release);
  return status;
}

}  // namespace tidegate::cluster
