// tidegate-gate: decides what may leave.
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "base/log.h"
#include "base/memory.h"
#include "onshore/gate_process/gate_core.h"
#include "onshore/ipc/peer.h"
#include "onshore/start/start.h"
#include "onshore/start/stop.h"

namespace tidegate::onshore {
namespace {

struct Options {
  uint32_t generation = 0, uid = 0;
  uint64_t spool_bytes = protocols::kMaxSpoolBytes;
  std::filesystem::path site, records;
  std::string walls;
};

class GateLoop {
 public:
  GateLoop(std::unique_ptr<GateCore> core, uint32_t generation)
      : core_(std::move(core)),
        generation_(generation),
        trainer_(Fd(kFirstPeerFd), generation),
        link_(Fd(kSecondPeerFd), generation) {}

  // Until it is told to stop: after one message, with all that it made durable.
  Status Run() {
    TG_RETURN_IF_ERROR(trainer_.SendHello(false));
    TG_RETURN_IF_ERROR(link_.SendHello(false));
    int64_t next_tick = SystemClock().MonotonicMillis() + kTickMillis;
    for (;;) {
      TG_ASSIGN_OR_RETURN(const bool stop, StopAsked());
      if (stop) return OkStatus();
      if (TakeTrainerGone()) {
        trainer_.Forget();
        TG_RETURN_IF_ERROR(ApplyAll(core_->OnTrainerGone()));
      }
      while (const auto said = TakeDecision()) TG_RETURN_IF_ERROR(Decide(*said));
      const int64_t left = next_tick - SystemClock().MonotonicMillis();
      if (left <= 0) {
        next_tick = SystemClock().MonotonicMillis() + kTickMillis;
        TG_RETURN_IF_ERROR(ApplyAll(core_->OnTick()));
        continue;
      }
      TG_ASSIGN_OR_RETURN(const bool from_trainer, TakeOne(To::kTrainer));
      TG_ASSIGN_OR_RETURN(const bool from_link, TakeOne(To::kLink));
      if (from_trainer || from_link) continue;
      pollfd fds[3] = {{trainer_.fd(), Events(trainer_), 0},
                       {link_.fd(), Events(link_), 0},
                       {kControlFd, POLLIN, 0}};
      TG_RETURN_IF_ERROR(WaitFor(fds, static_cast<int>(left)));
    }
  }

 private:
  static constexpr int64_t kTickMillis = 5000;
  // A peer that asks and does not read what it gets is not listened to.
  static constexpr size_t kMaxUnread = 32u << 20;
  static bool Listens(const Peer& peer) { return peer.queued_bytes() <= kMaxUnread; }
  static short Events(const Peer& peer) {
    return static_cast<short>((Listens(peer) ? POLLIN : 0) | (peer.WantsWrite() ? POLLOUT : 0));
  }
  Peer& PeerOf(To to) { return to == To::kTrainer ? trainer_ : link_; }

  Status Decide(const PeoplesWord& said) {
    const bool release = said.decision == static_cast<uint32_t>(gate::Decision::kRelease);
    return ApplyAll(core_->OnDecision(said.uid,
                                      release ? gate::Decision::kRelease : gate::Decision::kRefuse,
                                      said.plaintext, said.reason));
  }

  // False when there is no message.
  Result<bool> TakeOne(To from) {
    Peer& peer = PeerOf(from);
    TG_RETURN_IF_ERROR(peer.Flush());
    if (!Listens(peer)) return false;
    TG_ASSIGN_OR_RETURN(const auto received, peer.Receive());
    if (!received) return false;
    TG_RETURN_IF_ERROR(ApplyAll(Handle(from, *received)));
    return true;
  }

  Result<GateEffects> Handle(To from, const Peer::Received& received) {
    if (received.bulk) {
      const Bulk& bulk = *received.bulk;
      return core_->OnBulk(from, bulk.kind, bulk.content, bulk.index, bulk.bytes);
    }
    if (received.type == IpcType::kHello) return core_->OnHello(from);
    if (received.type == IpcType::kIsolation) {
      const auto isolation = protocols::Decode<Isolation>(received.body);
      if (isolation) return core_->OnIsolation(from, isolation->table.text);
    }
    if (received.type == IpcType::kNoUpdate && from == To::kTrainer) {
      const auto none = protocols::Decode<NoUpdate>(received.body);
      if (none) return core_->OnNoUpdate(*none);
    }
    if (received.type == IpcType::kDataset && from == To::kTrainer) {
      const auto dataset = protocols::Decode<Dataset>(received.body);
      if (dataset) return core_->OnDataset(*dataset);
    }
    if (received.type == IpcType::kOutside && from == To::kTrainer) {
      const auto outside = protocols::Decode<Outside>(received.body);
      if (outside) return core_->OnOutside(outside->uid);
    }
    if (received.type == IpcType::kNeedBlock && from == To::kLink) {
      const auto need = protocols::Decode<NeedBlock>(received.body);
      if (need) return core_->OnNeedBlock(*need);
    }
    if (received.type == IpcType::kAskWaiting && from == To::kLink) return core_->OnAskWaiting();
    if (received.type == IpcType::kLinkState && from == To::kLink) {
      const auto state = protocols::Decode<LinkState>(received.body);
      if (state) return core_->OnLinkState(state->connected);
    }
    if (received.type == IpcType::kOfferRefused && from == To::kLink) {
      const auto refused = protocols::Decode<OfferRefused>(received.body);
      if (refused) return core_->OnOfferRefused(*refused);
    }
    return GateEffects{};
  }

  Status ApplyAll(Result<GateEffects> effects) {
    if (!effects) return effects.error();
    for (GateEffect& effect : *effects) TG_RETURN_IF_ERROR(Apply(effect));
    return OkStatus();
  }

  Status Apply(GateEffect& effect) {
    if (auto* m = std::get_if<SendMessage>(&effect)) {
      return PeerOf(m->to).SendEncoded(m->type, std::move(m->body));
    }
    if (auto* b = std::get_if<SendBulkTo>(&effect)) {
      return PeerOf(b->to).SendBulk(b->kind, b->content, b->index, std::move(b->bytes));
    }
    const auto& t = std::get<TellSupervisor>(effect);
    if (t.type == ControlType::kEvent) {
      // A log line that is lost must not stop the gate.
      SendEvent(static_cast<EventCode>(t.code), generation_, t.arguments);
      return OkStatus();
    }
    const Status said = SendControl(t.type, generation_, t.code, t.arguments);
    const bool must = t.type == ControlType::kNeedTrainer || t.type == ControlType::kJobEnded;
    return must ? said : OkStatus();  // the others are for who looks at the site
  }

  std::unique_ptr<GateCore> core_;
  uint32_t generation_;
  Peer trainer_, link_;
};

Status RunGate(const Options& options) {
  CatchStopSignals();
  TG_ASSIGN_OR_RETURN(GateIdentity identity, LoadIdentity(options.site));
  const std::filesystem::path dir = options.site / "gate";
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return Unavailable("cannot make {}: {}", dir.native(), error.message());
  StartSpec spec;
  spec.walls.role = Role::kGate;
  spec.walls.kept_fds = {{kFirstPeerFd, FdKind::kChannel}, {kSecondPeerFd, FdKind::kChannel}};
  spec.walls.read_write = {dir};
  spec.walls.chroot = dir;
  TG_ASSIGN_OR_RETURN(spec.demanded, ParseWallSet(options.walls));
  for (const std::string& name : identity.policy.walls) {
    TG_ASSIGN_OR_RETURN(const WallSet set, ParseWallSet(name));
    for (int i = 0; i < kWallCount; ++i) {
      if (set.Has(static_cast<Wall>(i))) spec.demanded.Add(static_cast<Wall>(i));
    }
  }
  spec.tries.forbidden = {{"site_config", (options.site / "site.toml").native()},
                          {"link_key", (options.site / "keys" / "link.key").native()}};
  if (!options.records.empty()) spec.tries.forbidden.push_back({"records", options.records});
  spec.generation = options.generation;
  spec.uid = options.uid;
  spec.owned = {dir};
  TG_ASSIGN_OR_RETURN(const Started started, StartWalled(spec));
  const bool chrooted = started.report.row(Wall::kChroot).state == WallState::kUp;
  TG_ASSIGN_OR_RETURN(
      std::unique_ptr<GateCore> core,
      GateCore::Create(chrooted ? std::filesystem::path("/") : dir, std::move(identity),
                       started.statement, SystemClock(), options.spool_bytes));
  GateLoop loop(std::move(core), options.generation);
  return loop.Run();
}

}  // namespace
}  // namespace tidegate::onshore

int main(int argc, char** argv) {
  using namespace tidegate;
  SetLogProcess("gate");
  KeepFreedMemory();
  CLI::App app("Decides what may leave a site; started by tidegate-onshore, not by hand.",
               "tidegate-gate");
  onshore::Options options;
  app.add_option("--generation", options.generation, "number of this start")->required();
  app.add_option("--dir", options.site, "the site's folder")->required();
  app.add_option("--walls", options.walls, "walls demanded")->required();
  app.add_option("--records", options.records, "the site's records: tried at the start, refused");
  app.add_option("--uid", options.uid, "a start as root: the uid to become");
  app.add_option("--spool_bytes", options.spool_bytes, "quota of sealed updates that wait");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 64;
  }
  const Status status = onshore::RunGate(options);
  // Told to stop before it had begun: an end in good order too.
  const bool good = status.ok() || status.code() == Code::kCancelled;
  if (!good) LogError("gate_ended {}", status.ToString());
  // Not exit(): what runs at exit is not meant for behind the walls.
  ::_exit(good ? 0 : static_cast<int>(status.code()));
}
