#include <fcntl.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "onshore/sandbox/address_pin.h"

namespace tidegate::onshore {

void AddressPin::BeginDial(int listener, uint64_t id, int descriptor) {
  const int64_t now = clock_.MonotonicMillis();
  if (dials_.size() == kMaxWaiting) {
    ++counts_.limited;
    return Answer(listener, id, EAGAIN);
  }
  if (now < quiet_until_) {
    ++counts_.failed;
    return Answer(listener, id, ETIMEDOUT);
  }
  dials_.push_back({id, descriptor, now + kDialMillis, SocksDial(*route_)});
  AdvanceDials(listener);
}

void AddressPin::AppendDials(std::vector<pollfd>* fds) const {
  for (const Dial& dial : dials_) {
    fds->push_back({dial.socks.descriptor(), dial.socks.events(), 0});
  }
}

std::optional<int64_t> AddressPin::NextDeadline() const {
  if (dials_.empty()) return std::nullopt;
  return std::min_element(dials_.begin(), dials_.end(),
                          [](const Dial& a, const Dial& b) { return a.deadline < b.deadline; })
      ->deadline;
}

void AddressPin::AdvanceDials(int listener) {
  const int64_t now = clock_.MonotonicMillis();
  for (auto it = dials_.begin(); it != dials_.end();) {
    SocksDial::State state = it->socks.Advance();
    if (state == SocksDial::State::kPending && now >= it->deadline) {
      it->socks.TimeOut();
      quiet_until_ = now + kQuietMillis;
      state = SocksDial::State::kFailed;
    }
    if (state == SocksDial::State::kPending) {
      ++it;
      continue;
    }
    EndDial(listener, it->id, it->descriptor, it->socks);
    it = dials_.erase(it);
  }
}

void AddressPin::EndDial(int listener, uint64_t id, int descriptor, SocksDial& dial) {
  if (dial.error() != 0) {
    ++counts_.failed;
    Complain(dial.fault(), dial.error());
    return Answer(listener, id, dial.error());
  }
  ++counts_.granted;
  told_ = {};
  // Our end is closed when this returns, so that link's close() really closes the connection.
  const Fd socket = dial.TakeSocket();
  seccomp_notif_addfd add{};
  add.id = id;
  add.flags = SECCOMP_ADDFD_FLAG_SETFD;
  add.srcfd = static_cast<uint32_t>(socket.get());
  add.newfd = static_cast<uint32_t>(descriptor);
  add.newfd_flags = O_CLOEXEC;
  // If the caller died meanwhile, nobody hears the answer.
  const bool placed = ::ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add) >= 0;
  Answer(listener, id, placed ? 0 : errno);
}

// Once a cause until the proxy grants again; and where it grants and fails in turns, once a minute.
void AddressPin::Complain(SocksFault fault, int error) {
  const int64_t now = clock_.MonotonicMillis();
  auto& told = told_[static_cast<size_t>(fault)];
  auto& last = logged_[static_cast<size_t>(fault)];
  if (told || (last && now - *last < kLogMillis)) return;
  told = true;
  last = now;
  LogWarning("proxy_failed cause={} proxy={} error=\"{}\": {}", SocksFaultName(fault),
             FormatAddress(route_->proxy), std::strerror(error), SocksFaultRemedy(fault));
}

}  // namespace tidegate::onshore
