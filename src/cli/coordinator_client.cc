#include "cli/coordinator_client.h"

#include "base/file.h"

namespace tidegate::cli {

Result<nlohmann::ordered_json> AskCoordinator(const std::filesystem::path& dir,
                                              const nlohmann::ordered_json& request,
                                              int64_t millis) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Unexpected(ErrnoStatus("read", "/proc/self/exe", error.value()));
  return admin::AskCoordinator(
      dir, request, {.millis = millis, .program = self.parent_path() / "tidegate-coordinator"});
}

}  // namespace tidegate::cli
