// The client's side of a site's local API: connects to SITE/api.sock, asks, watches, runs local
// jobs. Blocking, each call with a deadline. An error carries the code that the supervisor gave and
// says what to do; kUnavailable: nobody listens, or the supervisor has ended. One thread at a time
// per object; several objects may be connected at once.
#pragma once

#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <variant>

#include "base/bytes.h"
#include "base/file.h"
#include "base/status.h"
#include "onshore/api/messages.h"

namespace tidegate::onshore::api {

struct ServerInfo {
  std::string site, program;  // its name, the supervisor's version
  uint64_t epoch = 0, last_event = 0;
  uint32_t uid = 0;  // ours, as the kernel told it
};

// Descriptors of a local job; they stay the caller's. -1: none.
struct LocalJob {
  LocalVerb verb = LocalVerb::kFinetune;
  bool json = false;
  int flags = -1;                 // a regular file opened for reading: the flags as TOML
  int output = -1, errors = -1;   // ends of pipes to write into
  int input = -1;                 // generate: the end of a pipe to read from
  int data = -1, eval_data = -1;  // regular files opened for reading
};

class ApiClient {
 public:
  static constexpr int64_t kAskMillis = 10'000;

  // `socket`: SITE/api.sock. kNotFound or kUnavailable when nobody listens, kPermissionDenied when
  // this user may not.
  static Result<ApiClient> Connect(const std::filesystem::path& socket, int64_t millis = kAskMillis,
                                   int cancel = -1);

  const ServerInfo& server() const { return server_; }
  // For the caller's poll loop: readable when Next has something to look at.
  int descriptor() const { return socket_.get(); }

  Result<StatusReply> Status();
  // From here on Next gives events. Once a connection.
  Result<WatchReply> Watch(const WatchRequest& from);
  Result<DatasetsReply> Datasets();
  // Training goes on with it: a trainer that runs is told to stop in good order first.
  tidegate::Status SetDataset(DatasetKind dataset, const std::filesystem::path& path);
  tidegate::Status SetDataset(DatasetKind dataset, int descriptor);
  tidegate::Status ResetDataset(DatasetKind dataset);
  tidegate::Status Pause();
  tidegate::Status Resume();
  tidegate::Status StopJob();
  tidegate::Status Shutdown();
  // Its end comes by Next. It is stopped when this connection ends.
  Result<RunLocalReply> RunLocal(const LocalJob& job);
  tidegate::Status StopLocal(uint32_t job);
  Result<AdaptersReply> Adapters();
  Result<HeldReply> Held();
  // Opened for reading. `name` of a local adapter or a held update.
  Result<Fd> OpenFile(SiteFile file, AdapterKind kind, const std::string& name);
  // The answer says that the gate was told; what it makes of it is an event.
  tidegate::Status Decide(const DecideRequest& request);
  // `from` is read by the trainer, `to` written; both stay the caller's. Its end comes by Next.
  tidegate::Status TrainOutside(int from, int to);

  // For the calls from here on: how long each may take, and a descriptor that ends one with
  // kCancelled when it can be read (-1: none).
  void Limit(int64_t millis, int cancel);

  // What the supervisor said unasked, in its order; nothing within `millis`: kDeadlineExceeded.
  using Told = std::variant<EventMessage, LocalEnded>;
  Result<Told> Next(int64_t millis);

 private:
  explicit ApiClient(Fd socket) : socket_(std::move(socket)) {}
  Result<Bytes> Ask(Type type, ByteSpan body, std::span<const int> descriptors = {},
                    Fd* received = nullptr);
  template <typename Reply>
  Result<Reply> AskFor(Type type, ByteSpan body, std::span<const int> descriptors = {});
  tidegate::Status AskPlain(Type type, ByteSpan body = {}, std::span<const int> descriptors = {});
  Result<Bytes> WaitForPacket(int64_t until, Fd* received = nullptr);
  void Keep(const Header& header, ByteSpan body);

  // More than a supervisor has in its ring.
  static constexpr size_t kMostKept = 8192;

  Fd socket_;
  ServerInfo server_;
  uint32_t next_request_ = 1;
  int64_t ask_millis_ = kAskMillis;
  int cancel_ = -1;
  std::deque<Told> told_;
};

}  // namespace tidegate::onshore::api
