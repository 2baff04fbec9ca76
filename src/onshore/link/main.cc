// tidegate-link: the only process of a site with a way out, to one address, with ciphertext.
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "crypto/document.h"
#include "onshore/ipc/peer.h"
#include "onshore/link/carrier.h"
#include "onshore/link/link_core.h"
#include "onshore/start/start.h"
#include "transport/client.h"

namespace tidegate::onshore {
namespace {

constexpr int kPinChannelFd = 5;
// CHUNKs that wait for libzmq; more and blocks are left with the gate.
constexpr size_t kMaxQueuedBulk = 4u << 20;
// What waits for the gate; more and the coordinator is not listened to.
constexpr size_t kMaxQueuedToGate = 16u << 20;
constexpr int kGateWaitMillis = 100;
// As many LEASEs in a row without an answer are a coordinator that is lost.
constexpr int64_t kSilentLeases = 3;

struct Options {
  uint32_t generation = 0, uid = 0, stripes = 1;
  std::filesystem::path site, records, folder;
  std::string address, proxy, walls;
};

// What of the approval link goes by. Whose key signed it is the gate's business: a false one only
// makes link speak to nobody.
Result<protocols::SiteApproval> LoadApproval(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, protocols::kMaxArmored));
  TG_ASSIGN_OR_RETURN(const protocols::Signed document,
                      crypto::DecodeArmored("SITE APPROVAL", text, path.native()));
  return crypto::OpenSelfSigned(&protocols::SiteApproval::coordinator_sign_key,
                                crypto::domains::kSiteApproval, document, path.native());
}

class LinkLoop {
 public:
  LinkLoop(LinkCore core, std::unique_ptr<transport::Client> client, std::string statement,
           uint32_t generation)
      : core_(std::move(core)),
        client_(std::move(client)),
        statement_(std::move(statement)),
        generation_(generation),
        gate_(Fd(kFirstPeerFd), generation) {}

  Status Run() {
    TG_RETURN_IF_ERROR(gate_.SendHello(false));
    int64_t next_lease = Now();
    for (;;) {
      TG_RETURN_IF_ERROR(DrainGate());
      TG_RETURN_IF_ERROR(AskGate());
      pollfd fds[2] = {
          {gate_.fd(), static_cast<short>(POLLIN | (gate_.WantsWrite() ? POLLOUT : 0)), 0},
          {kControlFd, POLLIN, 0}};
      const int64_t left = std::clamp<int64_t>(next_lease - Now(), 0, 60'000);
      std::vector<transport::Client::Event> events;
      if (gate_.queued_bytes() > kMaxQueuedToGate) {
        if (::poll(fds, 2, kGateWaitMillis) < 0 && errno != EINTR) {
          return ErrnoStatus("poll", "the pairs", errno);
        }
      } else {
        TG_RETURN_IF_ERROR(client_->Poll(static_cast<int>(left), fds, &events));
      }
      for (const auto& event : events) TG_RETURN_IF_ERROR(OnWire(event));
      if (fds[1].revents != 0) {
        TG_ASSIGN_OR_RETURN(const auto message, ReceiveControl());
        if (message && message->type == ControlType::kStop) return OkStatus();
      }
      if (Now() >= next_lease) {
        next_lease = Now() + client_->lease_millis();
        TellLease();
        TG_RETURN_IF_ERROR(ApplyAll(core_.OnLease()));
      }
    }
  }

 private:
  static int64_t Now() { return SystemClock().MonotonicMillis(); }

  // A coordinator may hold its connections and yet answer nothing.
  void TellLease() {
    const int64_t silent = Now() - lease_heard_;
    if (!client_->connected() || unanswered_ || silent < kSilentLeases * client_->lease_millis()) {
      return;
    }
    unanswered_ = true;
    SendEvent(EventCode::kLeaseUnanswered, generation_, {silent / 1000, 0, 0, 0});
  }
  void OnLeaseAnswer() {
    lease_heard_ = Now();
    if (std::exchange(unanswered_, false)) SendEvent(EventCode::kLeaseAnswered, generation_, {});
  }

  Status OnWire(const transport::Client::Event& event) {
    using Kind = transport::Client::Event::Kind;
    switch (event.kind) {
      case Kind::kConnected:
        lease_heard_ = Now();
        unanswered_ = false;
        SendEvent(EventCode::kConnected, generation_, {});
        return ApplyAll(core_.OnConnected(client_->session()));
      case Kind::kDisconnected:
        SendEvent(EventCode::kDisconnected, generation_, {});
        return ApplyAll(core_.OnDisconnected());
      case Kind::kMessage:
        if (event.type == protocols::MessageType::kLease) OnLeaseAnswer();
        return ApplyAll(core_.OnCoordinator(event.type, event.body));
    }
    return OkStatus();
  }

  Status AskGate() {
    if (client_->Queued(protocols::Channel::kBulk) >= kMaxQueuedBulk) return OkStatus();
    LinkEffects effects;
    core_.Pump(&effects);
    return ApplyAll(std::move(effects));
  }

  Status DrainGate() {
    for (;;) {
      TG_RETURN_IF_ERROR(gate_.Flush());
      TG_ASSIGN_OR_RETURN(const auto received, gate_.Receive());
      if (!received) return OkStatus();
      if (received->bulk) {
        const Bulk& bulk = *received->bulk;
        TG_RETURN_IF_ERROR(
            ApplyAll(core_.OnGateBulk(bulk.kind, bulk.content, bulk.index, bulk.bytes)));
        continue;
      }
      TG_RETURN_IF_ERROR(ApplyAll(core_.OnGateMessage(received->type, received->body)));
      if (received->type == IpcType::kHello) {
        TG_RETURN_IF_ERROR(gate_.Send(IpcType::kIsolation, Isolation{statement_}));
      }
    }
  }

  Status ApplyAll(LinkEffects effects) {
    for (LinkEffect& effect : effects) {
      if (const auto* wire = std::get_if<permit::Outbound>(&effect)) {
        // What cannot be sent now is said again after the reconnect.
        [[maybe_unused]] const Status sent =
            client_->Send(wire->channel(), wire->type(), wire->body());
      } else if (auto* message = std::get_if<ToGate>(&effect)) {
        TG_RETURN_IF_ERROR(gate_.SendEncoded(message->type, std::move(message->body)));
      } else {
        auto& bulk = std::get<BulkToGate>(effect);
        TG_RETURN_IF_ERROR(
            gate_.SendBulk(bulk.kind, bulk.content, bulk.index, std::move(bulk.bytes)));
      }
    }
    return OkStatus();
  }

  LinkCore core_;
  std::unique_ptr<transport::Client> client_;
  std::string statement_;
  uint32_t generation_;
  Peer gate_;
  int64_t lease_heard_ = 0;  // an answer to one of ours, or the connection
  bool unanswered_ = false;  // and the supervisor knows
};

Status RunLink(const Options& options) {
  TG_ASSIGN_OR_RETURN(const protocols::SiteApproval approval,
                      LoadApproval(options.site / "approval"));
  if (!options.folder.empty()) {
    return RunCarrier({options.site, options.records, options.folder, options.walls,
                       options.generation, options.uid},
                      approval);
  }
  TG_ASSIGN_OR_RETURN(const crypto::CurveKeyPair key,
                      crypto::ReadCurveKey(options.site / "keys" / "link.key"));
  TG_ASSIGN_OR_RETURN(const crypto::VerifyKey site_key,
                      crypto::VerifyKey::FromBytes(approval.site_sign_key));
  const std::filesystem::path empty = options.site / "empty";
  std::error_code error;
  std::filesystem::create_directories(empty, error);
  if (error) return Unavailable("cannot make {}: {}", empty.native(), error.message());
  StartSpec spec;
  spec.walls.role = Role::kLink;
  spec.walls.kept_fds = {{kFirstPeerFd, FdKind::kChannel}, {kPinChannelFd, FdKind::kChannel}};
  spec.walls.pin_channel = kPinChannelFd;
  spec.walls.chroot = empty;
  TG_ASSIGN_OR_RETURN(spec.demanded, ParseWallSet(options.walls));
  spec.tries.forbidden = {{"gate_key", (options.site / "keys" / "gate.key").native()},
                          {"policy", (options.site / "policy.toml").native()}};
  if (!options.records.empty()) spec.tries.forbidden.push_back({"records", options.records});
  spec.pinned_address = options.address.substr(options.address.find("//") + 2);
  spec.proxy = options.proxy;
  spec.generation = options.generation;
  spec.uid = options.uid;
  TG_ASSIGN_OR_RETURN(Started started, StartWalled(spec));
  transport::ClientOptions client_options;
  // What is dialled decides nothing but the family of the sockets, which is the proxy's then.
  client_options.address = options.proxy.empty() ? options.address : "tcp://" + options.proxy;
  client_options.server_key = approval.coordinator_curve_key;
  client_options.site = approval.site.text;
  client_options.federation = approval.federation;
  client_options.stripes = options.stripes;
  TG_ASSIGN_OR_RETURN(std::unique_ptr<transport::Client> client,
                      transport::Client::Connect(client_options, key));
  LinkLoop loop(LinkCore(site_key, approval.federation, approval.site.text), std::move(client),
                std::move(started.statement), options.generation);
  return loop.Run();
}

}  // namespace
}  // namespace tidegate::onshore

int main(int argc, char** argv) {
  using namespace tidegate;
  SetLogProcess("link");
  KeepFreedMemory();
  CLI::App app("Carries ciphertext to the coordinator; started by tidegate-onshore, not by hand.",
               "tidegate-link");
  onshore::Options options;
  app.add_option("--generation", options.generation, "number of this start")->required();
  app.add_option("--dir", options.site, "the site's folder")->required();
  auto* way = app.add_option_group("way", "to the coordinator");
  way->add_option("--address", options.address, "tcp://IP:PORT of the coordinator");
  way->add_option("--folder", options.folder, "a folder that is carried to it; no network then");
  way->require_option(1);
  app.add_option("--proxy", options.proxy, "IP:PORT of the SOCKS5 proxy on the way there");
  app.add_option("--stripes", options.stripes, "connections for bulk");
  app.add_option("--walls", options.walls, "walls demanded")->required();
  app.add_option("--records", options.records, "the site's records: tried at the start, refused");
  app.add_option("--uid", options.uid, "a start as root: the uid to become");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 64;
  }
  const Status status = onshore::RunLink(options);
  if (!status.ok()) LogError("link_ended {}", status.ToString());
  ::_exit(static_cast<int>(status.code()));
}
