// Times the CUDA kernels with events: the median of repeated runs after a warm-up, beside the bytes
// that an op must move or the floating-point operations that it must do. Prints a line of JSON an
// op.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/quantize.h"
#include "kernels/table.h"

namespace tidegate::kernels {
namespace {

constexpr int kWarmUps = 5, kRepeats = 30;

// Buffers on the device that begin as random numbers, and the clock.
class Gpu {
 public:
  explicit Gpu(const KernelTable& table)
      : table_(table),
        workspace_(table.device->memory),
        context_{1, &workspace_, table.device->make_stream()} {
    cudaEventCreate(&begin_);
    cudaEventCreate(&end_);
    // The same random bytes for all, as bf16 in [-1, 1).
    std::vector<uint16_t> values(size_t{1} << 22);
    for (size_t i = 0; i < values.size(); ++i) {
      const float value = 2 * UniformFloat(RandomWords(1, RngPurpose::kTest, 0, i)[0]) - 1;
      uint32_t bits;
      __builtin_memcpy(&bits, &value, sizeof(bits));
      values[i] = static_cast<uint16_t>(bits >> 16);
    }
    random_.assign(reinterpret_cast<char*>(values.data()),
                   reinterpret_cast<char*>(values.data() + values.size()));
  }
  ~Gpu() {
    Free();
    table_.device->release_stream(context_.stream);
  }
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const KernelTable& table() const { return table_; }
  const Context& context() const { return context_; }

  char* Bytes(size_t bytes) {
    char* memory = static_cast<char*>(table_.device->memory.allocate(bytes));
    buffers_.push_back(memory);
    for (size_t at = 0; at < bytes; at += random_.size()) {
      table_.device->to_device(context_, memory + at, random_.data(),
                               std::min(random_.size(), bytes - at));
    }
    table_.device->synchronize(context_);
    return memory;
  }
  void* Halves(int64_t count) { return Bytes(static_cast<size_t>(count) * 2); }
  // Zeros.
  void* Floats(int64_t count) {
    char* memory =
        static_cast<char*>(table_.device->memory.allocate(static_cast<size_t>(count) * 4));
    buffers_.push_back(memory);
    table_.device->zero(context_, memory, static_cast<size_t>(count) * 4);
    return memory;
  }
  template <typename T>
  T* Copy(const std::vector<T>& values) {
    char* memory = static_cast<char*>(table_.device->memory.allocate(values.size() * sizeof(T)));
    buffers_.push_back(memory);
    table_.device->to_device(context_, memory, values.data(), values.size() * sizeof(T));
    table_.device->synchronize(context_);
    return reinterpret_cast<T*>(memory);
  }
  void Free() {
    table_.device->synchronize(context_);
    for (char* buffer : buffers_) table_.device->memory.release(buffer);
    buffers_.clear();
  }

  // `bytes` and `flops`: what a run has to move and to do; zero where it is not the measure.
  void Time(const std::string& name, double bytes, double flops, const std::function<void()>& run) {
    const cudaStream_t stream = static_cast<cudaStream_t>(context_.stream);
    for (int i = 0; i < kWarmUps; ++i) run();
    std::vector<float> times;
    for (int i = 0; i < kRepeats; ++i) {
      cudaEventRecord(begin_, stream);
      run();
      cudaEventRecord(end_, stream);
      cudaEventSynchronize(end_);
      float ms = 0;
      cudaEventElapsedTime(&ms, begin_, end_);
      times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    const double us = 1e3 * static_cast<double>(times[times.size() / 2]);
    std::printf("{\"op\": \"%s\", \"us\": %.2f", name.c_str(), us);
    if (bytes > 0) std::printf(", \"GBps\": %.0f", bytes / us / 1e3);
    if (flops > 0) std::printf(", \"TFLOPs\": %.1f", flops / us / 1e6);
    std::printf("}\n");
    std::fflush(stdout);
  }

 private:
  const KernelTable& table_;
  Workspace workspace_;
  Context context_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  std::vector<char> random_;
  std::vector<char*> buffers_;
};

double D(int64_t value) { return static_cast<double>(value); }

void Norms(Gpu& gpu) {
  const int64_t m = 32768, n = 2048;
  void *x = gpu.Halves(m * n), *w = gpu.Halves(n), *y = gpu.Halves(m * n), *dy = gpu.Halves(m * n);
  void *rstd = gpu.Floats(m), *dw = gpu.Floats(n);
  const auto& t = gpu.table();
  const double row = 2 * D(m * n);
  gpu.Time("rmsnorm 32768x2048", 2 * row, 0, [&] {
    t.rmsnorm_forward(gpu.context(), {m, n, x, w, 1e-5, y, rstd});
  });
  gpu.Time("rmsnorm backward 32768x2048", 3 * row, 0, [&] {
    t.rmsnorm_backward(gpu.context(), {m, n, x, w, rstd, dy, false, y});
  });
  gpu.Time("rmsnorm gradient 32768x2048", 2 * row, 0, [&] {
    t.rmsnorm_gradient(gpu.context(), {m, n, x, rstd, dy, dw});
  });
  gpu.Free();
}

void Elementwise(Gpu& gpu) {
  const int64_t count = int64_t{16384} * 8192;
  void *gate = gpu.Halves(count), *up = gpu.Halves(count), *act = gpu.Halves(count);
  void *dgate = gpu.Halves(count), *dup = gpu.Halves(count);
  const auto& t = gpu.table();
  gpu.Time("swiglu 16384x8192", 6 * D(count), 0, [&] {
    t.swiglu_forward(gpu.context(), {count, gate, up, act});
  });
  gpu.Time("swiglu backward 16384x8192", 10 * D(count), 0, [&] {
    t.swiglu_backward(gpu.context(), {count, gate, up, act, dgate, dup, nullptr});
  });
  gpu.Time("dropout 16384x8192", 4 * D(count), 0, [&] {
    t.dropout_forward(gpu.context(), {count, 0.1, {1, 2, 3}, gate, act});
  });
  const int64_t rows = 32768, heads = 32, d = 128;
  const float* angles = static_cast<float*>(gpu.Floats(rows * d / 2));
  gpu.Time("rope 32768x32x128", 4 * D(rows * heads * d), 0, [&] {
    t.rope(gpu.context(), {rows, heads, d, angles, angles, false, gate});
  });
  gpu.Free();
}

void Optimizer(Gpu& gpu) {
  const int64_t count = 134'515'008;
  void *p = gpu.Floats(count), *g = gpu.Floats(count), *m = gpu.Floats(count);
  void *v = gpu.Floats(count), *halves = gpu.Halves(count);
  double* sum = static_cast<double*>(gpu.Floats(2));
  const auto& t = gpu.table();
  gpu.Time("adamw 134.5M", 28 * D(count), 0, [&] {
    t.adamw(gpu.context(), {count, p, g, m, v, 1, 1e-3, 0.9, 0.999, 1e-8, 0.1, 5});
  });
  gpu.Time("sum of squares 134.5M", 4 * D(count), 0, [&] {
    t.sum_squares(gpu.context(), {count, g, sum});
  });
  gpu.Time("convert 134.5M", 6 * D(count), 0, [&] {
    t.convert(gpu.context(), {count, p, 1, halves});
  });
  gpu.Free();
}

void Embeddings(Gpu& gpu) {
  const int64_t m = 16384, vocab = 49152, k = 2048;
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < m; ++i) {
    const uint32_t word = RandomWords(2, RngPurpose::kTest, 0, static_cast<uint64_t>(i))[0];
    ids.push_back(static_cast<int32_t>(word % static_cast<uint32_t>(i % 4 == 0 ? vocab : 997)));
  }
  const int32_t* on_gpu = gpu.Copy(ids);
  void *table = gpu.Halves(vocab * k), *out = gpu.Halves(m * k), *dtable = gpu.Floats(vocab * k);
  const auto& t = gpu.table();
  gpu.Time("embedding 16384x2048", 4 * D(m * k), 0, [&] {
    t.embedding(gpu.context(), {{WeightFormat::kBF16, vocab, k, table}, m, on_gpu, out});
  });
  gpu.Time("embedding gradient 16384x2048", 2 * D(m * k), 0, [&] {
    t.embedding_gradient(gpu.context(), {m, k, on_gpu, out, dtable});
  });
  gpu.Free();
}

void Linear(Gpu& gpu, int64_t m, int64_t n, int64_t k) {
  const auto& t = gpu.table();
  void *w = gpu.Halves(n * k), *x = gpu.Halves(m * k), *y = gpu.Halves(m * n);
  void* dw = gpu.Floats(n * k);
  const auto prepared = t.prepare_weights({WeightFormat::kBF16, n, k, w});
  const std::string shape = std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k);
  const double flops = 2 * D(m) * D(n) * D(k);
  gpu.Time("linear " + shape, m < 64 ? 2 * D(n * k) : 0, flops, [&] {
    t.linear_forward(gpu.context(), {prepared.get(), m, x, y, y});
  });
  gpu.Time("linear backward " + shape, 0, flops, [&] {
    t.linear_backward(gpu.context(), {prepared.get(), m, y, false, x});
  });
  gpu.Time("linear gradient " + shape, 0, flops, [&] {
    t.linear_gradient(gpu.context(), {m, n, k, x, y, dw, nullptr});
  });
  std::vector<float> floats(static_cast<size_t>(n * k));
  for (size_t i = 0; i < floats.size(); ++i) floats[i] = static_cast<float>(i % 257) / 257 - 0.5f;
  std::vector<char> packed(QuantizedBytes(WeightFormat::kNf4, n, k));
  Quantize(8, WeightFormat::kNf4, n, k, floats.data(), packed.data());
  const auto nf4 = t.prepare_weights({WeightFormat::kNf4, n, k, gpu.Copy(packed)});
  gpu.Time("linear nf4 " + shape, 0, flops, [&] {
    t.linear_forward(gpu.context(), {nf4.get(), m, x, y, y});
  });
  gpu.Free();
}

void Attention(Gpu& gpu, int64_t t, int64_t heads, int64_t kv_heads, int64_t d, int64_t segment) {
  std::vector<int32_t> starts;
  for (int64_t i = 0; i < t; ++i) starts.push_back(static_cast<int32_t>(i / segment * segment));
  const AttentionShape shape = {t, heads, kv_heads, d, gpu.Copy(starts)};
  const int64_t queries = t * heads * d, keys = t * kv_heads * d;
  void *q = gpu.Halves(queries), *k = gpu.Halves(keys), *v = gpu.Halves(keys);
  void *out = gpu.Halves(queries), *dout = gpu.Halves(queries), *dq = gpu.Halves(queries);
  void *dk = gpu.Halves(keys), *dv = gpu.Halves(keys), *lse = gpu.Floats(heads * t);
  const std::string name = std::to_string(t) + " in segments of " + std::to_string(segment) + ", " +
                           std::to_string(heads) + "/" + std::to_string(kv_heads) + " heads of " +
                           std::to_string(d);
  // Half of each segment's square.
  const double flops = 4 * D(t) * D(segment) / 2 * D(heads) * D(d);
  const auto& table = gpu.table();
  gpu.Time("attention " + name, 0, flops, [&] {
    table.attention_forward(gpu.context(), {shape, q, k, v, out, lse});
  });
  gpu.Time("attention backward " + name, 0, 2.5 * flops, [&] {
    table.attention_backward(gpu.context(), {shape, q, k, v, out, lse, dout, dq, dk, dv});
  });
  gpu.Free();
}

void Decode(Gpu& gpu) {
  const int64_t past = 8191, heads = 32, kv_heads = 8, d = 128;
  void *q = gpu.Halves(heads * d), *out = gpu.Halves(heads * d);
  void *k = gpu.Halves((past + 1) * kv_heads * d), *v = gpu.Halves((past + 1) * kv_heads * d);
  gpu.Time("decode 1 row after 8191, 32/8 heads of 128", 4 * D((past + 1) * kv_heads * d), 0, [&] {
    gpu.table().attention_decode(gpu.context(), {1, past, heads, kv_heads, d, q, k, v, out});
  });
  gpu.Free();
}

void Head(Gpu& gpu, int64_t m, int64_t vocab, int64_t k) {
  const auto& t = gpu.table();
  std::vector<int32_t> targets;
  for (int64_t i = 0; i < m; ++i) targets.push_back(static_cast<int32_t>(i * 7919 % vocab));
  const auto w = t.prepare_weights({WeightFormat::kBF16, vocab, k, gpu.Halves(vocab * k)});
  const int32_t* on_gpu = gpu.Copy(targets);
  void *h = gpu.Halves(m * k), *dh = gpu.Halves(m * k), *loss = gpu.Floats(m), *lse = gpu.Floats(m);
  void* dw = gpu.Floats(vocab * k);
  const std::string shape =
      std::to_string(m) + "x" + std::to_string(vocab) + "x" + std::to_string(k);
  const double flops = 2 * D(m) * D(vocab) * D(k);
  gpu.Time("head loss " + shape, 0, flops, [&] {
    t.head_loss(gpu.context(), {w.get(), m, h, on_gpu, nullptr, loss, nullptr, lse});
  });
  gpu.Time("head loss and its way back " + shape, 0, 2 * flops, [&] {
    t.head_loss(gpu.context(), {w.get(), m, h, on_gpu, nullptr, loss, dh, lse});
  });
  gpu.Time("head gradient " + shape, 0, 2 * flops, [&] {
    t.head_gradient(gpu.context(), {w.get(), m, h, on_gpu, nullptr, lse, dw});
  });
  gpu.Free();
}

void Copies(Gpu& gpu) {
  const size_t bytes = size_t{1} << 30;
  void *from = gpu.Bytes(bytes), *to = gpu.Bytes(bytes);
  gpu.Time("copy of 1 GiB within the device", 2.0 * static_cast<double>(bytes), 0,
           [&] { gpu.table().device->copy(gpu.context(), to, from, bytes); });
  gpu.Free();
}

int Main() {
  const KernelTable* table = TableFor(Backend::kCuda, DType::kBF16);
  if (table == nullptr) {
    std::fprintf(stderr, "no CUDA table: %s\n", WhyNoCuda());
    return 1;
  }
  Gpu gpu(*table);
  Copies(gpu);
  Norms(gpu);
  Elementwise(gpu);
  Optimizer(gpu);
  Embeddings(gpu);
  Linear(gpu, 8192, 4096, 4096);
  Linear(gpu, 1, 4096, 4096);
  Attention(gpu, 8192, 32, 8, 128, 8192);
  Attention(gpu, 8192, 9, 3, 64, 8192);
  Attention(gpu, 32768, 9, 3, 64, 2048);
  Attention(gpu, 16384, 32, 8, 128, 2048);
  Decode(gpu);
  Head(gpu, 8192, 49152, 576);
  Head(gpu, 8192, 128256, 4096);
  return 0;
}

}  // namespace
}  // namespace tidegate::kernels

int main() { return tidegate::kernels::Main(); }
