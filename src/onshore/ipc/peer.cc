#include "onshore/ipc/peer.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/memory.h"

namespace tidegate::onshore {
namespace {

// As it lies before every body.
struct IpcHeader {
  uint16_t type = 0;
  uint16_t reserved = 0;
  uint32_t generation = 0;      // sender's
  uint32_t for_generation = 0;  // the receiver's, as the sender knows it; 0 only in HELLO
  uint32_t body_bytes = 0;
};
static_assert(sizeof(IpcHeader) == 16);

// Before the bytes of a BulkData: offset and length.
constexpr size_t kBulkDataPrefix = sizeof(uint64_t) + sizeof(uint32_t);
constexpr size_t kFirstRoom = 1u << 20;
constexpr size_t kBulkStep = protocols::kIpcMaxData - 64;

}  // namespace

uint64_t MaxBulkBytes(BulkKind kind) {
  switch (kind) {
    case BulkKind::kJob:
    case BulkKind::kRound:
    case BulkKind::kAdapter:
    case BulkKind::kReceipt:
    case BulkKind::kAbandon:
    case BulkKind::kOffer:
    case BulkKind::kBase:
    case BulkKind::kRevoke:
      return protocols::kMaxControlBody;
    case BulkKind::kBlock:
      return protocols::kBlockBytes;
    case BulkKind::kParameters:
    case BulkKind::kUpdate:
      return protocols::kIpcMaxBulk;
  }
  return 0;
}

Peer::Peer(Fd fd, uint32_t generation) : fd_(std::move(fd)), generation_(generation) {
  ::fcntl(fd_.get(), F_SETFL, ::fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
  buffer_.resize(protocols::kIpcMaxMessage);
  frame_.reserve(protocols::kIpcMaxMessage);
}

void Peer::Forget() {
  bulk_.reset();
  queue_.clear();
  queued_bytes_ = 0;
}

Status Peer::SendHello(bool answer) {
  return SendBody(IpcType::kHello, protocols::Encode(IpcHello{generation_, answer}));
}

Status Peer::SendBody(IpcType type, Bytes body) {
  if (body.size() > protocols::kIpcMaxMessage - sizeof(IpcHeader)) {
    return Internal("an ipc body of {} bytes is over its limit", body.size());
  }
  return Enqueue({type, std::move(body)});
}

Status Peer::SendBulk(BulkKind kind, const Hash32& content, uint32_t index, Bytes bytes) {
  if (bytes.size() > MaxBulkBytes(kind)) {
    return ResourceExhausted("a transfer of {} bytes is over its limit {}", bytes.size(),
                             MaxBulkBytes(kind));
  }
  const BulkBegin begin{kind, content, index, bytes.size()};
  TG_RETURN_IF_ERROR(SendBody(IpcType::kBulkBegin, protocols::Encode(begin)));
  return bytes.empty() ? OkStatus() : Enqueue({IpcType::kBulkData, std::move(bytes), true});
}

Status Peer::Enqueue(Queued item) {
  if (queued_bytes_ + item.bytes.size() > kIpcMaxQueue) {
    return ResourceExhausted("more than {} bytes wait for a peer that does not read", kIpcMaxQueue);
  }
  queued_bytes_ += item.bytes.size();
  queue_.push_back(std::move(item));
  return Flush();
}

// Into frame_, which is small enough to stay in a cache; how many of the item's bytes are in it.
size_t Peer::NextFrame(const Queued& item) {
  const size_t prefix = item.bulk ? kBulkDataPrefix : 0;
  const size_t n = item.bulk ? std::min(kBulkStep, item.left()) : item.left();
  IpcHeader header;
  header.type = static_cast<uint16_t>(item.type);
  header.generation = generation_;
  header.for_generation = peer_generation_;
  header.body_bytes = static_cast<uint32_t>(prefix + n);
  frame_.resize(sizeof(header) + prefix + n);
  uint8_t* out = frame_.data();
  std::memcpy(out, &header, sizeof(header));
  out += sizeof(header);
  if (item.bulk) {
    // A BulkData as the archive writes it.
    StoreLe64(out, item.sent);
    StoreLe32(out + 8, static_cast<uint32_t>(n));
    out += prefix;
  }
  if (n != 0) std::memcpy(out, item.bytes.data() + item.sent, n);
  return n;
}

Status Peer::Flush() {
  while (!queue_.empty()) {
    Queued& item = queue_.front();
    const size_t n = NextFrame(item);
    const ssize_t sent =
        ::send(fd_.get(), frame_.data(), frame_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) return OkStatus();
    if (sent < 0) return Unavailable("an onshore pair is closed: {}", std::strerror(errno));
    queued_bytes_ -= n;
    item.sent += n;
    if (item.left() == 0) queue_.pop_front();
  }
  return OkStatus();
}

Result<std::optional<Peer::Received>> Peer::Receive() {
  for (;;) {
    const ssize_t n =
        ::recv(fd_.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return std::nullopt;
    if (n <= 0) return Unavailable("an onshore pair is closed");
    IpcHeader header;
    const auto size = static_cast<size_t>(n);
    if (size < sizeof(header)) {
      ++dropped_;
      continue;
    }
    std::memcpy(&header, buffer_.data(), sizeof(header));
    const bool hello = header.type == static_cast<uint16_t>(IpcType::kHello);
    const bool current =
        header.generation == peer_generation_ && header.for_generation == generation_;
    if (header.body_bytes != size - sizeof(header) || header.reserved != 0 ||
        (!hello && !current)) {
      ++dropped_;
      continue;
    }
    auto handled = Handle(static_cast<IpcType>(header.type),
                          ByteSpan(buffer_).subspan(sizeof(header), header.body_bytes));
    if (!handled && handled.error().code() == Code::kDataLoss) {
      ++dropped_;
      bulk_.reset();
      continue;
    }
    if (!handled || handled->has_value()) return handled;
  }
}

Result<std::optional<Peer::Received>> Peer::Handle(IpcType type, ByteSpan body) {
  if (type == IpcType::kHello) {
    auto hello = protocols::Decode<IpcHello>(body);
    if (!hello || hello->generation == 0 || hello->generation < peer_generation_) {
      return DataLoss("a hello is malformed or old");
    }
    const bool fresh = hello->generation != peer_generation_;
    peer_generation_ = hello->generation;
    if (fresh) Forget();
    if (!hello->answer) TG_RETURN_IF_ERROR(SendHello(true));
    if (!fresh) return std::nullopt;
    return Received{type, Bytes(body.begin(), body.end()), std::nullopt};
  }
  if (type == IpcType::kBulkBegin) return BeginBulk(body);
  if (type == IpcType::kBulkData) return ContinueBulk(body);
  bulk_.reset();
  return Received{type, Bytes(body.begin(), body.end()), std::nullopt};
}

Result<std::optional<Peer::Received>> Peer::BeginBulk(ByteSpan body) {
  auto begin = protocols::Decode<BulkBegin>(body);
  if (!begin) return DataLoss("a transfer's begin: {}", begin.error().reason);
  if (begin->bytes > MaxBulkBytes(begin->kind)) {
    return DataLoss("a transfer of {} bytes is over its limit", begin->bytes);
  }
  bulk_ = Bulk{begin->kind, begin->content, begin->index, {}};
  bulk_total_ = begin->bytes;
  if (bulk_total_ != 0) return std::nullopt;
  Received done{IpcType::kBulkBegin, {}, std::move(bulk_)};
  bulk_.reset();
  return done;
}

// What was announced is believed by what has come: eight times that, so that a large bulk is moved
// twice on its way.
void Peer::Grow(size_t more) {
  Bytes& bytes = bulk_->bytes;
  if (bytes.capacity() - bytes.size() >= more) return;
  bytes.reserve(std::min<uint64_t>(bulk_total_, std::max(kFirstRoom, 8 * bytes.size())));
  AdviseHugePages(bytes.data(), bytes.capacity());
}

Result<std::optional<Peer::Received>> Peer::ContinueBulk(ByteSpan body) {
  // As protocols::Decode takes a BulkData, without a copy in between.
  if (body.size() < kBulkDataPrefix || LoadLe32(body.data() + 8) != body.size() - kBulkDataPrefix) {
    return DataLoss("a transfer's data does not have the length that it says");
  }
  const uint64_t offset = LoadLe64(body.data());
  const ByteSpan data = body.subspan(kBulkDataPrefix);
  if (!bulk_ || offset != bulk_->bytes.size() || data.empty() ||
      data.size() > protocols::kIpcMaxData || data.size() > bulk_total_ - bulk_->bytes.size()) {
    return DataLoss("a transfer's data is out of order");
  }
  Grow(data.size());
  bulk_->bytes.insert(bulk_->bytes.end(), data.begin(), data.end());
  if (bulk_->bytes.size() < bulk_total_) return std::nullopt;
  Received done{IpcType::kBulkBegin, {}, std::move(bulk_)};
  bulk_.reset();
  return done;
}

}  // namespace tidegate::onshore
