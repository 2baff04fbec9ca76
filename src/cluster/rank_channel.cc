#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

#include "cluster/rendezvous.h"
#include "crypto/hash.h"

namespace tidegate::cluster {
namespace {

// kind u8, 3 zero bytes, length u32; then the content and 32 bytes of HMAC.
constexpr size_t kHeaderBytes = 8;
constexpr size_t kMacBytes = 32;

// Over the frame's number, its header and its content.
crypto::Secret<32> Mac(const crypto::Secret<32>& key, uint64_t number, ByteSpan frame) {
  Bytes message(8 + frame.size());
  StoreLe64(message.data(), number);
  std::copy(frame.begin(), frame.end(), message.begin() + 8);
  return crypto::HmacSha256(key.reveal(), message);
}

}  // namespace

RankChannel::RankChannel(Fd fd, std::string peer, crypto::Secret<32> send_key,
                         crypto::Secret<32> receive_key)
    : fd_(std::move(fd)),
      peer_(std::move(peer)),
      send_key_(std::move(send_key)),
      receive_key_(std::move(receive_key)) {}

Status RankChannel::Send(uint8_t kind, ByteSpan content, const Until& until) {
  if (content.size() > kMaxFrameBytes) {
    return ResourceExhausted("a frame of {} bytes to {}, at most {}", content.size(), peer_,
                             kMaxFrameBytes);
  }
  if (cut_) return Unavailable("the connection to {} was cut in a frame", peer_);
  Bytes frame(kHeaderBytes + content.size() + kMacBytes);
  frame[0] = kind;
  StoreLe32(&frame[4], static_cast<uint32_t>(content.size()));
  std::copy(content.begin(), content.end(), frame.begin() + kHeaderBytes);
  const auto mac = Mac(send_key_, sent_++, ByteSpan(frame).first(kHeaderBytes + content.size()));
  std::copy(mac.reveal().begin(), mac.reveal().end(), frame.end() - kMacBytes);
  cut_ = true;
  TG_RETURN_IF_ERROR(SendAll(fd_, frame, until, peer_));
  cut_ = false;
  return OkStatus();
}

Result<std::optional<RankChannel::Frame>> RankChannel::Open() {
  const size_t signed_bytes = in_.size() - kMacBytes;
  const auto mac = Mac(receive_key_, received_++, ByteSpan(in_).first(signed_bytes));
  if (!crypto::Equal(mac.reveal(), ByteSpan(in_).subspan(signed_bytes))) {
    return DataLoss("what came from {} was changed on the way", peer_);
  }
  Frame frame;
  frame.kind = in_[0];
  frame.content.assign(in_.begin() + kHeaderBytes,
                       in_.begin() + static_cast<ptrdiff_t>(signed_bytes));
  in_.clear();
  in_size_ = 0;
  return std::optional(std::move(frame));
}

Result<std::optional<RankChannel::Frame>> RankChannel::Poll() {
  while (true) {
    if (in_.size() < kHeaderBytes) in_.resize(kHeaderBytes);
    if (in_size_ == kHeaderBytes && in_.size() == kHeaderBytes) {
      const size_t length = LoadLe32(&in_[4]);
      if (length > kMaxFrameBytes) {
        return DataLoss("{} announces a frame of {} bytes, at most {}", peer_, length,
                        kMaxFrameBytes);
      }
      in_.resize(kHeaderBytes + length + kMacBytes);
    }
    TG_ASSIGN_OR_RETURN(const size_t got,
                        ReceiveSome(fd_, std::span(in_).subspan(in_size_), peer_));
    if (got == 0) return std::optional<Frame>();
    in_size_ += got;
    if (in_size_ == in_.size() && in_.size() > kHeaderBytes) return Open();
  }
}

Result<RankChannel::Frame> RankChannel::Receive(const Until& until) {
  while (true) {
    TG_ASSIGN_OR_RETURN(std::optional<Frame> frame, Poll());
    if (frame) return std::move(*frame);
    if (until.stop != nullptr && until.stop->load()) return Cancelled("{}: the group ended", peer_);
    if (until.passed()) return DeadlineExceeded("{} did not answer in time", peer_);
    pollfd entry{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    ::poll(&entry, 1, until.PollMillis());
  }
}

void RankChannel::EndSending() {
  if (fd_.valid()) ::shutdown(fd_.get(), SHUT_WR);
}

}  // namespace tidegate::cluster
