// What a signed job makes of a site's training, and the note of the round it is in.
#include "onshore/trainer/job_config.h"

#include <gtest/gtest.h>

#include <fstream>

#include "onshore/trainer/round_file.h"
#include "site_samples.h"

namespace tidegate::trainer {
namespace {

TEST(JobConfig, TheJobDecidesTheTrainingAndTheSiteItsFiles) {
  SampleSite site;
  site.options().device = "cuda";
  protocols::JobManifest job = SampleJob();
  job.lora_targets = 0b1000101;
  job.packing = true;
  job.assistant_only_loss = false;
  job.gradient_accumulation_steps = 5;
  job.scheduler = protocols::Scheduler::kCosine;
  job.warmup_steps = 4;
  job.weight_decay = 0.01;
  job.max_grad_norm = 0.5;
  const auto config = ConfigOf(job, IdOf(job), site.options());
  ASSERT_TRUE(config) << config.error().ToString();
  EXPECT_EQ(config->base, site.options().base);
  EXPECT_EQ(config->data, site.options().records);
  EXPECT_EQ(config->eval_data, site.options().heldout);
  EXPECT_EQ(config->output_dir, site.trainer() / ToHex(IdOf(job)));
  EXPECT_EQ(config->dtype, "f32");
  EXPECT_EQ(config->device, "cuda");
  EXPECT_EQ(config->threads, 1);
  EXPECT_EQ(config->lora_r, 4);
  EXPECT_EQ(config->lora_alpha, 8);
  EXPECT_EQ(config->lora_dropout, 0.1);
  EXPECT_EQ(config->lora_target_modules, "q_proj,v_proj,down_proj");
  EXPECT_EQ(config->max_length, 64);
  EXPECT_TRUE(config->packing);
  EXPECT_FALSE(config->assistant_only_loss);
  EXPECT_EQ(config->per_device_train_batch_size, 2);
  EXPECT_EQ(config->gradient_accumulation_steps, 5);
  EXPECT_EQ(config->learning_rate, 5e-3);
  EXPECT_EQ(config->lr_scheduler_type, "cosine");
  EXPECT_EQ(config->warmup_ratio, 0) << "the job's steps alone, not finetune's default";
  EXPECT_EQ(config->warmup_steps, 4);
  EXPECT_EQ(config->weight_decay, 0.01);
  EXPECT_EQ(config->max_grad_norm, 0.5);
  EXPECT_EQ(config->max_steps, 9) << "one schedule over all rounds";
  EXPECT_EQ(config->seed, 42u);
}

TEST(JobConfig, WhatTheTrainerCannotDoIsRefusedByName) {
  SampleSite site;
  const auto refused = [&site](auto change) {
    protocols::JobManifest job = SampleJob();
    change(job);
    const auto config = ConfigOf(job, IdOf(job), site.options());
    return config ? "accepted" : config.error().ToString();
  };
  using protocols::JobManifest;
  const std::pair<const char*, std::string> cases[] = {
      {"the job's phases are not those of its strategy 2",
       refused([](JobManifest& j) { j.strategy = static_cast<protocols::Strategy>(2); })},
      {"lora_r 0", refused([](JobManifest& j) { j.lora_r = 0; })},
      {"alpha", refused([](JobManifest& j) { j.lora_alpha = NAN; })},
      {"target", refused([](JobManifest& j) { j.lora_targets = 0; })},
      {"max_length 1", refused([](JobManifest& j) { j.max_length = 1; })},
      {"per_device_train_batch_size 0", refused([](JobManifest& j) { j.batch_size = 0; })},
      {"gradient_accumulation_steps",
       refused([](JobManifest& j) { j.gradient_accumulation_steps = UINT32_MAX; })},
      {"learning_rate", refused([](JobManifest& j) { j.learning_rate = INFINITY; })},
  };
  for (const auto& [told, message] : cases) {
    EXPECT_NE(message.find(told), std::string::npos) << told << ": " << message;
  }
}

TEST(RoundFile, IsReadAsItWasWrittenAndNeverHalf) {
  SampleSite site;
  const std::filesystem::path& dir = site.options().site;
  auto none = LoadRoundNote(dir);
  ASSERT_TRUE(none);
  EXPECT_FALSE(none->has_value());
  const RoundNote note{.round = 7,
                       .adapter_version = 6,
                       .begin_step = 24,
                       .end_step = 28,
                       .at_step = 26,
                       .loss_sum = 0.1 + 0.2,
                       .targets = 555,
                       .trained = true,
                       .weight = 900,
                       .train_loss_milli = 1234,
                       .heldout_loss_milli = 2345,
                       .residuals = {"kept-6", "", "carried-4294967295"}};
  ASSERT_TRUE(SaveRoundNote(dir, note).ok());
  const auto read = LoadRoundNote(dir);
  ASSERT_TRUE(read && *read);
  EXPECT_EQ((*read)->round, 7u);
  EXPECT_EQ((*read)->adapter_version, 6u);
  EXPECT_EQ((*read)->begin_step, 24);
  EXPECT_EQ((*read)->end_step, 28);
  EXPECT_EQ((*read)->at_step, 26);
  EXPECT_EQ((*read)->loss_sum, 0.1 + 0.2) << "to the bit";
  EXPECT_EQ((*read)->targets, 555);
  EXPECT_TRUE((*read)->trained);
  EXPECT_EQ((*read)->weight, 900u);
  EXPECT_EQ((*read)->train_loss_milli, 1234u);
  EXPECT_EQ((*read)->heldout_loss_milli, 2345u);
  EXPECT_EQ((*read)->residuals, note.residuals);
  const std::string text = *ReadTextFile(dir / "round.json", 1 << 16);
  for (size_t size = 0; size + 1 < text.size(); ++size) {
    std::ofstream(dir / "round.json") << text.substr(0, size);
    const auto cut = LoadRoundNote(dir);
    ASSERT_FALSE(cut) << size;
    EXPECT_EQ(cut.error().code(), Code::kDataLoss);
    EXPECT_NE(cut.error().message().find("round.json"), std::string::npos);
  }
  for (const char* name :
       {"kept-", "kept-4294967296", "kept-6x", "sent-6", "../kept-6", "kept--6"}) {
    std::string other = text;
    other.replace(other.find("kept-6"), 6, name);
    std::ofstream(dir / "round.json") << other;
    const auto wrong = LoadRoundNote(dir);
    ASSERT_FALSE(wrong) << name;
    EXPECT_EQ(wrong.error().code(), Code::kDataLoss);
  }
  for (const char* weight : {"1e300", "-1", "4294967296", "1.5", "\"1\""}) {
    std::string other = text;
    other.replace(other.find("900"), 3, weight);
    std::ofstream(dir / "round.json") << other;
    const auto wrong = LoadRoundNote(dir);
    ASSERT_FALSE(wrong) << weight;
    EXPECT_EQ(wrong.error().code(), Code::kDataLoss);
  }
}

}  // namespace
}  // namespace tidegate::trainer
