#include "onshore/trainer/gpu_walls.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "kernels/table.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;

using kernels::DType;
using kernels::KernelTable;

// A driver opens dozens of descriptors.
constexpr uint64_t kOpenFiles = 1024;

// What the driver reads of the system and of its own process.
constexpr const char* kRead[] = {
    "/proc/driver/nvidia",     "/proc/driver/nvidia-uvm",  "/proc/devices",
    "/proc/modules",           "/proc/self/maps",          "/proc/sys/vm/mmap_min_addr",
    "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/devices/system/memory"};
// Where it names its threads (570 and later).
constexpr const char* kThreads = "/proc/self/task";
constexpr const char* kDevices[] = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools",
                                    "/dev/nvidia-modeset"};

bool IsThere(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

std::vector<fs::path> Below(const char* folder) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    paths.push_back(it->path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

// "/dev/nvidia0": a GPU's.
bool IsGpu(const fs::path& path) {
  constexpr std::string_view kName = "nvidia";
  const std::string name = path.filename().native();
  return name.starts_with(kName) && name.size() > kName.size() &&
         name.find_first_not_of("0123456789", kName.size()) == std::string::npos;
}

std::vector<fs::path> DeviceNodes() {
  std::vector<fs::path> nodes;
  for (const char* node : kDevices) {
    if (IsThere(node)) nodes.emplace_back(node);
  }
  for (const fs::path& path : Below("/dev")) {
    if (IsGpu(path)) nodes.push_back(path);
  }
  // Parts of a GPU (MIG).
  for (const fs::path& path : Below("/dev/nvidia-caps")) nodes.push_back(path);
  return nodes;
}

std::vector<fs::path> ReadPaths(const std::vector<std::string>& libraries) {
  std::vector<fs::path> paths;
  for (const char* path : kRead) {
    if (IsThere(path)) paths.emplace_back(path);
  }
  std::error_code error;
  // A GPU's folder there is named as its place on the bus.
  for (const fs::path& gpu : Below("/proc/driver/nvidia/gpus")) {
    const fs::path place = fs::canonical("/sys/bus/pci/devices" / gpu.filename(), error);
    if (!error) paths.push_back(place);
  }
  // What these load of their own when they first need it (a compiler for newer GPUs) lies beside
  // them.
  for (const std::string& library : libraries) {
    const fs::path folder = fs::canonical(library, error).parent_path();
    if (!error && std::find(paths.begin(), paths.end(), folder) == paths.end()) {
      paths.push_back(folder);
    }
  }
  return paths;
}

// One product of a matrix, so that what CUDA and cuBLASLt make at their first is made now.
void Multiply(const KernelTable& table) {
  constexpr int64_t kSide = 64;
  const kernels::Device& device = *table.device;
  const size_t bytes = kSide * kSide * kernels::SizeOf(table.dtype);
  kernels::Workspace workspace(device.memory);
  const kernels::Context context{1, &workspace, device.make_stream()};
  {
    const kernels::Workspace::Scope scope(workspace);
    void* const matrix = workspace.Allocate(bytes);
    void* const product = workspace.Allocate(bytes);
    device.zero(context, matrix, bytes);
    const auto format =
        table.dtype == DType::kF32 ? kernels::WeightFormat::kF32 : kernels::WeightFormat::kBF16;
    const auto weights = table.prepare_weights({format, kSide, kSide, matrix});
    table.linear_forward(context, {weights.get(), kSide, matrix, nullptr, product});
    device.synchronize(context);
  }
  device.release_stream(context.stream);
}

// Stage A.
Status StartGpu() {
  // Compiled kernels are kept in a folder of the user's otherwise.
  ::setenv("CUDA_CACHE_DISABLE", "1", 1);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const KernelTable* table = kernels::TableFor(kernels::Backend::kCuda, dtype);
    if (table == nullptr) {
      return Unsupported("--device cuda: {}; use --device cpu", kernels::WhyNoCuda());
    }
    try {
      Multiply(*table);
    } catch (const kernels::DeviceError& error) {
      return Unavailable("--device cuda: {}", error.what());
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("--device cuda: the GPU has no memory left; see who uses it");
    }
  }
  return OkStatus();
}

}  // namespace

void AllowGpu(onshore::WallSpec* walls) {
  const std::vector<fs::path> read = ReadPaths(kernels::OpenCudaLibraries());
  walls->read_only.insert(walls->read_only.end(), read.begin(), read.end());
  walls->rewritable.emplace_back(kThreads);
  walls->devices = DeviceNodes();
  walls->max_open_files = kOpenFiles;
  walls->start_up = StartGpu;
}

}  // namespace tidegate::trainer
