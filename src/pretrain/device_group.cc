#include "pretrain/device_group.h"

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "cluster/nccl_group.h"

namespace tidegate::pretrain {

void SeeOneGpu(int local_rank) {
  constexpr const char* kVisible = "CUDA_VISIBLE_DEVICES";
  const char* given = std::getenv(kVisible);
  std::vector<std::string> gpus;
  if (given != nullptr) {
    std::istringstream list(given);
    for (std::string gpu; std::getline(list, gpu, ',');) gpus.push_back(gpu);
  }
  const auto index = static_cast<size_t>(local_rank);
  // A launcher that gave each rank a GPU has done it already.
  if (gpus.size() == 1) return;
  const std::string mine = gpus.empty()          ? std::to_string(local_rank)
                           : index < gpus.size() ? gpus[index]
                                                 : "";
  ::setenv(kVisible, mine.c_str(), 1);
}

Result<std::unique_ptr<cluster::Collectives>> JoinGpus(
    std::shared_ptr<cluster::Collectives> control, const cluster::GroupOptions& options) {
  const kernels::KernelTable* table =
      kernels::TableFor(kernels::Backend::kCuda, kernels::DType::kF32);
  if (table == nullptr) return Unsupported("--device cuda: {}", kernels::WhyNoCuda());
  TG_ASSIGN_OR_RETURN(const cluster::NcclApi* api, cluster::LoadNccl());
  const kernels::Device& device = *table->device;
  cluster::NcclStream stream;
  try {
    // Lives as long as the process: NCCL may use it to the end.
    stream.handle = device.make_stream();
  } catch (const kernels::DeviceError& error) {
    return Unavailable("{}", error.what());
  }
  stream.idle = [&device, handle = stream.handle]() -> Result<bool> {
    try {
      return device.idle({1, nullptr, handle});
    } catch (const kernels::DeviceError& error) {
      return Unavailable("{}", error.what());
    }
  };
  TG_ASSIGN_OR_RETURN(auto group,
                      cluster::JoinNccl(*api, std::move(control), std::move(stream), options));
  return std::unique_ptr<cluster::Collectives>(std::move(group));
}

}  // namespace tidegate::pretrain
