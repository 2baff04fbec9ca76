#include "onshore/link/carrier.h"

#include <poll.h>

#include <cerrno>
#include <deque>

#include "base/log.h"
#include "onshore/ipc/peer.h"
#include "onshore/link/folder_peer.h"
#include "onshore/link/link_core.h"
#include "onshore/start/start.h"

namespace tidegate::onshore {
namespace {

// What waits for the gate; more and the folder is not read on.
constexpr size_t kMaxQueuedToGate = 16u << 20;
// Numbers this conversation in what LEASE says; there is one with a folder.
constexpr uint64_t kSession = 1;

class CarrierLoop {
 public:
  CarrierLoop(LinkCore core, FolderPeer folder, std::string statement, uint32_t generation)
      : core_(std::move(core)),
        folder_(std::move(folder)),
        statement_(std::move(statement)),
        gate_(Fd(kFirstPeerFd), generation) {}

  Status Run() {
    TG_RETURN_IF_ERROR(gate_.SendHello(false));
    TG_RETURN_IF_ERROR(ApplyAll(core_.OnConnected(kSession)));
    while (!done_) {
      TG_RETURN_IF_ERROR(DrainGate());
      TG_RETURN_IF_ERROR(FeedGate());
      if (done_) break;
      pollfd fds[2] = {
          {gate_.fd(), static_cast<short>(POLLIN | (gate_.WantsWrite() ? POLLOUT : 0)), 0},
          {kControlFd, POLLIN, 0}};
      if (::poll(fds, 2, -1) < 0 && errno != EINTR) return ErrnoStatus("poll", "the pairs", errno);
      if (fds[1].revents != 0) {
        TG_ASSIGN_OR_RETURN(const auto message, ReceiveControl());
        if (message && message->type == ControlType::kStop) return OkStatus();
      }
    }
    TG_RETURN_IF_ERROR(folder_.Finish());
    LogInfo("carried updates_waiting={} files_refused={}", folder_.offers(), folder_.refused());
    if (folder_.refused() == 0) return OkStatus();
    return DataLoss(
        "{} files for this site were refused, the log has their names; make the "
        "exchange once more",
        folder_.refused());
  }

 private:
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
      if (received->type == IpcType::kWaiting) {
        TG_RETURN_IF_ERROR(OnWaiting(received->body));
        continue;
      }
      if (received->type == IpcType::kHello) {
        folder_.ForgetOffers();
        waiting_.reset();
        read_.reset();
        again_ = true;
      }
      // A folder carries no base: `tidegate base pull --from_folder` takes one.
      const auto want =
          received->type == IpcType::kWantBlocks
              ? protocols::Decode<WantBlocks>(received->body)
              : protocols::Decoded<WantBlocks>(tl::unexpect, protocols::DecodeError{});
      if (want && want->base) continue;
      TG_RETURN_IF_ERROR(ApplyAll(core_.OnGateMessage(received->type, received->body)));
      if (received->type == IpcType::kHello) {
        TG_RETURN_IF_ERROR(gate_.Send(IpcType::kIsolation, Isolation{statement_}));
        TG_RETURN_IF_ERROR(ReadFolder());
      }
    }
  }

  // All that lies there for this site, and then the question whether that leaves anything to do:
  // the gate answers when it has taken it all and waits.
  Status ReadFolder() {
    TG_ASSIGN_OR_RETURN(const auto messages, folder_.Documents());
    for (const FolderPeer::Message& message : messages) {
      TG_RETURN_IF_ERROR(ApplyAll(core_.OnCoordinator(message.type, message.body)));
    }
    return gate_.SendEncoded(IpcType::kAskWaiting, {});
  }

  // Said when the gate has taken all that was read.
  Status OnWaiting(ByteSpan body) {
    const auto waiting = protocols::Decode<Waiting>(body);
    if (waiting && waiting->waits) {
      waiting_ = protocols::Encode(waiting->known);
    } else if (folder_.lacks_adapter()) {
      return NotFound(
          "the site lacks blocks of an adapter that the folder does not have; make the "
          "exchange once more");
    }
    return OkStatus();
  }

  Status FeedGate() {
    while (gate_.queued_bytes() <= kMaxQueuedToGate) {
      LinkEffects effects;
      core_.Pump(&effects);
      TG_RETURN_IF_ERROR(ApplyAll(effects));
      TG_ASSIGN_OR_RETURN(const auto chunk, folder_.NextChunk());
      if (!chunk) break;
      TG_RETURN_IF_ERROR(ApplyAll(core_.OnCoordinator(chunk->type, chunk->body)));
    }
    if (!waiting_ || folder_.busy()) return OkStatus();
    // A gate at work drops what is of the next job, so the folder is read once more when it waits,
    // and until that changes nothing.
    if (!again_ && read_ == waiting_) {
      done_ = true;
      return OkStatus();
    }
    again_ = false;
    read_ = std::exchange(waiting_, std::nullopt);
    return ReadFolder();
  }

  Status ApplyAll(const LinkEffects& effects) {
    std::deque<LinkEffect> todo(effects.begin(), effects.end());
    while (!todo.empty()) {
      const LinkEffect effect = std::move(todo.front());
      todo.pop_front();
      if (const auto* message = std::get_if<ToGate>(&effect)) {
        TG_RETURN_IF_ERROR(gate_.SendEncoded(message->type, message->body));
        continue;
      }
      if (const auto* bulk = std::get_if<BulkToGate>(&effect)) {
        TG_RETURN_IF_ERROR(gate_.SendBulk(bulk->kind, bulk->content, bulk->index, bulk->bytes));
        continue;
      }
      TG_ASSIGN_OR_RETURN(const auto answers, folder_.On(std::get<permit::Outbound>(effect)));
      for (const FolderPeer::Message& answer : answers) {
        const LinkEffects more = core_.OnCoordinator(answer.type, answer.body);
        todo.insert(todo.end(), more.begin(), more.end());
      }
    }
    return OkStatus();
  }

  LinkCore core_;
  FolderPeer folder_;
  std::string statement_;
  Peer gate_;
  // What the gate knew when it began to wait, and when it did so before the folder was read last.
  std::optional<Bytes> waiting_, read_;
  bool again_ = true;
  bool done_ = false;
};

}  // namespace

Status RunCarrier(const CarrierOptions& options, const protocols::SiteApproval& approval) {
  TG_ASSIGN_OR_RETURN(const crypto::VerifyKey site_key,
                      crypto::VerifyKey::FromBytes(approval.site_sign_key));
  TG_ASSIGN_OR_RETURN(const crypto::VerifyKey coordinator_key,
                      crypto::VerifyKey::FromBytes(approval.coordinator_sign_key));
  // Before it becomes a root: nothing in it may look like a system's.
  const std::string name = options.folder.native();
  TG_RETURN_IF_ERROR(airgap::Folder::CheckRoot(options.folder, name));
  StartSpec spec;
  spec.walls.role = Role::kCarrier;
  spec.walls.kept_fds = {{kFirstPeerFd, FdKind::kChannel}};
  spec.walls.read_write = {options.folder};
  spec.walls.chroot = options.folder;
  TG_ASSIGN_OR_RETURN(spec.demanded, ParseWallSet(options.walls));
  const std::filesystem::path keys = options.site / "keys";
  spec.tries.forbidden = {{"gate_key", (keys / "gate.key").native()},
                          {"link_key", (keys / "link.key").native()},
                          {"policy", (options.site / "policy.toml").native()}};
  if (!options.records.empty()) spec.tries.forbidden.push_back({"records", options.records});
  spec.tries.readable = spec.tries.writable = {options.folder};
  spec.generation = options.generation;
  spec.uid = options.uid;
  TG_ASSIGN_OR_RETURN(Started started, StartWalled(spec));
  const bool chrooted = started.report.row(Wall::kChroot).state == WallState::kUp;
  TG_ASSIGN_OR_RETURN(
      airgap::Folder folder,
      airgap::Folder::Open(chrooted ? std::filesystem::path("/") : options.folder, name));
  CarrierLoop loop(
      LinkCore(site_key, approval.federation, approval.site.text),
      FolderPeer(std::move(folder), approval.federation, approval.site.text, coordinator_key),
      std::move(started.statement), options.generation);
  return loop.Run();
}

}  // namespace tidegate::onshore
