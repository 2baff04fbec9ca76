#include "tests/onshore/sandbox/helper_options.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

namespace tidegate::onshore {
namespace {

int injected_errno = 0;

int Inject() {
  errno = injected_errno;
  return -1;
}

}  // namespace

HelperOptions::HelperOptions(int count, char** words) {
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const size_t equals = word.find('=');
    values_[word.substr(0, equals)] = equals == std::string::npos ? "" : word.substr(equals + 1);
  }
}

std::string HelperOptions::Get(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? "" : found->second;
}

std::vector<std::string> HelperOptions::List(const std::string& name) const {
  std::vector<std::string> parts;
  std::string rest = Get(name);
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    parts.push_back(rest.substr(0, comma));
    rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
  }
  return parts;
}

void Say(std::string_view text) {
  if (::send(kChannelFd, text.data(), text.size(), MSG_NOSIGNAL) < 0) ::_exit(9);
}

std::string Hear() {
  std::array<char, 4096> buffer;
  const ssize_t got = ::recv(kChannelFd, buffer.data(), buffer.size(), 0);
  if (got <= 0) ::_exit(8);
  return std::string(buffer.data(), static_cast<size_t>(got));
}

WallFaults MakeFaults(const HelperOptions& options) {
  WallFaults faults;
  const std::string fault = options.Get("fault");
  const size_t colon = fault.find(':');
  if (colon != std::string::npos) {
    const std::string call = fault.substr(0, colon);
    injected_errno = std::atoi(fault.c_str() + colon + 1);
    if (call == "unshare") faults.kernel.unshare = [](int) { return Inject(); };
    if (call == "uid_map") {
      faults.kernel.unshare = [](int flags) {
        // The direct way is closed, the way by a user namespace "works".
        errno = EPERM;
        return (flags & 0x10000000) != 0 ? 0 : -1;
      };
      faults.kernel.write_id_map = [](const char*, const char*) { return Inject(); };
    }
    if (call == "chroot") faults.kernel.chroot = [](const char*) { return Inject(); };
    if (call == "set_ids") faults.kernel.set_ids = [](uid_t, gid_t) { return Inject(); };
    if (call == "landlock_create") {
      faults.kernel.landlock_create_ruleset = [](const void*, size_t, uint32_t) -> long {
        return Inject();
      };
    }
    if (call == "landlock_make") {
      faults.kernel.landlock_create_ruleset = [](const void* attributes, size_t, uint32_t) -> long {
        return attributes == nullptr ? 7 : Inject();
      };
    }
    if (call == "landlock_restrict") {
      faults.kernel.landlock_restrict_self = [](int, uint32_t) -> long { return Inject(); };
    }
    if (call == "mdwe") {
      faults.kernel.prctl = [](int option, unsigned long argument) {
        constexpr int kSetMdwe = 65;
        return option == kSetMdwe ? Inject() : ::prctl(option, argument, 0UL, 0UL, 0UL);
      };
    }
    if (call == "seccomp") faults.seccomp_error = injected_errno;
    if (call == "listener") faults.listener_error = injected_errno;
    if (call == "close_range") faults.close_range_error = injected_errno;
    if (call == "passrights") faults.passrights_error = injected_errno;
    if (call == "no_new_privs") {
      faults.kernel.prctl = [](int option, unsigned long argument) {
        return option == PR_SET_NO_NEW_PRIVS ? Inject() : ::prctl(option, argument, 0UL, 0UL, 0UL);
      };
    }
  }
  if (options.Has("abi_cap")) faults.landlock_abi_cap = std::atoi(options.Get("abi_cap").c_str());
  const std::string hole = options.Get("hole");
  faults.allow_bad_arch = hole == "bad_arch";
  faults.allow_sendmsg = hole == "sendmsg";
  faults.without_tsync = hole == "one_thread";
  faults.skip_thread_count = hole == "thread";
  return faults;
}

}  // namespace tidegate::onshore
