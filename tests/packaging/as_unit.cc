// as_unit UNIT PROGRAM [ARGUMENT …]: executes a program under what a systemd unit says of system
// calls and rights, for machines (and tests) where no systemd runs. Of the unit it applies, as
// systemd 252 does: SystemCallFilter= (groups by `systemd-analyze syscall-filter`),
// SystemCallErrorNumber=, SystemCallArchitectures=native, RestrictNamespaces=,
// RestrictAddressFamilies=, MemoryDenyWriteExecute=, CapabilityBoundingSet= (empty),
// NoNewPrivileges=, LimitCORE=, UMask=. Not the mounts, the user and the control groups: those take
// a systemd.
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "as_unit: %s\n", what.c_str());
  std::exit(70);
}
void Need(bool good, const std::string& what) {
  if (!good) Fail(what);
}

using Unit = std::multimap<std::string, std::string>;

Unit ReadUnit(const char* path) {
  std::ifstream in(path);
  Need(in.good(), std::string("cannot read ") + path);
  Unit unit;
  for (std::string line; std::getline(in, line);) {
    const size_t equals = line.find('=');
    if (line.empty() || line[0] == '#' || equals == std::string::npos) continue;
    unit.emplace(line.substr(0, equals), line.substr(equals + 1));
  }
  return unit;
}

std::string Value(const Unit& unit, const std::string& key) {
  const auto it = unit.find(key);
  return it == unit.end() ? "" : it->second;
}

std::vector<std::string> Words(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

// The names of a group of system calls, groups in it too.
void Expand(const std::string& name, std::set<std::string>* calls) {
  if (name[0] != '@') {
    calls->insert(name);
    return;
  }
  FILE* const pipe = ::popen(("systemd-analyze --no-pager syscall-filter " + name).c_str(), "r");
  Need(pipe != nullptr, "cannot run systemd-analyze");
  std::vector<std::string> members;
  for (char line[512]; std::fgets(line, sizeof(line), pipe) != nullptr;) {
    const auto words = Words(line);
    if (!words.empty() && words[0][0] != '#' && words[0] != name) members.push_back(words[0]);
  }
  Need(::pclose(pipe) == 0 && !members.empty(), "systemd-analyze does not know " + name);
  for (const std::string& member : members) Expand(member, calls);
}

class Filter {
 public:
  explicit Filter(uint32_t otherwise) : context_(seccomp_init(otherwise)) {
    Need(context_ != nullptr, "no filter");
  }
  template <typename... Rules>
  void Add(uint32_t action, const std::string& call, Rules... rules) {
    const int number = seccomp_syscall_resolve_name(call.c_str());
    // Names of other architectures and of newer kernels, which systemd skips too.
    if (number == __NR_SCMP_ERROR || number < 0) return;
    const scmp_arg_cmp all[] = {rules..., scmp_arg_cmp{}};
    const int code = seccomp_rule_add_array(context_, action, number, sizeof...(rules), all);
    Need(code == 0, "rule of " + call);
  }
  void Load() { Need(seccomp_load(context_) == 0, "cannot load a filter"); }

 private:
  scmp_filter_ctx context_;
};

void FilterCalls(const Unit& unit) {
  std::set<std::string> allowed;
  const auto [first, last] = unit.equal_range("SystemCallFilter");
  for (auto it = first; it != last; ++it) {
    const bool removes = it->second[0] == '~';
    std::set<std::string> calls;
    for (const std::string& name : Words(it->second.substr(removes ? 1 : 0))) Expand(name, &calls);
    for (const std::string& call : calls) {
      if (removes) {
        allowed.erase(call);
      } else {
        allowed.insert(call);
      }
    }
  }
  Need(!allowed.empty(), "the unit has no SystemCallFilter=");
  Need(Value(unit, "SystemCallErrorNumber") == "EPERM", "SystemCallErrorNumber= is not EPERM");
  // Another architecture's calls end the process: libseccomp's default, =native.
  Filter filter(SCMP_ACT_ERRNO(EPERM));
  for (const std::string& call : allowed) filter.Add(SCMP_ACT_ALLOW, call);
  filter.Load();
}

void FilterNamespaces(const std::string& value) {
  const std::map<std::string, unsigned> kinds = {
      {"cgroup", CLONE_NEWCGROUP}, {"ipc", CLONE_NEWIPC}, {"net", CLONE_NEWNET},
      {"mnt", CLONE_NEWNS},        {"pid", CLONE_NEWPID}, {"user", CLONE_NEWUSER},
      {"uts", CLONE_NEWUTS}};
  std::set<std::string> kept;
  if (value != "yes") {
    for (const std::string& kind : Words(value)) kept.insert(kind);
  }
  Filter filter(SCMP_ACT_ALLOW);
  filter.Add(SCMP_ACT_ERRNO(ENOSYS), "clone3");
  if (kept.empty()) {
    filter.Add(SCMP_ACT_ERRNO(EPERM), "setns");
  } else {
    filter.Add(SCMP_ACT_ERRNO(EPERM), "setns", SCMP_A1(SCMP_CMP_EQ, 0));
  }
  for (const auto& [name, flag] : kinds) {
    if (kept.contains(name)) continue;
    filter.Add(SCMP_ACT_ERRNO(EPERM), "unshare", SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag));
    filter.Add(SCMP_ACT_ERRNO(EPERM), "clone", SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag));
    if (!kept.empty()) {
      filter.Add(SCMP_ACT_ERRNO(EPERM), "setns", SCMP_A1(SCMP_CMP_MASKED_EQ, flag, flag));
    }
  }
  filter.Load();
}

void FilterFamilies(const std::string& value) {
  const std::map<std::string, unsigned> known = {
      {"AF_UNIX", AF_UNIX}, {"AF_INET", AF_INET}, {"AF_INET6", AF_INET6}};
  std::set<unsigned> kept;
  for (const std::string& name : Words(value)) kept.insert(known.at(name));
  Need(!kept.empty(), "the unit has no RestrictAddressFamilies=");
  Filter filter(SCMP_ACT_ALLOW);
  for (unsigned family = 0; family < AF_MAX; ++family) {
    if (kept.contains(family)) continue;
    filter.Add(SCMP_ACT_ERRNO(EAFNOSUPPORT), "socket", SCMP_A0(SCMP_CMP_EQ, family));
  }
  filter.Add(SCMP_ACT_ERRNO(EAFNOSUPPORT), "socket", SCMP_A0(SCMP_CMP_GE, AF_MAX));
  filter.Load();
}

void FilterWriteExecute() {
  Filter filter(SCMP_ACT_ALLOW);
  filter.Add(SCMP_ACT_ERRNO(EPERM), "mmap",
             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC | PROT_WRITE, PROT_EXEC | PROT_WRITE));
  filter.Add(SCMP_ACT_ERRNO(EPERM), "mprotect", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, PROT_EXEC));
  filter.Add(SCMP_ACT_ERRNO(EPERM), "pkey_mprotect",
             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, PROT_EXEC));
  filter.Add(SCMP_ACT_ERRNO(EPERM), "shmat", SCMP_A2(SCMP_CMP_MASKED_EQ, SHM_EXEC, SHM_EXEC));
  filter.Load();
}

void DropCapabilities() {
  for (int bit = 0; bit < 64 && ::prctl(PR_CAPBSET_DROP, bit, 0, 0, 0) == 0; ++bit) {
  }
  ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  Need(::syscall(SYS_capset, &header, none) == 0, "cannot drop capabilities");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) Fail("UNIT PROGRAM [ARGUMENT …]");
  const Unit unit = ReadUnit(argv[1]);
  Need(unit.contains("CapabilityBoundingSet") && Value(unit, "CapabilityBoundingSet").empty(),
       "CapabilityBoundingSet= is not empty");
  Need(Value(unit, "NoNewPrivileges") == "yes", "NoNewPrivileges= is not yes");
  Need(Value(unit, "SystemCallArchitectures") == "native",
       "SystemCallArchitectures= is not native");
  ::umask(static_cast<mode_t>(std::stoul(Value(unit, "UMask"), nullptr, 8)));
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  DropCapabilities();
  Need(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
  FilterFamilies(Value(unit, "RestrictAddressFamilies"));
  FilterNamespaces(Value(unit, "RestrictNamespaces"));
  if (Value(unit, "MemoryDenyWriteExecute") == "yes") FilterWriteExecute();
  // Last: @system-service of systemd 252 has no seccomp in it.
  FilterCalls(unit);
  ::execv(argv[2], argv + 2);
  Fail(std::string("cannot execute ") + argv[2]);
}
