#include <dlfcn.h>
#include <link.h>

#include <string>

#include "kernels/internal/cuda_lt.h"
#include "kernels/table.h"

namespace tidegate::kernels {
namespace {

void* OpenLibrary() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  // As the loader finds it, else where it lay when this was built.
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    library = dlopen((TIDEGATE_CUDA_LIBRARY_DIR "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  return library;
}

// Where the loader found it.
std::string PathOf(void* library) {
  link_map* map = nullptr;
  return library != nullptr && dlinfo(library, RTLD_DI_LINKMAP, &map) == 0 ? map->l_name : "";
}

template <typename F>
bool Find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

const LtApi* Load() {
  static LtApi api;
  api.most_workspace = size_t{32} << 20;
  void* library = OpenLibrary();
  if (library == nullptr) return nullptr;
  const bool whole = Find(library, "cublasLtCreate", api.create) &&
                     Find(library, "cublasLtMatmulDescCreate", api.desc_create) &&
                     Find(library, "cublasLtMatmulDescDestroy", api.desc_destroy) &&
                     Find(library, "cublasLtMatmulDescSetAttribute", api.desc_set) &&
                     Find(library, "cublasLtMatmulDescGetAttribute", api.desc_get) &&
                     Find(library, "cublasLtMatrixLayoutCreate", api.layout_create) &&
                     Find(library, "cublasLtMatrixLayoutDestroy", api.layout_destroy) &&
                     Find(library, "cublasLtMatrixLayoutGetAttribute", api.layout_get) &&
                     Find(library, "cublasLtMatmulPreferenceCreate", api.preference_create) &&
                     Find(library, "cublasLtMatmulPreferenceDestroy", api.preference_destroy) &&
                     Find(library, "cublasLtMatmulPreferenceSetAttribute", api.preference_set) &&
                     Find(library, "cublasLtMatmulPreferenceGetAttribute", api.preference_get) &&
                     Find(library, "cublasLtMatmulAlgoGetHeuristic", api.heuristic) &&
                     Find(library, "cublasLtMatmul", api.matmul);
  return whole ? &api : nullptr;
}

}  // namespace

const LtApi* LoadCublasLt() {
  static const LtApi* const api = Load();
  return api;
}

std::vector<std::string> OpenCudaLibraries() {
  std::vector<std::string> paths;
  // CUDA's runtime opens the driver's by this name, and finds it open.
  void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  for (const std::string& path : {PathOf(driver), PathOf(OpenLibrary())}) {
    if (!path.empty()) paths.push_back(path);
  }
  return paths;
}

}  // namespace tidegate::kernels
