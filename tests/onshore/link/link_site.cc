#include "tests/onshore/link/link_site.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "crypto/armor.h"

namespace tidegate::onshore {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kWaitMillis = 40'000;

void CopyKey(ByteSpan key, protocols::PublicKey* out) {
  std::copy_n(key.begin(), out->size(), out->begin());
}

}  // namespace

LinkSite::LinkSite()
    : dir_(fs::temp_directory_path() / fmt::format("tidegate_link_{}", ::getpid())) {
  fs::remove_all(dir_);
  fs::create_directories(dir_ / "keys");
  EXPECT_TRUE(crypto::WriteKeyFile(dir_ / "keys" / "gate.key", site_key_).ok());
  EXPECT_TRUE(crypto::WriteKeyFile(dir_ / "keys" / "link.key", link_key_).ok());
  Write("policy.toml", "version = 1\n");
  protocols::SiteApproval approval;
  approval.federation = SampleFederation();
  approval.site = "north";
  CopyKey(site_key_.verify_key().bytes(), &approval.site_sign_key);
  CopyKey(link_key_.public_key(), &approval.site_curve_key);
  CopyKey(server_key_.public_key(), &approval.coordinator_curve_key);
  const auto signer = *crypto::SigningKey::Generate();
  CopyKey(signer.verify_key().bytes(), &approval.coordinator_sign_key);
  Write("approval", *crypto::EncodeArmor("SITE APPROVAL",
                                         protocols::Encode(*crypto::SignDocument(
                                             signer, crypto::domains::kSiteApproval, approval))));
  pair_ = *MakeChannel();
  gate_.emplace(Fd(::fcntl(pair_.supervisor.get(), F_DUPFD_CLOEXEC, 0)), 5);
}

LinkSite::~LinkSite() {
  KillLink();
  fs::remove_all(dir_);
}

void LinkSite::Write(const std::string& name, const std::string& text) const {
  EXPECT_TRUE(WriteFileDurably(dir_ / name, AsBytes(text), 0600).ok());
}

void LinkSite::StartServer() {
  transport::ServerOptions options;
  options.address = address_;
  options.federation = SampleFederation();
  transport::CurveKey key;
  std::copy(link_key_.public_key().begin(), link_key_.public_key().end(), key.begin());
  options.sites = {{"north", key}};
  options.lease_millis = 1000;
  auto server = transport::Server::Bind(options, server_key_);
  ASSERT_TRUE(server.has_value()) << server.error().ToString();
  server_ = std::move(*server);
  address_ = server_->address();
}

bool LinkSite::StartLink() {
  ++generation_;
  ready_ = false;
  Channel control = *MakeChannel(), pin = *MakeChannel();
  int pipe_fds[2];
  EXPECT_EQ(::pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
  log_ = Fd(pipe_fds[0]);
  const Fd log_write(pipe_fds[1]);
  SpawnSpec spec;
  spec.program = fs::path(TIDEGATE_BIN_DIR) / "tidegate-link";
  spec.arguments = {
      "--generation", std::to_string(generation_), "--dir",   dir_.native(),  "--address", address_,
      "--stripes",    std::to_string(stripes),     "--walls", "netns,seccomp"};
  if (route) {
    spec.arguments.insert(spec.arguments.end(), {"--proxy", FormatAddress(route->proxy)});
  }
  spec.environment = {"LC_ALL=C", "ASAN_OPTIONS=detect_leaks=0", "TSAN_OPTIONS=report_bugs=0"};
  spec.fds = {control.child.get(), pair_.child.get(), pin.child.get()};
  spec.log_fd = log_write.get();
  child_ = *Spawn(spec);
  control_ = std::move(control.supervisor);
  pin_channel_ = std::move(pin.supervisor);
  pin_listener_.reset();
  if (route) {
    pin_.emplace(route);
  } else {
    pin_.emplace(*ParsePinnedAddress(address_.substr(address_.find("//") + 2)));
  }
  return Until([this] { return ready_ || !control_.valid(); }) && ready_;
}

void LinkSite::KillLink() {
  if (child_.pid <= 0) return;
  EXPECT_TRUE(Kill(child_).ok());
  EXPECT_TRUE(Reap(child_, true).has_value());
  child_ = {};
}

std::optional<ChildEnd> LinkSite::StopLink() {
  ControlMessage stop;
  stop.type = ControlType::kStop;
  stop.generation = generation_;
  EXPECT_EQ(::send(control_.get(), &stop, sizeof(stop), MSG_NOSIGNAL),
            static_cast<ssize_t>(sizeof(stop)));
  if (!Until([this] { return !control_.valid(); })) return std::nullopt;
  const auto end = Reap(child_, true);
  child_ = {};
  return end.has_value() ? *end : std::nullopt;
}

int LinkSite::events(EventCode code) const {
  return static_cast<int>(std::count(events_.begin(), events_.end(), static_cast<uint32_t>(code)));
}

bool LinkSite::Until(const std::function<bool()>& done) {
  const int64_t end = SystemClock().MonotonicMillis() + kWaitMillis;
  while (!done() && SystemClock().MonotonicMillis() < end) Step();
  return done();
}

void LinkSite::Step() {
  std::vector<pollfd> fds = {{gate_->fd(), POLLIN, 0}, {control_.get(), POLLIN, 0}};
  if (gate_->WantsWrite()) fds[0].events |= POLLOUT;
  const Fd& pin = pin_listener_.valid() ? pin_listener_ : pin_channel_;
  if (pin.valid()) fds.push_back({pin.get(), POLLIN, 0});
  if (pin_) pin_->AppendDials(&fds);
  if (!control_.valid()) fds.erase(fds.begin() + 1);
  if (server_) {
    std::vector<transport::Server::Event> events;
    EXPECT_TRUE(server_->Poll(20, fds, &events).ok());
    for (const auto& event : events) {
      if (on_server && server_) on_server(event);
    }
  } else {
    ::poll(fds.data(), fds.size(), 20);
  }
  StepPin();
  if (pin_) pin_->AdvanceDials(pin_listener_.get());
  StepControl();
  StepGate();
  ReadLog();
}

// As the supervisor does it.
void LinkSite::StepPin() {
  const Fd& fd = pin_listener_.valid() ? pin_listener_ : pin_channel_;
  pollfd p{fd.get(), POLLIN, 0};
  if (!fd.valid() || ::poll(&p, 1, 0) <= 0) return;
  if (!pin_listener_.valid()) {
    auto listener = ReceiveListener(pin_channel_.get(), 0);
    pin_channel_.reset();
    if (listener) pin_listener_ = std::move(*listener);
  } else if (!pin_->HandleNotification(pin_listener_.get()).ok()) {
    pin_listener_.reset();
    pin_.reset();
  }
}

void LinkSite::StepControl() {
  while (control_.valid()) {
    ControlMessage message;
    const ssize_t n = ::recv(control_.get(), &message, sizeof(message), MSG_DONTWAIT);
    if (n < 0) return;
    if (n == 0) {
      control_.reset();
      return;
    }
    if (message.type == ControlType::kEvent) events_.push_back(message.code);
    if (message.type != ControlType::kReady) continue;
    ready_ = true;
    ControlMessage go;
    go.type = ControlType::kGo;
    go.generation = generation_;
    EXPECT_EQ(::send(control_.get(), &go, sizeof(go), MSG_NOSIGNAL),
              static_cast<ssize_t>(sizeof(go)));
  }
}

void LinkSite::StepGate() {
  for (;;) {
    EXPECT_TRUE(gate_->Flush().ok());
    const auto received = gate_->Receive();
    ASSERT_TRUE(received.has_value()) << received.error().ToString();
    if (!*received) return;
    if (on_gate) on_gate(**received);
  }
}

void LinkSite::ReadLog() {
  char buffer[4096];
  for (;;) {
    const ssize_t n = ::read(log_.get(), buffer, sizeof(buffer));
    if (n <= 0) return;
    log_text_.append(buffer, static_cast<size_t>(n));
  }
}

}  // namespace tidegate::onshore
