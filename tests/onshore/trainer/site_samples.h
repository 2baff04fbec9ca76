// A site with a few records of its own and a job for the tiny Llama that it can train.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "crypto/base_hash.h"
#include "crypto/hash.h"
#include "federation/shared/grid.h"
#include "federation/shared/layout.h"
#include "model/adapter.h"
#include "model/config.h"
#include "onshore/trainer/job_config.h"
#include "protocols/update.h"

namespace tidegate::trainer {

inline const std::filesystem::path kTinyBase = TIDEGATE_SOURCE_DIR "/tests/golden/tiny_llama";

inline model::LoraConfig SampleLora() {
  model::LoraConfig lora;
  lora.r = 4;
  lora.alpha = 8;
  lora.targets = model::ParseTargets("all-linear").value();
  return lora;
}

inline const model::Adapter& InitialAdapter() {
  static const model::Adapter adapter = [] {
    model::Adapter made = model::Adapter::Create(
        model::LoadHfConfig(kTinyBase / "config.json").value(), SampleLora(), 42);
    EXPECT_TRUE(federation::SnapAllToGrid(made.parameters()).ok());
    return made;
  }();
  return adapter;
}

// Three rounds of three steps.
inline protocols::JobManifest SampleJob() {
  protocols::JobManifest job;
  job.name = "triage";
  job.base_hash = crypto::BaseHash(kTinyBase).value();
  job.layout = federation::LayoutOf(InitialAdapter()).value();
  job.lora_r = 4;
  job.lora_alpha = 8;
  job.lora_dropout = 0.1;
  job.lora_targets = 127;
  job.codec = protocols::Codec::kFixed32;
  job.weighting = protocols::Weighting::kTokens;
  job.max_weight = 1000;
  job.phase_groups.items = {federation::kBothGroups};
  job.rounds = 3;
  job.local_steps = 3;
  job.batch_size = 2;
  job.max_length = 64;
  job.learning_rate = 5e-3;
  job.seed = 42;
  job.sites.items = {"north"};
  return job;
}

inline protocols::Id16 IdOf(const protocols::JobManifest& job) {
  const Digest digest = crypto::Sha256::Of(protocols::Encode(job));
  protocols::Id16 id;
  std::copy_n(digest.begin(), id.size(), id.begin());
  return id;
}

inline std::vector<float> InitialParameters() {
  const auto parameters = InitialAdapter().parameters();
  return {parameters.begin(), parameters.end()};
}

inline Bytes BytesOf(const std::vector<float>& parameters) {
  Bytes bytes(parameters.size() * sizeof(float));
  std::memcpy(bytes.data(), parameters.data(), bytes.size());
  return bytes;
}

// start + delta: what the coordinator makes of a lone site's update.
inline std::vector<float> Applied(const std::vector<float>& start, const Bytes& update,
                                  const protocols::Layout& layout) {
  const auto view = protocols::UpdateView::Parse(update, layout);
  EXPECT_TRUE(view.has_value()) << view.error().reason;
  std::vector<float> result = start;
  if (!view) return result;
  for (const protocols::UpdateTensor& tensor : view->tensors()) {
    protocols::ForEachValue(tensor, [&result](uint64_t at, double value) {
      result[at] = static_cast<float>(static_cast<double>(result[at]) + value);
    });
  }
  return result;
}

// SITE in a temporary folder, with records and held-out records.
class SampleSite {
 public:
  SampleSite() {
    std::string name = (std::filesystem::temp_directory_path() / "tg_trainer_XXXXXX").native();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    options_.name = "north";
    options_.site = root_ / "site";
    options_.base = kTinyBase;
    options_.records = Write("records.jsonl", Records(0, 12));
    options_.heldout = Write("heldout.jsonl", Records(20, 4));
    options_.threads = 1;
    options_.dtype = "f32";
    options_.walls = "netns,seccomp,landlock_fs";
    std::filesystem::create_directories(options_.site);
  }
  ~SampleSite() { std::filesystem::remove_all(root_); }
  SampleSite(const SampleSite&) = delete;
  SampleSite& operator=(const SampleSite&) = delete;

  SiteOptions& options() { return options_; }
  std::filesystem::path trainer() const { return TrainerDir(options_); }
  std::filesystem::path job_dir(const protocols::JobManifest& job) const {
    return JobDir(options_, IdOf(job));
  }

 private:
  static std::string Records(int first, int count) {
    std::string text;
    for (int i = first; i < first + count; ++i) {
      text += fmt::format("{{\"prompt\":\"code {} is in \",\"completion\":\"storage {}{}\"}}\n",
                          i * 37 % 1000, i * 7 % 10, std::string(static_cast<size_t>(i % 5), 'x'));
    }
    return text;
  }
  std::filesystem::path Write(const std::string& name, const std::string& text) {
    EXPECT_TRUE(WriteFileDurably(root_ / name, AsBytes(text)).ok());
    return root_ / name;
  }

  std::filesystem::path root_;
  SiteOptions options_;
};

}  // namespace tidegate::trainer
