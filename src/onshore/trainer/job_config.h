// A signed job as a training configuration of this site. Pure functions.
#pragma once

#include <filesystem>
#include <string>

#include "base/status.h"
#include "finetune/config.h"
#include "model/config.h"
#include "protocols/documents.h"

namespace tidegate::trainer {

// What the site itself decides; the job decides the rest.
struct SiteOptions {
  uint32_t generation = 0, uid = 0;
  std::string name;               // of the site
  std::filesystem::path site;     // SITE
  std::filesystem::path base;     // HF folder
  std::filesystem::path records;  // JSONL
  std::filesystem::path heldout;  // JSONL, may be empty
  int threads = 1;
  std::string device = "cpu";
  std::string dtype = "auto";
  std::string walls;
};

// SITE/trainer and the folder of one job in it.
std::filesystem::path TrainerDir(const SiteOptions& options);
std::filesystem::path JobDir(const SiteOptions& options, const protocols::Id16& job);

// kUnsupported for what this trainer does not do, by name.
Result<finetune::FinetuneConfig> ConfigOf(const protocols::JobManifest& job,
                                          const protocols::Id16& id, const SiteOptions& options);

// What the shape of this site's base says of the job, before anything is loaded: its LoRA, its
// lengths and its layout. An error is the job's fault alone. `base`: of its config.json.
Status CheckJobFits(const protocols::JobManifest& job, const protocols::Id16& id,
                    const SiteOptions& options, const model::ModelConfig& base);

}  // namespace tidegate::trainer
