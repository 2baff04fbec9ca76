// The isolation statement: what one process' walls are and what its self-test found, as text for
// the ledger and for people. docs/formats/isolation-statement.md is its format.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "onshore/sandbox/self_test.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::onshore {

struct IsolationStatement {
  WallReport report;
  std::vector<KeptFd> fds;     // inherited, besides 0 to 2
  std::string pinned_address;  // link: "192.0.2.7:7443"; else empty
  std::vector<TryRow> rows;
  std::string proxy = {};                 // link: the SOCKS5 proxy on the way there; else empty
  std::vector<std::string> devices = {};  // a trainer's on a GPU: nodes that stay open to it
};

// At most this long, encoded or decoded.
inline constexpr size_t kMaxStatementBytes = 64 * 1024;

std::string EncodeStatement(const IsolationStatement& statement);
// Strict: every text that decodes is the encoding of what it decodes to. kInvalidArgument names the
// line.
Result<IsolationStatement> DecodeStatement(std::string_view text);

}  // namespace tidegate::onshore
