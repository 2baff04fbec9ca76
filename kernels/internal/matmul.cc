#include "kernels/internal/matmul.h"

#include <cstdio>
#include <cstdlib>
#include <dnnl.hpp>
#include <new>
#include <unordered_map>

#include "kernels/internal/threads.h"

namespace tidegate::kernels {
namespace {

using dnnl::memory;

// Primitives a thread keeps. A training step of one row count needs about twenty.
constexpr size_t kMaxPrimitives = 256;

struct Key {
  MatmulSpec spec;
  int threads;  // oneDNN divides the work when a primitive is made
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    const MatmulSpec& s = key.spec;
    uint64_t h = static_cast<uint64_t>(s.input) | static_cast<uint64_t>(s.output) << 2 |
                 static_cast<uint64_t>(s.post) << 4 | static_cast<uint64_t>(s.a_transposed) << 6 |
                 static_cast<uint64_t>(s.b_transposed) << 7;
    for (const int64_t v : {s.m, s.n, s.k, static_cast<int64_t>(key.threads)}) {
      h = (h ^ static_cast<uint64_t>(v)) * 0x9E3779B97F4A7C15u;
      h ^= h >> 29;
    }
    return h;
  }
};

// A primitive and the memory objects of its arguments, whose pointers are set for each call.
struct Product {
  dnnl::matmul primitive;
  memory a, b, c, residual, scratchpad;
  size_t scratchpad_bytes;
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

memory::desc Matrix(DType dtype, int64_t rows, int64_t columns, bool transposed) {
  return memory::desc({rows, columns}, TypeOf(dtype),
                      transposed ? memory::format_tag::ba : memory::format_tag::ab);
}

dnnl::matmul::primitive_desc Describe(const MatmulSpec& spec) {
  const memory::desc c = Matrix(spec.output, spec.m, spec.n, false);
  dnnl::post_ops post;
  if (spec.post == MatmulPost::kSum) post.append_sum();
  if (spec.post == MatmulPost::kResidual) post.append_binary(dnnl::algorithm::binary_add, c);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(post);
  // Our scratch: thread-safe by construction, and counted.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::matmul::desc product(Matrix(spec.input, spec.m, spec.k, spec.a_transposed),
                                   Matrix(spec.input, spec.k, spec.n, spec.b_transposed), c);
  return dnnl::matmul::primitive_desc(product, attributes, Engine());
}

Product Make(const MatmulSpec& spec) {
  const dnnl::matmul::primitive_desc description = Describe(spec);
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
  product.arguments = {{DNNL_ARG_SRC, product.a},
                       {DNNL_ARG_WEIGHTS, product.b},
                       {DNNL_ARG_DST, product.c},
                       {DNNL_ARG_SCRATCHPAD, product.scratchpad}};
  if (spec.post == MatmulPost::kResidual) {
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

}  // namespace

void Matmul(const Context& context, const MatmulSpec& spec, const void* a, const void* b, void* c,
            const void* residual) {
  if (spec.m == 0 || spec.n == 0) return;
  const ScopedThreads threads(context.threads);
  // Per thread: no lock, and the memory objects are this thread's own.
  thread_local std::unordered_map<Key, Product, KeyHash> products;
  thread_local dnnl::stream stream(Engine());
  try {
    const Key key{spec, context.threads};
    auto found = products.find(key);
    if (found == products.end()) {
      if (products.size() >= kMaxPrimitives) products.clear();
      found = products.emplace(key, Make(spec)).first;
    }
    Product& product = found->second;
    const Workspace::Scope scope(*context.workspace);
    product.a.set_data_handle(const_cast<void*>(a));
    product.b.set_data_handle(const_cast<void*>(b));
    product.c.set_data_handle(c);
    if (spec.post == MatmulPost::kResidual) {
      product.residual.set_data_handle(const_cast<void*>(residual));
    }
    product.scratchpad.set_data_handle(context.workspace->Allocate(product.scratchpad_bytes));
    product.primitive.execute(stream, product.arguments);
  } catch (const dnnl::error& error) {
    Fail(spec, error);
  }
}

std::string MatmulImplementation(const Context& context, const MatmulSpec& spec) {
  const ScopedThreads threads(context.threads);
  try {
    return Describe(spec).impl_info_str();
  } catch (const dnnl::error& error) {
    Fail(spec, error);
  }
}

bool MatmulWorks(DType input) {
  const MatmulSpec spec{input, input, 32, 64, 64, false, true, MatmulPost::kNone};
  try {
    Make(spec);
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

}  // namespace tidegate::kernels
