// The best rate of a single matrix product here: oneDNN's, over weights that it packed beforehand,
// at the shapes of SmolLM2-135M's layers and head. What a training step is held against. Prints one
// line of JSON.
//
//   packed_gemm_bench [--dtype bf16|f32] [--threads 2]
#include <fmt/core.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <dnnl.hpp>
#include <string>
#include <vector>

#include "kernels/table.h"

namespace tidegate {
namespace {

using dnnl::memory;

struct Shape {
  const char* name;
  int64_t m, n, k;
};
constexpr Shape kShapes[] = {{"q", 2048, 576, 576},
                             {"gate", 2048, 1536, 576},
                             {"down", 2048, 576, 1536},
                             {"gate, 512 rows", 512, 1536, 576},
                             {"head", 512, 49152, 576}};
constexpr int kRepeats = 12;

double BestRate(const Shape& s, memory::data_type type, dnnl::engine& engine,
                dnnl::stream& stream) {
  const auto matrix = [&](int64_t rows, int64_t columns, memory::format_tag tag) {
    return memory::desc({rows, columns}, type, tag);
  };
  const auto plain = memory::format_tag::ab;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::matmul::primitive_desc description(
      dnnl::matmul::desc(matrix(s.m, s.k, plain), matrix(s.k, s.n, memory::format_tag::any),
                         matrix(s.m, s.n, plain)),
      attributes, engine);
  const dnnl::matmul product(description);
  memory a(description.src_desc(), engine), b(description.weights_desc(), engine);
  memory c(description.dst_desc(), engine), scratch(description.scratchpad_desc(), engine);
  // 0x3c is a small number in either type; what is multiplied does not matter.
  std::memset(a.get_data_handle(), 0x3c, description.src_desc().get_size());
  std::memset(b.get_data_handle(), 0x3c, description.weights_desc().get_size());
  double best = 0;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    product.execute(stream, {{DNNL_ARG_SRC, a},
                             {DNNL_ARG_WEIGHTS, b},
                             {DNNL_ARG_DST, c},
                             {DNNL_ARG_SCRATCHPAD, scratch}});
    stream.wait();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2e-9 * static_cast<double>(s.m * s.n * s.k) / took.count());
  }
  return best;
}

int Run(const std::string& dtype, int threads) {
  omp_set_num_threads(threads);
  kernels::PinThreads(threads);
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const auto type = dtype == "bf16" ? memory::data_type::bf16 : memory::data_type::f32;
  std::string rates;
  double best = 0;
  for (const Shape& s : kShapes) {
    const double rate = BestRate(s, type, engine, stream);
    best = std::max(best, rate);
    rates += fmt::format("{}\"{}\":{:.0f}", rates.empty() ? "" : ",", s.name, rate);
  }
  fmt::print("{{\"packed_gemm\":\"{}\",\"threads\":{},\"best_gflops\":{:.0f},\"gflops\":{{{}}}}}\n",
             dtype, threads, best, rates);
  return 0;
}

}  // namespace
}  // namespace tidegate

int main(int argc, char** argv) {
  std::string dtype = "bf16";
  int threads = 2;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::string_view(argv[i]) == "--dtype") dtype = argv[i + 1];
    if (std::string_view(argv[i]) == "--threads") threads = std::atoi(argv[i + 1]);
  }
  try {
    return tidegate::Run(dtype, std::max(threads, 1));
  } catch (const dnnl::error& error) {
    fmt::print(stderr, "packed_gemm_bench: oneDNN: {}; {} may not run on this CPU\n", error.what(),
               dtype);
    return 1;
  }
}
