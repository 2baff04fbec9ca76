// What the tests ask of walled_helper: words "name=value" on its command line.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "onshore/sandbox/wall_faults.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::onshore {

inline constexpr int kChannelFd = 3;
inline constexpr int kPinFd = 4;    // link only
inline constexpr int kExtraFd = 5;  // what a test smuggles in
inline constexpr int kSiblingFd = 9;
inline constexpr uid_t kNobody = 65534;

class HelperOptions {
 public:
  HelperOptions(int count, char** words);
  bool Has(const std::string& name) const { return values_.count(name) != 0; }
  std::string Get(const std::string& name) const;
  std::vector<std::string> List(const std::string& name) const;  // separated by ','

 private:
  std::map<std::string, std::string> values_;
};

// One SEQPACKET message to the test.
void Say(std::string_view text);
// Waits for one message from the test.
std::string Hear();

// The faults named by fault=CALL:ERRNO, abi_cap=N, hole=NAME.
WallFaults MakeFaults(const HelperOptions& options);

}  // namespace tidegate::onshore
