// Generation on a Hugging Face folder: decoded tokens a second, prefilled tokens a second, and the
// rate at which both threads read as many bytes as the weights have, as one line of JSON. What
// bench/transformers_baseline.py times of transformers, on the same random token ids.
//
//   generate_bench --base HF_FOLDER [--dtype bf16|f32] [--prompt 128] [--new 128] [--prefill 512]
//                  [--batch 1] [--repeats 5] [--threads 2] [--rank 0]
//
// Each repeat reads the weights' worth of memory, prefills, and decodes greedily; figures are
// medians, "best_" the fastest. "share_of_read" is the decode rate times the bytes of weights that
// a step reads, over the read rate of the same repeats. With --rank an adapter on all linear layers
// runs along.
#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <barrier>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <thread>

#include "base/rng.h"
#include "kernels/table.h"
#include "model/transformer.h"
#include "nlohmann/json.hpp"
#include "tensor/safetensors.h"

namespace tidegate {
namespace {

struct Options {
  std::filesystem::path base;
  std::string dtype = "bf16";
  int64_t prompt = 128, fresh = 128, prefill = 512, batch = 1, repeats = 5, threads = 2, rank = 0;
};

Result<Options> Parse(int count, char** words) {
  Options options;
  const std::map<std::string_view, int64_t*> numbers = {
      {"--prompt", &options.prompt},   {"--new", &options.fresh},
      {"--prefill", &options.prefill}, {"--batch", &options.batch},
      {"--repeats", &options.repeats}, {"--threads", &options.threads},
      {"--rank", &options.rank}};
  for (int i = 1; i < count; i += 2) {
    const std::string_view name = words[i];
    if (i + 1 == count) return InvalidArgument("{}: value missing", name);
    const std::string_view value = words[i + 1];
    if (name == "--base") {
      options.base = value;
    } else if (name == "--dtype") {
      options.dtype = value;
    } else if (const auto number = numbers.find(name); number != numbers.end()) {
      const int64_t least = name == "--rank" ? 0 : name == "--new" ? 2 : 1;
      const auto [end, error] =
          std::from_chars(value.data(), value.data() + value.size(), *number->second);
      if (error != std::errc() || end != value.data() + value.size() || *number->second < least) {
        return InvalidArgument("{} {}: choose a whole number from {}", name, value, least);
      }
    } else {
      return InvalidArgument("{}: no such option, see the head of this file", name);
    }
  }
  if (options.base.empty()) return InvalidArgument("--base: give a Hugging Face model folder");
  return options;
}

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Bytes that a step reads of the weights: all but an embedding that is not the head as well. They
// are held in the type of activations, or in bf16 where they are stored so.
Result<size_t> WeightBytes(const std::filesystem::path& base, const model::ModelConfig& config,
                           kernels::DType dtype) {
  TG_ASSIGN_OR_RETURN(const auto folder, tensor::SafetensorsFolder::Open(base));
  TG_ASSIGN_OR_RETURN(const auto* head, folder.Get("model.embed_tokens.weight"));
  const int64_t unread = config.tied ? 0 : config.vocab_size * config.hidden_size;
  const size_t size = head->dtype == tensor::DType::kBF16 ? 2 : kernels::SizeOf(dtype);
  return static_cast<size_t>(config.num_parameters() - unread) * size;
}

// The sum of a part, so that it is read, with the instructions and prefetches that were found to
// read fastest.
__attribute__((target("avx512f"))) uint64_t ReadPartAvx512(const char* begin, const char* end) {
  __m512i sum[8] = {};
  for (const char* p = begin; p + 512 <= end; p += 512) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      _mm_prefetch(p + 64 * i + 8192, _MM_HINT_T1);
      sum[i] = _mm512_add_epi64(sum[i], _mm512_load_si512(p + 64 * i));
    }
  }
  for (int i = 1; i < 8; ++i) sum[0] = _mm512_add_epi64(sum[0], sum[i]);
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, sum[0]);
  return lanes[0];
}

uint64_t ReadPart(const char* begin, const char* end) {
  if (__builtin_cpu_supports("avx512f")) return ReadPartAvx512(begin, end);
  __m128i sum[4] = {};
  for (const char* p = begin; p + 64 <= end; p += 64) {
    _mm_prefetch(p + 8192, _MM_HINT_T0);
    for (int i = 0; i < 4; ++i) {
      sum[i] = _mm_add_epi64(sum[i], _mm_load_si128(reinterpret_cast<const __m128i*>(p) + i));
    }
  }
  for (int i = 1; i < 4; ++i) sum[0] = _mm_add_epi64(sum[0], sum[i]);
  return static_cast<uint64_t>(_mm_cvtsi128_si64(sum[0]));
}

// The CPUs of this process before threads are pinned.
std::vector<int> UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

void PinTo(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

// Seconds to read all of `memory`, each thread a part of it: the fastest of three.
double ReadSeconds(const model::AlignedBuffer& memory, size_t threads,
                   const std::vector<int>& cpus) {
  const auto begin = reinterpret_cast<const char*>(memory.data());
  const size_t part = memory.size() / threads / 64 * 64;
  double best = 0;
  for (int i = 0; i < 3; ++i) {
    std::vector<double> seconds(threads);
    std::vector<std::thread> team;
    std::barrier ready(static_cast<std::ptrdiff_t>(threads));
    for (size_t t = 0; t < threads; ++t) {
      team.emplace_back([&, t] {
        if (t < cpus.size()) PinTo(cpus[t]);
        ready.arrive_and_wait();
        seconds[t] = Seconds([own = begin + t * part, part] {
          const uint64_t sum = ReadPart(own, own + part);
          __asm__ volatile("" : : "r"(sum) : "memory");
        });
      });
    }
    for (std::thread& thread : team) thread.join();
    const double slowest = *std::max_element(seconds.begin(), seconds.end());
    best = i == 0 ? slowest : std::min(best, slowest);
  }
  return best;
}

std::vector<int32_t> RandomIds(int64_t count, int64_t vocab, uint32_t stream) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t word = RandomWords(1, RngPurpose::kTest, stream, static_cast<uint64_t>(i))[0];
    ids.push_back(static_cast<int32_t>(UniformBelow(word, static_cast<uint32_t>(vocab))));
  }
  return ids;
}

Result<std::unique_ptr<model::Engine>> MakeEngine(const Options& options) {
  TG_ASSIGN_OR_RETURN(const kernels::DType dtype, model::ParseDType(options.dtype));
  const int threads = static_cast<int>(options.threads);
  TG_ASSIGN_OR_RETURN(auto base,
                      model::Base::Load(options.base, {.dtype = dtype, .threads = threads}));
  model::LoraConfig lora;
  lora.r = std::max<int64_t>(options.rank, 1);
  lora.alpha = static_cast<double>(lora.r);
  if (options.rank > 0) {
    TG_ASSIGN_OR_RETURN(lora.targets, model::ParseTargets("all-linear"));
  }
  const model::Adapter adapter = model::Adapter::Create(base->config(), lora, 1);
  TG_ASSIGN_OR_RETURN(auto engine, model::Engine::Create(std::move(base), lora));
  engine->SetParameters(adapter.parameters());
  return engine;
}

int32_t Likeliest(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

struct Sequences {
  std::vector<model::KvCache> caches;
  std::vector<int32_t> ids;  // to be fed next
};

Status Prefill(const Options& options, int64_t vocab, model::Engine& engine, Sequences* all) {
  all->ids.clear();
  for (size_t i = 0; i < all->caches.size(); ++i) {
    all->caches[i].Truncate(0);
    const auto prompt = RandomIds(options.prompt, vocab, static_cast<uint32_t>(i));
    TG_ASSIGN_OR_RETURN(const auto logits, engine.Append(all->caches[i], prompt));
    all->ids.push_back(Likeliest(logits));
  }
  return OkStatus();
}

// The first of the new tokens comes out of the prefill.
Status Decode(const Options& options, model::Engine& engine, Sequences* all) {
  std::vector<model::KvCache*> caches;
  for (model::KvCache& cache : all->caches) caches.push_back(&cache);
  for (int64_t i = 1; i < options.fresh; ++i) {
    TG_ASSIGN_OR_RETURN(const auto logits, engine.Step(caches, all->ids));
    const size_t vocab = logits.size() / caches.size();
    for (size_t s = 0; s < caches.size(); ++s) {
      all->ids[s] = Likeliest(logits.subspan(s * vocab, vocab));
    }
  }
  return OkStatus();
}

Status Run(const Options& options) {
  const std::vector<int> cpus = UsableCpus();
  TG_ASSIGN_OR_RETURN(const model::ModelConfig config,
                      model::LoadHfConfig(options.base / "config.json"));
  TG_ASSIGN_OR_RETURN(const kernels::DType dtype, model::ParseDType(options.dtype));
  kernels::PinThreads(static_cast<int>(options.threads));
  TG_ASSIGN_OR_RETURN(const auto engine, MakeEngine(options));
  Sequences all;
  for (int64_t i = 0; i < options.batch; ++i) {
    all.caches.push_back(engine->NewCache());
    all.caches.back().Reserve(options.prompt + options.fresh);
  }
  const std::vector<int32_t> long_prompt = RandomIds(options.prefill, config.vocab_size, 99);
  model::KvCache long_cache = engine->NewCache();
  TG_ASSIGN_OR_RETURN(const size_t weight_bytes, WeightBytes(options.base, config, dtype));
  model::AlignedBuffer memory(weight_bytes);
  std::memset(memory.data(), 1, memory.size());
  std::vector<double> reads, prefills, decodes;
  for (int64_t i = 0; i <= options.repeats; ++i) {
    Status status = OkStatus();
    const double read = ReadSeconds(memory, static_cast<size_t>(options.threads), cpus);
    long_cache.Truncate(0);
    const double prefill = Seconds([&] {
      const auto logits = engine->Append(long_cache, long_prompt);
      if (!logits) status = logits.error();
    });
    TG_RETURN_IF_ERROR(status);
    TG_RETURN_IF_ERROR(Prefill(options, config.vocab_size, *engine, &all));
    const double decode = Seconds([&] { status = Decode(options, *engine, &all); });
    TG_RETURN_IF_ERROR(status);
    if (i == 0) continue;  // warm-up
    reads.push_back(read);
    prefills.push_back(prefill);
    decodes.push_back(decode);
  }
  const double steps = static_cast<double>(options.fresh - 1);
  const double tokens = steps * static_cast<double>(options.batch);
  const double bytes = static_cast<double>(memory.size());
  const double read = Median(reads), decode = Median(decodes);
  const auto fastest = [](const std::vector<double>& v) {
    return *std::min_element(v.begin(), v.end());
  };
  const double length = static_cast<double>(options.prefill);
  const nlohmann::ordered_json line = {
      {"engine", "tidegate"},
      {"dtype", options.dtype},
      {"batch", options.batch},
      {"prompt_tokens", options.prompt},
      {"new_tokens", options.fresh},
      {"rank", options.rank},
      {"threads", options.threads},
      {"isa", kernels::TableFor(kernels::Backend::kCpu, dtype)->isa},
      {"decode_tokens_per_second", tokens / decode},
      {"best_decode_tokens_per_second", tokens / fastest(decodes)},
      {"prefill_tokens", options.prefill},
      {"prefill_tokens_per_second", length / Median(prefills)},
      {"best_prefill_tokens_per_second", length / fastest(prefills)},
      {"weight_bytes", memory.size()},
      {"read_gb_per_second", bytes / read * 1e-9},
      {"best_read_gb_per_second", bytes / fastest(reads) * 1e-9},
      {"share_of_read", steps * read / decode},
      {"best_share_of_read", steps * fastest(reads) / fastest(decodes)},
      {"last_tokens", all.ids}};
  fmt::print("{}\n", line.dump());
  return OkStatus();
}

}  // namespace
}  // namespace tidegate

int main(int argc, char** argv) {
  const auto options = tidegate::Parse(argc, argv);
  const tidegate::Status status = options ? tidegate::Run(*options) : options.error();
  if (!status.ok()) fmt::print(stderr, "generate_bench: {}\n", status.ToString());
  return status.ok() ? 0 : 1;
}
