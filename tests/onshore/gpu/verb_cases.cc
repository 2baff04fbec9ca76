// finetune, eval and generate with --device cuda, behind the walls that a user gets by default:
// they do what they do on the CPU.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "model/adapter.h"
#include "tests/cli/verb_fixture.h"

namespace tidegate::cli {
namespace {

using nlohmann::json;

class OnAGpu : public VerbFixture {
 protected:
  static RunResult Trainer(std::vector<std::string> words, const RunOptions& options = {}) {
    words.insert(words.begin(), TIDEGATE_GPU_TRAINER);
    return RunProgram(words, options);
  }
  // The result of a verb that must go well.
  static json Result(const std::vector<std::string>& words) {
    const RunResult run = Trainer(With(words, {"--format", "json"}));
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return Parsed(run.out);
  }
  // Packed rows of 64 tokens, two a step.
  std::vector<std::string> Finetune(const std::string& device, const std::string& out,
                                    const std::string& dtype = "f32") const {
    return {"finetune",
            "--base",
            kTinyBase.native(),
            "--data",
            data_,
            "--out",
            At(out),
            "--device",
            device,
            "--dtype",
            dtype,
            "--threads",
            "1",
            "--lora_r",
            "4",
            "--lora_dropout",
            "0.1",
            "--max_length",
            "64",
            "--gradient_accumulation_steps",
            "2",
            "--max_steps",
            "4",
            "--save_steps",
            "1",
            "--logging_steps",
            "1",
            "--learning_rate",
            "0.005"};
  }
  std::vector<double> Losses(const std::string& out) const {
    std::vector<double> losses;
    std::istringstream text(Read(root_ / out / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      const json entry = Parsed(line);
      if (entry["event"] == "step") losses.push_back(entry["loss"].get<double>());
    }
    return losses;
  }
  json StartLine(const std::string& out) const {
    std::istringstream text(Read(root_ / out / "metrics.jsonl"));
    std::string line;
    std::getline(text, line);
    return Parsed(line);
  }
  std::vector<float> Parameters(const std::string& out) const {
    const auto shape = model::LoadHfConfig(kTinyBase / "config.json");
    const auto adapter = model::LoadPeft(root_ / out, *shape);
    EXPECT_TRUE(adapter) << adapter.error().ToString();
    if (!adapter) return {};
    const auto parameters = adapter->parameters();
    return {parameters.begin(), parameters.end()};
  }
  std::string Bytes(const std::string& out) const {
    return Read(root_ / out / "adapter_model.safetensors");
  }

  void SetUp() override {
    VerbFixture::SetUp();
    data_ = Records("train.jsonl", 16);
  }
  std::string data_;
};

double Distance(const std::vector<float>& one, const std::vector<float>& other) {
  EXPECT_EQ(one.size(), other.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < std::min(one.size(), other.size()); ++i) {
    difference += std::pow(static_cast<double>(one[i]) - static_cast<double>(other[i]), 2);
    size += std::pow(static_cast<double>(other[i]), 2);
  }
  return std::sqrt(difference / size);
}

TEST_F(OnAGpu, FinetuneTrainsWhatTheCpuDoes) {
  const json gpu = Result(Finetune("cuda", "gpu")), cpu = Result(Finetune("cpu", "cpu"));
  EXPECT_TRUE(gpu["kernels"].get<std::string>().starts_with("sm_")) << gpu["kernels"];
  EXPECT_EQ(gpu["steps"], 4);
  const std::vector<double> got = Losses("gpu"), want = Losses("cpu");
  ASSERT_EQ(got.size(), 4u);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-4 * want[i]) << i;
  EXPECT_LT(Distance(Parameters("gpu"), Parameters("cpu")), 1e-3);
  // What the CPU's walls are, with the driver at work.
  EXPECT_EQ(StartLine("gpu")["walls"], StartLine("cpu")["walls"]);
  EXPECT_THAT(StartLine("gpu")["walls"].get<std::string>(), testing::HasSubstr("seccomp"));
}

TEST_F(OnAGpu, FinetuneInBf16StaysClose) {
  const json gpu = Result(Finetune("cuda", "gpu", "bf16"));
  EXPECT_EQ(gpu["dtype"], "bf16");
  (void)Result(Finetune("cpu", "cpu"));
  const std::vector<double> got = Losses("gpu"), want = Losses("cpu");
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-2 * want[i]) << i;
}

TEST_F(OnAGpu, AKillAndAResumeEndWithTheSameBytes) {
  (void)Result(Finetune("cuda", "whole"));
  RunOptions kill;
  kill.signal_when = [](const std::string& err) {
    return err.find("step 2/") != std::string::npos ? SIGKILL : 0;
  };
  kill.signal_child = true;
  const RunResult killed = Trainer(Finetune("cuda", "killed"), kill);
  EXPECT_NE(killed.exit_code, 0);
  (void)Result(With(Finetune("cuda", "killed"), {"--resume", "true"}));
  EXPECT_TRUE(Bytes("killed") == Bytes("whole"));
}

TEST_F(OnAGpu, EvalAndGenerateSayWhatTheCpuSays) {
  (void)Result(Finetune("cpu", "adapter"));
  const auto eval = [this](const std::string& device) {
    return Result({"eval", "--base", kTinyBase.native(), "--adapter", At("adapter"), "--data",
                   data_, "--device", device, "--dtype", "f32", "--threads", "1"});
  };
  const json gpu = eval("cuda"), cpu = eval("cpu");
  EXPECT_EQ(gpu["targets"], cpu["targets"]);
  EXPECT_NEAR(gpu["nll"].get<double>(), cpu["nll"].get<double>(), 1e-4);
  EXPECT_EQ(gpu["walls"], cpu["walls"]);
  const auto generate = [this](const std::string& device) {
    return Result({"generate", "--base", kTinyBase.native(), "--adapter", At("adapter"), "--prompt",
                   "Where is item 3?", "--raw", "--max_new_tokens", "6", "--device", device,
                   "--dtype", "f32", "--threads", "1"});
  };
  const json said = generate("cuda"), expected = generate("cpu");
  EXPECT_EQ(said["text"], expected["text"]);
  EXPECT_FALSE(said["text"].get<std::string>().empty());
}

TEST_F(OnAGpu, HeldInFourBitsItTrainsToo) {
  const std::vector<std::string> four = {"--load_in_4bit", "true", "--gradient_checkpointing",
                                         "true"};
  (void)Result(With(Finetune("cuda", "gpu"), four));
  (void)Result(With(Finetune("cpu", "cpu"), four));
  EXPECT_LT(Distance(Parameters("gpu"), Parameters("cpu")), 1e-3);
}

}  // namespace
}  // namespace tidegate::cli
