// Whole runs on the tiny Llama, with sequences that the test makes from text.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "finetune/finetune.h"
#include "finetune/session.h"

namespace tidegate::finetune {

namespace fs = std::filesystem;
inline const fs::path kBase = TIDEGATE_SOURCE_DIR "/tests/golden/tiny_llama";

inline Dataset SomeData(const LoadedBase& base, int count) {
  Dataset data;
  for (int i = 0; i < count; ++i) {
    const std::string text =
        fmt::format("user {} is in storage {} and the assistant is there {}", i, (i * 7) % 10,
                    std::string(static_cast<size_t>(i % 5), 'x'));
    auto ids = base.tokenizer->Encode(text).value().ids;
    ids.push_back(2);
    std::vector<uint8_t> mask(ids.size(), 1);
    mask[0] = 0;
    data.sequences.push_back({std::move(ids), std::move(mask)});
  }
  CountSequences(data.sequences, &data.report);
  data.report.records = count;
  return data;
}

class Runs : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              fmt::format("tgrun-{}-{}", ::getpid(),
                          testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // 20 records, packed rows of 64 tokens, two rows a step.
  FinetuneConfig Config(const std::string& name) const {
    FinetuneConfig config;
    config.base = kBase;
    config.base_name = "tiny_llama";
    config.data = "unused.jsonl";
    config.output_dir = folder_ / name;
    config.dtype = "f32";
    config.threads = 1;
    config.lora_r = 4;
    config.lora_alpha = 8;
    config.lora_dropout = 0.1;
    config.max_length = 64;
    config.gradient_accumulation_steps = 2;
    config.learning_rate = 5e-3;
    config.num_train_epochs = 2;
    config.save_steps = 3;
    return config;
  }

  static Result<std::unique_ptr<Session>> Open(const FinetuneConfig& config, int records = 20) {
    TG_ASSIGN_OR_RETURN(LoadedBase base,
                        LoadedBase::Load(config.base, config.dtype, config.threads, config.held));
    TrainingData data{SomeData(base, records), {}};
    if (config.eval_split > 0) {
      TG_ASSIGN_OR_RETURN(data.eval, HoldOut(&data.train, config.eval_split, config.seed));
    }
    return Session::Create(config, std::move(base), std::move(data));
  }

  // Runs to the end, or until `stop_after` steps when above 0.
  static Result<FinetuneSummary> Run(const FinetuneConfig& config, int64_t stop_after = 0) {
    TG_ASSIGN_OR_RETURN(const auto session, Open(config));
    RunHooks hooks;
    hooks.walls = "test";
    hooks.should_stop = [&session, stop_after] {
      return stop_after > 0 && session->state().step >= stop_after;
    };
    return RunSession(hooks, *session);
  }

  static Bytes Content(const fs::path& path) {
    auto bytes = ReadFile(path, 1 << 26);
    EXPECT_TRUE(bytes) << path;
    return bytes ? *bytes : Bytes();
  }
  static Bytes NewestState(const FinetuneConfig& config) {
    const train::CheckpointStore store(config.output_dir / "state");
    return Content(store.PathOf(store.Steps().value().back()));
  }
  static std::vector<nlohmann::json> Metrics(const FinetuneConfig& config) {
    std::vector<nlohmann::json> lines;
    const std::string text = ReadTextFile(config.output_dir / "metrics.jsonl", 1 << 24).value();
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = text.find('\n', begin);
      lines.push_back(nlohmann::json::parse(text.substr(begin, end - begin)));
      begin = end + 1;
    }
    return lines;
  }

  fs::path folder_;
};

}  // namespace tidegate::finetune
