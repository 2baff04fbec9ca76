#include "onshore/api/messages.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/site_name.h"

namespace tidegate::onshore::api {
namespace {

struct Words {
  Code code;
  std::string_view text;
};

constexpr Words kWords[kReasons] = {
    {Code::kOk, ""},
    {Code::kInvalidArgument, "the request is malformed; use a client of the same version"},
    {Code::kUnsupported,
     "client and tidegate-onshore are of different versions of the API; install the same of both"},
    {Code::kPermissionDenied,
     "this user may not use the site's API; run as the site's user or root, or add the uid to "
     "api_users of site.toml"},
    {Code::kResourceExhausted,
     "too many clients are connected, in all or of this user; close some and try again"},
    {Code::kFailedPrecondition, "the first request must be a hello"},
    {Code::kInvalidArgument, "the request came with another number of descriptors than it takes"},
    {Code::kInvalidArgument,
     "the descriptor is no regular file opened for reading only; open it with O_RDONLY"},
    {Code::kInvalidArgument, "input and output of a local job must be the ends of pipes"},
    {Code::kResourceExhausted, "the file of flags has more than 1 MiB; make it shorter"},
    {Code::kInvalidArgument,
     "the path must be absolute, of at most 4095 bytes and without control characters"},
    {Code::kFailedPrecondition, "there is no federated job; `tidegate site status` shows it"},
    {Code::kResourceExhausted, "too many local jobs run at this site; wait for one to end"},
    {Code::kNotFound, "there is no such local job of this user"},
    {Code::kAlreadyExists,
     "this connection watches already, or runs a local job; use another connection"},
    {Code::kUnavailable, "tidegate-onshore is stopping; try again when it runs"},
    {Code::kInternal, "tidegate-onshore could not do it; its log says why"},
    {Code::kNotFound, "the site has no such file; list what there is first"},
    {Code::kUnavailable, "the site's gate does not run now; try again when it does"},
    {Code::kAlreadyExists, "another program trains this site's rounds; wait for its end"},
};

bool IsZero(ByteSpan bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

template <typename Body>
bool Take(ByteSpan body, Body* out) {
  if (body.size() != sizeof(Body)) return false;
  std::memcpy(out, body.data(), sizeof(Body));
  return true;
}

Reason CheckSetDataset(const SetDatasetRequest& set, size_t descriptors) {
  if (set.dataset >= kDatasets) return Reason::kMalformed;
  const bool by_path = set.source == static_cast<uint32_t>(DatasetSource::kPath);
  if (!by_path && set.source != static_cast<uint32_t>(DatasetSource::kDescriptor)) {
    return Reason::kMalformed;
  }
  if (descriptors != (by_path ? 0 : 1)) return Reason::kDescriptors;
  const std::string path = TextOf(set.path);
  // What lies behind the text is nobody's.
  const auto* rest = reinterpret_cast<const uint8_t*>(set.path.data()) + path.size();
  if (!IsZero({rest, set.path.size() - path.size()})) return Reason::kMalformed;
  if (by_path ? !IsGoodPath(path) : !path.empty()) return Reason::kBadPath;
  return Reason::kNone;
}

Reason CheckRunLocal(const RunLocalRequest& run, size_t descriptors) {
  if (run.verb >= kLocalVerbs || run.json > 1 || run.reserved != 0) return Reason::kMalformed;
  // Each verb takes what it has a flag for.
  const auto verb = static_cast<LocalVerb>(run.verb);
  const uint32_t takes = verb == LocalVerb::kFinetune   ? kHasData | kHasEvalData
                         : verb == LocalVerb::kGenerate ? kHasInput
                                                        : kHasData;
  if ((run.has & ~takes) != 0) return Reason::kMalformed;
  return descriptors == LocalDescriptors(run.has) ? Reason::kNone : Reason::kDescriptors;
}

// A name ends with its zero and zeros.
template <size_t N>
bool IsWholeText(const std::array<char, N>& text) {
  const size_t size = TextOf(text).size();
  const auto* rest = reinterpret_cast<const uint8_t*>(text.data()) + size;
  return size < N && IsZero({rest, N - size});
}

Reason CheckOpenFile(const OpenFileRequest& open) {
  if (open.file >= kSiteFiles || !IsWholeText(open.name)) return Reason::kMalformed;
  const auto file = static_cast<SiteFile>(open.file);
  const bool adapter = file == SiteFile::kAdapterWeights || file == SiteFile::kAdapterConfig;
  const bool kept = adapter && open.kind == static_cast<uint32_t>(AdapterKind::kKept);
  const bool named = (adapter && !kept) || file == SiteFile::kHeld;
  if (open.kind > (adapter ? static_cast<uint32_t>(AdapterKind::kLocal) : 0)) {
    return Reason::kMalformed;
  }
  const std::string name = TextOf(open.name);
  return (named ? IsSiteName(name) : name.empty()) ? Reason::kNone : Reason::kMalformed;
}

Reason CheckDecide(const DecideRequest& decide) {
  const std::string reason = TextOf(decide.reason);
  const bool printable =
      std::all_of(reason.begin(), reason.end(), [](char c) { return c >= 0x20 && c <= 0x7e; });
  const bool good = (decide.decision == 1 || decide.decision == 2) && decide.reserved == 0 &&
                    IsWholeText(decide.reason) && printable;
  return good ? Reason::kNone : Reason::kMalformed;
}

}  // namespace

Code CodeOf(Reason reason) {
  const auto index = static_cast<uint32_t>(reason);
  return index < kReasons ? kWords[index].code : Code::kInternal;
}

std::string_view ReasonText(Reason reason) {
  const auto index = static_cast<uint32_t>(reason);
  return index < kReasons ? kWords[index].text : "an unknown reason";
}

size_t LocalDescriptors(uint32_t has) { return 3 + static_cast<size_t>(std::popcount(has)); }

bool IsGoodPath(std::string_view path) {
  return path.size() > 1 && path.size() < kMaxPath && path[0] == '/' &&
         std::all_of(path.begin(), path.end(),
                     [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f; });
}

Bytes EncodeHeader(const Header& header) { return BytesOf(header); }

Reason ParseRequest(ByteSpan packet, size_t descriptors, Request* out) {
  *out = Request{};
  if (packet.size() < sizeof(Header)) return Reason::kMalformed;
  std::memcpy(&out->header, packet.data(), sizeof(Header));
  const Header& header = out->header;
  if (header.magic != kMagic) return Reason::kMalformed;
  if (header.version != kVersion) return Reason::kOtherVersion;
  if (header.code != 0 || header.reason != 0 || header.reserved != 0) return Reason::kMalformed;
  out->type = static_cast<Type>(header.type);
  const ByteSpan body = packet.subspan(sizeof(Header));
  const auto none = [descriptors](bool whole) {
    if (!whole) return Reason::kMalformed;
    return descriptors == 0 ? Reason::kNone : Reason::kDescriptors;
  };
  switch (out->type) {
    case Type::kHello:
    case Type::kStatus:
    case Type::kListDatasets:
    case Type::kPause:
    case Type::kResume:
    case Type::kStopJob:
    case Type::kShutdown:
    case Type::kListAdapters:
    case Type::kListHeld:
      return none(body.empty());
    case Type::kWatch:
      return none(Take(body, &out->watch));
    case Type::kResetDataset: {
      const bool whole = Take(body, &out->reset_dataset) &&
                         out->reset_dataset.dataset < kDatasets && out->reset_dataset.reserved == 0;
      return none(whole);
    }
    case Type::kStopLocal:
      return none(Take(body, &out->stop_local) && out->stop_local.reserved == 0);
    case Type::kSetDataset:
      if (!Take(body, &out->set_dataset)) return Reason::kMalformed;
      return CheckSetDataset(out->set_dataset, descriptors);
    case Type::kRunLocal:
      if (!Take(body, &out->run_local)) return Reason::kMalformed;
      return CheckRunLocal(out->run_local, descriptors);
    case Type::kOpenFile:
      return none(Take(body, &out->open_file) && CheckOpenFile(out->open_file) == Reason::kNone);
    case Type::kDecide:
      return none(Take(body, &out->decide) && CheckDecide(out->decide) == Reason::kNone);
    case Type::kTrainOutside:
      if (!body.empty()) return Reason::kMalformed;
      return descriptors == kOutsideDescriptors ? Reason::kNone : Reason::kDescriptors;
    case Type::kEvent:
    case Type::kLocalEnded:
      break;
  }
  return Reason::kMalformed;
}

}  // namespace tidegate::onshore::api
