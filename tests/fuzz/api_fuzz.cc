// Requests of a client of the local API: packets (two bytes of length, one of how many descriptors
// come along) through the parser of the supervisor. What it takes is in range, and it takes the
// same bytes again in the same way. And the site's state file, which the supervisor reads at its
// start.
#include <algorithm>
#include <cstring>

#include "base/file.h"
#include "base/site_name.h"
#include "fuzz.h"
#include "onshore/api/messages.h"
#include "onshore/api/round_reader.h"
#include "onshore/supervisor/site_state.h"

namespace tidegate::fuzz {
namespace {

using namespace onshore;

std::string Packet(api::Type type, ByteSpan body, uint8_t descriptors = 0) {
  api::Header header;
  header.type = static_cast<uint16_t>(type);
  header.request = 3;
  const size_t size = sizeof(header) + body.size();
  std::string out = {static_cast<char>(size & 0xff), static_cast<char>(size >> 8),
                     static_cast<char>(descriptors)};
  return out + Text(api::EncodeHeader(header)) + Text(body);
}

void CheckTaken(const api::Request& request, size_t descriptors) {
  const auto& set = request.set_dataset;
  switch (request.type) {
    case api::Type::kSetDataset: {
      Require(set.dataset < kDatasets, "a dataset that there is");
      const std::string path = api::TextOf(set.path);
      const bool by_path = set.source == static_cast<uint32_t>(DatasetSource::kPath);
      Require(
          by_path ? api::IsGoodPath(path) && descriptors == 0 : path.empty() && descriptors == 1,
          "a path or a descriptor");
      return;
    }
    case api::Type::kResetDataset:
      Require(request.reset_dataset.dataset < kDatasets, "a dataset that there is");
      return;
    case api::Type::kRunLocal:
      Require(request.run_local.verb < kLocalVerbs, "a verb that there is");
      Require(descriptors == api::LocalDescriptors(request.run_local.has), "all its descriptors");
      Require(descriptors <= api::kMaxDescriptors, "no more than are received");
      return;
    case api::Type::kTrainOutside:
      Require(descriptors == api::kOutsideDescriptors, "two pipes");
      return;
    case api::Type::kOpenFile: {
      const std::string name = api::TextOf(request.open_file.name);
      Require(request.open_file.file < api::kSiteFiles, "a file that there is");
      Require(name.empty() || IsSiteName(name), "a name that leads nowhere else");
      break;
    }
    case api::Type::kDecide:
      Require(request.decide.decision == 1 || request.decide.decision == 2, "yes or no");
      break;
    default:
      break;
  }
  Require(descriptors == 0, "no descriptor that nobody takes");
}

// A stream of frames, in pieces: each is as long as its head says, and nothing is asked for without
// end.
void ReadRounds(ByteSpan stream) {
  constexpr uint64_t kMostWeights = 4096;
  api::RoundReader reader;
  size_t taken = 0;
  for (;;) {
    const auto missing = reader.Missing(kMostWeights);
    if (!missing) return;
    Require(*missing <= sizeof(api::RoundFrame) + api::kMaxRoundText + kMostWeights, "a bound");
    if (*missing == 0) {
      const api::RoundMessage message = reader.Take();
      Require(message.text.size() == message.frame.text_bytes &&
                  message.weights.size() == message.frame.weights_bytes,
              "bodies of the size that the head says");
      continue;
    }
    const size_t piece = std::min({*missing, stream.size() - taken, size_t{7}});
    if (piece == 0) return;
    reader.Add(stream.subspan(taken, piece));
    taken += piece;
  }
}

void Parse(ByteSpan packet, size_t descriptors) {
  api::Request request, again;
  const api::Reason reason = api::ParseRequest(packet, descriptors, &request);
  Require(api::ParseRequest(packet, descriptors, &again) == reason, "one answer to one packet");
  Require(!(reason == api::Reason::kNone) || api::CodeOf(reason) == Code::kOk, "taken is OK");
  Require(reason == api::Reason::kNone || !api::ReasonText(reason).empty(), "a refusal has words");
  if (reason != api::Reason::kNone) return;
  Require(packet.size() <= api::kMaxPacket, "no longer than what is received");
  CheckTaken(request, descriptors);
}

const Folder& Site() {
  static const Folder folder;
  return folder;
}

void ReadState(ByteSpan file) {
  Site().Put("site-state", AsText(file));
  const auto state = LoadSiteState(Site().path() + "/site-state");
  if (!state) return;
  for (size_t i = 0; i < kDatasets; ++i) {
    const bool by_path = state->sources[i] == DatasetSource::kPath;
    Require(by_path ? api::IsGoodPath(state->paths[i].native()) : state->paths[i].empty(),
            "a path where there is one");
    Require(state->sources[i] != DatasetSource::kDescriptor, "no descriptor outlives its process");
  }
}

std::string StateFile() {
  SiteState state;
  state.paused = true;
  state.sources = {DatasetSource::kPath, DatasetSource::kDescriptor};
  state.paths[0] = "/srv/a.jsonl";
  Require(SaveSiteState(Site().path() + "/saved", state).ok(), "a state is saved");
  return Text(*ReadFile(Site().path() + "/saved", 1 << 20));
}

}  // namespace

Target Describe() {
  api::SetDatasetRequest by_path;
  by_path.source = static_cast<uint32_t>(DatasetSource::kPath);
  api::SetText("/srv/records.jsonl", &by_path.path);
  api::SetDatasetRequest by_descriptor;
  by_descriptor.dataset = 1;
  by_descriptor.source = static_cast<uint32_t>(DatasetSource::kDescriptor);
  api::RunLocalRequest run;
  run.has = api::kHasData | api::kHasEvalData;
  api::OpenFileRequest open;
  open.kind = static_cast<uint32_t>(api::AdapterKind::kLocal);
  Require(api::SetText("mine", &open.name), "a short name");
  api::DecideRequest decide;
  decide.decision = 1;
  Require(api::SetText("looked at it", &decide.reason), "a short reason");
  api::RoundFrame round;
  round.type = static_cast<uint32_t>(api::RoundFrameType::kUpdate);
  round.text_bytes = 2;
  round.weights_bytes = 7;
  Target target;
  target.seeds = {
      Packet(api::Type::kHello, {}) + Packet(api::Type::kStatus, {}) +
          Packet(api::Type::kPause, {}) + Packet(api::Type::kListDatasets, {}),
      Packet(api::Type::kSetDataset, api::BytesOf(by_path)),
      Packet(api::Type::kSetDataset, api::BytesOf(by_descriptor), 1),
      Packet(api::Type::kRunLocal, api::BytesOf(run), 5),
      Packet(api::Type::kOpenFile, api::BytesOf(open)) +
          Packet(api::Type::kDecide, api::BytesOf(decide)) + Packet(api::Type::kListAdapters, {}) +
          Packet(api::Type::kListHeld, {}),
      Packet(api::Type::kTrainOutside, {}, 2),
      Text({reinterpret_cast<const uint8_t*>(&round), sizeof(round)}) + "{}weights",
      Packet(api::Type::kWatch, api::BytesOf(api::WatchRequest{7, 9})) +
          Packet(api::Type::kResetDataset, api::BytesOf(api::ResetDatasetRequest{1, 0})) +
          Packet(api::Type::kStopLocal, api::BytesOf(api::StopLocalRequest{4, 0})),
      StateFile()};
  return target;
}

void Talk(ByteSpan input) {
  ReadRounds(input);
  for (int packets = 0; input.size() >= 3 && packets < 64; ++packets) {
    const size_t length = std::min<size_t>(LoadLe16(input.data()), input.size() - 3);
    Parse(input.subspan(3, length), input[2] % 8);
    input = input.subspan(3 + length);
  }
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  fuzz::Talk({data, size});
  fuzz::Parse({data, size}, 0);
  fuzz::ReadState({data, size});
  return 0;
}
