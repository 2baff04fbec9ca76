// A bad link on loopback: TCP connections to its port go on to another one, over a line with a
// rate, a delay, jitter, cuts and damage. What would be lost on a real path comes late or not at
// all here: below TCP nothing is dropped, and loss is what TCP makes of it, a slower rate.
//
// One thread of its own moves the bytes; all methods are thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"

namespace tidegate::transport {

struct LinkOptions {
  double bits_per_second = 0;  // of each direction, shared by all connections; 0: unlimited
  double delay_millis = 0;     // one way
  double jitter_millis = 0;    // more delay, up to this, each connection its own: they overtake
  uint64_t damage_every = 0;   // a bit flips in about one of so many bytes; 0: none
  // One bit of the byte that is so manieth on its way up, or down; −1: none.
  int64_t flip_up = -1, flip_down = -1;
  uint64_t seed = 1;             // of jitter and damage
  std::vector<uint64_t> cuts{};  // all connections are reset when so many bytes have gone up
};

class LinkEmulator {
 public:
  struct Counts {
    uint64_t up_bytes = 0, down_bytes = 0;  // delivered
    uint64_t connections = 0, cuts = 0, damaged = 0;
    int64_t slowest_redial_millis = 0;  // from a cut to the next connection
  };

  // Listens on a free port of 127.0.0.1 and dials 127.0.0.1:`port` for each connection.
  static Result<std::unique_ptr<LinkEmulator>> Start(int port, const LinkOptions& options);
  virtual ~LinkEmulator() = default;

  virtual int port() const = 0;
  // Resets all connections there are; `also_refuse` resets new ones too, until Restore.
  virtual void Cut(bool also_refuse = false) = 0;
  // Resets the connection that was made last, and no other.
  virtual void CutNewest() = 0;
  // Nothing moves and nothing ends, as when a cable is out, until Restore.
  virtual void Stall() = 0;
  virtual void Restore() = 0;
  virtual void SetDamage(uint64_t every) = 0;
  virtual Counts counts() const = 0;
};

}  // namespace tidegate::transport
