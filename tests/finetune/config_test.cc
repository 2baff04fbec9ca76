#include "finetune/config.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tidegate::finetune {
namespace {

TEST(FinetuneConfig, DefaultsAreAccepted) { EXPECT_TRUE(CheckConfig({}).ok()); }

TEST(FinetuneConfig, EachValueOutOfRangeIsNamed) {
  auto refused = [](auto change) {
    FinetuneConfig config;
    change(config);
    return CheckConfig(config).message();
  };
  const std::pair<const char*, std::string> cases[] = {
      {"lora_r", refused([](auto& c) { c.lora_r = 0; })},
      {"alpha", refused([](auto& c) { c.lora_alpha = NAN; })},
      {"dropout", refused([](auto& c) { c.lora_dropout = 1.0; })},
      {"made_up_proj", refused([](auto& c) { c.lora_target_modules = "made_up_proj"; })},
      {"layers_to_transform", refused([](auto& c) { c.layers_to_transform = "1,1"; })},
      {"use_dora", refused([](auto& c) { c.use_dora = true; })},
      {"max_length", refused([](auto& c) { c.max_length = 1; })},
      {"per_device_train_batch_size", refused([](auto& c) { c.per_device_train_batch_size = 0; })},
      {"gradient_accumulation_steps", refused([](auto& c) { c.gradient_accumulation_steps = 0; })},
      {"learning_rate", refused([](auto& c) { c.learning_rate = NAN; })},
      {"lr_scheduler_type", refused([](auto& c) { c.lr_scheduler_type = "cosin"; })},
      {"warmup_ratio", refused([](auto& c) { c.warmup_ratio = 1.5; })},
      {"weight_decay", refused([](auto& c) { c.weight_decay = -0.1; })},
      {"max_grad_norm", refused([](auto& c) { c.max_grad_norm = -1; })},
      {"max_steps", refused([](auto& c) { c.max_steps = -1; })},
      {"num_train_epochs", refused([](auto& c) { c.num_train_epochs = 0; })},
      {"logging_steps", refused([](auto& c) { c.logging_steps = 0; })},
      {"eval_split", refused([](auto& c) { c.eval_split = 1.0; })},
      {"threads", refused([](auto& c) { c.threads = 1000; })},
      {"eval_steps", refused([](auto& c) { c.eval_steps = 5; })},
      {"early_stopping_patience", refused([](auto& c) { c.early_stopping_patience = -1; })},
      {"early_stopping_patience", refused([](auto& c) { c.early_stopping_patience = 2; })},
      {"early_stopping_threshold", refused([](auto& c) { c.early_stopping_threshold = 0.1; })},
      {"early_stopping_threshold", refused([](auto& c) { c.early_stopping_threshold = NAN; })},
      {"report_to wandb", refused([](auto& c) { c.report_to = "wandb"; })},
      {"load_best_model_at_end", refused([](auto& c) { c.load_best_model_at_end = true; })},
  };
  for (const auto& [name, message] : cases) {
    EXPECT_NE(message.find(name), std::string::npos) << name << ": " << message;
  }
}

TEST(FinetuneConfig, StepsComeFromEpochsUnlessGiven) {
  FinetuneConfig config;
  config.num_train_epochs = 2.5;
  config.warmup_ratio = 0.1;
  train::LoopConfig loop = LoopOf(config, 7).value();
  EXPECT_EQ(loop.schedule.total_steps, 18);  // ceil(17.5)
  EXPECT_EQ(loop.schedule.warmup_steps, 2);  // ceil(1.8)
  config.max_steps = 5;
  config.warmup_steps = 3;
  loop = LoopOf(config, 7).value();
  EXPECT_EQ(loop.schedule.total_steps, 5);
  EXPECT_EQ(loop.schedule.warmup_steps, 3);
}

}  // namespace
}  // namespace tidegate::finetune
