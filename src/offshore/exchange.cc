#include "offshore/exchange.h"

#include <algorithm>

#include "airgap/folder.h"
#include "airgap/messages.h"
#include "base/log.h"
#include "base/site_name.h"

namespace tidegate::offshore {
namespace {

using airgap::Folder;
using airgap::Message;
using airgap::Place;
using nlohmann::ordered_json;
using protocols::MessageType;

// Blocks that go into one turn: 4 MiB.
constexpr size_t kBlocksATurn = 16;
// A carrier's own files beside its offers, and what a crash left.
constexpr size_t kMaxUpEntries = 4 * protocols::kMaxFolderOffers;

struct SiteTrip {
  std::string site;
  bool network = false;
  size_t offers = 0, receipts = 0, late = 0, messages = 0;
  std::vector<std::pair<std::string, std::string>> refused;  // file, reason
  std::vector<Bytes> receipt_bodies;
  protocols::Id16 works_for{};  // by its last LEASE
};

std::optional<protocols::ReleaseManifest> ReleaseOf(const Bytes& offer_body) {
  const auto offer = protocols::Decode<protocols::Offer>(offer_body);
  if (!offer) return std::nullopt;
  auto release = protocols::Decode<protocols::ReleaseManifest>(offer->release.body.items);
  if (!release) return std::nullopt;
  return std::move(*release);
}

class Exchanging {
 public:
  Exchanging(Coordinator& coordinator, Folder folder, const TurnFunction& turn,
             const DeliverFunction& deliver)
      : coordinator_(coordinator), folder_(std::move(folder)), turn_(turn), deliver_(deliver) {}

  Status Run() {
    for (const std::string& name : coordinator_.SiteNames()) {
      SiteTrip& trip = trips_.emplace_back();
      trip.site = name;
      trip.network = coordinator_.Connected(name);
    }
    for (SiteTrip& trip : trips_) TG_RETURN_IF_ERROR(Take(trip));
    TG_RETURN_IF_ERROR(NameStrangers());
    for (SiteTrip& trip : trips_) {
      if (!trip.network) TG_RETURN_IF_ERROR(Tell(trip));
    }
    return RemoveUnused();
  }

  void Disconnect() {
    for (const SiteTrip& trip : trips_) {
      if (!trip.network) coordinator_.OnDisconnected(trip.site);
    }
  }

  const Status& fatal() const { return fatal_; }
  ordered_json Report() const;

 private:
  // What the turn says to `site`; the rest goes over the network.
  Result<std::vector<Outgoing>> Turn(const std::string& site, const std::function<Status()>& what) {
    auto out = turn_(what);
    if (!out) {
      fatal_ = out.error();
      return out;
    }
    std::vector<Outgoing> ours;
    for (Outgoing& message : *out) {
      if (message.site == site) {
        ours.push_back(std::move(message));
      } else if (!ByFolder(message.site)) {
        deliver_(message);
      }
    }
    return ours;
  }
  bool ByFolder(const std::string& site) const {
    return std::any_of(trips_.begin(), trips_.end(), [&site](const SiteTrip& trip) {
      return trip.site == site && !trip.network;
    });
  }

  Status Take(SiteTrip& trip);
  Status TakeOffer(SiteTrip& trip, const std::string& file);
  Status PlayOffer(SiteTrip& trip, const std::string& file, const Bytes& body,
                   const protocols::ReleaseManifest& release);
  Status Tell(SiteTrip& trip);
  Status NameStrangers();
  Status WriteAdapter(const Bytes& body);
  Status RemoveUnused();
  void Keep(const protocols::ReleaseManifest& release) {
    needed_.insert(release.blocks.items.begin(), release.blocks.items.end());
  }
  static void Refuse(SiteTrip& trip, const std::string& file, std::string reason) {
    trip.refused.emplace_back(file, std::move(reason));
  }

  Coordinator& coordinator_;
  Folder folder_;
  const TurnFunction& turn_;
  const DeliverFunction& deliver_;
  std::vector<SiteTrip> trips_;
  std::vector<std::string> strangers_;
  std::set<Digest> needed_;
  // Somebody's blocks may be among those that seem to be nobody's.
  bool unknown_offers_ = false;
  size_t written_ = 0, removed_ = 0, kept_ = 0;
  Status fatal_;
};

Status Exchanging::Take(SiteTrip& trip) {
  const auto files = folder_.List({"up", trip.site}, kMaxUpEntries);
  if (!files) {
    unknown_offers_ = true;
    Refuse(trip, folder_.NameOf({"up", trip.site}), files.error().message());
  }
  if (!trip.network) {
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const auto pushed, Turn(trip.site, [&] {
                          coordinator_.OnConnected(trip.site, true);
                          return OkStatus();
                        }));
  }
  if (!files) return OkStatus();
  const Place lease_place = airgap::LeasePlace(trip.site);
  for (const std::string& file : *files) {
    if (file.ends_with(airgap::kOfferSuffix)) TG_RETURN_IF_ERROR(TakeOffer(trip, file));
    if (file != lease_place.back()) continue;
    const auto message =
        airgap::ReadMessage(folder_, lease_place, coordinator_.config().federation);
    const auto lease = message && message->type == MessageType::kLease
                           ? protocols::Decode<protocols::Lease>(message->body)
                           : protocols::Decoded<protocols::Lease>(
                                 tl::unexpect, protocols::DecodeError{"it is no LEASE"});
    if (lease) {
      trip.works_for = lease->job;
    } else {
      Refuse(trip, folder_.NameOf(lease_place),
             message ? lease.error().reason : message.error().message());
    }
  }
  return OkStatus();
}

Status Exchanging::TakeOffer(SiteTrip& trip, const std::string& file) {
  const Place place = {"up", trip.site, file};
  const std::string name = folder_.NameOf(place);
  if (trip.offers >= protocols::kMaxFolderOffers) {
    Refuse(trip, name, fmt::format("more than {} offers of one site", protocols::kMaxFolderOffers));
    unknown_offers_ = true;
    return OkStatus();
  }
  const auto message = airgap::ReadMessage(folder_, place, coordinator_.config().federation);
  const auto release =
      message && message->type == MessageType::kOffer ? ReleaseOf(message->body) : std::nullopt;
  if (!release) {
    unknown_offers_ = true;
    Refuse(trip, name, message ? "it is no OFFER" : message.error().message());
    return OkStatus();
  }
  ++trip.offers;
  if (!trip.network) return PlayOffer(trip, name, message->body, *release);
  Keep(*release);
  return OkStatus();
}

// The site's link towards the coordinator, with one offer.
Status Exchanging::PlayOffer(SiteTrip& trip, const std::string& file, const Bytes& body,
                             const protocols::ReleaseManifest& release) {
  transport::BlockSender sender(release.content, static_cast<uint32_t>(release.blocks.size()));
  const auto say = [&](MessageType type, ByteSpan bytes) {
    return Turn(trip.site, [&, type] { return coordinator_.OnMessage(trip.site, type, bytes); });
  };
  bool committed = false;
  // Each pass sends some blocks or commits; blocks lost on the coordinator's disk are sent again.
  const size_t most = 4 * release.blocks.size() + 16;
  TG_ASSIGN_OR_RETURN(std::vector<Outgoing> said, say(MessageType::kOffer, body));
  for (size_t pass = 0; pass < most; ++pass) {
    for (const Outgoing& message : said) {
      if (message.type == MessageType::kReceipt) {
        const auto signed_receipt = protocols::Decode<protocols::ReceiptMessage>(message.body);
        const auto receipt =
            signed_receipt
                ? protocols::Decode<protocols::Receipt>(signed_receipt->receipt.body.items)
                : protocols::Decoded<protocols::Receipt>(tl::unexpect, protocols::DecodeError{});
        if (!receipt || receipt->content != release.content) continue;
        ++trip.receipts;
        if (receipt->outcome == protocols::ReceiptOutcome::kLate) ++trip.late;
        trip.receipt_bodies.push_back(message.body);
        return OkStatus();
      }
      if (message.type == MessageType::kError) {
        const auto error = protocols::Decode<protocols::ErrorMessage>(message.body);
        Refuse(trip, file, error ? error->text.text : "the coordinator said ERROR");
        Keep(release);
        return OkStatus();
      }
      const auto want =
          message.type == MessageType::kWant
              ? protocols::Decode<protocols::Want>(message.body)
              : protocols::Decoded<protocols::Want>(tl::unexpect, protocols::DecodeError{});
      if (want && sender.OnWant(*want)) committed = false;
      const auto credit =
          message.type == MessageType::kCredit
              ? protocols::Decode<protocols::Credit>(message.body)
              : protocols::Decoded<protocols::Credit>(tl::unexpect, protocols::DecodeError{});
      if (credit) [[maybe_unused]]
        const bool granted = sender.OnCredit(*credit);
    }
    std::vector<Bytes> chunks;
    while (chunks.size() < kBlocksATurn) {
      const auto index = sender.Next();
      if (!index) break;
      const auto block = folder_.Block(release.blocks.items[*index]);
      if (!block) {
        Refuse(trip, file, "its blocks are not whole: " + block.error().message());
        Keep(release);
        return OkStatus();
      }
      chunks.push_back(protocols::EncodeChunk({release.content, *index, *block}));
    }
    if (chunks.empty()) {
      if (std::exchange(committed, true)) break;
      TG_ASSIGN_OR_RETURN(
          said, say(MessageType::kCommit, protocols::Encode(protocols::Commit{release.content})));
      continue;
    }
    TG_ASSIGN_OR_RETURN(
        said, Turn(trip.site, [&]() -> Status {
          for (const Bytes& chunk : chunks) {
            TG_RETURN_IF_ERROR(coordinator_.OnMessage(trip.site, MessageType::kChunk, chunk));
          }
          return OkStatus();
        }));
  }
  Refuse(trip, file, "the coordinator did not answer it");
  Keep(release);
  return OkStatus();
}

// The folder may be used by sites that are not enrolled yet, or no longer.
Status Exchanging::NameStrangers() {
  const auto names = folder_.List({"up"}, protocols::kMaxSites);
  if (!names) {
    LogWarning("folder_not_listed {}", names.error().ToString());
    strangers_.push_back("?");
    unknown_offers_ = true;
    return OkStatus();
  }
  for (const std::string& name : *names) {
    const bool known = std::any_of(trips_.begin(), trips_.end(),
                                   [&name](const SiteTrip& trip) { return trip.site == name; });
    if (known) continue;
    strangers_.push_back(IsSiteName(name) ? name : "?");
    unknown_offers_ = true;
  }
  return OkStatus();
}

Status Exchanging::WriteAdapter(const Bytes& body) {
  const auto offer = protocols::Decode<protocols::AdapterOffer>(body);
  const auto manifest =
      offer
          ? protocols::Decode<protocols::AdapterManifest>(offer->manifest.body.items)
          : protocols::Decoded<protocols::AdapterManifest>(tl::unexpect, protocols::DecodeError{});
  if (!manifest) return Internal("the coordinator's own adapter does not decode");
  for (const Digest& id : manifest->blocks.items) {
    if (!needed_.insert(id).second || folder_.Block(id)) continue;
    TG_ASSIGN_OR_RETURN(const Bytes block, coordinator_.BlockOf(id));
    TG_RETURN_IF_ERROR(folder_.PutBlock(id, block));
    ++written_;
  }
  return folder_.SyncBlocks();
}

Status Exchanging::Tell(SiteTrip& trip) {
  TG_ASSIGN_OR_RETURN(const auto documents, Turn(trip.site, [&] {
                        return coordinator_.TellAll(trip.site, trip.works_for);
                      }));
  std::vector<Message> messages;
  for (const Bytes& body : trip.receipt_bodies) messages.push_back({MessageType::kReceipt, body});
  for (const Outgoing& document : documents) messages.push_back({document.type, document.body});
  if (messages.size() > protocols::kMaxFolderMessages) {
    Refuse(trip, folder_.NameOf({"down", trip.site}),
           fmt::format("{} messages for this site, at most {} go into a folder; end old jobs",
                       messages.size(), protocols::kMaxFolderMessages));
    return OkStatus();
  }
  std::set<std::string> names;
  for (const Message& message : messages) {
    // Blocks first: what names them is there only with them.
    if (message.type == MessageType::kAdapter) TG_RETURN_IF_ERROR(WriteAdapter(message.body));
    const Place place = airgap::DownPlace(trip.site, names.size() + 1, message.type);
    TG_RETURN_IF_ERROR(
        airgap::WriteMessage(folder_, place, coordinator_.config().federation, message));
    names.insert(place.back());
  }
  trip.messages = messages.size();
  const auto files = folder_.List({"down", trip.site}, 2 * protocols::kMaxFolderMessages);
  if (!files) {
    Refuse(trip, folder_.NameOf({"down", trip.site}), files.error().message());
    return OkStatus();
  }
  for (const std::string& file : *files) {
    if (names.contains(file)) continue;
    const Place place = {"down", trip.site, file};
    // A folder is somebody else's, and nothing that the site reads.
    const Status removed = folder_.Remove(place);
    if (!removed.ok()) Refuse(trip, folder_.NameOf(place), removed.message());
  }
  return OkStatus();
}

Status Exchanging::RemoveUnused() {
  TG_ASSIGN_OR_RETURN(const auto blocks, folder_.Blocks());
  for (const Digest& id : blocks) {
    if (needed_.contains(id)) continue;
    if (unknown_offers_) {
      ++kept_;
      continue;
    }
    TG_RETURN_IF_ERROR(folder_.RemoveBlock(id));
    ++removed_;
  }
  return OkStatus();
}

ordered_json Exchanging::Report() const {
  ordered_json out;
  out["sites"] = ordered_json::array();
  for (const SiteTrip& trip : trips_) {
    ordered_json one;
    one["site"] = trip.site;
    one["state"] = trip.network ? "connected" : "folder";
    one["offers"] = trip.offers;
    one["receipts"] = trip.receipts;
    one["late"] = trip.late;
    one["messages"] = trip.messages;
    one["refused"] = ordered_json::array();
    for (const auto& [file, reason] : trip.refused) {
      one["refused"].push_back({{"file", file}, {"reason", reason}});
    }
    out["sites"].push_back(std::move(one));
  }
  out["not_enrolled"] = strangers_;
  out["blocks"] = {{"written", written_}, {"removed", removed_}, {"kept", kept_}};
  return out;
}

}  // namespace

Result<std::optional<std::filesystem::path>> ExchangeFolderOf(const nlohmann::json& request) {
  const auto verb = request.find("verb");
  if (verb == request.end() || *verb != "exchange") return std::nullopt;
  const auto folder = request.find("folder");
  if (folder == request.end() || !folder->is_string()) {
    return InvalidArgument("the request lacks the text folder");
  }
  std::filesystem::path path(folder->get<std::string>());
  if (!path.is_absolute()) {
    return InvalidArgument("the folder {} must be an absolute path", path.native());
  }
  return path;
}

Result<ordered_json> Exchange(Coordinator& coordinator, const std::filesystem::path& path,
                              const TurnFunction& turn, const DeliverFunction& deliver,
                              Status* fatal) {
  TG_ASSIGN_OR_RETURN(Folder folder, Folder::Open(path, path.native()));
  Exchanging exchanging(coordinator, std::move(folder), turn, deliver);
  const Status status = exchanging.Run();
  exchanging.Disconnect();
  *fatal = exchanging.fatal();
  TG_RETURN_IF_ERROR(status);
  ordered_json report;
  report["folder"] = path.native();
  report.update(exchanging.Report());
  LogInfo("exchange folder={} sites={}", path.native(), report["sites"].size());
  return report;
}

}  // namespace tidegate::offshore
