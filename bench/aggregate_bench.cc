// A round's sum, from sealed updates in a block store on disk to the new adapter in the store: what
// the coordinator does at quorum. Beside it each part alone, and what the memory gives.
//
//   aggregate_bench [--sites 64] [--threads 2] [--codec int8] [--cold 1] [--dir FOLDER]
//
// The layout is that of LoRA, r = 16, on all linear layers of a 7B model: 40 M parameters. With
// --cold the blocks are dropped from the page cache before. Prints JSON; exit code 1 under 540 M
// parameters a second, or where the sum alone is under half of the memory's bandwidth.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/file.h"
#include "base/rng.h"
#include "blocks/block_store.h"
#include "blocks/content.h"
#include "crypto/hash.h"
#include "crypto/seal.h"
#include "federation/rounds/aggregate_threads.h"
#include "federation/rounds/server_optimizer.h"
#include "federation/shared/grid.h"
#include "offshore/sealed_update.h"
#include "protocols/seal_binding.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using federation::WeightedSum;

constexpr double kFlowersSum = 540e6;  // parameters a second, on 2 cores

struct Options {
  uint32_t sites = 64;
  unsigned threads = federation::SumThreads();
  protocols::Codec codec = protocols::Codec::kInt8;
  bool cold = false;
  fs::path dir = fs::temp_directory_path() / "tidegate_aggregate_bench";
};

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double PeakMegabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024;
  }
  return 0;
}

JobFacts Job(const Options& options) {
  protocols::JobManifest m;
  m.codec = options.codec;
  m.phase_groups.items = {3};
  m.rounds = 1;
  m.max_weight = protocols::kMaxWeight;
  m.weighting = protocols::Weighting::kTokens;
  constexpr uint32_t kRank = 16, kHidden = 4096, kWide = 11008;
  for (int layer = 0; layer < 32; ++layer) {
    const auto add = [&](std::string_view module, uint32_t in, uint32_t out) {
      const std::string name = fmt::format("layers.{}.{}", layer, module);
      m.layout.tensors.items.push_back({name + ".a", kRank, in, 0});
      m.layout.tensors.items.push_back({name + ".b", out, kRank, 1});
    };
    for (const char* module : {"q", "k", "v", "o"}) add(module, kHidden, kHidden);
    add("gate", kHidden, kWide);
    add("up", kHidden, kWide);
    add("down", kWide, kHidden);
  }
  JobFacts facts = FactsOf({}, m);
  return facts;
}

// Any numbers that the parser takes, others for each site.
Bytes PlainUpdate(const JobFacts& job, uint32_t site) {
  const protocols::JobManifest& m = job.manifest;
  Bytes plain(protocols::UpdateBytes(m.layout, 3, m.codec));
  protocols::UpdateHeader header;
  header.job = job.id;
  header.round = 1;
  header.groups = 3;
  header.codec = m.codec;
  const std::string name = fmt::format("site{}", site);
  std::copy(name.begin(), name.end(), header.site.begin());
  header.layout_digest = job.layout_digest;
  header.tensors = static_cast<uint32_t>(m.layout.tensors.size());
  header.values = job.values;
  header.weight = 1000 + site;
  protocols::WriteUpdateHeader(header, plain.data());
  uint64_t at = protocols::kUpdateHeaderBytes, x = 88172645463325252ull + site;
  const auto random = [&x] {
    x ^= x << 13;
    x ^= x >> 7;
    return x ^= x << 17;
  };
  for (const protocols::LayoutTensor& t : m.layout.tensors.items) {
    const uint64_t count = static_cast<uint64_t>(t.rows) * t.cols;
    const uint64_t size = protocols::UpdateTensorBytes(count, m.codec);
    if (m.codec == protocols::Codec::kInt8) {
      const uint64_t groups = count / protocols::kInt8Group;
      for (uint64_t g = 0; g < groups; ++g) {
        const float scale = static_cast<float>(1 + random() % 1000) * 1e-8f;
        std::memcpy(plain.data() + at + 4 * g, &scale, 4);
      }
      uint8_t* const q = plain.data() + at + 4 * groups;
      for (uint64_t i = 0; i < count; i += 8) {
        // Each byte −64 … 63, from 7 of the random bits.
        const uint64_t bytes = (random() & 0x7f7f7f7f7f7f7f7full) ^ 0x4040404040404040ull;
        const uint64_t signs = (bytes & 0x4040404040404040ull) << 1;
        const uint64_t numbers = bytes | signs;
        std::memcpy(q + i, &numbers, 8);
        if (i % protocols::kInt8Group == 0) q[i] = protocols::kInt8Max;
      }
    } else {
      for (uint64_t i = 0; i < count; ++i) {
        const auto number = static_cast<int32_t>(random() % 200001) - 100000;
        std::memcpy(plain.data() + at + 4 * i, &number, 4);
      }
    }
    at += size;
  }
  return plain;
}

// As a site seals it and the coordinator stores it.
Result<federation::StoredUpdate> Store(const JobFacts& job, uint32_t site, const Bytes& plain,
                                       const crypto::AgreeSecretKey& key,
                                       blocks::BlockStore& store) {
  protocols::ReleaseManifest release;
  release.key = {job.id, 1, 0, {fmt::format("site{}", site)}};
  release.layout_digest = job.layout_digest;
  release.codec = job.manifest.codec;
  const Bytes aad =
      protocols::SealAad(release.key, release.base_hash, release.layout_digest, release.codec);
  const Bytes info = protocols::SealInfo(release.federation, release.suite);
  TG_ASSIGN_OR_RETURN(
      crypto::BodySealer sealer,
      crypto::BodySealer::Start(key.public_key(), crypto::Suite::kTg1, info, aad, plain.size()));
  const auto sink = [&](crypto::SealedChunk chunk) {
    release.ciphertext_bytes += chunk.bytes.size();
    release.blocks.items.push_back(chunk.digest);
    return store.PutHashed(chunk.digest, chunk.bytes);
  };
  TG_RETURN_IF_ERROR(sealer.Add(plain, sink));
  TG_RETURN_IF_ERROR(sealer.Finish(sink));
  TG_RETURN_IF_ERROR(store.Sync());
  std::copy_n(sealer.header().enc.begin(), 32, release.encapsulated.begin());
  release.commitment = sealer.header().commitment;
  release.plaintext = crypto::Sha256::Of(plain);
  federation::StoredUpdate update;
  update.key = release.key;
  update.weight = 1000 + site;
  update.release.body.items = protocols::Encode(release);
  return update;
}

void DropFromCache(const fs::path& dir) {
  for (const auto& entry : fs::recursive_directory_iterator(dir)) {
    if (!entry.is_regular_file()) continue;
    const Fd fd(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

// Bytes a second that memory moves for these threads: numbers far larger than the caches are read
// and written back, as the sum's are. The best of five.
double Bandwidth(unsigned threads) {
  constexpr size_t kPart = 1 << 20, kParts = 40;
  std::vector<int64_t> numbers(kPart * kParts, 1);
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const auto start = Clock::now();
    federation::OnThreads(threads, kParts, [&](size_t part) {
      int64_t* const p = numbers.data() + part * kPart;
      for (size_t j = 0; j < kPart; ++j) p[j] += i;
    });
    best = std::max(best, 2.0 * 8 * static_cast<double>(numbers.size()) / Since(start));
  }
  return best;
}

// Parameters a second of the sum alone, the updates open in memory, `at_once` in one walk.
double SumAlone(const JobFacts& job, const std::vector<Bytes>& plains, size_t at_once,
                unsigned threads) {
  std::vector<protocols::UpdateView> views;
  for (const Bytes& plain : plains) {
    views.push_back(*protocols::UpdateView::Parse(plain, job.manifest.layout));
  }
  WeightedSum sum(job.values);
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    std::vector<WeightedSum::Contribution> some;
    for (size_t j = 0; j < at_once; ++j) some.push_back({&views[(i + j) % views.size()], 1234});
    const auto start = Clock::now();
    if (!sum.Add(some, threads).ok()) return 0;
    best = std::max(best, static_cast<double>(at_once * job.values) / Since(start));
  }
  return best;
}

struct Times {
  double sum = 0, average = 0, publish = 0;
  double all() const { return sum + average + publish; }
};

Result<Times> AggregateOnce(const Options& options, const JobFacts& job,
                            std::span<const federation::StoredUpdate> updates,
                            const crypto::AgreeSecretKey& key, blocks::BlockStore& store) {
  Times times;
  auto start = Clock::now();
  const auto read = [&store](const Digest& id) { return store.GetUnverified(id); };
  std::vector<float> parameters;
  {
    TG_ASSIGN_OR_RETURN(const WeightedSum sum,
                        SumUpdates(updates, job, key, read, options.threads));
    times.sum = Since(start);
    start = Clock::now();
    federation::ServerMoments none;
    TG_ASSIGN_OR_RETURN(parameters,
                        federation::ServerStep(federation::RuleOf(job.manifest),
                                               std::vector<float>(job.values, 0.125f), sum.sum(),
                                               sum.total_weight(), job.manifest.layout, 3, &none));
  }
  size_t saturated = 0;
  TG_RETURN_IF_ERROR(federation::SaturateAllToGrid(parameters, &saturated));
  times.average = Since(start);
  start = Clock::now();
  Status stored;
  const ByteSpan bytes(reinterpret_cast<const uint8_t*>(parameters.data()),
                       parameters.size() * sizeof(float));
  const blocks::Content content = blocks::Cut(bytes, [&](const Digest& id, ByteSpan block) {
    if (stored.ok()) stored = store.PutHashed(id, block);
  });
  TG_RETURN_IF_ERROR(stored);
  TG_RETURN_IF_ERROR(store.Sync());
  times.publish = Since(start);
  for (const Digest& id : content.blocks) TG_RETURN_IF_ERROR(store.Remove(id));
  return times;
}

Result<bool> Run(const Options& options) {
  const JobFacts job = Job(options);
  fs::remove_all(options.dir);
  TG_ASSIGN_OR_RETURN(auto store, blocks::BlockStore::Open(options.dir / "blocks", 64ull << 30));
  TG_ASSIGN_OR_RETURN(const auto key, crypto::AgreeSecretKey::Generate());
  std::vector<federation::StoredUpdate> updates;
  for (uint32_t site = 0; site < options.sites; ++site) {
    const Bytes plain = PlainUpdate(job, site);
    TG_ASSIGN_OR_RETURN(updates.emplace_back(), Store(job, site, plain, key, store));
  }
  if (options.cold) DropFromCache(options.dir);
  TG_ASSIGN_OR_RETURN(const Times times, AggregateOnce(options, job, updates, key, store));
  const double peak = PeakMegabytes();  // of the round, before the parts alone take their own
  fs::remove_all(options.dir);

  std::vector<Bytes> plains;
  for (uint32_t site = 0; site < std::min(4u, options.sites); ++site) {
    plains.push_back(PlainUpdate(job, site));
  }
  const double bandwidth = Bandwidth(options.threads);
  const double alone = SumAlone(job, plains, 1, options.threads);
  const double alone_six = SumAlone(job, plains, 6, options.threads);
  // A parameter: its share of the update is read, eight bytes are read and written.
  const double bytes_each =
      16 + static_cast<double>(plains[0].size()) / static_cast<double>(job.values);
  const double share = alone * bytes_each / bandwidth;
  const double all = static_cast<double>(job.values) * options.sites;
  double load = 0;
  ::getloadavg(&load, 1);
  const bool good = all / times.all() >= kFlowersSum && share >= 0.5;
  const nlohmann::ordered_json json = {{"bench", "aggregate"},
                                       {"sites", options.sites},
                                       {"parameters", job.values},
                                       {"codec", protocols::CodecName(options.codec)},
                                       {"threads", options.threads},
                                       {"page_cache", options.cold ? "dropped before" : "warm"},
                                       {"million_parameters_per_second", all / times.all() / 1e6},
                                       {"of_that_open_and_sum", all / times.sum / 1e6},
                                       {"seconds_open_and_sum", times.sum},
                                       {"seconds_average", times.average},
                                       {"seconds_store_adapter", times.publish},
                                       {"peak_rss_megabytes", peak},
                                       {"sum_alone_million_per_second", alone / 1e6},
                                       {"sum_alone_of_memory_bandwidth", share},
                                       {"sum_alone_six_in_one_walk", alone_six / 1e6},
                                       {"memory_gigabytes_per_second", bandwidth / 1e9},
                                       {"load", load},
                                       {"good", good}};
  fmt::print("{}\n", json.dump(2));
  return good;
}

Result<Options> Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--sites")
      options.sites = static_cast<uint32_t>(std::stoul(value));
    else if (name == "--threads")
      options.threads = static_cast<unsigned>(std::stoul(value));
    else if (name == "--codec" && (value == "int8" || value == "fixed32"))
      options.codec = *protocols::CodecOf(value);
    else if (name == "--cold")
      options.cold = value != "0";
    else if (name == "--dir")
      options.dir = value;
    else
      return InvalidArgument("no option {} {}; see bench/aggregate_bench.cc", name, value);
  }
  if (options.sites < 1 || options.sites > protocols::kMaxContributions) {
    return InvalidArgument("--sites is 1 … {}", protocols::kMaxContributions);
  }
  return options;
}

}  // namespace
}  // namespace tidegate::offshore

int main(int argc, char** argv) {
  using namespace tidegate;
  const auto options = offshore::Parse(argc, argv);
  const auto good = options ? offshore::Run(*options) : Result<bool>(Unexpected(options.error()));
  if (!good) {
    fmt::print(stderr, "aggregate_bench: {}\n", good.error().ToString());
    return 1;
  }
  return *good ? 0 : 1;
}
