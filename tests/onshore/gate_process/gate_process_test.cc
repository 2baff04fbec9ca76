// tidegate-gate as a process behind its real walls: a round from job to receipt, a kill in between.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>

#include "audit/ledger_verify.h"
#include "base/clock.h"
#include "base/file.h"
#include "blocks/content.h"
#include "crypto/armor.h"
#include "crypto/document.h"
#include "crypto/keyfile.h"
#include "gate_samples.h"
#include "onshore/ipc/control.h"
#include "onshore/ipc/peer.h"
#include "onshore/sandbox/spawn.h"
#include "onshore/sandbox/statement.h"
#include "protocols/messages.h"

namespace tidegate::onshore {
namespace {

namespace fs = std::filesystem;

constexpr int kWaitMillis = 20'000;

class GateProcess : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(site_);
    fs::create_directories(site_ / "keys");
    ASSERT_TRUE(crypto::WriteKeyFile(site_ / "keys" / "gate.key", gate::SiteKey()).ok());
    ASSERT_TRUE(
        crypto::WriteKeyFile(site_ / "keys" / "link.key", *crypto::CurveKeyPair::Generate()).ok());
    Write("policy.toml", gate::SamplePolicyText());
    Write("site.toml", "name = \"north\"\n");
    protocols::SiteApproval approval;
    approval.federation = gate::Federation();
    approval.site = "north";
    std::copy_n(gate::SiteKey().verify_key().bytes().begin(), 32, approval.site_sign_key.begin());
    std::copy_n(gate::CoordinatorKey().verify_key().bytes().begin(), 32,
                approval.coordinator_sign_key.begin());
    Write("approval",
          *crypto::EncodeArmor("SITE APPROVAL", Sign(crypto::domains::kSiteApproval, approval)));
    trainer_pair_ = *MakeChannel();
    link_pair_ = *MakeChannel();
    trainer_.emplace(std::move(trainer_pair_.supervisor), 100);
    link_.emplace(std::move(link_pair_.supervisor), 101);
  }
  void TearDown() override {
    if (child_.pid > 0) {
      EXPECT_TRUE(Kill(child_).ok());
      EXPECT_TRUE(Reap(child_, true).has_value());
    }
    fs::remove_all(site_);
  }

  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileDurably(site_ / name, AsBytes(text), 0600).ok());
  }
  template <typename Document>
  static Bytes Sign(crypto::SignDomain domain, const Document& document) {
    return protocols::Encode(*crypto::SignDocument(gate::CoordinatorKey(), domain, document));
  }
  static std::string Statement(Role role) {
    IsolationStatement statement;
    statement.report.role = role;
    for (WallRow& row : statement.report.rows) row.state = WallState::kUp;
    return EncodeStatement(statement);
  }

  // Starts the gate and says GO, or not; false when it ended before READY.
  bool Start(bool say_go = true) {
    ++generation_;
    Channel control = *MakeChannel();
    int pipe_fds[2];
    EXPECT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
    log_ = Fd(pipe_fds[0]);
    const Fd log_write(pipe_fds[1]);
    SpawnSpec spec;
    spec.program = fs::path(TIDEGATE_BIN_DIR) / "tidegate-gate";
    spec.arguments = {"--generation", std::to_string(generation_), "--dir", site_.native(),
                      "--walls",      "netns,seccomp,landlock_fs"};
    spec.environment = {"LC_ALL=C", "ASAN_OPTIONS=detect_leaks=0"};
    spec.fds = {control.child.get(), trainer_pair_.child.get(), link_pair_.child.get()};
    spec.log_fd = log_write.get();
    child_ = *Spawn(spec);
    control.child.reset();
    control_ = std::move(control.supervisor);
    const auto ready = Control(ControlType::kReady);
    if (!ready || !say_go) return ready.has_value();
    ControlMessage go;
    go.type = ControlType::kGo;
    go.generation = generation_;
    return ::send(control_.get(), &go, sizeof(go), MSG_NOSIGNAL) == sizeof(go);
  }
  // The next control message of this type.
  std::optional<ControlMessage> Control(ControlType type) {
    const int64_t end = SystemClock().MonotonicMillis() + kWaitMillis;
    while (SystemClock().MonotonicMillis() < end) {
      pollfd p{control_.get(), POLLIN, 0};
      if (::poll(&p, 1, 1000) <= 0) continue;
      ControlMessage message;
      const ssize_t n = ::recv(control_.get(), &message, sizeof(message), MSG_DONTWAIT);
      if (n != sizeof(message)) return std::nullopt;
      if (message.type == type) return message;
    }
    return std::nullopt;
  }
  std::string Log() {
    char buffer[4096];
    const ssize_t n = ::read(log_.get(), buffer, sizeof(buffer));
    return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : "";
  }
  // The next message of this type, or bulk of this kind.
  static std::optional<Peer::Received> Next(Peer& peer, IpcType type, BulkKind kind = {}) {
    const int64_t end = SystemClock().MonotonicMillis() + kWaitMillis;
    while (SystemClock().MonotonicMillis() < end) {
      if (!peer.Flush().ok()) return std::nullopt;
      auto received = peer.Receive();
      if (!received) return std::nullopt;
      if (!*received) {
        pollfd readable{peer.fd(), POLLIN, 0};
        ::poll(&readable, 1, 100);
        continue;
      }
      Peer::Received& got = **received;
      if (got.bulk ? type == IpcType::kBulkBegin && got.bulk->kind == kind : got.type == type) {
        return std::move(got);
      }
    }
    return std::nullopt;
  }
  void GreetLink() {
    ASSERT_TRUE(Next(*link_, IpcType::kHello));
    ASSERT_TRUE(link_->Send(IpcType::kIsolation, Isolation{Statement(Role::kLink)}).ok());
  }
  void GreetTrainer() {
    ASSERT_TRUE(Next(*trainer_, IpcType::kHello));
    ASSERT_TRUE(trainer_->Send(IpcType::kIsolation, Isolation{Statement(Role::kTrainer)}).ok());
  }
  // JOB, ADAPTER, ROUND and the adapter's one block.
  void OpenRound() {
    const Bytes parameters(600 * 4, 0);
    protocols::AdapterManifest adapter;
    adapter.job = gate::IdOf(job_);
    adapter.base_hash = job_.base_hash;
    adapter.layout_digest = gate::LayoutDigest(job_);
    adapter.content_bytes = parameters.size();
    adapter.blocks.items = {blocks::BlockId(parameters)};
    adapter.content = blocks::ContentId(adapter.blocks.items);
    protocols::RoundAnnouncement round;
    round.job = adapter.job;
    round.round = 1;
    const auto recipient = *crypto::AgreeSecretKey::Generate();
    std::copy_n(recipient.public_key().bytes().begin(), 32, round.recipient.begin());
    round.adapter_manifest = crypto::Sha256::Of(protocols::Encode(adapter));
    const auto send = [this](BulkKind kind, const Bytes& bytes, const Hash32& content = {}) {
      ASSERT_TRUE(link_->SendBulk(kind, content, 0, bytes).ok());
    };
    send(BulkKind::kJob, Sign(crypto::domains::kJob, job_));
    send(BulkKind::kAdapter, Sign(crypto::domains::kAdapter, adapter));
    send(BulkKind::kRound, Sign(crypto::domains::kRound, round));
    ASSERT_TRUE(Next(*link_, IpcType::kWantBlocks));
    send(BulkKind::kBlock, parameters, adapter.content);
  }

  const fs::path site_ = fs::temp_directory_path() / fmt::format("tidegate_gate_{}", ::getpid());
  const protocols::JobManifest job_ = gate::SampleJob();
  Channel trainer_pair_, link_pair_;
  std::optional<Peer> trainer_, link_;
  Fd control_, log_;
  Child child_;
  uint32_t generation_ = 0;
};

TEST_F(GateProcess, RunsARoundBehindItsWallsAndOffersTheSameBytesAfterAKill) {
  if (!Start()) {
    const std::string log = Log();
    ASSERT_NE(log.find("the policy demands walls"), std::string::npos) << log;
    GTEST_SKIP() << "this machine cannot raise the gate's walls: " << log;
  }
  GreetLink();
  OpenRound();
  ASSERT_TRUE(Control(ControlType::kNeedTrainer).has_value());
  GreetTrainer();
  ASSERT_TRUE(Next(*trainer_, IpcType::kRoundStart));
  const Bytes update = gate::SampleUpdate(job_, gate::SampleHeader(job_, 1));
  ASSERT_TRUE(trainer_->SendBulk(BulkKind::kUpdate, {}, 1, update).ok());
  const auto offer = Next(*link_, IpcType::kBulkBegin, BulkKind::kOffer);
  ASSERT_TRUE(offer.has_value()) << Log();

  ASSERT_TRUE(Kill(child_).ok());
  ASSERT_TRUE(Reap(child_, true).has_value());
  ASSERT_TRUE(Start()) << Log();
  GreetLink();
  const auto again = Next(*link_, IpcType::kBulkBegin, BulkKind::kOffer);
  ASSERT_TRUE(again.has_value()) << Log();
  const auto manifest = *protocols::Decode<protocols::ReleaseManifest>(
      protocols::Decode<protocols::Offer>(again->bulk->bytes)->release.body.items);
  EXPECT_EQ(manifest,
            *protocols::Decode<protocols::ReleaseManifest>(
                protocols::Decode<protocols::Offer>(offer->bulk->bytes)->release.body.items));
  ASSERT_TRUE(link_->Send(IpcType::kNeedBlock, NeedBlock{manifest.content, 0}).ok());
  const auto block = Next(*link_, IpcType::kBulkBegin, BulkKind::kBlock);
  ASSERT_TRUE(block.has_value());
  EXPECT_EQ(blocks::BlockId(block->bulk->bytes), manifest.blocks.items[0]);

  protocols::Receipt receipt;
  receipt.federation = gate::Federation();
  receipt.key = manifest.key;
  receipt.content = manifest.content;
  receipt.ledger_head = protocols::Decode<protocols::Offer>(again->bulk->bytes)->ledger_head;
  const Bytes signed_receipt = Sign(crypto::domains::kReceipt, receipt);
  ASSERT_TRUE(link_->SendBulk(BulkKind::kReceipt, {}, 0, signed_receipt).ok());
  for (;;) {
    const auto event = Control(ControlType::kEvent);
    ASSERT_TRUE(event.has_value()) << Log();
    if (event->code == static_cast<uint32_t>(EventCode::kReceiptStored)) break;
  }
  ControlMessage stop;
  stop.type = ControlType::kStop;
  stop.generation = generation_;
  ASSERT_EQ(::send(control_.get(), &stop, sizeof(stop), MSG_NOSIGNAL),
            static_cast<ssize_t>(sizeof(stop)));
  const auto end = Reap(child_, true);
  child_ = {};
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ((*end)->end, End::kClean) << (*end)->exit_status << " " << Log();

  const auto verified =
      audit::VerifyLedger(*ReadFile(site_ / "gate" / "ledger", 1u << 30), "ledger",
                          gate::CoordinatorKey().verify_key(), signed_receipt);
  ASSERT_TRUE(verified.has_value()) << verified.error().ToString();
  EXPECT_EQ(verified->exports, 1u);
  EXPECT_EQ(verified->receipts, 1u);
  EXPECT_EQ(verified->refusals, 0u);
  EXPECT_GE(verified->head_covers.value_or(0), manifest.ledger_index + 1);
}

// A person's kill -TERM, or systemd's: before GO, and with an update just debited.
TEST_F(GateProcess, ASignalEndsItInOrderAndTheNextOneGoesOn) {
  if (!Start(false)) {
    const std::string log = Log();
    ASSERT_NE(log.find("the policy demands walls"), std::string::npos) << log;
    GTEST_SKIP() << "this machine cannot raise the gate's walls: " << log;
  }
  const auto end_by = [this](int signal) {
    EXPECT_EQ(::kill(child_.pid, signal), 0);
    const auto end = Reap(child_, true);
    child_ = {};
    EXPECT_EQ((*end)->end, End::kClean) << signal << " " << Log();
  };
  end_by(SIGTERM);
  ASSERT_TRUE(Start()) << Log();
  GreetLink();
  OpenRound();
  GreetTrainer();
  ASSERT_TRUE(Next(*trainer_, IpcType::kRoundStart));
  const Bytes update = gate::SampleUpdate(job_, gate::SampleHeader(job_, 1));
  ASSERT_TRUE(trainer_->SendBulk(BulkKind::kUpdate, {}, 1, update).ok());
  const auto offer = Next(*link_, IpcType::kBulkBegin, BulkKind::kOffer);
  ASSERT_TRUE(offer.has_value()) << Log();
  end_by(SIGINT);
  ASSERT_TRUE(Start()) << Log();
  GreetLink();
  const auto again = Next(*link_, IpcType::kBulkBegin, BulkKind::kOffer);
  ASSERT_TRUE(again.has_value()) << Log();
  EXPECT_EQ(again->bulk->content, offer->bulk->content);
  end_by(SIGHUP);
}

TEST_F(GateProcess, APolicyThatDoesNotParseEndsItBeforeAnythingIsSaid) {
  Write("policy.toml", gate::SamplePolicyText() + "surprise = 1\n");
  EXPECT_FALSE(Start());
  const auto end = Reap(child_, true);
  child_ = {};
  EXPECT_EQ((*end)->exit_status, static_cast<int>(Code::kInvalidArgument));
  EXPECT_NE(Log().find("surprise is not known"), std::string::npos);
}

}  // namespace
}  // namespace tidegate::onshore
