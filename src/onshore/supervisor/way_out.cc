#include "onshore/supervisor/way_out.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>

#include "base/file.h"
#include "onshore/sandbox/address_pin.h"

namespace tidegate::onshore {
namespace {

constexpr int kResolveMillis = 5000;
constexpr size_t kMaxPassword = 255;  // RFC 1929
constexpr size_t kMaxHost = 253;      // of a name

// In the child: writes the first IPv4 or IPv6 address as text.
[[noreturn]] void ResolveInChild(const std::string& host, const std::string& port, int out) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::alarm(kResolveMillis / 1000);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  char text[NI_MAXHOST];
  if (::getaddrinfo(host.c_str(), port.c_str(), &hints, &list) != 0 || list == nullptr ||
      ::getnameinfo(list->ai_addr, list->ai_addrlen, text, sizeof(text), nullptr, 0,
                    NI_NUMERICHOST) != 0) {
    ::_exit(1);
  }
  const std::string address(text);
  ::_exit(::write(out, address.data(), address.size()) == static_cast<ssize_t>(address.size()) ? 0
                                                                                               : 1);
}

Result<std::string> ResolveName(std::string_view key, const std::string& host,
                                const std::string& port) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return Unexpected(ErrnoStatus("make", "a pipe", errno));
  const Fd in(fds[0]);
  Fd out(fds[1]);
  const pid_t child = ::fork();
  if (child < 0) return Unexpected(ErrnoStatus("fork", "a resolver", errno));
  if (child == 0) ResolveInChild(host, port, out.get());
  out.reset();
  pollfd p{in.get(), POLLIN, 0};
  char text[NI_MAXHOST];
  const ssize_t n = ::poll(&p, 1, kResolveMillis) == 1 ? ::read(in.get(), text, sizeof(text)) : 0;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  if (n <= 0) {
    return Unavailable("{} of site.toml: the name {} could not be resolved within {} s", key, host,
                       kResolveMillis / 1000);
  }
  return std::string(text, static_cast<size_t>(n));
}

struct HostPort {
  std::string host, port;
};

Result<HostPort> Split(std::string_view key, std::string_view scheme, const std::string& text) {
  const size_t colon = text.rfind(':');
  if (!text.starts_with(scheme) || colon <= scheme.size() || colon + 1 == text.size()) {
    return InvalidArgument("{} is \"{}\"; it must be {}HOST:PORT", key, text, scheme);
  }
  return HostPort{text.substr(scheme.size(), colon - scheme.size()), text.substr(colon + 1)};
}

// A name as the proxy is to get it.
Status SetTargetName(const std::string& coordinator, SocksRoute* route) {
  TG_ASSIGN_OR_RETURN(const HostPort target, Split("coordinator", "tcp://", coordinator));
  const char* end = target.port.data() + target.port.size();
  const auto parsed = std::from_chars(target.port.data(), end, route->target_port);
  const bool plain = std::all_of(target.host.begin(), target.host.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
  });
  if (parsed.ec != std::errc() || parsed.ptr != end || route->target_port == 0 || !plain ||
      target.host.size() > kMaxHost) {
    return InvalidArgument(
        "coordinator is \"{}\"; for a proxy that resolves it must be tcp://NAME:PORT with a NAME "
        "of at most {} letters, digits, dots, '-' and '_'",
        coordinator, kMaxHost);
  }
  route->target_name = target.host;
  return OkStatus();
}

Status CheckPasswordFile(const Fd& fd, const std::string& path) {
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return ErrnoStatus("stat", path, errno);
  if (!S_ISREG(st.st_mode) || st.st_uid != ::geteuid() || (st.st_mode & 07777 & ~0600u) != 0) {
    return PermissionDenied(
        "proxy_password_file {} must be a regular file of user {} with mode 0600 or 0400; run "
        "`chown {} {} && chmod 600 {}`",
        path, ::geteuid(), ::geteuid(), path, path);
  }
  return OkStatus();
}

}  // namespace

Result<sockaddr_storage> ResolveAddress(std::string_view key, std::string_view scheme,
                                        const std::string& text) {
  TG_ASSIGN_OR_RETURN(const HostPort parts, Split(key, scheme, text));
  if (const auto literal = ParsePinnedAddress(text.substr(scheme.size()))) return *literal;
  TG_ASSIGN_OR_RETURN(const std::string address, ResolveName(key, parts.host, parts.port));
  const bool v6 = address.find(':') != std::string::npos;
  return ParsePinnedAddress(v6 ? "[" + address + "]:" + parts.port : address + ":" + parts.port);
}

Result<std::string> ReadProxyPassword(const std::filesystem::path& file) {
  const std::string& path = file.native();
  const Fd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid() && errno == ELOOP) {
    return PermissionDenied("proxy_password_file {} is a symbolic link; name the file itself",
                            path);
  }
  if (!fd.valid()) return Unexpected(ErrnoStatus("open proxy_password_file", path, errno));
  TG_RETURN_IF_ERROR(CheckPasswordFile(fd, path));
  std::string text(kMaxPassword + 3, '\0');
  const ssize_t n = ::read(fd.get(), text.data(), text.size());
  if (n < 0) return Unexpected(ErrnoStatus("read", path, errno));
  text.resize(static_cast<size_t>(n));
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  if (text.empty() || text.size() > kMaxPassword || text.find('\n') != std::string::npos) {
    return InvalidArgument("proxy_password_file {} must be one line of 1 to {} bytes", path,
                           kMaxPassword);
  }
  return text;
}

Result<WayOut> FindWayOut(const SiteConfig& config) {
  WayOut way;
  const bool literal =
      config.coordinator.starts_with("tcp://") &&
      ParsePinnedAddress(config.coordinator.substr(std::string_view("tcp://").size())).has_value();
  auto route = std::make_shared<SocksRoute>();
  if (!config.proxy.empty() && config.proxy_resolves && !literal) {
    TG_RETURN_IF_ERROR(SetTargetName(config.coordinator, route.get()));
    way.coordinator = fmt::format("{}:{}", route->target_name, route->target_port);
  } else {
    TG_ASSIGN_OR_RETURN(way.address, ResolveAddress("coordinator", "tcp://", config.coordinator));
    route->target = way.address;
    way.coordinator = FormatAddress(way.address);
  }
  if (config.proxy.empty()) return way;
  TG_ASSIGN_OR_RETURN(route->proxy, ResolveAddress("proxy", "socks5://", config.proxy));
  way.address = route->proxy;
  route->user = config.proxy_user;
  if (!route->user.empty()) {
    TG_ASSIGN_OR_RETURN(route->password, ReadProxyPassword(config.proxy_password_file));
  }
  way.proxy = std::move(route);
  return way;
}

}  // namespace tidegate::onshore
