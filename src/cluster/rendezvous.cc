#include "cluster/rendezvous.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <list>

#include "crypto/hash.h"
#include "crypto/kdf.h"
#include "crypto/random.h"

namespace tidegate::cluster {
namespace {

using Clock = std::chrono::steady_clock;
using Nonce = std::array<uint8_t, 32>;

constexpr std::string_view kMagic = "TGRENDZ1";
constexpr size_t kHelloBytes = 8 + 32;
constexpr size_t kAnswerBytes = 8 + 4 + 4 + 32 + 32;
constexpr size_t kVerdictBytes = 1 + 32;

enum Verdict : uint8_t { kWelcome = 0, kRankTaken = 1, kOtherSize = 2 };

struct Proven {
  uint32_t rank = 0;
  uint32_t size = 0;
  Nonce zero{};  // rank 0's
  Nonce other{};

  crypto::Secret<32> Proof(const crypto::Secret<32>& secret, std::string_view words) const {
    return crypto::HmacSha256(secret.reveal(), Message(words));
  }
  crypto::Secret<32> Key(const crypto::Secret<32>& secret, std::string_view words) const {
    return crypto::DeriveKey(Message("tidegate rank channel"), secret.reveal(), AsBytes(words));
  }
  RankChannel Channel(Fd fd, const crypto::Secret<32>& secret, bool at_zero) const {
    auto down = Key(secret, "from rank 0");
    auto up = Key(secret, "to rank 0");
    const std::string peer = fmt::format("rank {}", at_zero ? rank : 0);
    return at_zero ? RankChannel(std::move(fd), peer, std::move(down), std::move(up))
                   : RankChannel(std::move(fd), peer, std::move(up), std::move(down));
  }

 private:
  Bytes Message(std::string_view words) const {
    Bytes message(words.begin(), words.end());
    message.insert(message.end(), zero.begin(), zero.end());
    message.insert(message.end(), other.begin(), other.end());
    uint8_t numbers[8];
    StoreLe32(numbers, rank);
    StoreLe32(numbers + 4, size);
    message.insert(message.end(), numbers, numbers + 8);
    return message;
  }
};

constexpr std::string_view kRankProof = "tidegate rank";

std::string ZeroProof(uint8_t verdict) {
  return "tidegate rank 0" + std::string(1, static_cast<char>(verdict));
}

// A peer that has not proven itself.
struct Pending {
  Fd fd;
  Clock::time_point end;
  Nonce nonce{};
  std::array<uint8_t, kAnswerBytes> answer{};
  size_t got = 0;
};

class Host {
 public:
  Host(const Fd& listener, int size, const crypto::Secret<32>& secret, const Until& until)
      : listener_(listener), secret_(secret), until_(until), ranks_(size) {}

  Result<std::vector<RankChannel>> Run() {
    while (seated_ + 1 < ranks_.size()) {
      if (until_.stop != nullptr && until_.stop->load()) return Cancelled("the group ended");
      if (until_.passed()) return Unexpected(Late());
      WaitForAnything();
      TG_RETURN_IF_ERROR(Accept());
      Hear();
    }
    return std::move(ranks_);
  }

 private:
  void WaitForAnything() {
    std::vector<pollfd> entries{{.fd = listener_.get(), .events = POLLIN, .revents = 0}};
    for (const Pending& peer : pending_) {
      entries.push_back({.fd = peer.fd.get(), .events = POLLIN, .revents = 0});
    }
    // Silent peers are dropped in time, too.
    ::poll(entries.data(), entries.size(), std::min(until_.PollMillis(), 200));
  }

  Status Accept() {
    while (true) {
      TG_ASSIGN_OR_RETURN(Fd fd, TcpAccept(listener_));
      if (!fd.valid()) return OkStatus();
      // Beyond the bound a peer is closed at once; it tries again.
      if (pending_.size() >= kMostPending) continue;
      Pending peer;
      peer.fd = std::move(fd);
      peer.end = Clock::now() + kHandshakeTime;
      TG_RETURN_IF_ERROR(crypto::FillRandom(peer.nonce));
      std::array<uint8_t, kHelloBytes> hello;
      std::copy(kMagic.begin(), kMagic.end(), hello.begin());
      std::copy(peer.nonce.begin(), peer.nonce.end(), hello.begin() + 8);
      // A new connection has room for this; one that has not is not waited for.
      if (SendAll(peer.fd, hello, {.end = Clock::now()}, "a peer").ok()) {
        pending_.push_back(std::move(peer));
      }
    }
  }

  void Hear() {
    for (auto at = pending_.begin(); at != pending_.end();) {
      const auto got = ReceiveSome(at->fd, std::span(at->answer).subspan(at->got), "a peer");
      if (got) at->got += *got;
      if (at->got == kAnswerBytes) Judge(*at);
      const bool over = !got || at->got == kAnswerBytes || Clock::now() > at->end;
      if (over && at->got < kAnswerBytes) ++failed_;
      at = over ? pending_.erase(at) : std::next(at);
    }
  }

  void Judge(Pending& peer) {
    Proven proven;
    const uint8_t* answer = peer.answer.data();
    proven.rank = LoadLe32(answer + 8);
    proven.size = LoadLe32(answer + 12);
    proven.zero = peer.nonce;
    std::copy_n(answer + 16, 32, proven.other.begin());
    const auto proof = proven.Proof(secret_, kRankProof);
    if (!std::equal(kMagic.begin(), kMagic.end(), answer) ||
        !crypto::Equal(proof.reveal(), ByteSpan(answer + 48, 32))) {
      ++failed_;
      return;  // told nothing but that it is closed
    }
    Verdict verdict = kWelcome;
    if (proven.size != ranks_.size()) {
      verdict = kOtherSize;
    } else if (proven.rank == 0 || proven.rank >= proven.size || ranks_[proven.rank].open()) {
      verdict = kRankTaken;
    }
    std::array<uint8_t, kVerdictBytes> reply;
    reply[0] = verdict;
    const auto own = proven.Proof(secret_, ZeroProof(verdict));
    std::copy(own.reveal().begin(), own.reveal().end(), reply.begin() + 1);
    if (!SendAll(peer.fd, reply, {.end = Clock::now()}, "a peer").ok() || verdict != kWelcome) {
      return;
    }
    ranks_[proven.rank] = proven.Channel(std::move(peer.fd), secret_, true);
    ++seated_;
  }

  Status Late() const {
    std::string missing;
    for (size_t r = 1; r < ranks_.size() && missing.size() < kMaxReasonBytes; ++r) {
      if (!ranks_[r].open()) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", r);
    }
    return DeadlineExceeded(
        "ranks {} did not come in time; {} peers failed to prove that they know the secret",
        missing, failed_ + pending_.size());
  }

  const Fd& listener_;
  const crypto::Secret<32>& secret_;
  const Until until_;
  std::vector<RankChannel> ranks_;
  size_t seated_ = 0;
  size_t failed_ = 0;
  std::list<Pending> pending_;
};

// A connection that rank 0 has greeted. It may have no place for another peer at the moment.
Result<Fd> Greeted(const std::string& address, const Until& until, Nonce& nonce) {
  while (true) {
    TG_ASSIGN_OR_RETURN(Fd fd, TcpConnect(address, until));
    std::array<uint8_t, kHelloBytes> hello;
    const Status status = ReceiveAll(fd, hello, until, "rank 0 at " + address);
    if (status.ok()) {
      if (!std::equal(kMagic.begin(), kMagic.end(), hello.begin())) {
        return Unauthenticated("who listens at {} is no rank 0 of this version", address);
      }
      std::copy(hello.begin() + 8, hello.end(), nonce.begin());
      return fd;
    }
    if (status.code() != Code::kUnavailable || until.passed()) return Unexpected(status);
    pollfd none{.fd = -1, .events = 0, .revents = 0};
    ::poll(&none, 1, 50);
  }
}

}  // namespace

Result<crypto::Secret<32>> ReadClusterSecret(const std::filesystem::path& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd.valid()) return Unexpected(ErrnoStatus("open the secret", path.string(), errno));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) {
    return Unexpected(ErrnoStatus("look at", path.string(), errno));
  }
  if (!S_ISREG(st.st_mode) || st.st_uid != ::geteuid() || (st.st_mode & 0077) != 0) {
    return PermissionDenied(
        "the secret {} must be a file of this user that nobody else may touch; run `chmod 600 {}`",
        path.string(), path.string());
  }
  Bytes bytes(kMaxSecretBytes + 1);
  const ssize_t got = ::read(fd.get(), bytes.data(), bytes.size());
  if (got < 0) return Unexpected(ErrnoStatus("read", path.string(), errno));
  bytes.resize(static_cast<size_t>(got));
  const crypto::SecretBytes content(std::move(bytes));
  if (content.size() < kMinSecretBytes || content.size() > kMaxSecretBytes) {
    return InvalidArgument(
        "the secret {} has {} bytes, it must have {} to {}; make one with "
        "`(umask 077; openssl rand 32 > {})`",
        path.string(), content.size(), kMinSecretBytes, kMaxSecretBytes, path.string());
  }
  return crypto::DeriveKey({}, content.reveal(), AsBytes("tidegate cluster rendezvous v1"));
}

Result<std::vector<RankChannel>> AwaitRanks(const Fd& listener, int size,
                                            const crypto::Secret<32>& secret, const Until& until) {
  return Host(listener, size, secret, until).Run();
}

Result<RankChannel> MeetRankZero(const std::string& address, int rank, int size,
                                 const crypto::Secret<32>& secret, const Until& until) {
  Proven proven;
  proven.rank = static_cast<uint32_t>(rank);
  proven.size = static_cast<uint32_t>(size);
  TG_ASSIGN_OR_RETURN(Fd fd, Greeted(address, until, proven.zero));
  TG_RETURN_IF_ERROR(crypto::FillRandom(proven.other));
  std::array<uint8_t, kAnswerBytes> answer;
  std::copy(kMagic.begin(), kMagic.end(), answer.begin());
  StoreLe32(&answer[8], proven.rank);
  StoreLe32(&answer[12], proven.size);
  std::copy(proven.other.begin(), proven.other.end(), answer.begin() + 16);
  const auto proof = proven.Proof(secret, kRankProof);
  std::copy(proof.reveal().begin(), proof.reveal().end(), answer.begin() + 48);
  TG_RETURN_IF_ERROR(SendAll(fd, answer, until, "rank 0 at " + address));
  std::array<uint8_t, kVerdictBytes> reply;
  const Status status = ReceiveAll(fd, reply, until, "rank 0 at " + address);
  if (status.code() == Code::kUnavailable) {
    return Unauthenticated(
        "rank 0 at {} did not take the proof of rank {}: do both have the same secret file?",
        address, rank);
  }
  TG_RETURN_IF_ERROR(status);
  const auto expected = proven.Proof(secret, ZeroProof(reply[0]));
  if (!crypto::Equal(expected.reveal(), ByteSpan(reply).subspan(1))) {
    return Unauthenticated("who listens at {} does not know the secret", address);
  }
  if (reply[0] == kOtherSize) {
    return InvalidArgument("rank {} was told of {} ranks, rank 0 at {} of another number", rank,
                           size, address);
  }
  if (reply[0] != kWelcome) {
    return AlreadyExists("rank {} is taken at rank 0 at {}; each rank has a number of its own",
                         rank, address);
  }
  return proven.Channel(std::move(fd), secret, false);
}

}  // namespace tidegate::cluster
