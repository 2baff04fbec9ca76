// A folder that is carried between the shores, as somebody else has filled it, and the carrier of a
// site that reads it. An input is a list of steps: what it does, where, and the bytes for it.
// Frames and the coordinator's signatures are made right where the step says so. Nothing outside of
// the folder is read or changed; what comes out of it is of the coordinator, blocks are what they
// are called.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>

#include "base/file.h"
#include "crypto/document.h"
#include "fuzz.h"
#include "onshore/link/folder_peer.h"

namespace tidegate::fuzz {
namespace {

namespace fs = std::filesystem;
using airgap::Place;
using protocols::MessageType;

constexpr protocols::Id16 kFederation{1, 2, 3};
constexpr std::string_view kSecret = "not for the folder";

enum Step : uint8_t { kFile, kFrame, kDocument, kLink, kBlock, kRead, kAsk, kList, kSteps };
// Steps are this, and then the bytes.
constexpr size_t kStepBytes = 5;  // step, place, type, length of the bytes as u16

const crypto::SigningKey& Coordinator() {
  static const crypto::SigningKey key = [] {
    std::array<uint8_t, 32> seed;
    seed.fill(0x42);
    return *crypto::SigningKey::FromSeed(crypto::Secret<32>(seed));
  }();
  return key;
}

const std::vector<Place>& Places() {
  static const std::vector<Place> places = {{"down", "north", "0001-job"},
                                            {"down", "north", "0002-adapter"},
                                            {"down", "north", "0003-round"},
                                            {"down", "north", "0004-receipt"},
                                            {"down", "north", "5.tmp"},
                                            {"up", "north", "lease"},
                                            {"up", "north", "x.offer"},
                                            {"blocks", "00", std::string(62, '0')},
                                            {"down", "north"},
                                            {"blocks", "00"},
                                            {"up"},
                                            {"etc"}};
  return places;
}

// Of a block, or of two, under the same name.
Bytes SampleAdapter(size_t blocks) {
  protocols::AdapterManifest adapter;
  adapter.version = 1;
  adapter.content_bytes = 5;
  adapter.blocks.items.assign(blocks, crypto::Sha256::Of(AsBytes("block")));
  adapter.content.fill(7);
  return protocols::Encode(adapter);
}

std::string StepOf(Step step, uint8_t place, MessageType type, ByteSpan bytes) {
  uint8_t length[8];
  StoreLe64(length, bytes.size());
  const char head[] = {static_cast<char>(step), static_cast<char>(place), static_cast<char>(type),
                       static_cast<char>(length[0]), static_cast<char>(length[1])};
  return std::string(head, sizeof(head)) + Text(bytes);
}

Bytes SignedBody(MessageType type, const Bytes& body) {
  crypto::SignDomain domain = crypto::domains::kJob;
  if (type == MessageType::kAdapter) domain = crypto::domains::kAdapter;
  if (type == MessageType::kRound) domain = crypto::domains::kRound;
  if (type == MessageType::kReceipt) domain = crypto::domains::kReceipt;
  if (type == MessageType::kAbandon) domain = crypto::domains::kAbandon;
  protocols::Signed document;
  document.body.items = body;
  document.signature = *Coordinator().Sign(domain, body);
  return protocols::Encode(document);
}

// A file that lies outside: it would be taken if it lay in the folder.
const Bytes& Outside() {
  static const Bytes file = protocols::Frame(
      MessageType::kRound, kFederation, 0,
      SignedBody(MessageType::kRound, Bytes(AsBytes(kSecret).begin(), AsBytes(kSecret).end())));
  return file;
}

class Medium {
 public:
  Medium() : root_(fs::path(outer_.path()) / "medium"), outside_(outer_.path() + "/secret") {
    outer_.Put("secret", AsText(Outside()));
    fs::create_directories(root_);
  }

  void Put(const Place& place, ByteSpan bytes) const {
    const fs::path path = Cleared(place);
    if (path.empty()) return;
    const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (fd.valid()) Require(WriteAll(fd.get(), bytes, "a file").ok(), "a file can be written");
  }
  void PutOther(const Place& place, uint8_t kind) const {
    std::error_code error;
    const fs::path path = Cleared(place);
    if (path.empty()) return;
    if (kind % 4 == 0) fs::create_symlink(outside_, path, error);
    if (kind % 4 == 1) fs::create_directory_symlink(outer_.path(), path, error);
    if (kind % 4 == 2) fs::create_directory(path, error);
    if (kind % 4 == 3) (void)::mkfifo(path.c_str(), 0600);
  }
  const fs::path& root() const { return root_; }
  void CheckOutside() const {
    Require(*ReadFile(outside_, 1000) == Outside(), "what is outside is not changed");
    size_t entries = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(outer_.path())) ++entries;
    Require(entries == 2, "nothing is made or removed outside");
  }

 private:
  // Its path, with the folders above and nothing there; none where a link is above, which we would
  // follow ourselves.
  fs::path Cleared(const Place& place) const {
    std::error_code error;
    fs::path path = root_;
    for (size_t i = 0; i < place.size(); ++i) {
      if (i > 0) fs::create_directory(path, error);
      if (fs::symlink_status(path, error).type() != fs::file_type::directory) return {};
      path /= place[i];
    }
    fs::remove_all(path, error);
    return path;
  }
  Folder outer_;
  fs::path root_, outside_;
};

void CheckMessage(const airgap::Message& message) {
  switch (message.type) {
    case MessageType::kJob:
    case MessageType::kAdapter:
    case MessageType::kRound:
    case MessageType::kReceipt:
    case MessageType::kAbandon:
      break;
    default:
      Require(false, "only these come in a folder");
  }
  Require(protocols::Decode<protocols::Signed>(message.body).has_value(), "it is a document");
  Require(AsText(message.body).find(kSecret) == std::string_view::npos, "no link is followed");
}

class Carrier {
 public:
  explicit Carrier(airgap::Folder folder, airgap::Folder other)
      : folder_(std::move(other)),
        peer_(std::move(folder), kFederation, "north", Coordinator().verify_key()) {}

  // The signed documents that steps have put somewhere: what may be asked for.
  void Know(const Bytes& body) {
    if (const auto adapter = protocols::Decode<protocols::AdapterManifest>(body)) {
      known_.push_back(*adapter);
    }
  }
  void Read() {
    const auto documents = peer_.Documents();
    if (!documents) return;
    for (const airgap::Message& message : *documents) CheckMessage(message);
  }
  void Ask(uint8_t which, uint8_t blocks) {
    if (known_.empty()) return;
    const protocols::AdapterManifest& adapter = known_[which % known_.size()];
    const protocols::Want want{adapter.content, 0, blocks, protocols::kMaxCreditBytes};
    (void)peer_.On(permit::Outbound::Say(want));
    for (int i = 0; i < 4; ++i) {
      const auto chunk = peer_.NextChunk();
      if (!chunk || !*chunk) return;
      const auto decoded = protocols::DecodeChunk((**chunk).body);
      Require(decoded.has_value(), "a chunk decodes");
      const Digest id = crypto::Sha256::Of(decoded->bytes);
      Require(std::any_of(known_.begin(), known_.end(),
                          [&](const auto& one) {
                            return one.content == decoded->content &&
                                   decoded->index < one.blocks.size() &&
                                   one.blocks.items[decoded->index] == id;
                          }),
              "a chunk is the block that the adapter names");
    }
  }
  void List() {
    const auto blocks = folder_.Blocks();
    if (blocks) {
      for (const Digest& id : *blocks) {
        const auto block = folder_.Block(id);
        Require(!block || crypto::Sha256::Of(*block) == id, "a block is what it is called");
      }
    }
    for (const Place& place : {airgap::LeasePlace("north"), Place{"up", "north", "x.offer"}}) {
      const auto message = airgap::ReadMessage(folder_, place, kFederation);
      if (message) Require(message->body.size() <= protocols::kMaxControlBody, "it has its bound");
    }
    (void)peer_.Finish();
  }

 private:
  airgap::Folder folder_;
  onshore::FolderPeer peer_;
  std::vector<protocols::AdapterManifest> known_;
};

}  // namespace

Target Describe() {
  Target target;
  protocols::Receipt receipt;
  receipt.federation = kFederation;
  receipt.key.site = "north";
  const std::string carried =
      StepOf(kBlock, 0, {}, AsBytes("block")) +
      StepOf(kDocument, 1, MessageType::kAdapter, SampleAdapter(2)) +
      StepOf(kDocument, 3, MessageType::kReceipt, protocols::Encode(receipt)) +
      StepOf(kDocument, 2, MessageType::kRound, AsBytes("round"));
  const std::string taken = StepOf(kRead, 0, {}, {}) + StepOf(kAsk, 0, MessageType::kHello, {}) +
                            StepOf(kList, 0, {}, {});
  target.seeds = {
      carried + taken,
      carried + StepOf(kLink, 1, {}, {}) + StepOf(kLink, 9, MessageType::kHello, {}) +
          StepOf(kFrame, 0, MessageType::kJob, AsBytes("no document")) +
          StepOf(kFile, 4, {}, AsBytes("half")) + taken,
      carried + taken + StepOf(kDocument, 1, MessageType::kAdapter, SampleAdapter(1)) + taken,
      StepOf(kFrame, 5, MessageType::kLease, AsBytes("lease")) + taken};
  // A frame is read whole, and every block of the folder.
  target.memory = 8u << 20;
  return target;
}

void Run(ByteSpan input) {
  const Medium medium;
  auto first = airgap::Folder::Open(medium.root(), "FOLDER");
  auto second = airgap::Folder::Open(medium.root(), "FOLDER");
  Require(first && second, "an empty folder is one");
  Carrier carrier(std::move(*first), std::move(*second));
  for (int steps = 0; input.size() >= kStepBytes && steps < 16; ++steps) {
    const Place& place = Places()[input[1] % Places().size()];
    const uint8_t kind = input[2];
    const auto type = static_cast<MessageType>(kind);
    const size_t size = std::min<size_t>(LoadLe16(&input[3]), input.size() - kStepBytes);
    const auto step = static_cast<Step>(input[0] % kSteps);
    const ByteSpan part = input.subspan(kStepBytes, size);
    // A fuzzer learns the words.
    if (AsText(part).find(kSecret) != std::string_view::npos) return;
    const Bytes bytes(part.begin(), part.end());
    switch (step) {
      case kFile:
        medium.Put(place, bytes);
        break;
      case kFrame:
        medium.Put(place, protocols::Frame(type, kFederation, 0, bytes));
        break;
      case kDocument:
        carrier.Know(bytes);
        medium.Put(place, protocols::Frame(type, kFederation, 0, SignedBody(type, bytes)));
        break;
      case kLink:
        medium.PutOther(place, kind);
        break;
      case kBlock: {
        const std::string hex = ToHex(crypto::Sha256::Of(bytes));
        medium.Put({"blocks", hex.substr(0, 2), hex.substr(2)}, bytes);
        break;
      }
      case kRead:
        carrier.Read();
        break;
      case kAsk:
        carrier.Ask(input[1], kind);
        break;
      default:
        carrier.List();
    }
    input = input.subspan(kStepBytes + size);
  }
  (void)airgap::Folder::CheckRoot(medium.root(), "FOLDER");
  medium.CheckOutside();
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tidegate::fuzz::Run({data, size});
  return 0;
}
