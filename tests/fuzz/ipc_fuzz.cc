// What one onshore process says to another: packets (two bytes of length, then a header of 16 and a
// body) through a real pair into a Peer that has met its peer. What it hands out decodes, if it
// decodes, to a message that encodes to the same bytes. And a child's event for the supervisor.
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "fuzz.h"
#include "onshore/api/events.h"
#include "onshore/ipc/control.h"
#include "onshore/ipc/peer.h"

namespace tidegate::fuzz {
namespace {

using namespace onshore;

constexpr uint32_t kOwn = 7, kTheirs = 3;

std::string Enveloped(IpcType type, ByteSpan body) {
  std::string out(18, '\0');
  auto* bytes = reinterpret_cast<uint8_t*>(out.data());
  StoreLe32(bytes, static_cast<uint32_t>(16 + body.size()) & 0xffff);
  StoreLe32(bytes + 2, static_cast<uint32_t>(type));
  StoreLe32(bytes + 6, kTheirs);
  StoreLe32(bytes + 10, kOwn);
  StoreLe32(bytes + 14, static_cast<uint32_t>(body.size()));
  return out + Text(body);
}

template <typename Message>
std::string Packet(IpcType type, const Message& message) {
  return Enveloped(type, protocols::Encode(message));
}

template <typename Message>
void Recode(ByteSpan body) {
  const auto message = protocols::Decode<Message>(body);
  if (!message) return;
  const Bytes again = protocols::Encode(*message);
  Require(AsText(again) == AsText(body), "an ipc message has one encoding");
}

void DecodeAs(IpcType type, ByteSpan body) {
  switch (type) {
    case IpcType::kHello:
      return Recode<IpcHello>(body);
    case IpcType::kBulkBegin:
      return Recode<BulkBegin>(body);
    case IpcType::kBulkData:
      return Recode<BulkData>(body);
    case IpcType::kIsolation:
      return Recode<Isolation>(body);
    case IpcType::kRoundStart:
      return Recode<RoundStart>(body);
    case IpcType::kRoundResult:
      return Recode<RoundResult>(body);
    case IpcType::kStop:
      return Recode<Stop>(body);
    case IpcType::kNeedBlock:
      return Recode<NeedBlock>(body);
    case IpcType::kWantBlocks:
      return Recode<WantBlocks>(body);
    case IpcType::kKnown:
      return Recode<Known>(body);
    case IpcType::kLinkState:
      return Recode<LinkState>(body);
    case IpcType::kNoUpdate:
      return Recode<NoUpdate>(body);
    case IpcType::kDataset:
      return Recode<Dataset>(body);
    case IpcType::kOutside:
      return Recode<Outside>(body);
    case IpcType::kOfferRefused:
      return Recode<OfferRefused>(body);
    case IpcType::kWaiting:
      return Recode<Waiting>(body);
    case IpcType::kAskWaiting:
      return;  // it says nothing but its name
  }
}

}  // namespace

Target Describe() {
  Target target;
  BulkData data;
  data.bytes.items = {1, 2, 3, 4};
  BulkBegin begin{BulkKind::kParameters, {}, 2, 4};
  RoundResult refused;
  refused.outcome = RoundOutcome::kRefused;
  refused.reason = "norm: 12 is over 10";
  target.seeds = {
      Packet(IpcType::kKnown, Known{}) + Packet(IpcType::kLinkState, LinkState{true}),
      Packet(IpcType::kBulkBegin, begin) + Packet(IpcType::kBulkData, data),
      Packet(IpcType::kHello, IpcHello{kTheirs, false}) +
          Packet(IpcType::kIsolation, Isolation{std::string("a statement\n")}),
      Packet(IpcType::kRoundStart, RoundStart{}) + Packet(IpcType::kRoundResult, refused),
      Packet(IpcType::kStop, Stop{}) + Packet(IpcType::kNoUpdate, NoUpdate{}) +
          Packet(IpcType::kDataset, Dataset{}) + Packet(IpcType::kOutside, Outside{1001}),
      Packet(IpcType::kNeedBlock, NeedBlock{}) + Packet(IpcType::kWantBlocks, WantBlocks{}) +
          Packet(IpcType::kOfferRefused, OfferRefused{}),
      Enveloped(IpcType::kAskWaiting, {}) + Packet(IpcType::kWaiting, Waiting{Known{}, true})};
  return target;
}

void Talk(ByteSpan input) {
  int fds[2];
  Require(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0, "a pair can be made");
  Peer peer(Fd(fds[0]), kOwn);
  const Fd other(fds[1]);
  const auto say = [&](ByteSpan packet) {
    (void)!::send(other.get(), packet.data(), packet.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    for (;;) {
      const auto received = peer.Receive();
      if (!received || !*received) return;
      if ((*received)->bulk) {
        Require((*received)->bulk->bytes.size() <= MaxBulkBytes((*received)->bulk->kind),
                "a transfer has its bound");
      } else {
        DecodeAs((*received)->type, (*received)->body);
      }
    }
  };
  const std::string hello = Packet(IpcType::kHello, IpcHello{kTheirs, true});
  say(AsBytes(std::string_view(hello).substr(2)));
  Require(peer.peer_generation() == kTheirs, "the peers have met");
  for (int packets = 0; input.size() >= 2 && packets < 64; ++packets) {
    const size_t length = std::min<size_t>(LoadLe16(input.data()), input.size() - 2);
    say(input.subspan(2, length));
    // Whatever its envelope, each message's decoder sees the body.
    if (length >= 16) {
      for (uint16_t type = 1; type <= 14; ++type) {
        DecodeAs(static_cast<IpcType>(type), input.subspan(18, length - 16));
      }
    }
    input = input.subspan(2 + length);
  }
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  fuzz::Talk({data, size});
  onshore::ControlMessage event;
  std::memcpy(&event, data, std::min(size, sizeof(event)));
  fuzz::Require(!onshore::EventText(event.code, event.arguments).empty(), "an event has a text");
  return 0;
}
