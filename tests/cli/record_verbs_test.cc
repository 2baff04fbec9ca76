// eval, generate and data check, as a user runs them; help and wrong use of every verb.
#include <cmath>

#include "verb_fixture.h"

namespace tidegate::cli {
namespace {

using nlohmann::json;

class RecordVerbs : public VerbFixture {
 protected:
  // A verb on the tiny base.
  static std::vector<std::string> On(std::vector<std::string> verb,
                                     const std::vector<std::string>& more) {
    verb.insert(verb.end(), {"--base", kTinyBase.native()});
    verb.insert(verb.end(), more.begin(), more.end());
    return verb;
  }
};

TEST_F(RecordVerbs, EvalMeasuresABaseAndAnAdapter) {
  const std::string data = Records("data.jsonl", 8);
  const std::vector<std::string> plain =
      On({"eval"}, {"--data", data, "--threads", "1", "--dtype", "f32", "--max_length", "128"});
  const json base = JsonOf(plain);
  EXPECT_EQ(base["data"]["records"], 8);
  EXPECT_EQ(base["data"]["used"], 8);
  EXPECT_EQ(base["targets"], base["data"]["targets"]);
  EXPECT_EQ(base["tokens"], base["data"]["tokens"]);
  EXPECT_NEAR(base["perplexity"].get<double>(), std::exp(base["nll"].get<double>()), 1e-9);
  EXPECT_FALSE(base.contains("exact_match"));
  // The uniform guess among 323 tokens, more or less: the base is random.
  EXPECT_NEAR(base["nll"].get<double>(), std::log(323), 1.5);

  const json adapted = JsonOf(With(plain, {"--adapter", (kTinyBase / "adapter_in").native(),
                                           "--exact_match", "--max_new_tokens", "4"}));
  EXPECT_NE(adapted["nll"], base["nll"]);
  EXPECT_EQ(adapted["exact_match"]["questions"], 8);
  EXPECT_EQ(adapted["exact_match"]["correct"], 0);

  const RunResult text = Tidegate(plain);
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_NE(text.out.find("8 records, 8 used"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("perplexity"), std::string::npos) << text.out;
}

TEST_F(RecordVerbs, GenerateGivesTheSameAnswerEachTime) {
  const std::vector<std::string> greedy =
      On({"generate"}, {"--prompt", "Where?", "--max_new_tokens", "6", "--threads", "1"});
  const json answer = JsonOf(greedy);
  EXPECT_EQ(answer["finish_reason"], "length");
  EXPECT_EQ(answer["new_tokens"], 6);
  EXPECT_EQ(JsonOf(greedy), answer);
  EXPECT_EQ(Tidegate(greedy).out, answer["text"].get<std::string>() + "\n");
  const auto sampled = [&](const char* seed) {
    return JsonOf(With(greedy, {"--temperature", "2", "--seed", seed}))["text"];
  };
  EXPECT_EQ(sampled("1"), sampled("1"));
  EXPECT_NE(sampled("1"), sampled("2"));
}

// A base whose tokenizer puts a beginning of sequence, as Llama-3's does.
TEST_F(RecordVerbs, GenerateBeginsRawTextsAsTrainingDoesAndChatsOnce) {
  const auto prompt_tokens = [&](const std::string& base, bool raw) {
    std::vector<std::string> words = {"generate", "--base",    base,
                                      "--prompt", "Where?",    "--max_new_tokens",
                                      "1",        "--threads", "1"};
    if (raw) words.push_back("--raw");
    return JsonOf(words)["prompt_tokens"].get<int>();
  };
  const std::string base = CopyBase("bos");
  json tokenizer = Parsed(Read(root_ / "bos/tokenizer.json"));
  tokenizer["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<|im_start|>"}, {"type_id", 0}}}},
        {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"special_tokens",
       {{"<|im_start|>", {{"id", "<|im_start|>"}, {"ids", {1}}, {"tokens", {"<|im_start|>"}}}}}}};
  Write("bos/tokenizer.json", tokenizer.dump());
  EXPECT_EQ(prompt_tokens(base, true), prompt_tokens(kTinyBase.native(), true) + 1);
  EXPECT_EQ(prompt_tokens(base, false), prompt_tokens(kTinyBase.native(), false));
  // The same as a record of that text, less the end of sequence.
  const std::string data = Write("text.jsonl", "{\"text\":\"Where?\"}\n");
  EXPECT_EQ(JsonOf({"data", "check", "--base", base, "--data", data})["tokens"],
            prompt_tokens(base, true) + 1);
}

TEST_F(RecordVerbs, DataCheckTellsEachBadLineAndDuplicateByNumber) {
  const std::string good = Chat("q", "a");
  const std::string file =
      Write("mixed.jsonl", good + "{\"text\":7}\n" + Chat("r", "b") + good + "not json\n" +
                               "{\"messages\":[{\"role\":\"user\",\"content\":\"only asks\"}]}\n");
  const auto words = On({"data", "check"}, {"--data", file, "--format", "json"});
  const RunResult run = Tidegate(words);
  EXPECT_EQ(run.exit_code, 1) << "the verdict: training would refuse it";
  const json report = Parsed(run.out);
  EXPECT_EQ(report["records"], 4);
  EXPECT_EQ(report["used"], 3);
  EXPECT_EQ(report["without_target"], 1);
  EXPECT_EQ(report["duplicates"], 1);
  EXPECT_EQ(report["duplicate_lines"], (json{{{"line", 4}, {"first", 1}}}));
  EXPECT_EQ(report["bad_lines"], 2);
  ASSERT_EQ(report["bad"].size(), 2u);
  EXPECT_EQ(report["bad"][0]["line"], 2);
  EXPECT_EQ(report["bad"][1]["line"], 5);
  EXPECT_NE(report["bad"][1]["reason"].get<std::string>().find("mixed.jsonl line 5"),
            std::string::npos);
  const json error = Parsed(run.err)["error"];
  EXPECT_EQ(error["code"], "INVALID_ARGUMENT");
  EXPECT_NE(error["message"].get<std::string>().find("2 bad lines"), std::string::npos) << error;
  EXPECT_EQ(run.out.find("only asks"), std::string::npos) << "no word of a record";

  const RunResult text = Tidegate(On({"data", "check"}, {"--data", file}));
  EXPECT_EQ(text.exit_code, 1);
  EXPECT_NE(text.out.find("line 4 is line 1"), std::string::npos) << text.out;

  // Duplicates alone are no reason to refuse; what is good is what finetune would use.
  const json fine = JsonOf(On({"data", "check"}, {"--data", Write("twice.jsonl", good + good)}));
  EXPECT_EQ(fine["duplicates"], 1);
  EXPECT_EQ(fine["used"], 2);
}

// One of each form: what is kept, cut, masked and dropped, told by count and by line.
TEST_F(RecordVerbs, DataCheckTellsFormsLengthsAndWhatIsCutOrMasked) {
  const std::string file =
      Write("forms.jsonl", Chat("Where?", "There.") +
                               R"({"prompt":"Where?","completion":" There."})"
                               "\n"
                               R"({"prompt":[{"role":"user","content":"Where?"}],)"
                               R"("completion":[{"role":"assistant","content":"There."}]})"
                               "\n"
                               R"({"instruction":"Say where.","input":"Item 4","output":"There."})"
                               "\n"
                               R"({"text":"It is there."})"
                               "\n" +
                               Chat("Where?", std::string(200, 'z')) +
                               Chat(std::string(200, 'z'), "There."));
  const auto words = On({"data", "check"}, {"--data", file, "--max_length", "64"});
  const json check = JsonOf(words);
  EXPECT_EQ(check["records"], 7);
  EXPECT_EQ(check["used"], 6);
  EXPECT_EQ(check["forms"], (json{{"chat", 5}, {"prompt_completion", 1}, {"text", 1}}));
  EXPECT_EQ(check["truncated"], 1);
  EXPECT_EQ(check["truncated_lines"], json{6});
  EXPECT_EQ(check["without_target_lines"], json{7});
  EXPECT_EQ(check["longest"], 64);
  const json& lengths = check["lengths"];
  EXPECT_LE(lengths["p50"], 64);
  EXPECT_GT(lengths["p90"], 200);
  EXPECT_EQ(lengths["p99"], lengths["max"]);
  EXPECT_EQ(check["cut_tokens"], lengths["max"].get<int>() - 64);
  EXPECT_EQ(check["masked"], check["tokens"].get<int>() - check["targets"].get<int>());
  EXPECT_GT(check["masked"], 40) << "headers and questions";

  // Each form trains its answer and what ends it, and reads the rest.
  const auto trained = [&](const std::string& name, const std::string& line) {
    const json one = JsonOf(On({"data", "check"}, {"--data", Write(name, line + "\n")}));
    EXPECT_LT(one["targets"], one["tokens"]) << line;
    return one["targets"].get<int>();
  };
  const int answer = trained("chat.jsonl", Chat("Where?", "There."));
  EXPECT_EQ(trained("alpaca.jsonl", R"({"instruction":"Say.","output":"There."})"), answer);
  EXPECT_EQ(trained("pair.jsonl", R"({"prompt":"Where? ","completion":"There."})"), answer);

  const RunResult text = Tidegate(words);
  EXPECT_EQ(text.exit_code, 0) << text.err;
  for (const char* part :
       {"forms: 5 chats, 1 of prompt and completion, 1 texts", "tokens a record: p50 ",
        "masked: ", "1 truncated, by ", ": lines 6\n", "1 without a trained token: lines 7\n"}) {
    EXPECT_NE(text.out.find(part), std::string::npos) << part << text.out;
  }
}

const std::vector<std::vector<std::string>> kVerbs = {{"finetune"},
                                                      {"eval"},
                                                      {"generate"},
                                                      {"data", "check"},
                                                      {"base", "inspect"},
                                                      {"base", "import"},
                                                      {"adapter", "inspect"},
                                                      {"adapter", "merge"},
                                                      {"adapter", "export"},
                                                      {"doctor"},
                                                      {"coordinator", "init"},
                                                      {"coordinator", "exchange"},
                                                      {"site", "request"},
                                                      {"site", "approve"},
                                                      {"site", "list"},
                                                      {"site", "revoke"},
                                                      {"site", "accept"},
                                                      {"job", "submit"},
                                                      {"job", "list"},
                                                      {"job", "show"},
                                                      {"job", "stop"},
                                                      {"job", "export"},
                                                      {"ledger", "show"},
                                                      {"ledger", "verify"},
                                                      {"status"},
                                                      {"poc"}};

TEST_F(RecordVerbs, EveryVerbHasHelpAndRefusesWhatItDoesNotKnow) {
  for (const std::vector<std::string>& verb : kVerbs) {
    std::string name;
    for (const std::string& word : verb) name += " " + word;
    SCOPED_TRACE(name);
    std::vector<std::string> help = verb, unknown = verb;
    help.push_back("--help");
    const RunResult told = Tidegate(help);
    EXPECT_EQ(told.exit_code, 0) << told.err;
    EXPECT_NE(told.out.find("Usage: tidegate" + name), std::string::npos) << told.out;
    EXPECT_NE(told.out.find("--format"), std::string::npos) << told.out;
    unknown.push_back("--no-such-option");
    const RunResult refused = Tidegate(unknown);
    EXPECT_EQ(refused.exit_code, 64);
    EXPECT_EQ(refused.out, "");
    EXPECT_NE(refused.err, "");
  }
}

TEST_F(RecordVerbs, WrongValuesAreNamedBeforeAnythingIsOpened) {
  const std::string data = Records("data.jsonl", 1);
  const std::vector<std::string> tune =
      On({"finetune"}, {"--data", data, "--out", At("out"), "--threads", "1"});
  const struct {
    std::vector<std::string> words;
    int exit_code;
    const char* told;
  } rows[] = {
      {{"finetune"}, 64, "is required"},
      {With(tune, {"--lora_r", "3.5"}), 64, "--lora_r"},
      {With(tune, {"--packing", "perhaps"}), 64, "--packing"},
      {With(tune, {"--format", "yaml"}), 64, "--format"},
      {With(tune, {"--lora_r", "0"}), 1, "--lora_r 0 must be between 1 and"},
      {With(tune, {"--learning_rate", "nan"}), 1, "--learning_rate nan must be between"},
      {With(tune, {"--lora_target_modules", "lm_head"}), 1, "lm_head"},
      {With(tune, {"--max_length", "512"}), 1, "--max_length 512 is beyond the 256 positions"},
      {With(tune, {"--dtype", "f16"}), 1, "use auto, bf16 or f32"},
      {With(tune, {"--eval_steps", "2"}), 1, "needs --eval_data or --eval_split"},
      {With(tune, {"--eval_split", "0.5", "--eval_data", data}), 1, "exclude each other"},
      {With(tune, {"--eval_split", "0.5"}), 1, "eval_split"},
      {With(tune, {"--early-stopping-patience", "2"}), 1, "needs --eval_steps"},
      {With(tune, {"--report-to", "wandb"}), 12, "give none or tensorboard"},
      {With(tune, {"--use_dora"}), 12, "DoRA is not built"},
      {With(tune, {"--layers-to-transform", "0,x"}), 1, "--layers_to_transform: 'x' is no layer"},
      {With(tune, {"--max_length", "64", "--rank_pattern", "{\"q_porj\": 8}"}), 1,
       "rank_pattern has \"q_porj\", which decides nothing"},
      {With(tune, {"--rank-pattern", "q_proj=8"}), 1, "--rank_pattern: malformed JSON"},
      {With(tune, {"--alpha_pattern", "{\"q_proj\": -1}"}), 1, "alpha -1 for \"q_proj\""},
      {On({"finetune"}, {"--data", data, "--out", ""}), 1, "--output_dir is empty"},
      {On({"finetune"}, {"--data", data, "--out", kTinyBase.native() + "/."}), 1,
       "is the folder of --base too; give another"},
      {On({"finetune"}, {"--data", data, "--out", root_.native(), "--adapter", root_.native()}), 1,
       "is the folder of --adapter too; give another"},
      {With(tune, {"--seed", "-1"}), 64,
       "--seed: -1 must be a whole number from 0 to 18446744073709551615"},
      {With(tune, {"--seed", "18446744073709551616"}), 64, "--seed: 18446744073709551616 must be"},
      {With(tune, {"--seed", "0x10"}), 64, "--seed: 0x10 must be a whole number"},
      {With(tune, {"--lora_r", "-1"}), 1, "--lora_r -1 must be between 1 and 4096"},
      {With(tune, {"--lora_r", "99999999999999999999"}), 1, "must be between 1 and 4096"},
      {With(tune, {"--lora_alpha", "nan"}), 1, "alpha is nan"},
      {With(tune, {"--lora_alpha", "-1"}), 1, "alpha is -1"},
      {With(tune, {"--lora_alpha", "inf"}), 1, "alpha is inf"},
      {With(tune, {"--lora_dropout", "1"}), 1, "dropout is 1"},
      {With(tune, {"--lora_dropout", "-0.1"}), 1, "dropout is -0.1"},
      {With(tune, {"--learning_rate", "-1e-4"}), 1, "--learning_rate -0.0001 must be between"},
      {With(tune, {"--learning_rate", "inf"}), 1, "--learning_rate inf must be between"},
      {With(tune, {"--weight_decay", "-1"}), 1, "weight_decay -1"},
      {With(tune, {"--weight_decay", "nan"}), 1, "weight_decay nan"},
      {With(tune, {"--max_grad_norm", "inf"}), 1, "max_grad_norm inf"},
      {With(tune, {"--warmup_ratio", "1.5"}), 1, "--warmup_ratio 1.5 must be between 0 and 1"},
      {With(tune, {"--warmup_steps", "-1"}), 1, "--warmup_steps -1 must be between"},
      {With(tune, {"--max_steps", "-5"}), 1, "--max_steps -5 must be between"},
      {With(tune, {"--num_train_epochs", "0"}), 1, "--num_train_epochs 0 must be between"},
      {With(tune, {"--num_train_epochs", "nan"}), 1, "--num_train_epochs nan must be between"},
      {With(tune, {"--gradient_accumulation_steps", "0"}), 1, "_steps 0 must be between 1 and"},
      {With(tune, {"--per_device_train_batch_size", "-2"}), 1, "_size -2 must be between 1 and"},
      {With(tune, {"--per_device_train_batch_size", "4097"}), 1, "between 1 and 4096"},
      {With(tune, {"--max_length", "-8"}), 1, "--max_length -8 must be between 2 and"},
      {With(tune, {"--logging_steps", "0"}), 1, "--logging_steps 0 must be between 1 and"},
      {With(tune, {"--save_steps", "-1"}), 1, "--save_steps -1 must be between"},
      {With(tune, {"--eval_split", "nan"}), 1, "--eval_split nan must be between"},
      {With(tune, {"--early_stopping_threshold", "-1"}), 1, "_threshold -1 must be between"},
      {With(tune, {"--threads", "-1"}), 1, "--threads -1 must be between 0 and 256"},
      {With(tune, {"--threads", "3000000000"}), 64, "--threads"},
      {With(tune, {"--lr_scheduler_type", "step"}), 1, "step"},
      {With(tune, {"--bnb-4bit-use-double-quant", "false"}), 64, "is for --load_in_4bit"},
      {On({"eval"}, {"--data", data, "--per_device_eval_batch_size", "0"}), 1,
       "--per_device_eval_batch_size 0 must be between 1 and 4096"},
      {On({"eval"}, {"--data", data, "--max_new_tokens", "5"}), 64, "is for --exact_match"},
      {On({"eval"}, {"--data", data, "--exact_match", "--max_new_tokens", "0"}), 1,
       "--max_new_tokens 0 must be between"},
      {On({"eval"}, {"--data", data, "--lora_alpha", "4"}), 64, "--lora_alpha"},
      {On({"data", "check"}, {"--data", data, "--max_length", "0"}), 1, "--max_length 0 must be"},
      {With(tune, {"--walls", "moat"}), 1, "'moat' is not a wall"},
      {With(tune, {"--data", At("none.jsonl")}), 2, "none.jsonl does not exist"},
      {With(tune, {"--eval_data", At("none.jsonl")}), 2, "--eval_data"},
      {With(tune, {"--adapter", At("none")}), 2, "--adapter"},
      {With(tune, {"--base", At("none")}), 2, "--base"},
      {On({"eval"}, {"--data", data, "--max_length", "1"}), 1, "--max_length 1 must be between"},
      {On({"eval"}, {"--data", data, "--threads", "257"}), 1, "--threads 257"},
      {On({"generate"}, {"--prompt", ""}), 1, "--prompt is empty"},
      {On({"generate"}, {"--prompt", "x", "--threads", "-1"}), 1, "--threads -1"},
      {On({"generate"}, {"--prompt", "x", "--max_new_tokens", "0"}), 1, "--max_new_tokens 0"},
      {On({"generate"}, {"--prompt", "x", "--temperature", "-1"}), 1, "temperature is -1"},
      {On({"generate"}, {"--prompt", "x", "--temperature", "1", "--top_p", "2"}), 1, "top_p is 2"},
      {On({"data", "check"}, {"--data", At("none.jsonl")}), 2, "none.jsonl does not exist"},
      {{"base", "inspect", At("none")}, 2, "none/config.json"},
      {{"adapter", "inspect", At("none"), "--base", kTinyBase.native()}, 2, "none"},
      {{"doctor", "--base", At("none")}, 2, "none/config.json"},
      {{"doctor", "--lora_r", "8"}, 64, "--lora_r requires --base"},
      {{"doctor", "--base", kTinyBase.native(), "--lora_r", "4097"}, 1, "choose 1 to 4096"},
      {{"doctor", "--base", kTinyBase.native(), "--max_length", "16777216",
        "--per_device_train_batch_size", "2"},
       1,
       "is over 16777216 tokens"},
  };
  for (const auto& row : rows) {
    const RunResult run = Tidegate(row.words);
    EXPECT_EQ(run.exit_code, row.exit_code) << row.told << ": " << run.err;
    EXPECT_NE((run.err + run.out).find(row.told), std::string::npos) << row.told << ": " << run.err;
  }
  EXPECT_FALSE(std::filesystem::exists(root_ / "out/metrics.jsonl"));
}

// They would be silently those of its adapter_config.json.
TEST_F(RecordVerbs, FlagsOfANewAdapterBesideAnAdapterAreRefusedByName) {
  const std::string data = Records("data.jsonl", 1);
  const std::vector<std::string> tune =
      On({"finetune"}, {"--data", data, "--out", At("out"), "--adapter", At("none")});
  const std::pair<const char*, const char*> flags[] = {{"lora_r", "16"},
                                                       {"lora_alpha", "32"},
                                                       {"lora_dropout", "0"},
                                                       {"lora_target_modules", "q_proj"},
                                                       {"layers_to_transform", "0"},
                                                       {"rank_pattern", "{}"},
                                                       {"alpha_pattern", "{}"},
                                                       {"use_rslora", "false"},
                                                       {"use_dora", "false"}};
  for (const auto& [flag, value] : flags) {
    const RunResult run = Tidegate(With(tune, {std::string("--") + flag, value}));
    EXPECT_EQ(run.exit_code, 64) << flag << ": " << run.err;
    EXPECT_NE(run.err.find(std::string("--") + flag + " is for a new adapter"), std::string::npos)
        << run.err;
  }
  const std::string file = Write("job.toml", "lora_r = 8\n");
  const RunResult run = Tidegate(With(tune, {"--config", file}));
  EXPECT_EQ(run.exit_code, 64) << run.err;
  EXPECT_NE(run.err.find("--lora_r is for a new adapter"), std::string::npos) << run.err;
}

}  // namespace
}  // namespace tidegate::cli
