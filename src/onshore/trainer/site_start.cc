#include "onshore/trainer/site_start.h"

#include <filesystem>

#include "base/file.h"
#include "onshore/trainer/gpu_walls.h"

namespace tidegate::trainer {

void AddSiteOptions(CLI::App& verb, SiteOptions& options) {
  verb.add_option("--generation", options.generation, "number of this start")->required();
  verb.add_option("--dir", options.site, "the site's folder")->required();
  verb.add_option("--name", options.name, "the site's name")->required();
  verb.add_option("--base", options.base, "base model, HF folder")->required();
  verb.add_option("--walls", options.walls, "walls demanded")->required();
  verb.add_option("--uid", options.uid, "a start as root: the uid to become");
}

Result<onshore::Started> StartOnSite(const SiteOptions& options) {
  onshore::StartSpec spec;
  spec.walls.role = onshore::Role::kTrainer;
  spec.walls.kept_fds = {{onshore::kFirstPeerFd, onshore::FdKind::kChannel}};
  spec.walls.read_only = {options.base};
  for (const std::filesystem::path& path : {options.records, options.heldout}) {
    if (path.empty()) continue;
    if (const auto inherited = InheritedDescriptor(path)) {
      spec.walls.kept_fds.push_back({*inherited, onshore::FdKind::kReadOnlyFile});
    } else {
      spec.walls.read_only.push_back(path);
    }
  }
  std::error_code error;
  std::filesystem::create_directories(TrainerDir(options), error);
  // Its states and adapters come of the records: for the site's user alone.
  if (!error) {
    std::filesystem::permissions(TrainerDir(options), std::filesystem::perms::owner_all, error);
  }
  if (error) {
    return Unavailable("cannot make {} for its owner alone: {}", TrainerDir(options).native(),
                       error.message());
  }
  spec.walls.read_write = {TrainerDir(options)};
  if (options.device == "cuda") AllowGpu(&spec.walls);
  TG_ASSIGN_OR_RETURN(spec.demanded, onshore::ParseWallSet(options.walls));
  spec.tries.forbidden = {{"gate_key", (options.site / "keys" / "gate.key").native()},
                          {"link_key", (options.site / "keys" / "link.key").native()},
                          {"policy", (options.site / "policy.toml").native()}};
  spec.generation = options.generation;
  spec.uid = options.uid;
  spec.owned = {TrainerDir(options)};
  return onshore::StartWalled(spec);
}

}  // namespace tidegate::trainer
