// Groups over TCP on this machine's loopback, all ranks in this process.
#pragma once

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "cluster/tcp_group.h"

namespace tidegate::cluster {

inline crypto::Secret<32> SecretOf(uint8_t byte) {
  std::array<uint8_t, 32> bytes;
  bytes.fill(byte);
  return crypto::Secret<32>(bytes);
}

// A free port of the loopback, and its address.
struct Loopback {
  Loopback() {
    auto opened = TcpListen("127.0.0.1:0");
    EXPECT_TRUE(opened.has_value());
    listener = std::move(*opened);
    address = *TcpAddress(listener);
  }
  Fd listener;
  std::string address;
};

inline Until In(int millis) {
  return {.end = std::chrono::steady_clock::now() + std::chrono::milliseconds(millis)};
}

inline std::vector<std::unique_ptr<Collectives>> MakeTcpGroup(int size, int deadline_millis) {
  const Loopback place;
  const GroupOptions options{.deadline = std::chrono::milliseconds(deadline_millis)};
  using Joined = Result<std::unique_ptr<Collectives>>;
  std::vector<std::future<Joined>> joining;
  for (int rank = 1; rank < size; ++rank) {
    joining.push_back(std::async(std::launch::async, [&, rank]() -> Joined {
      return JoinTcpGroup(place.address, rank, size, SecretOf(1), options);
    }));
  }
  std::vector<Joined> all;
  all.push_back(HostTcpGroup(place.listener, size, SecretOf(1), options));
  for (auto& rank : joining) all.push_back(rank.get());
  std::vector<std::unique_ptr<Collectives>> group;
  for (Joined& rank : all) {
    EXPECT_TRUE(rank.has_value()) << (rank ? "" : rank.error().ToString());
    if (!rank) return {};
    group.push_back(std::move(*rank));
  }
  return group;
}

}  // namespace tidegate::cluster
