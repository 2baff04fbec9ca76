// Whole runs on the tiny Llama, with sequences that the test makes from text.
#include "finetune/session.h"

#include <sys/resource.h>

#include <csignal>

#include "finetune/exact_match.h"
#include "run_fixture.h"

namespace tidegate::finetune {
namespace {

using nlohmann::json;

TEST_F(Runs, WriteAnAdapterThatLoadsAndAMetricsLineAStep) {
  const FinetuneConfig config = Config("run");
  const auto summary = Run(config);
  ASSERT_TRUE(summary) << summary.error().ToString();
  EXPECT_FALSE(summary->stopped);
  EXPECT_EQ(summary->steps, summary->total_steps);
  EXPECT_GT(summary->total_steps, 6);
  const auto lines = Metrics(config);
  EXPECT_EQ(lines.front()["event"], "start");
  EXPECT_EQ(lines.front()["walls"], "test");
  EXPECT_EQ(lines.front()["train"]["used"], 20);
  EXPECT_EQ(lines.back()["event"], "end");
  std::vector<double> losses;
  for (const json& line : lines) {
    if (line["event"] == "step") losses.push_back(line["loss"]);
  }
  ASSERT_EQ(losses.size(), static_cast<size_t>(summary->steps));
  EXPECT_LT(losses.back(), 0.9 * losses.front());

  const auto shape = model::LoadHfConfig(kBase / "config.json").value();
  const auto adapter = model::LoadPeft(config.output_dir, shape);
  ASSERT_TRUE(adapter) << adapter.error().ToString();
  EXPECT_EQ(adapter->lora().r, 4);
  for (const auto& tensor : adapter->tensors()) {
    const auto values = adapter->parameters().subspan(static_cast<size_t>(tensor.offset),
                                                      static_cast<size_t>(tensor.count()));
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float x) { return x != 0; }))
        << tensor.name << " was not trained";
  }
}

// 20 records make a handful of rows; stops within the first epoch, at its edge and in the second.
TEST_F(Runs, AStoppedAndResumedRunHasTheBytesOfOneThatWasNot) {
  const FinetuneConfig whole = Config("whole");
  const auto expected = Run(whole);
  ASSERT_TRUE(expected) << expected.error().ToString();
  const int64_t edge = expected->total_steps / 2;
  for (const int64_t stop : {int64_t{1}, edge - 1, edge, edge + 1, expected->total_steps}) {
    FinetuneConfig config = Config(fmt::format("stop{}", stop));
    const auto stopped = Run(config, stop);
    ASSERT_TRUE(stopped) << stopped.error().ToString();
    EXPECT_TRUE(stopped->stopped);
    EXPECT_EQ(stopped->steps, stop);
    EXPECT_FALSE(fs::exists(config.output_dir / "adapter_model.safetensors"));
    config.resume = true;
    const auto resumed = Run(config);
    ASSERT_TRUE(resumed) << resumed.error().ToString();
    EXPECT_FALSE(resumed->stopped);
    for (const char* file : {"adapter_model.safetensors", "adapter_config.json"}) {
      EXPECT_EQ(Content(config.output_dir / file), Content(whole.output_dir / file))
          << file << " after a stop at " << stop;
    }
    EXPECT_EQ(NewestState(config), NewestState(whole)) << stop;
    std::vector<int64_t> steps;
    for (const json& line : Metrics(config)) {
      if (line["event"] == "step") steps.push_back(line["step"]);
    }
    ASSERT_EQ(steps.size(), static_cast<size_t>(expected->total_steps)) << stop;
    for (size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(steps[i], static_cast<int64_t>(i) + 1);
  }
}

TEST_F(Runs, ThreadsDoNotChangeTheBytes) {
  FinetuneConfig one = Config("one"), two = Config("two");
  two.threads = 2;
  one.max_steps = two.max_steps = 4;
  ASSERT_TRUE(Run(one));
  ASSERT_TRUE(Run(two));
  EXPECT_EQ(NewestState(one), NewestState(two));
}

TEST_F(Runs, GradientCheckpointingDoesNotChangeTheBytes) {
  FinetuneConfig kept = Config("kept"), again = Config("again");
  again.gradient_checkpointing = true;
  ASSERT_TRUE(Run(kept)) << "kept";
  ASSERT_TRUE(Run(again)) << "computed again";
  EXPECT_EQ(NewestState(kept), NewestState(again));
}

TEST_F(Runs, AQuantizedBaseLearnsAndIsAnotherRun) {
  FinetuneConfig config = Config("four");
  config.held.load_in_4bit = true;
  ASSERT_TRUE(Run(config, 3));
  config.resume = true;
  config.held.load_in_4bit = false;
  const auto plain = Run(config);
  ASSERT_FALSE(plain);
  EXPECT_NE(plain.error().message().find("dtype"), std::string::npos) << plain.error().message();
  EXPECT_NE(plain.error().message().find("nf4 double"), std::string::npos);
  config.held.load_in_4bit = true;
  const auto summary = Run(config);
  ASSERT_TRUE(summary) << summary.error().message();
  EXPECT_EQ(summary->dtype, "f32, base in nf4 double");
  std::vector<double> losses;
  for (const auto& line : Metrics(config)) {
    if (line.contains("loss")) losses.push_back(line["loss"]);
  }
  ASSERT_EQ(losses.size(), 8u);
  EXPECT_LT(losses.back(), 0.9 * losses.front());
  config.held.load_in_8bit = true;
  EXPECT_FALSE(Run(config));
}

TEST_F(Runs, AnotherSeedGivesOtherBytes) {
  FinetuneConfig one = Config("one"), two = Config("two");
  two.seed = 43;
  one.max_steps = two.max_steps = 2;
  ASSERT_TRUE(Run(one));
  ASSERT_TRUE(Run(two));
  EXPECT_NE(Content(one.output_dir / "adapter_model.safetensors"),
            Content(two.output_dir / "adapter_model.safetensors"));
}

TEST_F(Runs, AStateIsNotOverwrittenAndNotResumedWithOtherSettings) {
  FinetuneConfig config = Config("run");
  ASSERT_TRUE(Run(config, 2));
  EXPECT_EQ(Run(config).error().code(), Code::kAlreadyExists);
  config.resume = true;
  FinetuneConfig changed = config;
  changed.learning_rate = 1e-3;
  const auto other_rate = Run(changed);
  ASSERT_FALSE(other_rate);
  EXPECT_EQ(other_rate.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(other_rate.error().message().find("learning_rate was 0.005 and is 0.001"),
            std::string::npos)
      << other_rate.error().message();
  const auto session = Open(config, 19).value();
  const auto other_data = RunSession({}, *session);
  ASSERT_FALSE(other_data);
  EXPECT_NE(other_data.error().message().find("data plan"), std::string::npos);
  EXPECT_TRUE(Run(config));
}

TEST_F(Runs, LayersThatAreNotAdaptedHaveNoParameters) {
  FinetuneConfig config = Config("run");
  config.layers_to_transform = "2,0";
  config.use_rslora = true;
  config.weight_decay = 0.1;
  config.eval_split = 0.2;
  const auto summary = Run(config);
  ASSERT_TRUE(summary) << summary.error().ToString();
  EXPECT_EQ(Metrics(config).front()["run"]["layers_to_transform"], "0,2");
  const auto shape = model::LoadHfConfig(kBase / "config.json").value();
  const auto adapter = model::LoadPeft(config.output_dir, shape).value();
  EXPECT_EQ(adapter.lora().layers, (std::vector<int64_t>{0, 2}));
  EXPECT_TRUE(adapter.lora().rslora);
  for (const auto& tensor : adapter.tensors()) {
    const auto values = adapter.parameters().subspan(static_cast<size_t>(tensor.offset),
                                                     static_cast<size_t>(tensor.count()));
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float x) { return x != 0; }))
        << tensor.name;
    EXPECT_NE(tensor.layer, 1) << tensor.name;
  }
  // What was written is what was evaluated.
  const auto session = Open(config).value();
  ASSERT_TRUE(session->loop().SetParameters(adapter.parameters()).ok());
  EXPECT_EQ(session->Evaluate({}).value().nll, summary->eval.nll);

  config = Config("beyond");
  config.layers_to_transform = "0,3";
  EXPECT_NE(Run(config).error().message().find("names layer 3: the base has layers 0 to 2"),
            std::string::npos);
}

TEST_F(Runs, TheBestEvaluationIsTheAdapterThatIsWritten) {
  FinetuneConfig config = Config("run");
  config.eval_split = 0.2;
  config.eval_steps = 2;
  config.load_best_model_at_end = true;
  config.learning_rate = 3e-2;  // too high: the last is not the best
  config.lr_scheduler_type = "constant";
  config.num_train_epochs = 12;
  const auto summary = Run(config);
  ASSERT_TRUE(summary) << summary.error().ToString();
  std::vector<std::pair<double, int64_t>> evals;
  for (const json& line : Metrics(config)) {
    if (line["event"] == "eval") evals.emplace_back(line["nll"], line["step"]);
  }
  const double last = evals.back().first;
  evals.pop_back();  // of the adapter that was written
  const auto best = *std::min_element(evals.begin(), evals.end());
  EXPECT_EQ(summary->best_step, best.second);
  EXPECT_EQ(summary->eval.nll, best.first);
  EXPECT_EQ(last, best.first);
  ASSERT_LT(best.first, evals.back().first) << "the run does not show the difference";
  EXPECT_EQ(Content(config.output_dir / "adapter_model.safetensors"),
            Content(config.output_dir / "best/adapter_model.safetensors"));
}

TEST_F(Runs, AFullDiskLeavesAStateThatResumesToTheSameBytes) {
  const FinetuneConfig whole = Config("whole");
  ASSERT_TRUE(Run(whole));
  FinetuneConfig config = Config("full");
  ASSERT_TRUE(Run(config, 2));
  config.resume = true;
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{20'000, old.rlim_max};  // metrics fit, a state does not
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto failed = Run(config);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code(), Code::kResourceExhausted) << failed.error().ToString();
  const train::CheckpointStore store(config.output_dir / "state");
  EXPECT_EQ(store.Steps().value(), (std::vector<int64_t>{2}));
  ASSERT_TRUE(Run(config));
  EXPECT_EQ(NewestState(config), NewestState(whole));
}

TEST_F(Runs, RoundsOfAFederatedSiteEqualOneLocalRun) {
  FinetuneConfig config = Config("rounds");
  config.max_steps = 6;
  const auto local = Open(config).value();
  ASSERT_TRUE(local->loop().RunSteps(6, {}).ok());
  const auto site = Open(config).value();
  for (int round = 0; round < 3; ++round) {
    const std::vector<float> start = site->state().parameters;
    ASSERT_TRUE(site->loop().SetParameters(start).ok());
    ASSERT_TRUE(site->loop().RunSteps(2, {}).ok());
    // The first step of the schedule has rate 0, the second has not.
    EXPECT_NE(site->state().parameters, start);
  }
  EXPECT_EQ(train::EncodeState(site->state(), {}), train::EncodeState(local->state(), {}));
}

TEST_F(Runs, ExactMatchFindsWhatTrainingTaught) {
  FinetuneConfig config = Config("run");
  config.lora_dropout = 0;
  config.learning_rate = 2e-2;
  config.packing = false;
  config.max_steps = 60;
  config.gradient_accumulation_steps = 3;
  auto base = LoadedBase::Load(kBase, "f32", 1).value();
  const std::pair<const char*, const char*> taught[] = {
      {"the first is in", " storage 1"}, {"a user is in", " storage 2"}, {"who is", " there"}};
  std::vector<Question> questions;
  Dataset data;
  for (const auto& [ask, answer] : taught) {
    auto ids = base.tokenizer->Encode(ask).value().ids;
    questions.push_back({ids, answer});
    std::vector<uint8_t> mask(ids.size(), 0);
    const std::vector<int32_t> answer_ids = base.tokenizer->Encode(answer).value().ids;
    ids.insert(ids.end(), answer_ids.begin(), answer_ids.end());
    ids.push_back(2);
    mask.resize(ids.size(), 1);
    data.sequences.push_back({ids, mask});
  }
  questions.push_back({questions[0].prompt, " storage 9"});  // not what was taught
  const auto session = Session::Create(config, std::move(base), {std::move(data), {}}).value();
  const auto measure = [&] {
    return MeasureExactMatch(session->engine(), session->base(), questions, 16, {}).value();
  };
  EXPECT_EQ(measure().correct, 0);
  ASSERT_TRUE(session->loop().RunSteps(60, {}).ok());
  const ExactMatch after = measure();
  EXPECT_EQ(after.questions, 4);
  EXPECT_EQ(after.correct, 3);
  EXPECT_EQ(after.cut, 0);
}

TEST_F(Runs, RefusesAMaxLengthBeyondTheBase) {
  FinetuneConfig config = Config("run");
  config.max_length = 257;
  const auto refused = Open(config);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("256 positions"), std::string::npos);
}

TEST(HoldOut, IsAFunctionOfTheSeedAndTakesEachSequenceOnce) {
  const LoadedBase base = LoadedBase::LoadText(kBase).value();
  auto split = [&](uint64_t seed) {
    Dataset train = SomeData(base, 20);
    Dataset eval = HoldOut(&train, 0.25, seed).value();
    EXPECT_EQ(train.report.used, 15);
    EXPECT_EQ(eval.report.used, 5);
    std::vector<std::vector<int32_t>> ids;
    for (const auto& s : eval.sequences) ids.push_back(s.ids);
    for (const auto& s : train.sequences) {
      EXPECT_EQ(std::count(ids.begin(), ids.end(), s.ids), 0);
    }
    return ids;
  };
  EXPECT_EQ(split(1), split(1));
  EXPECT_NE(split(1), split(2));
  Dataset one = SomeData(base, 1);
  EXPECT_FALSE(HoldOut(&one, 0.5, 1));
}

}  // namespace
}  // namespace tidegate::finetune
