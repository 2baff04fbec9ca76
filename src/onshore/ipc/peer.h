// One end of a pair: framed messages, generations, bulk transfers, a bounded send queue.
//
// For poll loops: `fd()` is non-blocking; call Receive() when readable until it gives nothing, and
// Flush() when writable while WantsWrite(). Errors are kDataLoss (the peer broke the protocol: its
// messages are dropped and counted, never fatal) or kUnavailable (the pair is closed). Not
// thread-safe.
#pragma once

#include <deque>
#include <optional>

#include "base/bytes.h"
#include "base/file.h"
#include "base/status.h"
#include "onshore/ipc/messages.h"
#include "protocols/codec.h"

namespace tidegate::onshore {

// A whole bulk.
struct Bulk {
  BulkKind kind = BulkKind::kJob;
  Hash32 content{};
  uint32_t index = 0;
  Bytes bytes;
};

class Peer {
 public:
  // `generation` is this process', from the supervisor; it is in every message it sends.
  Peer(Fd fd, uint32_t generation);

  int fd() const { return fd_.get(); }
  // The peer's generation, 0 until its HELLO came.
  uint32_t peer_generation() const { return peer_generation_; }

  Status SendHello(bool answer);
  template <typename Message>
  Status Send(IpcType type, const Message& message) {
    return SendBody(type, protocols::Encode(message));
  }
  // The same with a body that is encoded already.
  Status SendEncoded(IpcType type, Bytes body) { return SendBody(type, std::move(body)); }
  // A bulk is queued whole: at most kIpcMaxQueue bytes wait for a slow peer, more is
  // kResourceExhausted. It is cut into messages as they are sent; bytes that are moved in are not
  // copied before.
  Status SendBulk(BulkKind kind, const Hash32& content, uint32_t index, Bytes bytes);

  // The peer has ended and another one may come much later: what waits for it is not kept.
  void Forget();

  bool WantsWrite() const { return !queue_.empty(); }
  size_t queued_bytes() const { return queued_bytes_; }
  Status Flush();

  // What arrived: a message, a whole bulk (then `bulk` is set and type is kBulkBegin), or nothing.
  // A HELLO of a new generation resets the bulk under way and the send queue; it is answered here
  // and also given to the caller, who then says again what the peer must know.
  struct Received {
    IpcType type;
    Bytes body;
    std::optional<Bulk> bulk;
  };
  Result<std::optional<Received>> Receive();

  uint64_t dropped() const { return dropped_; }

 private:
  // A message, or with `bulk` the data of one from `sent` on.
  struct Queued {
    IpcType type;
    Bytes bytes;
    bool bulk = false;
    size_t sent = 0;
    size_t left() const { return bytes.size() - sent; }
  };
  Status SendBody(IpcType type, Bytes body);
  Status Enqueue(Queued item);
  size_t NextFrame(const Queued& item);
  Result<std::optional<Received>> Handle(IpcType type, ByteSpan body);
  Result<std::optional<Received>> BeginBulk(ByteSpan body);
  Result<std::optional<Received>> ContinueBulk(ByteSpan body);
  // Room for so many bytes more of the bulk.
  void Grow(size_t more);

  Fd fd_;
  uint32_t generation_;
  uint32_t peer_generation_ = 0;
  std::deque<Queued> queue_;
  size_t queued_bytes_ = 0;
  uint64_t dropped_ = 0;
  std::optional<Bulk> bulk_;
  uint64_t bulk_total_ = 0;
  Bytes buffer_, frame_;  // a message that came, one that goes
};

// The most bytes a bulk of this kind may have; 0 for kinds that do not exist.
uint64_t MaxBulkBytes(BulkKind kind);

// Two bulks, and what is said beside them.
inline constexpr size_t kIpcMaxQueue = 2 * protocols::kIpcMaxBulk + (1u << 20);

}  // namespace tidegate::onshore
