#include "onshore/api/client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "onshore/api/packet.h"

namespace tidegate::onshore::api {
namespace {

int64_t Now() { return SystemClock().MonotonicMillis(); }

Error NobodyListens(const std::filesystem::path& socket) {
  return Unavailable("nobody listens at {}; is tidegate-onshore running for this site?",
                     socket.native());
}

Result<Fd> Dial(const std::filesystem::path& path) {
  if (path.native().size() > kMaxSocketPath) {
    return InvalidArgument("the socket's path {} has {} bytes, the limit is {}; use a shorter one",
                           path.native(), path.native().size(), kMaxSocketPath);
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.native().copy(address.sun_path, sizeof(address.sun_path) - 1);
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Unexpected(ErrnoStatus("make a socket for", path.native(), errno));
  // A full backlog would block: the supervisor is too busy then.
  const timeval patience{5, 0};
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return fd;
  }
  if (errno == ENOENT || errno == ECONNREFUSED) return NobodyListens(path);
  return Unexpected(ErrnoStatus("connect to", path.native(), errno));
}

template <typename Body>
bool Read(ByteSpan body, Body* out) {
  if (body.size() != sizeof(Body)) return false;
  std::memcpy(out, body.data(), sizeof(Body));
  return true;
}

Error Garbled() { return Internal("tidegate-onshore's answer is malformed"); }

}  // namespace

Result<ApiClient> ApiClient::Connect(const std::filesystem::path& socket, int64_t millis,
                                     int cancel) {
  TG_ASSIGN_OR_RETURN(Fd fd, Dial(socket));
  ApiClient client(std::move(fd));
  client.Limit(millis, cancel);
  TG_ASSIGN_OR_RETURN(const HelloReply hello, client.AskFor<HelloReply>(Type::kHello, {}));
  client.server_ = {TextOf(hello.site), TextOf(hello.program), hello.epoch, hello.last_event,
                    hello.uid};
  return client;
}

void ApiClient::Limit(int64_t millis, int cancel) {
  ask_millis_ = millis;
  cancel_ = cancel;
}

Result<Bytes> ApiClient::WaitForPacket(int64_t until, Fd* received) {
  for (;;) {
    TG_ASSIGN_OR_RETURN(auto packet, ReceivePacket(socket_.get(), kMaxPacket, received ? 1 : 0));
    if (packet) {
      if (received != nullptr && !packet->descriptors.empty()) {
        *received = std::move(packet->descriptors[0]);
      }
      return std::move(packet->bytes);
    }
    const int64_t left = until - Now();
    if (left <= 0) return DeadlineExceeded("tidegate-onshore did not answer in time");
    pollfd p[] = {{socket_.get(), POLLIN, 0}, {cancel_, POLLIN, 0}};
    const int ready = ::poll(p, 2, static_cast<int>(std::min<int64_t>(left, 60'000)));
    if (ready > 0 && p[1].revents != 0) return Cancelled("the call was cancelled");
    if (ready < 0 && errno != EINTR) {
      return Unexpected(ErrnoStatus("wait for", "tidegate-onshore", errno));
    }
  }
}

void ApiClient::Keep(const Header& header, ByteSpan body) {
  EventMessage event;
  LocalEnded ended;
  if (header.type == static_cast<uint16_t>(Type::kEvent) && Read(body, &event)) {
    told_.push_back(event);
  } else if (header.type == static_cast<uint16_t>(Type::kLocalEnded) && Read(body, &ended)) {
    told_.push_back(ended);
  }
}

Result<Bytes> ApiClient::Ask(Type type, ByteSpan body, std::span<const int> descriptors,
                             Fd* received) {
  const int64_t until = Now() + ask_millis_;
  Header header;
  header.type = static_cast<uint16_t>(type);
  header.request = next_request_++;
  Bytes packet = EncodeHeader(header);
  packet.insert(packet.end(), body.begin(), body.end());
  // A refusal may be waiting already, from a supervisor that has closed its end.
  const tidegate::Status sent = SendPacket(socket_.get(), packet, descriptors);
  if (!sent.ok() && sent.code() != Code::kUnavailable) return Unexpected(sent);
  for (;;) {
    TG_ASSIGN_OR_RETURN(const Bytes answer, WaitForPacket(until, received));
    Header reply;
    if (answer.size() < sizeof(Header)) return Garbled();
    std::memcpy(&reply, answer.data(), sizeof(Header));
    if (reply.magic != kMagic) return Garbled();
    const ByteSpan rest = ByteSpan(answer).subspan(sizeof(Header));
    const bool refusal = reply.request == 0 && reply.reason != 0;
    if (!refusal && (reply.type & kReplyBit) == 0) {
      if (told_.size() < kMostKept) Keep(reply, rest);
      continue;
    }
    if (reply.reason != 0) {
      const auto reason = static_cast<Reason>(reply.reason);
      return MakeError(static_cast<Code>(reply.code), "{}", ReasonText(reason));
    }
    if (reply.request != header.request) continue;
    return Bytes(rest.begin(), rest.end());
  }
}

template <typename Reply>
Result<Reply> ApiClient::AskFor(Type type, ByteSpan body, std::span<const int> descriptors) {
  TG_ASSIGN_OR_RETURN(const Bytes answer, Ask(type, body, descriptors));
  Reply reply;
  if (!Read(answer, &reply)) return Garbled();
  return reply;
}

tidegate::Status ApiClient::AskPlain(Type type, ByteSpan body, std::span<const int> descriptors) {
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const Bytes answer, Ask(type, body, descriptors));
  return OkStatus();
}

Result<StatusReply> ApiClient::Status() { return AskFor<StatusReply>(Type::kStatus, {}); }

Result<WatchReply> ApiClient::Watch(const WatchRequest& from) {
  return AskFor<WatchReply>(Type::kWatch, BytesOf(from));
}

Result<DatasetsReply> ApiClient::Datasets() {
  return AskFor<DatasetsReply>(Type::kListDatasets, {});
}

tidegate::Status ApiClient::SetDataset(DatasetKind dataset, const std::filesystem::path& path) {
  SetDatasetRequest request;
  request.dataset = static_cast<uint32_t>(dataset);
  request.source = static_cast<uint32_t>(DatasetSource::kPath);
  if (!IsGoodPath(path.native()) || !SetText(path.native(), &request.path)) {
    return MakeError(CodeOf(Reason::kBadPath), "{}", ReasonText(Reason::kBadPath));
  }
  return AskPlain(Type::kSetDataset, BytesOf(request));
}

tidegate::Status ApiClient::SetDataset(DatasetKind dataset, int descriptor) {
  SetDatasetRequest request;
  request.dataset = static_cast<uint32_t>(dataset);
  request.source = static_cast<uint32_t>(DatasetSource::kDescriptor);
  return AskPlain(Type::kSetDataset, BytesOf(request), {&descriptor, 1});
}

tidegate::Status ApiClient::ResetDataset(DatasetKind dataset) {
  ResetDatasetRequest request;
  request.dataset = static_cast<uint32_t>(dataset);
  return AskPlain(Type::kResetDataset, BytesOf(request));
}

tidegate::Status ApiClient::Pause() { return AskPlain(Type::kPause); }
tidegate::Status ApiClient::Resume() { return AskPlain(Type::kResume); }
tidegate::Status ApiClient::StopJob() { return AskPlain(Type::kStopJob); }
tidegate::Status ApiClient::Shutdown() { return AskPlain(Type::kShutdown); }

Result<RunLocalReply> ApiClient::RunLocal(const LocalJob& job) {
  RunLocalRequest request;
  request.verb = static_cast<uint32_t>(job.verb);
  request.json = job.json ? 1 : 0;
  std::vector<int> descriptors = {job.flags, job.output, job.errors};
  const std::pair<int, uint32_t> more[] = {
      {job.input, kHasInput}, {job.data, kHasData}, {job.eval_data, kHasEvalData}};
  for (const auto& [descriptor, bit] : more) {
    if (descriptor < 0) continue;
    request.has |= bit;
    descriptors.push_back(descriptor);
  }
  return AskFor<RunLocalReply>(Type::kRunLocal, BytesOf(request), descriptors);
}

tidegate::Status ApiClient::StopLocal(uint32_t job) {
  StopLocalRequest request;
  request.job = job;
  return AskPlain(Type::kStopLocal, BytesOf(request));
}

Result<AdaptersReply> ApiClient::Adapters() {
  return AskFor<AdaptersReply>(Type::kListAdapters, {});
}
Result<HeldReply> ApiClient::Held() { return AskFor<HeldReply>(Type::kListHeld, {}); }

Result<Fd> ApiClient::OpenFile(SiteFile file, AdapterKind kind, const std::string& name) {
  OpenFileRequest request;
  request.file = static_cast<uint32_t>(file);
  request.kind = static_cast<uint32_t>(kind);
  if (!SetText(name, &request.name)) {
    return MakeError(CodeOf(Reason::kNoFile), "{}", ReasonText(Reason::kNoFile));
  }
  Fd opened;
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const Bytes answer,
                      Ask(Type::kOpenFile, BytesOf(request), {}, &opened));
  if (!opened.valid()) return Garbled();
  return opened;
}

tidegate::Status ApiClient::Decide(const DecideRequest& request) {
  return AskPlain(Type::kDecide, BytesOf(request));
}

tidegate::Status ApiClient::TrainOutside(int from, int to) {
  const int pipes[] = {from, to};
  return AskPlain(Type::kTrainOutside, {}, pipes);
}

Result<ApiClient::Told> ApiClient::Next(int64_t millis) {
  const int64_t until = Now() + millis;
  while (told_.empty()) {
    TG_ASSIGN_OR_RETURN(const Bytes packet, WaitForPacket(until));
    if (packet.size() < sizeof(Header)) return Garbled();
    Header header;
    std::memcpy(&header, packet.data(), sizeof(Header));
    if (header.magic != kMagic) return Garbled();
    Keep(header, ByteSpan(packet).subspan(sizeof(Header)));
  }
  Told first = told_.front();
  told_.pop_front();
  return first;
}

}  // namespace tidegate::onshore::api
