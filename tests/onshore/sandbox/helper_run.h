// Starts walled_helper and plays its supervisor: answers the address pin, collects what it says.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "onshore/sandbox/address_pin.h"
#include "onshore/sandbox/spawn.h"
#include "onshore/sandbox/statement.h"

namespace tidegate::onshore {

struct HelperResult {
  std::vector<std::string> messages;
  ChildEnd end;
  AddressPin::Counts pin;
  std::string log;

  // The first message that begins with `word`, without it; nothing if there is none.
  std::optional<std::string> Said(const std::string& word) const;
  std::string Everything() const;  // for a failed expectation
  const IsolationStatement& Statement() const;
  const TryRow* Row(const std::string& name) const;

 private:
  mutable std::optional<IsolationStatement> statement_;
};

// A pipe for standard error, so that a sanitizer's report is seen. Every process that the helper
// starts has its other end too.
struct LogPipe {
  LogPipe();
  // Takes what there is; true at the end: no process has the other end.
  bool Drain(std::string& out) const;
  // Waits for that end, ten seconds at most.
  bool Ends(std::string& out) const;
  Fd read, write;
};

struct HelperCall {
  std::vector<std::string> words;
  int extra_fd = -1;                             // becomes kExtraFd in the helper
  std::optional<sockaddr_storage> pinned = {};   // makes the helper's pin channel and answers it
  std::shared_ptr<const SocksRoute> route = {};  // with `pinned`: through this proxy
  bool proxy_hangs = false;                      // time passes while it is dialled
  bool close_pin_before_work = false;            // the supervisor's pin dies after the statement
  bool no_rate_limit = false;                    // time passes with each call
};
// Runs it to its end (at most 90 s). That a process remains of it fails the test.
HelperResult RunHelper(const HelperCall& call);
std::filesystem::path HelperProgram();
std::vector<std::string> HelperEnvironment();

// A directory with what the roles use and must not see; removed at the end.
class Site {
 public:
  Site();
  ~Site();
  std::string Path(const std::string& name) const { return (root_ / name).string(); }
  // The usual command line of a role: paths, forbidden objects, work.
  std::vector<std::string> Words(Role role) const;

 private:
  std::filesystem::path root_;
};

// A TCP listener on 127.0.0.1.
struct Listener {
  Listener();
  Fd fd;
  sockaddr_storage address{};
};

}  // namespace tidegate::onshore
