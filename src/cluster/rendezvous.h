// How ranks find and prove each other over TCP, where there is no MPI: rank 0 listens, the others
// connect, and both sides show that they know one secret without showing the secret.
//
//   rank 0 -> rank   "TGRENDZ1" nonce_a[32]
//   rank -> rank 0   "TGRENDZ1" rank u32 size u32 nonce_b[32] proof_b[32]
//   rank 0 -> rank   verdict u8 proof_a[32]
//
// proof_b = HMAC-SHA-256(key, "tidegate rank" nonce_a nonce_b rank size), proof_a the same with
// "tidegate rank 0" and the verdict. Each nonce is of this connection, so an old answer proves
// nothing; the words differ, so one side's proof is not the other's. After it, what is sent either
// way is authenticated with a key of this connection and direction (RankChannel).
//
// A rank of another secret, rank or size is refused; a peer that stays silent holds a place for
// kHandshakeTime and no longer; at most kMostPending peers are heard at once.
//
// Thread-safety: one thread at a time.
#pragma once

#include <filesystem>
#include <vector>

#include "cluster/collectives.h"
#include "cluster/tcp_socket.h"
#include "crypto/secret.h"

namespace tidegate::cluster {

inline constexpr size_t kMinSecretBytes = 32;
inline constexpr size_t kMaxSecretBytes = 4096;
inline constexpr size_t kMostPending = 64;
inline constexpr std::chrono::milliseconds kHandshakeTime{5000};

// The job's secret: random bytes that all ranks can read, made by e.g.
// `(umask 077; openssl rand 32 > cluster.secret)`. kPermissionDenied where the file is another
// user's, a link, or anybody else may touch it; kInvalidArgument for its length.
Result<crypto::Secret<32>> ReadClusterSecret(const std::filesystem::path& path);

// A proven connection. Frames are bounded, numbered and authenticated: one that was changed, left
// out, repeated or made up by who is between is kDataLoss.
class RankChannel {
 public:
  RankChannel() = default;
  RankChannel(Fd fd, std::string peer, crypto::Secret<32> send_key, crypto::Secret<32> receive_key);

  bool open() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }
  const std::string& peer() const { return peer_; }

  Status Send(uint8_t kind, ByteSpan content, const Until& until);
  struct Frame {
    uint8_t kind = 0;
    Bytes content;
  };
  // A frame, if it is there as a whole by now.
  Result<std::optional<Frame>> Poll();
  Result<Frame> Receive(const Until& until);
  // No more is sent; what was sent still arrives.
  void EndSending();

 private:
  Result<std::optional<Frame>> Open();

  Fd fd_;
  std::string peer_;
  crypto::Secret<32> send_key_;
  crypto::Secret<32> receive_key_;
  uint64_t sent_ = 0;
  uint64_t received_ = 0;
  bool cut_ = false;  // a frame was sent in part
  Bytes in_;          // of the frame that comes
  size_t in_size_ = 0;
};

inline constexpr size_t kMaxFrameBytes = size_t{16} << 20;

// Rank 0: the channels of ranks 1 to size-1, in their order at [1..] ([0] is closed). At the
// deadline kDeadlineExceeded names the ranks that are missing, and how many peers failed to prove
// themselves.
Result<std::vector<RankChannel>> AwaitRanks(const Fd& listener, int size,
                                            const crypto::Secret<32>& secret, const Until& until);

// Any other rank. kUnauthenticated when either side's proof is wrong, kAlreadyExists when the rank
// is taken, kInvalidArgument when rank 0 has another size.
Result<RankChannel> MeetRankZero(const std::string& address, int rank, int size,
                                 const crypto::Secret<32>& secret, const Until& until);

}  // namespace tidegate::cluster
