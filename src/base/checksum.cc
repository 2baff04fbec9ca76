#include "base/checksum.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace tidegate {
namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87u;
constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4Fu;
constexpr uint64_t kPrime3 = 0x165667B19E3779F9u;
constexpr uint64_t kPrime4 = 0x85EBCA77C2B2AE63u;
constexpr uint64_t kPrime5 = 0x27D4EB2F165667C5u;

uint64_t Round(uint64_t lane, uint64_t input) {
  return std::rotl(lane + input * kPrime2, 31) * kPrime1;
}

uint64_t MergeLane(uint64_t hash, uint64_t lane) {
  return (hash ^ Round(0, lane)) * kPrime1 + kPrime4;
}

void Stripe(std::array<uint64_t, 4>& lanes, const uint8_t* bytes) {
  for (size_t i = 0; i < lanes.size(); ++i) lanes[i] = Round(lanes[i], LoadLe64(bytes + 8 * i));
}

}  // namespace

Checksum::Checksum() : lanes_{kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1} {}

void Checksum::Add(ByteSpan bytes) {
  total_ += bytes.size();
  if (pending_size_ > 0) {
    const size_t take = std::min(bytes.size(), pending_.size() - pending_size_);
    std::copy_n(bytes.begin(), take, pending_.begin() + static_cast<ptrdiff_t>(pending_size_));
    pending_size_ += take;
    bytes = bytes.subspan(take);
    if (pending_size_ < pending_.size()) return;
    Stripe(lanes_, pending_.data());
    pending_size_ = 0;
  }
  for (; bytes.size() >= pending_.size(); bytes = bytes.subspan(pending_.size())) {
    Stripe(lanes_, bytes.data());
  }
  std::copy(bytes.begin(), bytes.end(), pending_.begin());
  pending_size_ = bytes.size();
}

void Checksum::AddNumber(uint64_t value) {
  uint8_t bytes[8];
  StoreLe64(bytes, value);
  Add(bytes);
}

void Checksum::AddField(ByteSpan bytes) {
  AddNumber(bytes.size());
  Add(bytes);
}

uint64_t Checksum::Value() const {
  uint64_t hash = kPrime5;
  if (total_ >= pending_.size()) {
    hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) +
           std::rotl(lanes_[3], 18);
    for (const uint64_t lane : lanes_) hash = MergeLane(hash, lane);
  }
  hash += total_;
  size_t at = 0;
  for (; at + 8 <= pending_size_; at += 8) {
    hash = std::rotl(hash ^ Round(0, LoadLe64(&pending_[at])), 27) * kPrime1 + kPrime4;
  }
  if (at + 4 <= pending_size_) {
    hash = std::rotl(hash ^ (LoadLe32(&pending_[at]) * kPrime1), 23) * kPrime2 + kPrime3;
    at += 4;
  }
  for (; at < pending_size_; ++at) {
    hash = std::rotl(hash ^ (pending_[at] * kPrime5), 11) * kPrime1;
  }
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

std::string Checksum::Hex() const { return fmt::format("{:016x}", Value()); }

uint64_t ChecksumOf(ByteSpan bytes) {
  Checksum checksum;
  checksum.Add(bytes);
  return checksum.Value();
}

}  // namespace tidegate
