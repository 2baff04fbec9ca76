// The coordinator without its sockets: messages of sites and verbs of the operator in, messages to
// sites out. Everything between BeginTurn and EndTurn is one transaction of the store; what is to
// be sent comes out of EndTurn, after the commit, so nothing that a crash could forget is ever
// said.
//
// Every method returns OK for whatever a peer may send: a peer's mistake is answered with ERROR. A
// Status that is not OK is the disk's or our own and ends the process: memory may be ahead of the
// disk then. Not thread-safe.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "blocks/block_store.h"
#include "federation/rounds/server_optimizer.h"
#include "federation/server/shared_store.h"
#include "federation/server/store.h"
#include "offshore/base_shelf.h"
#include "offshore/federation_config.h"
#include "offshore/round_history.h"
#include "offshore/sealed_update.h"
#include "offshore/transfers.h"
#include "protocols/header.h"
#include "protocols/messages.h"

namespace tidegate::offshore {

struct Outgoing {
  std::string site;
  protocols::Channel channel = protocols::Channel::kControl;
  protocols::MessageType type = protocols::MessageType::kError;
  Bytes body;  // empty for a CHUNK, which may be of memory that several share
  protocols::Chunk chunk{};
  std::shared_ptr<const void> owner{};  // of the chunk's bytes
  size_t size() const { return body.size() + chunk.bytes.size(); }
  // As it is on the wire.
  Bytes Whole() const {
    return type == protocols::MessageType::kChunk ? protocols::EncodeChunk(chunk) : body;
  }
};

// A site that may connect from now on, or may no longer.
struct AccessChange {
  std::string site;
  protocols::PublicKey curve_key{};
  bool allowed = false;
};

inline ByteSpan BytesOf(std::span<const float> values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()};
}

// Offers of one site that may be under way at once.
inline constexpr size_t kMaxOffersPerSite = 4;
inline constexpr size_t kMaxOutflowsPerSite = 8;
inline constexpr size_t kTakenRemembered = 8;
// Of a version's parameters that stay in memory.
inline constexpr uint64_t kMaxKeptBytes = 256u << 20;
// Said to one site in a turn: more than it asks for at once. What is over waits for the next turn.
inline constexpr uint64_t kMaxTurnBytes = 32u << 20;

// Of lines in the log that a site can cause at will: the first ones, then ever fewer.
inline bool IsSaid(uint64_t count) { return count <= 32 || (count & (count - 1)) == 0; }

class Coordinator {
 public:
  // Opens the store and the blocks in `dir`, replays each job's events. Does not act: the first
  // turn's Resume does. Where the store is shared (open_store.h), kUnavailable while another
  // coordinator has it.
  static Result<std::unique_ptr<Coordinator>> Open(const std::filesystem::path& dir,
                                                   FederationConfig config, FederationKeys keys,
                                                   const Clock& clock);
  // The same, of a store that is open.
  static Result<std::unique_ptr<Coordinator>> Open(federation::OpenedStore opened,
                                                   FederationConfig config, FederationKeys keys,
                                                   const Clock& clock);

  // A turn is due at least so often, an empty one if there is nothing to do.
  int64_t turn_millis() const { return store_->turn_millis(); }
  // An error that ends the process, or, where it came of it, that another has taken over.
  Status WhyEnded(const Status& status) {
    const Status ours = store_->StillOurs();
    return ours.ok() ? status : ours;
  }
  Status BeginTurn();
  // Blocks durable, transaction committed, spools of ended rounds removed.
  Result<std::vector<Outgoing>> EndTurn();

  // What jobs wait to have done; once after Open, inside a turn.
  Status Resume();
  // Deadlines; inside a turn.
  Status OnTime();
  // Until the next deadline, at most a minute; 0 when one has passed.
  int64_t MillisToDeadline() const;

  // Both connections of a site are up (their HELLOs were checked and answered), or one went down.
  // `by_folder`: what it says was carried, and may come after what it said later.
  void OnConnected(const std::string& site, bool by_folder = false);
  void OnDisconnected(const std::string& site);
  // A message of a connected site, any type but HELLO.
  Status OnMessage(const std::string& site, protocols::MessageType type, ByteSpan body);

  // For an exchange by a folder (exchange.h): the sites that are enrolled, by name; whether one is
  // connected; a block of an adapter that it was told of.
  std::vector<std::string> SiteNames() const;
  bool Connected(const std::string& site) const;
  Result<Bytes> BlockOf(const Digest& id) { return blocks_.Get(id); }
  // Inside a turn, to a connected site that cannot be asked again for long: each open job of its,
  // and the end of the one that it works for (zeros: none known); with none open the last one's.
  Status TellAll(const std::string& site, const protocols::Id16& works_for);

  // A request of the operator, {"verb": …}; the answer is what the verb prints, or an error for it.
  // Inside a turn. `fatal` is set when the disk failed or our own code did: the process ends then.
  Result<nlohmann::ordered_json> OnRequest(const nlohmann::json& request, Status* fatal);

  // What `tidegate status` prints, with the time and each job's history: for the status page.
  nlohmann::ordered_json StatusJson();

  std::vector<AccessChange> TakeAccessChanges();
  const FederationConfig& config() const { return config_; }
  const FederationKeys& keys() const { return keys_; }

 private:
  // An offer that is under way no more and was not taken. Its blocks stay on disk for when the site
  // goes on with it.
  struct LeftOff {
    protocols::UpdateKey key;
    Digest content{};
    std::vector<Digest> blocks;
  };
  struct Site {
    Site(federation::StoredSite enrolled, const crypto::VerifyKey& sign_key)
        : stored(std::move(enrolled)), key(sign_key) {}
    federation::StoredSite stored;
    crypto::VerifyKey key;
    bool connected = false, by_folder = false;
    // The longest head of its ledger that was countersigned.
    std::optional<federation::StoredHead> head;
    uint64_t bytes_in = 0;
    int64_t seen_unix_millis = 0;  // 0: not since this process started
    uint64_t refused = 0;
    std::map<Digest, Incoming> offers;  // by content
    std::deque<LeftOff> left_off;       // the oldest first
    uint64_t turn_bytes = 0;            // said to it in this turn
    bool owed = false;                  // an outflow waits for the next turn
    uint64_t said_errors = 0;
    std::map<Digest, Outflow> outflows;    // by content
    uint64_t wants = 0;                    // counted, to tell which outflow is the oldest
    std::set<protocols::Id16> told_ended;  // jobs whose end this connection was told of
    // A site works for one job at a time: the open one that its LEASE named, or none yet.
    std::optional<protocols::Id16> works_for;
    std::optional<protocols::Id16> told_of;  // the job that it was told of last while it had none
    int leases_since = 0;                    // that named no job
    // The last contents taken: a COMMIT that comes again is answered with their receipt.
    std::deque<std::pair<Digest, protocols::UpdateKey>> taken;
    void Remember(const protocols::ReleaseManifest& release);
  };
  struct SiteLosses {
    uint32_t round = 0, train_milli = 0, heldout_milli = 0;
  };
  struct JobRun {
    JobFacts facts;
    federation::StoredJob stored;
    federation::JobState state;
    protocols::Signed version_document;
    protocols::AdapterManifest version;
    std::optional<protocols::Signed> announcement_document;  // of the open round
    protocols::RoundAnnouncement announcement;
    uint64_t bytes_in = 0;                     // since this process started
    std::map<std::string, SiteLosses> losses;  // of its last counted update, by site
    RoundHistory history;
    bool ended() const { return std::holds_alternative<federation::Ended>(state.phase); }
    bool collecting() const { return std::holds_alternative<federation::Collecting>(state.phase); }
    // Whether the open round asks the site.
    bool Asks(const std::string& site) const;
    bool Names(const std::string& site) const;
  };

  Coordinator(FederationConfig config, FederationKeys keys, const Clock& clock,
              std::unique_ptr<federation::Store> store, blocks::BlockStore blocks)
      : config_(std::move(config)),
        keys_(std::move(keys)),
        clock_(clock),
        store_(std::move(store)),
        blocks_(std::move(blocks)) {}

  using Parameters = std::shared_ptr<const std::vector<float>>;

  // coordinator.cc: loading and turns
  Status Load();
  Status LoadJob(federation::StoredJob stored);
  Status RemoveOrphans();
  void Send(const std::string& site, protocols::Channel channel, protocols::MessageType type,
            Bytes body);
  void SendChunk(const std::string& site, const protocols::Chunk& chunk,
                 std::shared_ptr<const void> owner);
  void SendError(const std::string& site, protocols::MessageType about, const Digest& content,
                 const Status& status);
  void Push(const std::string& site, const JobRun& job);
  void PushToAll(const JobRun& job);
  void PushNext(Site& site);
  void PushBases(const std::string& site);

  // coordinator_rounds.cc: effects
  Status Apply(JobRun& job, const federation::Event& event);
  Status Do(JobRun& job, const federation::Effect& effect);
  Status OpenRound(JobRun& job, const federation::OpenRound& effect);
  Status AggregateRound(JobRun& job, const federation::Aggregate& effect);
  Status GiveUp(JobRun& job, const Status& why);
  Status PublishVersion(JobRun& job, uint32_t round, Parameters parameters,
                        const federation::ServerMoments& moments);
  Result<federation::ServerMoments> LoadMoments(const JobRun& job);
  Result<std::optional<federation::StoredContent>> StoreMoments(
      const federation::ServerMoments& moments);
  Status SendNotice(JobRun& job, uint32_t round, protocols::AbandonReason reason);
  Result<protocols::Signed> StoreVersion(const JobFacts& facts, uint32_t version, bool final,
                                         Parameters parameters,
                                         protocols::AdapterManifest* manifest);
  Result<Parameters> LoadParameters(const protocols::AdapterManifest& manifest);
  Result<std::vector<float>> LoadFloats(std::span<const Digest> blocks, uint64_t bytes,
                                        std::string_view what);
  Result<std::vector<float>> SumRound(JobRun& job, uint32_t round,
                                      federation::ServerMoments* moments);
  void LeaveOff(Site& site, const Incoming& incoming);
  void RemoveLater(const std::vector<Digest>& blocks);
  // Blocks that open jobs, versions that are kept and offers under way have.
  Result<std::set<Digest>> NeededBlocks();
  // Takes out of `remove_blocks_` what is still needed.
  Status SpareNeeded();
  Status RememberOrphans();
  void DropOrphans();
  Status DropRoundLater(const JobRun& job, uint32_t round);

  // coordinator_messages.cc: what sites say
  Status OnOffer(Site& site, ByteSpan body);
  Status TakeOffer(Site& site, const protocols::Offer& offer, protocols::ReleaseManifest release);
  Status OnChunk(Site& site, ByteSpan body);
  Status OnCommit(Site& site, ByteSpan body);
  std::optional<Digest> FirstDamaged(const protocols::ReleaseManifest& release);
  Status TakeUpdate(Site& site, const Digest& content);
  Status CommitAgain(Site& site, const Digest& content);
  Status RefuseUpdate(Site& site, const Digest& content, const Status& why);
  Status AcceptLate(Site& site, const protocols::ReleaseManifest& release,
                    const protocols::Signed& document, const std::string& head);
  Result<protocols::Signed> SignReceipt(const protocols::ReleaseManifest& release,
                                        const std::string& head, protocols::ReceiptOutcome outcome,
                                        int64_t now);
  // True when the key has a receipt and the answer was sent.
  Result<bool> AnswerFromStore(Site& site, const protocols::ReleaseManifest& release);
  Status OnWant(Site& site, ByteSpan body);
  Status OnCredit(Site& site, ByteSpan body);
  Status OnLease(Site& site, ByteSpan body);
  Status FillOutflow(Site& site, Outflow& outflow);
  Result<std::pair<ByteSpan, std::shared_ptr<const void>>> BlockOf(const Outflow& outflow,
                                                                   uint32_t index);
  Status FillOwed();
  JobRun* FindJob(const protocols::Id16& id);

  // coordinator_heads.cc: how long a site's ledger is
  Result<Status> JudgeHead(Site& site, const crypto::Checkpoint& head);
  Status RememberHead(Site& site, const std::string& note);

  // coordinator_requests.cc: the operator's verbs
  using Json = nlohmann::ordered_json;
  Result<Json> Approve(const nlohmann::json& request, Status* fatal);
  Result<Json> Revoke(const nlohmann::json& request, Status* fatal);
  Result<Json> Submit(const nlohmann::json& request, Status* fatal);
  Result<Json> Stop(const nlohmann::json& request, Status* fatal);
  Result<Json> Export(const nlohmann::json& request);
  Result<Json> LogOf(const nlohmann::json& request);
  Result<Json> PublishBase(const nlohmann::json& request);
  Result<Json> RevokeBase(const nlohmann::json& request);
  Result<JobRun*> JobOf(const nlohmann::json& request);
  Json SitesJson() const;
  Json JobJson(const JobRun& job) const;
  Status LoadHistory(JobRun& job, const std::vector<federation::Event>& events);

  FederationConfig config_;
  FederationKeys keys_;
  const Clock& clock_;
  std::unique_ptr<federation::Store> store_;
  blocks::BlockStore blocks_;
  std::optional<BaseShelf> bases_;  // always there after Open
  std::map<std::string, Site> sites_;
  std::vector<std::unique_ptr<JobRun>> jobs_;  // in the order of their submission
  std::vector<Outgoing> outbox_;
  std::vector<AccessChange> access_;
  std::vector<Digest> remove_blocks_;  // once the turn is committed
  // Blocks that lay in the store at the start and that nothing had, to be dropped when the rounds
  // that were open or due then are over.
  std::vector<Digest> orphans_;
  std::vector<std::pair<protocols::Id16, uint32_t>> orphan_rounds_;
  // The version that was made last, as it was hashed and stored: its sites ask for it now, and the
  // next one is made of it. Up to kMaxKeptBytes; what is not here is read and verified.
  Digest kept_content_{};
  Parameters kept_;
  bool checkpoint_ = false;  // a recipient key was erased
  // Of the turn: blocks came that are not yet a whole content; anything that may rest on blocks was
  // remembered or is to be said. Without that, blocks become durable by the megabyte (BlockStore).
  bool took_blocks_ = false, rests_on_blocks_ = false;
};

}  // namespace tidegate::offshore
