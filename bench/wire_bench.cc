// What crossing costs, over real sockets between two processes.
//
//   wire_bench bad_link   [--mbit 4] [--delay_ms 125] [--megabytes 60] [--cuts 3] [--stripes 1]
//   wire_bench full_speed [--megabytes 1024] [--stripes 1] [--dir /dev/shm]
//
// bad_link: a sealed update over a line of that rate and one-way delay that is cut; prints the
// share of the line's rate, what was sent twice and how long a redial took. Exit code 1 under 90 %,
// over a window or a block of resending a cut, or over half a second to the redial. full_speed:
// seal, spool, send under CURVE, verify, store, open, in one run with AES-256-GCM, SHA-256, plain
// ZeroMQ and CURVE each alone. Exit code 1 under 0.4 GB/s.
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "blocks/content.h"
#include "crypto/hash.h"
#include "crypto/seal.h"
#include "tests/transport/content_transfer.h"
#include "tests/transport/link_emulator.h"

namespace tidegate::transport {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

struct Options {
  double mbit = 4, delay_ms = 125;
  uint64_t megabytes = 0;
  int cuts = 3;
  uint32_t stripes = 1;
  fs::path dir = "/dev/shm";
};

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double CpuSeconds(int who) {
  rusage usage{};
  ::getrusage(who, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double LoadAverage() {
  double load = 0;
  return ::getloadavg(&load, 1) == 1 ? load : -1;
}

CurveKey PublicOf(const crypto::CurveKeyPair& pair) {
  CurveKey key;
  std::copy(pair.public_key().begin(), pair.public_key().end(), key.begin());
  return key;
}

// Not random, and not the same anywhere.
Bytes Plaintext(uint64_t bytes) {
  Bytes plain(bytes);
  uint64_t x = 88172645463325252ull;
  for (uint64_t i = 0; i + 8 <= bytes; i += 8) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    std::memcpy(plain.data() + i, &x, 8);
  }
  return plain;
}

// Both processes have this from before the fork.
struct Setting {
  crypto::CurveKeyPair server = *crypto::CurveKeyPair::Generate();
  crypto::CurveKeyPair site = *crypto::CurveKeyPair::Generate();
  crypto::AgreeSecretKey recipient = *crypto::AgreeSecretKey::Generate();
  fs::path dir;
  const Bytes info = Bytes{'b', 'e', 'n', 'c', 'h'};
  uint64_t window = kWindowBytes;
};

// What the receiving process tells at its end.
struct Told {
  uint64_t commits = 0, duplicates = 0, refused = 0;
  double cpu_seconds = 0;
};

// Opens the sealed body, in order, and checks that it is the plaintext that was sealed.
Status Open(const Setting& setting, const blocks::BlockStore& store,
            const protocols::ReleaseManifest& manifest) {
  const crypto::SealHeader header{crypto::Suite::kTg1, manifest.encapsulated, manifest.commitment};
  TG_ASSIGN_OR_RETURN(crypto::BodyOpener opener,
                      crypto::BodyOpener::Start(header, setting.recipient, setting.info, {}));
  for (size_t i = 0; i < manifest.blocks.size(); ++i) {
    TG_ASSIGN_OR_RETURN(const Bytes block, store.GetUnverified(manifest.blocks.items[i]));
    TG_ASSIGN_OR_RETURN(const Bytes part, opener.OpenChunk(block, i + 1 == manifest.blocks.size()));
  }
  return opener.Finish();
}

// The receiving process: tells its port, serves until its input ends, tells what it saw.
Status Receive(const Setting& setting, int out, int in) {
  ServerOptions options;
  options.address = "tcp://127.0.0.1:*";
  options.sites = {{"north", PublicOf(setting.site)}};
  TG_ASSIGN_OR_RETURN(const auto server, Server::Bind(options, setting.server));
  TG_ASSIGN_OR_RETURN(auto store, blocks::BlockStore::Open(setting.dir / "blocks", 8ull << 30));
  ContentTaker taker(
      *server, store, [&](const auto& manifest) { return Open(setting, store, manifest); },
      setting.window);
  const int port = std::stoi(server->address().substr(server->address().rfind(':') + 1));
  if (::write(out, &port, sizeof(port)) != sizeof(port)) return Internal("no one hears the port");
  for (;;) {
    TG_RETURN_IF_ERROR(taker.Step(50));
    pollfd end{in, POLLIN, 0};
    if (::poll(&end, 1, 0) == 1) break;
  }
  const Told told{taker.commits(), taker.duplicates(), taker.refused(), CpuSeconds(RUSAGE_SELF)};
  return ::write(out, &told, sizeof(told)) == sizeof(told) ? OkStatus() : Internal("not told");
}

class Receiver {
 public:
  static Result<Receiver> Start(const Setting& setting) {
    int up[2], down[2];
    if (::pipe(up) != 0 || ::pipe(down) != 0)
      return Unexpected(ErrnoStatus("make", "pipes", errno));
    Receiver r;
    r.pid_ = ::fork();
    if (r.pid_ < 0) return Unexpected(ErrnoStatus("fork", "a receiver", errno));
    if (r.pid_ == 0) {
      ::close(down[1]);
      ::close(up[0]);
      const Status status = Receive(setting, up[1], down[0]);
      if (!status.ok()) fmt::print(stderr, "receiver: {}\n", status.ToString());
      ::_exit(status.ok() ? 0 : 1);
    }
    ::close(up[1]);
    ::close(down[0]);
    r.in_ = Fd(up[0]);
    r.out_ = Fd(down[1]);
    if (::read(r.in_.get(), &r.port_, sizeof(r.port_)) != sizeof(r.port_)) {
      return Unavailable("the receiver did not start");
    }
    return r;
  }
  int port() const { return port_; }
  Result<Told> Stop() {
    out_.reset();
    Told told;
    if (::read(in_.get(), &told, sizeof(told)) != sizeof(told)) return Internal("nothing was told");
    ::waitpid(pid_, nullptr, 0);
    return told;
  }

 private:
  pid_t pid_ = -1;
  int port_ = 0;
  Fd in_, out_;
};

// Seals into the spool; the manifest of what lies there.
Result<protocols::ReleaseManifest> Seal(const Setting& setting, ByteSpan plain,
                                        blocks::BlockStore& spool) {
  TG_ASSIGN_OR_RETURN(crypto::BodySealer sealer,
                      crypto::BodySealer::Start(setting.recipient.public_key(), crypto::Suite::kTg1,
                                                setting.info, {}, plain.size()));
  protocols::ReleaseManifest manifest;
  const auto sink = [&](crypto::SealedChunk chunk) {
    manifest.blocks.items.push_back(chunk.digest);
    manifest.ciphertext_bytes += chunk.bytes.size();
    return spool.PutHashed(chunk.digest, chunk.bytes);
  };
  TG_RETURN_IF_ERROR(sealer.Add(plain, sink));
  TG_RETURN_IF_ERROR(sealer.Finish(sink));
  TG_RETURN_IF_ERROR(spool.Sync());
  manifest.encapsulated = sealer.header().enc;
  manifest.commitment = sealer.header().commitment;
  manifest.content = blocks::ContentId(manifest.blocks.items);
  return manifest;
}

struct Crossing {
  double seal_seconds = 0, seconds = 0;
  uint64_t wire_bytes = 0, chunks = 0, blocks = 0, connects = 0;
};

Result<Crossing> Cross(const Setting& setting, const Options& options, int port, ByteSpan plain,
                       int64_t limit_millis) {
  TG_ASSIGN_OR_RETURN(auto spool, blocks::BlockStore::Open(setting.dir / "spool", 8ull << 30));
  ClientOptions client_options;
  client_options.address = fmt::format("tcp://127.0.0.1:{}", port);
  client_options.server_key = PublicOf(setting.server);
  client_options.site = "north";
  client_options.stripes = options.stripes;
  Crossing crossing;
  const auto start = Clock::now();
  TG_ASSIGN_OR_RETURN(const protocols::ReleaseManifest manifest, Seal(setting, plain, spool));
  crossing.seal_seconds = Since(start);
  TG_ASSIGN_OR_RETURN(const auto client, Client::Connect(client_options, setting.site));
  ContentSender sender(*client, manifest,
                       [&](uint32_t i) { return spool.GetUnverified(manifest.blocks.items[i]); });
  while (!sender.done()) {
    TG_RETURN_IF_ERROR(sender.Step(20));
    if (Since(start) * 1000 > static_cast<double>(limit_millis)) {
      return DeadlineExceeded("not there after {} ms, {} chunks sent", limit_millis,
                              sender.chunks());
    }
  }
  crossing.seconds = Since(start);
  crossing.wire_bytes = manifest.ciphertext_bytes;
  crossing.chunks = sender.chunks();
  crossing.blocks = manifest.blocks.size();
  crossing.connects = sender.connects();
  return crossing;
}

Result<fs::path> FreshDir(const fs::path& parent) {
  std::string name = (parent / "tidegate_wire_XXXXXX").native();
  if (::mkdtemp(name.data()) == nullptr) return Unexpected(ErrnoStatus("make", name, errno));
  return fs::path(name);
}

Result<bool> BadLink(const Options& options) {
  const uint64_t bytes = (options.megabytes == 0 ? 60 : options.megabytes) * 1'000'000;
  const Bytes plain = Plaintext(bytes);
  Setting setting;
  TG_ASSIGN_OR_RETURN(setting.dir, FreshDir(options.dir));
  TG_ASSIGN_OR_RETURN(Receiver receiver, Receiver::Start(setting));
  LinkOptions link_options;
  link_options.bits_per_second = options.mbit * 1e6;
  link_options.delay_millis = options.delay_ms;
  for (int i = 1; i <= options.cuts; ++i) {
    // Not where blocks end.
    link_options.cuts.push_back(bytes * static_cast<uint64_t>(i) /
                                    static_cast<uint64_t>(options.cuts + 1) +
                                77'777u * static_cast<uint64_t>(i));
  }
  TG_ASSIGN_OR_RETURN(const auto link, LinkEmulator::Start(receiver.port(), link_options));
  // What crosses is the sealed update: padded to its bucket.
  const uint64_t sealed = crypto::SealedSizeOf(bytes).bytes;
  const double ideal = static_cast<double>(sealed) * 8 / link_options.bits_per_second;
  TG_ASSIGN_OR_RETURN(const Crossing c, Cross(setting, options, link->port(), plain,
                                              static_cast<int64_t>(ideal * 3000 + 30'000)));
  TG_ASSIGN_OR_RETURN(const Told told, receiver.Stop());
  fs::remove_all(setting.dir);
  const auto counts = link->counts();
  const double share = ideal / c.seconds;
  const uint64_t resent = (c.chunks - c.blocks) * protocols::kBlockBytes;
  const uint64_t allowed = counts.cuts * setting.window;
  const bool good = share >= 0.9 && resent <= allowed && counts.slowest_redial_millis <= 500 &&
                    told.commits == 1 && counts.cuts == static_cast<uint64_t>(options.cuts);
  const nlohmann::ordered_json json = {{"bench", "bad_link"},
                                       {"plaintext_bytes", bytes},
                                       {"sealed_bytes", sealed},
                                       {"mbit_per_second", options.mbit},
                                       {"round_trip_ms", 2 * options.delay_ms},
                                       {"stripes", options.stripes},
                                       {"cuts", counts.cuts},
                                       {"seconds", c.seconds},
                                       {"share_of_line", share},
                                       {"resent_bytes", resent},
                                       {"allowed_bytes", allowed},
                                       {"slowest_redial_ms", counts.slowest_redial_millis},
                                       {"commits", told.commits},
                                       {"load", LoadAverage()},
                                       {"good", good}};
  fmt::print("{}\n", json.dump(2));
  return good;
}

double Rate(uint64_t bytes, double seconds) { return static_cast<double>(bytes) / seconds / 1e9; }

// 256 KiB frames from one process to another through two sockets of libzmq: its own speed.
Result<double> ZmqAlone(uint64_t bytes, bool curve) {
  char server_public[41], server_secret[41], public_key[41], secret_key[41];
  if (zmq_curve_keypair(server_public, server_secret) != 0 ||
      zmq_curve_keypair(public_key, secret_key) != 0) {
    return Internal("no CURVE in this libzmq");
  }
  int pipe_fds[2];
  if (::pipe(pipe_fds) != 0) return Unexpected(ErrnoStatus("make", "a pipe", errno));
  const uint64_t frames = bytes / protocols::kBlockBytes;
  const pid_t child = ::fork();
  if (child == 0) {
    void* context = zmq_ctx_new();
    void* socket = zmq_socket(context, ZMQ_ROUTER);
    const int one = 1;
    if (curve) {
      zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &one, sizeof(one));
      zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, server_secret, 41);
    }
    zmq_bind(socket, "tcp://127.0.0.1:*");
    char endpoint[256];
    size_t size = sizeof(endpoint);
    zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &size);
    if (::write(pipe_fds[1], endpoint, sizeof(endpoint)) < 0) ::_exit(1);
    zmq_msg_t id, message;
    zmq_msg_init(&id);
    zmq_msg_init(&message);
    for (uint64_t i = 0; i < frames; ++i) {
      zmq_msg_recv(&id, socket, 0);
      zmq_msg_recv(&message, socket, 0);
    }
    zmq_msg_send(&id, socket, ZMQ_SNDMORE);
    zmq_send(socket, "", 0, 0);
    zmq_close(socket);
    zmq_ctx_term(context);
    ::_exit(0);
  }
  char endpoint[256] = {};
  if (::read(pipe_fds[0], endpoint, sizeof(endpoint)) < 0) return Internal("no endpoint");
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_DEALER);
  if (curve) {
    zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, server_public, 41);
    zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public_key, 41);
    zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret_key, 41);
  }
  const Bytes block(protocols::kBlockBytes, 7);
  zmq_connect(socket, endpoint);
  const auto start = Clock::now();
  for (uint64_t i = 0; i < frames; ++i) zmq_send(socket, block.data(), block.size(), 0);
  char done;
  zmq_recv(socket, &done, 1, 0);
  const double seconds = Since(start);
  zmq_close(socket);
  zmq_ctx_term(context);
  ::waitpid(child, nullptr, 0);
  ::close(pipe_fds[0]);
  ::close(pipe_fds[1]);
  return Rate(frames * protocols::kBlockBytes, seconds);
}

Result<double> SealAlone(const Setting& setting, ByteSpan plain) {
  const auto start = Clock::now();
  TG_ASSIGN_OR_RETURN(crypto::BodySealer sealer,
                      crypto::BodySealer::Start(setting.recipient.public_key(), crypto::Suite::kTg1,
                                                setting.info, {}, plain.size()));
  const auto sink = [](const crypto::SealedChunk&) { return OkStatus(); };
  TG_RETURN_IF_ERROR(sealer.Add(plain, sink));
  TG_RETURN_IF_ERROR(sealer.Finish(sink));
  return Rate(plain.size(), Since(start));
}

double HashAlone(ByteSpan plain) {
  const auto start = Clock::now();
  for (size_t at = 0; at < plain.size(); at += protocols::kBlockBytes) {
    crypto::Sha256::Of(plain.subspan(at, std::min(protocols::kBlockBytes, plain.size() - at)));
  }
  return Rate(plain.size(), Since(start));
}

Result<bool> FullSpeed(const Options& options) {
  const uint64_t bytes = (options.megabytes == 0 ? 1024 : options.megabytes) << 20;
  const Bytes plain = Plaintext(bytes);
  Setting setting;
  setting.window = 32u << 20;
  TG_ASSIGN_OR_RETURN(const double plain_zmq, ZmqAlone(bytes, false));
  TG_ASSIGN_OR_RETURN(const double curve, ZmqAlone(bytes, true));
  TG_ASSIGN_OR_RETURN(const double seal, SealAlone(setting, plain));
  const double hash = HashAlone(plain);
  TG_ASSIGN_OR_RETURN(setting.dir, FreshDir(options.dir));
  TG_ASSIGN_OR_RETURN(Receiver receiver, Receiver::Start(setting));
  const double cpu = CpuSeconds(RUSAGE_SELF);
  TG_ASSIGN_OR_RETURN(const Crossing c, Cross(setting, options, receiver.port(), plain, 120'000));
  const double sender_cpu = CpuSeconds(RUSAGE_SELF) - cpu;
  TG_ASSIGN_OR_RETURN(const Told told, receiver.Stop());
  fs::remove_all(setting.dir);
  const double rate = Rate(bytes, c.seconds);
  const bool good = rate >= 0.4 && told.commits == 1 && c.chunks == c.blocks;
  const nlohmann::ordered_json json = {{"bench", "full_speed"},
                                       {"bytes", bytes},
                                       {"stripes", options.stripes},
                                       {"dir", options.dir.native()},
                                       {"end_to_end_gb_per_second", rate},
                                       {"seconds", c.seconds},
                                       {"of_that_sealing", c.seal_seconds},
                                       {"sender_cpu_seconds", sender_cpu},
                                       {"receiver_cpu_seconds", told.cpu_seconds},
                                       {"seal_and_hash_alone", seal},
                                       {"sha256_alone", hash},
                                       {"curve_alone", curve},
                                       {"plain_zeromq_alone", plain_zmq},
                                       {"load", LoadAverage()},
                                       {"good", good}};
  fmt::print("{}\n", json.dump(2));
  return good;
}

Result<Options> Parse(int argc, char** argv) {
  Options options;
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--mbit")
      options.mbit = std::stod(value);
    else if (name == "--delay_ms")
      options.delay_ms = std::stod(value);
    else if (name == "--megabytes")
      options.megabytes = std::stoull(value);
    else if (name == "--cuts")
      options.cuts = std::stoi(value);
    else if (name == "--stripes")
      options.stripes = static_cast<uint32_t>(std::stoul(value));
    else if (name == "--dir")
      options.dir = value;
    else
      return InvalidArgument("no option {}", name);
  }
  return options;
}

}  // namespace
}  // namespace tidegate::transport

int main(int argc, char** argv) {
  using namespace tidegate;
  const std::string what = argc > 1 ? argv[1] : "";
  const auto options = transport::Parse(argc, argv);
  if (!options || (what != "bad_link" && what != "full_speed")) {
    fmt::print(stderr,
               "wire_bench bad_link|full_speed [--name value …]; see bench/wire_bench.cc\n");
    return 64;
  }
  std::signal(SIGPIPE, SIG_IGN);
  const auto good =
      what == "bad_link" ? transport::BadLink(*options) : transport::FullSpeed(*options);
  if (!good) {
    fmt::print(stderr, "wire_bench: {}\n", good.error().ToString());
    return 1;
  }
  return *good ? 0 : 1;
}
