// The local API of tidegate-onshore: what a client on the same machine and the supervisor say to
// each other over SITE/api.sock (SOCK_SEQPACKET). Fixed structs of numbers and bounded texts,
// copied as they lie; one packet a message. docs/formats/local-api.md.
//
// A client says kHello first. Each request is answered by one reply of its type with kReplyBit and
// its number; events and ends of local jobs come in between. Pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/bytes.h"
#include "base/status.h"
#include "onshore/api/events.h"

namespace tidegate::onshore::api {

inline constexpr uint32_t kMagic = 0x31415454;  // "TTA1"
inline constexpr uint16_t kVersion = 1;
inline constexpr size_t kMaxText = 64;    // a name, with its zero
inline constexpr size_t kMaxPath = 4096;  // with its zero
inline constexpr size_t kMaxSocketPath = 107;
inline constexpr size_t kMaxDescriptors = 6;  // of one packet
inline constexpr size_t kMaxPacket = 12u << 10;
inline constexpr uint32_t kMaxLocalJobs = 4;
inline constexpr uint64_t kMaxFlagsBytes = 1u << 20;
inline constexpr uint32_t kNoNumber = UINT32_MAX;  // of a round or version: there is none

// Never reuse a number.
enum class Type : uint16_t {
  kHello = 1,
  kStatus = 2,
  kWatch = 3,
  kSetDataset = 4,
  kListDatasets = 5,
  kResetDataset = 6,
  kPause = 7,
  kResume = 8,
  kStopJob = 9,
  kRunLocal = 10,
  kStopLocal = 11,
  kShutdown = 12,
  kListAdapters = 13,
  kListHeld = 14,
  kOpenFile = 15,  // the reply brings a descriptor
  kDecide = 16,
  kTrainOutside = 17,
  kEvent = 32,       // supervisor → client, after kWatch
  kLocalEnded = 33,  // supervisor → client, of its own local job
};
inline constexpr uint16_t kReplyBit = 0x8000;

// Why a request was refused: the client has the words.
enum class Reason : uint32_t {
  kNone = 0,
  kMalformed = 1,       // size, magic, an unknown type, a value out of range
  kOtherVersion = 2,    // of this API; the reply's header has the supervisor's
  kNotAllowed = 3,      // this user
  kTooManyClients = 4,  // in all, or of this user
  kHelloFirst = 5,
  kDescriptors = 6,      // another number of them than the request takes
  kNotReadOnlyFile = 7,  // a descriptor that is no regular file opened for reading only
  kNotPipe = 8,          // a descriptor of a local job's output or input that is no pipe's end
  kFlagsTooLong = 9,
  kBadPath = 10,  // not absolute, too long, or with control characters
  kNoJob = 11,    // there is no federated job to stop
  kTooManyLocal = 12,
  kNoSuchLocal = 13,
  kAlready = 14,   // a second kWatch, a second local job of the same client
  kStopping = 15,  // the supervisor ends
  kSystem = 16,    // a system call failed: the log has it
  kNoFile = 17,    // there is no such adapter, held update, receipt or ledger
  kNoGate = 18,    // the gate does not run now
  kOutside = 19,   // another program trains the site's rounds
};
inline constexpr uint32_t kReasons = 20;
Code CodeOf(Reason reason);
std::string_view ReasonText(Reason reason);

struct Header {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  uint16_t type = 0;
  uint32_t request = 0;  // the client's number, in the reply too; 0 in what no request asked for
  uint32_t code = 0;     // of a reply: base/status.h
  uint32_t reason = 0;   // of a reply
  uint32_t reserved = 0;
};

using FixedText = std::array<char, kMaxText>;
using FixedPath = std::array<char, kMaxPath>;

struct HelloReply {
  FixedText site{};
  FixedText program{};  // "0.1.0"
  uint64_t epoch = 0;   // of this run of the supervisor: sequences of events belong to it
  uint64_t last_event = 0;
  uint32_t uid = 0;  // who the client is, as the kernel says
  uint32_t reserved = 0;
};

enum class ProcessState : uint32_t {
  kAbsent = 0,
  kStarting = 1,  // its walls are being raised and tried
  kRunning = 2,
  kWaiting = 3,  // it has ended and will be started again
};

struct ProcessStatus {
  uint32_t state = 0;  // ProcessState
  uint32_t generation = 0;
  uint32_t pid = 0;
  uint32_t walls = 0;  // a bit each, in the order of the isolation statement
  uint32_t starts = 0;
  uint32_t reserved = 0;
};

struct LocalStatus {
  uint32_t job = 0;  // 0: none
  uint32_t verb = 0;
  uint32_t pid = 0;
  uint32_t uid = 0;  // of who asked
};

struct StatusReply {
  std::array<ProcessStatus, 3> processes{};  // gate, link, trainer
  std::array<LocalStatus, kMaxLocalJobs> locals{};
  std::array<uint8_t, 16> job{};  // zero: none known
  FixedText job_name{};
  uint32_t job_rounds = 0;
  uint32_t job_ended = 0;
  uint32_t round = kNoNumber;
  uint32_t adapter_version = kNoNumber;
  int64_t train_loss_milli = -1, heldout_loss_milli = -1;  // the last ones; -1: none
  uint32_t connected = 0;
  uint32_t holds = 0;  // Hold, a bit each
  uint64_t spool_bytes = 0;
  uint32_t open_exports = 0;  // without a receipt
  uint32_t held_round = kNoNumber;
  uint64_t epoch = 0, last_event = 0;
  int64_t started_unix_millis = 0;
};

// Events after `after` of this `epoch`; those of another run of the supervisor, or with 0 and 0:
// all that are kept. With `after` UINT64_MAX: those to come.
struct WatchRequest {
  uint64_t epoch = 0, after = 0;
};
struct WatchReply {
  uint64_t epoch = 0;
  uint64_t oldest = 0, last = 0;  // kept; oldest > last: none
};
struct EventMessage {
  uint64_t sequence = 0;
  uint64_t lost = 0;  // events before it that this client came too late for
  int64_t unix_millis = 0;
  uint32_t source = 0;  // Source
  uint32_t code = 0;    // EventCode
  std::array<int64_t, 4> arguments{};
};

struct SetDatasetRequest {
  uint32_t dataset = 0;  // DatasetKind
  uint32_t source = 0;   // DatasetSource: kPath, or kDescriptor with one descriptor
  FixedPath path{};      // of kPath: absolute
};
struct ResetDatasetRequest {
  uint32_t dataset = 0;
  uint32_t reserved = 0;
};
struct DatasetStatus {
  uint32_t source = 0;
  uint32_t reserved = 0;
  uint64_t bytes = 0;  // of a descriptor, when it was handed over
  FixedPath path{};    // of kSite and kPath; empty: there is none
};
struct DatasetsReply {
  std::array<DatasetStatus, kDatasets> datasets{};
};

// What comes along with a kRunLocal besides the first three descriptors: flags (a regular file, as
// `finetune --config` takes), output and errors (pipes).
inline constexpr uint32_t kHasInput = 1;     // generate: a pipe
inline constexpr uint32_t kHasData = 2;      // finetune, eval: a regular file for --data
inline constexpr uint32_t kHasEvalData = 4;  // finetune: a regular file for --eval_data
struct RunLocalRequest {
  uint32_t verb = 0;  // LocalVerb
  uint32_t has = 0;
  uint32_t json = 0;  // --format json
  uint32_t reserved = 0;
};
struct RunLocalReply {
  uint32_t job = 0;
  uint32_t pid = 0;
};
struct StopLocalRequest {
  uint32_t job = 0;
  uint32_t reserved = 0;
};
struct LocalEnded {
  uint32_t job = 0;
  uint32_t how = 0;  // EndText
  int32_t signal = 0;
  int32_t exit_status = 0;
};

enum class AdapterKind : uint32_t {
  kKept = 0,   // SITE/trainer/adapter: the best of the shared ones on the held-out records
  kLocal = 1,  // SITE/local/NAME: of a local job
};
inline constexpr uint32_t kMostAdapters = 64;
struct AdapterEntry {
  uint32_t kind = 0;
  uint32_t reserved = 0;
  FixedText name{};    // "kept", or NAME
  uint64_t bytes = 0;  // of its weights
  int64_t unix_millis = 0;
};
struct AdaptersReply {
  uint32_t count = 0;
  uint32_t more = 0;  // that found no place here
  std::array<AdapterEntry, kMostAdapters> adapters{};
};

// Updates that wait for the site's people, by name ("JOBHEX-3-0").
inline constexpr uint32_t kMostHeld = 16;
struct HeldReply {
  uint32_t count = 0;
  uint32_t more = 0;
  std::array<FixedText, kMostHeld> names{};
};

// Files of the site that a client may read: it gets them opened, whatever its uid. The supervisor
// reads none of them.
enum class SiteFile : uint32_t {
  kAdapterWeights = 0,  // name: of an adapter
  kAdapterConfig = 1,   // name
  kLedger = 2,          // no name
  kHeld = 3,            // name: of a held update; what the gate shows of it, JSON
  kReceipt = 4,         // no name: the newest
};
inline constexpr uint32_t kSiteFiles = 5;
struct OpenFileRequest {
  uint32_t file = 0;
  uint32_t kind = 0;  // AdapterKind, of adapters; else 0
  FixedText name{};
};
struct OpenFileReply {
  uint64_t bytes = 0;
};

// Of a held update: the gate hears it, with who the client is, and counts it where policy names
// that user. What became of it is told as an event (kDecisionHeard).
inline constexpr size_t kMaxReasonText = 200;
struct DecideRequest {
  std::array<uint8_t, 32> plaintext{};  // the update's digest, as it was shown
  uint32_t decision = 0;                // 1 release, 2 refuse
  uint32_t reserved = 0;
  std::array<char, kMaxReasonText> reason{};  // printable ASCII, with its zero
};

// What comes along with a kTrainOutside: the ends of two pipes, of which a trainer reads the first
// and writes into the second (onshore/api/rounds.h). It ends as a local job does, with number 0.
inline constexpr size_t kOutsideDescriptors = 2;

// A request as it came, checked: every value is in its range, a path is absolute and printable.
// What belongs to another type is zero.
struct Request {
  Header header;
  Type type{};
  WatchRequest watch;
  SetDatasetRequest set_dataset;
  ResetDatasetRequest reset_dataset;
  RunLocalRequest run_local;
  StopLocalRequest stop_local;
  OpenFileRequest open_file;
  DecideRequest decide;
};
// kNone when `out` is a request; with any other reason its header is still what could be read.
// `descriptors`: how many came along.
Reason ParseRequest(ByteSpan packet, size_t descriptors, Request* out);

// How many descriptors a kRunLocal has to bring.
size_t LocalDescriptors(uint32_t has);

// A packet of header and body.
template <typename Body>
Bytes Encode(const Header& header, const Body& body) {
  static_assert(std::is_trivially_copyable_v<Body> &&
                std::has_unique_object_representations_v<Body>);
  Bytes packet(sizeof(header) + sizeof(body));
  std::memcpy(packet.data(), &header, sizeof(header));
  std::memcpy(packet.data() + sizeof(header), &body, sizeof(body));
  return packet;
}
Bytes EncodeHeader(const Header& header);
template <typename Body>
Bytes BytesOf(const Body& body) {
  static_assert(std::is_trivially_copyable_v<Body> &&
                std::has_unique_object_representations_v<Body>);
  const auto* bytes = reinterpret_cast<const uint8_t*>(&body);
  return Bytes(bytes, bytes + sizeof(body));
}

// The text up to its first zero.
template <size_t N>
std::string TextOf(const std::array<char, N>& text) {
  const std::string_view all(text.data(), N);
  return std::string(all.substr(0, all.find('\0')));
}
// False when it does not fit with its zero.
template <size_t N>
bool SetText(std::string_view text, std::array<char, N>* out) {
  if (text.size() >= N) return false;
  out->fill('\0');
  text.copy(out->data(), text.size());
  return true;
}

// Absolute, at most kMaxPath - 1 bytes, no control characters.
bool IsGoodPath(std::string_view path);

}  // namespace tidegate::onshore::api
