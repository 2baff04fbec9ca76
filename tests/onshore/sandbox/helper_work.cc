#include "tests/onshore/sandbox/helper_work.h"

#include <dirent.h>
#include <fcntl.h>
#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zmq.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <oneapi/dnnl/dnnl.hpp>
#include <thread>
#include <vector>

#include "airgap/folder.h"
#include "base/file.h"
#include "crypto/hash.h"

namespace tidegate::onshore {
namespace {

// [n,n] times [n,n]: ones times twos is 2n everywhere.
Status Matmul(dnnl::memory::data_type type) {
  constexpr dnnl::memory::dim kSize = 96;
  try {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    const dnnl::memory::dims shape = {kSize, kSize};
    const dnnl::memory::desc plain(shape, dnnl::memory::data_type::f32,
                                   dnnl::memory::format_tag::ab);
    const dnnl::memory::desc low(shape, type, dnnl::memory::format_tag::ab);
    std::vector<float> ones(kSize * kSize, 1.0F), twos(kSize * kSize, 2.0F), out(kSize * kSize);
    dnnl::memory a32(plain, engine, ones.data()), b32(plain, engine, twos.data());
    dnnl::memory a(low, engine), b(low, engine), c(plain, engine, out.data());
    dnnl::reorder(a32, a).execute(stream, a32, a);
    dnnl::reorder(b32, b).execute(stream, b32, b);
    const dnnl::matmul::desc descriptor(low, low, plain);
    const dnnl::matmul::primitive_desc primitive(descriptor, engine);
    dnnl::matmul(primitive).execute(stream,
                                    {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}});
    stream.wait();
    for (float value : out) {
      if (value != 2.0F * kSize) return Internal("a matrix product is {}", value);
    }
  } catch (const dnnl::error& error) {
    return Internal("oneDNN: {} (status {})", error.what(), static_cast<int>(error.status));
  }
  return OkStatus();
}

Status Threads() {
  omp_set_dynamic(0);
  omp_set_num_threads(3);
  int teams = 0;
  double sum = 0;
#pragma omp parallel for reduction(+ : sum)
  for (int i = 0; i < 100000; ++i) sum += 1.0;
#pragma omp parallel
#pragma omp single
  teams = omp_get_num_threads();
  if (sum != 100000.0 || teams != 3) return Internal("OpenMP: sum {} of {} threads", sum, teams);
  int answer = 0;
  std::thread([&answer] { answer = 42; }).join();
  return answer == 42 ? OkStatus() : Internal("a thread did not run");
}

Status MapFile(const std::string& path) {
  TG_ASSIGN_OR_RETURN(const MappedFile map, MappedFile::Open(path));
  return AsText(map.bytes()) == "checkpoint" ? OkStatus() : Internal("the mapped file differs");
}

}  // namespace

Status TrainerWork(const std::string& directory) {
  TG_RETURN_IF_ERROR(Threads());
  TG_RETURN_IF_ERROR(Matmul(dnnl::memory::data_type::f32));
  if (__builtin_cpu_supports("avx512bf16")) {
    TG_RETURN_IF_ERROR(Matmul(dnnl::memory::data_type::bf16));
  }
  const std::string path = directory + "/state";
  TG_RETURN_IF_ERROR(WriteFileDurably(path, AsBytes("checkpoint")));
  TG_RETURN_IF_ERROR(MapFile(path));
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    files += entry.is_regular_file() ? 1 : 0;
  }
  if (files < 1) return Internal("the directory lists {} files", files);
  std::filesystem::remove(path);
  return OkStatus();
}

Status GateWork(const std::string& directory) {
  const std::string path = directory + "/ledger";
  const Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus("open", path, errno);
  for (int i = 0; i < 3; ++i) {
    TG_RETURN_IF_ERROR(WriteAll(fd.get(), AsBytes("a record of the ledger\n"), path));
    if (::fdatasync(fd.get()) != 0) return ErrnoStatus("sync", path, errno);
  }
  char head[8] = {};
  if (::pread(fd.get(), head, 8, 2) != 8 || std::memcmp(head, "record o", 8) != 0) {
    return Internal("the ledger reads back as '{}'", std::string_view(head, 8));
  }
  if (::posix_fallocate(fd.get(), 0, 8192) != 0) return Internal("cannot preallocate {}", path);
  if (::ftruncate(fd.get(), 23) != 0) return ErrnoStatus("cut", path, errno);
  TG_RETURN_IF_ERROR(WriteFileDurably(directory + "/spool", AsBytes("ciphertext")));
  TG_ASSIGN_OR_RETURN(const std::string back, ReadTextFile(directory + "/spool", 100));
  if (back != "ciphertext") return Internal("the spool file differs");
  return Threads();
}

Status CarrierWork(const std::string& directory) {
  TG_ASSIGN_OR_RETURN(airgap::Folder folder, airgap::Folder::Open(directory, "FOLDER"));
  const Bytes block(200'000, 9);
  const Digest id = crypto::Sha256::Of(block);
  TG_RETURN_IF_ERROR(folder.PutBlock(id, block));
  TG_RETURN_IF_ERROR(folder.SyncBlocks());
  TG_RETURN_IF_ERROR(folder.Write({"up", "north", "lease"}, AsBytes("first")));
  TG_RETURN_IF_ERROR(folder.Write({"up", "north", "lease"}, AsBytes("second")));
  TG_ASSIGN_OR_RETURN(const auto lease, folder.Read({"up", "north", "lease"}, 100));
  TG_ASSIGN_OR_RETURN(const Bytes back, folder.Block(id));
  TG_ASSIGN_OR_RETURN(const auto blocks, folder.Blocks());
  if (!lease || AsText(*lease) != "second" || back != block || blocks.size() != 1) {
    return Internal("the folder does not give back what was put into it");
  }
  TG_RETURN_IF_ERROR(folder.RemoveBlock(id));
  return folder.Remove({"up", "north", "lease"});
}

Status LinkWork(const HelperOptions& options) {
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_REQ);
  char secret[41], public_key[41];
  if (zmq_curve_keypair(public_key, secret) != 0) return Internal("no CURVE in libzmq");
  const std::string server = options.Get("server_key");
  const int timeout = 20'000;
  int failed = zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, server.c_str(), 41);
  failed |= zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public_key, 41);
  failed |= zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret, 41);
  failed |= zmq_setsockopt(socket, ZMQ_RCVTIMEO, &timeout, sizeof(timeout));
  failed |= zmq_setsockopt(socket, ZMQ_SNDTIMEO, &timeout, sizeof(timeout));
  failed |= zmq_connect(socket, "tcp://10.9.9.9:7777");
  if (failed != 0) return Internal("zmq: {}", zmq_strerror(errno));
  const std::vector<char> block(1 << 20, 'b');
  std::vector<char> echo(block.size());
  for (int i = 0; i < 3; ++i) {
    if (zmq_send(socket, block.data(), block.size(), 0) < 0) {
      return Internal("zmq_send: {}", zmq_strerror(errno));
    }
    const int got = zmq_recv(socket, echo.data(), echo.size(), 0);
    if (got != static_cast<int>(block.size()) || echo != block) {
      return Internal("zmq_recv: {} bytes: {}", got, zmq_strerror(errno));
    }
  }
  return OkStatus();
}

void RunCurveServer() {
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_REP);
  char secret[41], public_key[41];
  const int on = 1;
  char endpoint[64] = {};
  size_t size = sizeof(endpoint);
  if (zmq_curve_keypair(public_key, secret) != 0 ||
      zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &on, sizeof(on)) != 0 ||
      zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret, 41) != 0 ||
      zmq_bind(socket, "tcp://127.0.0.1:*") != 0 ||
      zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &size) != 0) {
    Say("error server");
    ::_exit(1);
  }
  Say(std::string(std::strrchr(endpoint, ':') + 1) + " " + public_key);
  std::vector<char> block(2 << 20);
  while (true) {
    const int got = zmq_recv(socket, block.data(), block.size(), 0);
    if (got < 0 || zmq_send(socket, block.data(), static_cast<size_t>(got), 0) < 0) ::_exit(1);
  }
}

}  // namespace tidegate::onshore
