#include "kernels/internal/matmul.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dnnl.hpp>
#include <new>
#include <string_view>
#include <unordered_map>

#include "kernels/internal/threads.h"

namespace tidegate::kernels {
namespace {

using dnnl::memory;

// Primitives a thread keeps. A training step of one row count needs about twenty.
constexpr size_t kMaxPrimitives = 256;

// oneDNN's brgemm divides a sum over k between threads only where A is transposed and k is long:
// never up to 512 in thousands of products tried, first at 2048.
constexpr int64_t kUnsplitSum = 512;

// What a primitive is made for. Rows of C, and of operands that aren't transposed, may be part of
// wider ones.
struct Key {
  MatmulSpec spec;
  int64_t a_stride, b_stride, c_stride;  // between rows in memory
  int threads;                           // oneDNN divides the work when a primitive is made
  bool operator==(const Key&) const = default;
};

Key DenseKey(const MatmulSpec& spec, int threads) {
  return {spec, spec.a_transposed ? spec.m : spec.k, spec.b_transposed ? spec.k : spec.n, spec.n,
          threads};
}

struct KeyHash {
  size_t operator()(const Key& key) const {
    const MatmulSpec& s = key.spec;
    uint64_t h = static_cast<uint64_t>(s.input) | static_cast<uint64_t>(s.output) << 2 |
                 static_cast<uint64_t>(s.post) << 4 | static_cast<uint64_t>(s.a_transposed) << 6 |
                 static_cast<uint64_t>(s.b_transposed) << 7 | static_cast<uint64_t>(s.biased) << 8;
    for (const int64_t v : {s.m, s.n, s.k, key.a_stride, key.b_stride, key.c_stride,
                            static_cast<int64_t>(key.threads)}) {
      h = (h ^ static_cast<uint64_t>(v)) * 0x9E3779B97F4A7C15u;
      h ^= h >> 29;
    }
    return h;
  }
};

// A primitive and the memory objects of its arguments, whose pointers are set for each call.
struct Product {
  dnnl::matmul primitive;
  memory a, b, c, residual, bias, scratchpad;
  size_t scratchpad_bytes;
  // Whether threads share the work so that none of them sums a part of what another sums.
  bool fixed_order;
  std::unordered_map<int, memory> arguments;
};

// Never destroyed, so that threads which end after main may still use it.
const dnnl::engine& Engine() {
  static const dnnl::engine* engine = [] {
    dnnl::set_primitive_cache_capacity(static_cast<int>(kMaxPrimitives));
    return new dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return *engine;
}

memory::data_type TypeOf(DType dtype) {
  return dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
}

memory::desc Matrix(DType dtype, int64_t rows, int64_t columns, int64_t stride, bool transposed) {
  return memory::desc({rows, columns}, TypeOf(dtype),
                      transposed ? memory::dims{1, stride} : memory::dims{stride, 1});
}

dnnl::matmul::primitive_desc Describe(const Key& key) {
  const MatmulSpec& spec = key.spec;
  const memory::desc c = Matrix(spec.output, spec.m, spec.n, key.c_stride, false);
  dnnl::post_ops post;
  if (spec.post == MatmulPost::kSum) post.append_sum();
  if (spec.post == MatmulPost::kResidual) post.append_binary(dnnl::algorithm::binary_add, c);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(post);
  // Our scratch: thread-safe by construction, and counted.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const memory::desc a = Matrix(spec.input, spec.m, spec.k, key.a_stride, spec.a_transposed);
  const memory::desc b = Matrix(spec.input, spec.k, spec.n, key.b_stride, spec.b_transposed);
  const auto product =
      spec.biased ? dnnl::matmul::desc(a, b, Matrix(spec.output, 1, spec.n, spec.n, false), c)
                  : dnnl::matmul::desc(a, b, c);
  return dnnl::matmul::primitive_desc(product, attributes, Engine());
}

Product Make(const Key& key) {
  const dnnl::matmul::primitive_desc description = Describe(key);
  const auto argument = [](const memory::desc& shape) {
    return memory(shape, Engine(), DNNL_MEMORY_NONE);
  };
  Product product;
  product.primitive = dnnl::matmul(description);
  product.a = argument(description.src_desc());
  product.b = argument(description.weights_desc());
  product.c = argument(description.dst_desc());
  product.scratchpad = argument(description.scratchpad_desc());
  product.scratchpad_bytes = description.scratchpad_desc().get_size();
  const bool brgemm = std::string_view(description.impl_info_str()).starts_with("brg");
  product.fixed_order = brgemm && !(key.spec.a_transposed && key.spec.k > kUnsplitSum);
  product.arguments = {{DNNL_ARG_SRC, product.a},
                       {DNNL_ARG_WEIGHTS, product.b},
                       {DNNL_ARG_DST, product.c},
                       {DNNL_ARG_SCRATCHPAD, product.scratchpad}};
  if (key.spec.biased) {
    product.bias = argument(description.bias_desc());
    product.arguments.insert({DNNL_ARG_BIAS, product.bias});
  }
  if (key.spec.post == MatmulPost::kResidual) {
    product.residual = argument(description.dst_desc());
    product.arguments.insert(
        {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, product.residual});
  }
  return product;
}

// The shapes were accepted when the model was loaded and TableFor has seen that oneDNN works here,
// so what is left is memory and our own mistakes.
[[noreturn]] void Fail(const MatmulSpec& spec, const dnnl::error& error) {
  if (error.status == dnnl_out_of_memory) throw std::bad_alloc();
  std::fprintf(stderr, "kernels: oneDNN refused a product of %lld x %lld x %lld: %s\n",
               static_cast<long long>(spec.m), static_cast<long long>(spec.n),
               static_cast<long long>(spec.k), error.what());
  std::abort();
}

// A thread's own: no lock, and memory objects that nobody else points elsewhere.
Product& Cached(const Key& key) {
  thread_local std::unordered_map<Key, Product, KeyHash> products;
  const auto found = products.find(key);
  if (found != products.end()) return found->second;
  if (products.size() >= kMaxPrimitives) products.clear();
  return products.emplace(key, Make(key)).first->second;
}

void Execute(Product& product, const void* a, const void* b, void* c, const void* residual,
             const void* bias, void* scratchpad) {
  thread_local dnnl::stream stream(Engine());
  product.a.set_data_handle(const_cast<void*>(a));
  product.b.set_data_handle(const_cast<void*>(b));
  product.c.set_data_handle(c);
  if (residual != nullptr) product.residual.set_data_handle(const_cast<void*>(residual));
  if (bias != nullptr) product.bias.set_data_handle(const_cast<void*>(bias));
  product.scratchpad.set_data_handle(scratchpad);
  product.primitive.execute(stream, product.arguments);
}

// Where oneDNN may divide the sum over k between threads (always without AVX-512), the bits of the
// product would depend on their number. So C is cut into blocks by its shape alone, each block is
// one thread's, and oneDNN is told of no other.
struct Blocks {
  static constexpr int64_t kRows = 128, kColumns = 256;
  explicit Blocks(const MatmulSpec& spec)
      : rows(std::min(spec.m, kRows)),
        columns(spec.m > kRows ? spec.n : std::min(spec.n, kColumns)) {}
  int64_t rows, columns;
};

void MatmulInBlocks(MatmulSpec spec, const void* a, const void* b, void* c, const void* residual,
                    const void* bias) {
  const size_t in = SizeOf(spec.input), out = SizeOf(spec.output);
  if (spec.post == MatmulPost::kResidual) {
    // Strided C with a binary operation would be done by plain loops.
    std::memcpy(c, residual, static_cast<size_t>(spec.m * spec.n) * out);
    spec.post = MatmulPost::kSum;
  }
  const Blocks blocks(spec);
  const Key whole = DenseKey(spec, 1);
  const int64_t down = (spec.m + blocks.rows - 1) / blocks.rows;
  const int64_t across = (spec.n + blocks.columns - 1) / blocks.columns;
  bool failed = false;
#pragma omp parallel for schedule(static) reduction(|| : failed)
  for (int64_t block = 0; block < down * across; ++block) {
    const int64_t row = block / across * blocks.rows, column = block % across * blocks.columns;
    Key part = whole;
    part.spec.m = std::min(blocks.rows, spec.m - row);
    part.spec.n = std::min(blocks.columns, spec.n - column);
    const int64_t a_at = spec.a_transposed ? row : row * whole.a_stride;
    const int64_t b_at = spec.b_transposed ? column * whole.b_stride : column;
    const int64_t c_at = row * whole.c_stride + column;
    try {
      thread_local Workspace workspace;
      const Workspace::Scope scope(workspace);
      Product& product = Cached(part);
      Execute(product, static_cast<const char*>(a) + static_cast<size_t>(a_at) * in,
              static_cast<const char*>(b) + static_cast<size_t>(b_at) * in,
              static_cast<char*>(c) + static_cast<size_t>(c_at) * out, nullptr,
              spec.biased ? static_cast<const char*>(bias) + static_cast<size_t>(column) * out
                          : nullptr,
              workspace.Allocate(product.scratchpad_bytes));
    } catch (const dnnl::error& error) {  // none may leave a parallel region
      if (error.status != dnnl_out_of_memory) Fail(part.spec, error);
      failed = true;
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  }
  if (failed) throw std::bad_alloc();
}

}  // namespace

void Matmul(const Context& context, const MatmulSpec& spec, const void* a, const void* b, void* c,
            const void* residual, const void* bias) {
  if (spec.m == 0 || spec.n == 0) return;
  const ScopedThreads threads(context.threads);
  try {
    Product& product = Cached(DenseKey(spec, threads.threads()));
    if (!product.fixed_order) {
      MatmulInBlocks(spec, a, b, c, residual, bias);
      return;
    }
    const Workspace::Scope scope(*context.workspace);
    Execute(product, a, b, c, spec.post == MatmulPost::kResidual ? residual : nullptr,
            spec.biased ? bias : nullptr, context.workspace->Allocate(product.scratchpad_bytes));
  } catch (const dnnl::error& error) {
    Fail(spec, error);
  }
}

std::string MatmulImplementation(const Context& context, const MatmulSpec& spec) {
  const ScopedThreads threads(context.threads);
  try {
    return Describe(DenseKey(spec, threads.threads())).impl_info_str();
  } catch (const dnnl::error& error) {
    Fail(spec, error);
  }
}

bool MatmulWorks(DType input) {
  const MatmulSpec spec{input, input, 32, 64, 64, false, true, MatmulPost::kNone};
  try {
    Make(DenseKey(spec, 1));
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

}  // namespace tidegate::kernels
