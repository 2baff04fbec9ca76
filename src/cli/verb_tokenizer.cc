// tokenizer train: a byte-level BPE from text. tokenizer encode: token shards from text.
#include <unistd.h>

#include <thread>

#include "cli/verb.h"
#include "corpus/encode.h"
#include "corpus/train_tokenizer.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

// On standard error, as the errors are: a line a second in place on a terminal, else one in ten.
corpus::ProgressFunction TellProgress(const Invocation& invocation) {
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  return [&invocation, terminal, calls = 0](const corpus::Progress& now) mutable {
    if (!terminal && calls++ % 10 != 9) return true;
    if (invocation.format == Format::kJson) {
      const ordered_json line = {{"stage", now.stage},
                                 {"done", now.done},
                                 {"all", now.all},
                                 {"unit", now.unit},
                                 {"per_second", now.per_second},
                                 {"seconds_left", now.seconds_left}};
      fmt::print(stderr, "{}\n", line.dump());
      return true;
    }
    const bool bytes = now.unit == "bytes";
    const double scale = bytes ? 1e-6 : 1;
    const auto left = static_cast<int64_t>(now.seconds_left);
    fmt::print(stderr, "{}{}: {:.0f} of {:.0f} {}, {:.1f} a second, {}:{:02} left{}",
               terminal ? "\r\033[K" : "", now.stage, static_cast<double>(now.done) * scale,
               static_cast<double>(now.all) * scale, bytes ? "MB" : now.unit,
               now.per_second * scale, left / 60, left % 60, terminal ? "" : "\n");
    return true;
  };
}

// What stands on a terminal goes before the result comes.
void EndProgress() {
  if (::isatty(STDERR_FILENO) == 1) fmt::print(stderr, "\r\033[K");
}

int CoreCount() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }

struct TrainOptions {
  corpus::TrainTokenizerOptions train;
  std::filesystem::path out;
  std::string style = "llama3";
  uint64_t word_mib = 2048;
};

Status Train(const Invocation& invocation, TrainOptions options) {
  TG_ASSIGN_OR_RETURN(options.train.tokenizer.style, corpus::SplitStyleOf(options.style));
  options.train.most_word_bytes = options.word_mib << 20;
  TG_ASSIGN_OR_RETURN(const corpus::TrainedTokenizer made,
                      corpus::TrainTokenizer(options.train, options.out, TellProgress(invocation)));
  const ordered_json report = {{"out", options.out.native()},
                               {"vocab_size", made.vocab_size},
                               {"merges", made.merges},
                               {"files", made.files},
                               {"text_bytes", made.text_bytes},
                               {"words", made.words},
                               {"words_dropped", made.words_dropped},
                               {"bad_lines", made.bad_lines}};
  return Print(invocation, report, [](const ordered_json& r) {
    std::string text = fmt::format("{}: {} tokens, {} merges, of {} different words in {:.1f} MB\n",
                                   r["out"].get<std::string>(), r["vocab_size"].get<size_t>(),
                                   r["merges"].get<size_t>(), r["words"].get<uint64_t>(),
                                   r["text_bytes"].get<double>() * 1e-6);
    if (const auto dropped = r["words_dropped"].get<uint64_t>(); dropped > 0) {
      text +=
          fmt::format("{} occurrences of rare words were dropped: --word-memory-mib\n", dropped);
    }
    if (const auto bad = r["bad_lines"].get<uint64_t>(); bad > 0) {
      text += fmt::format("{} lines were no text and were left out\n", bad);
    }
    return text;
  });
}

void AddTextOptions(CLI::App* verb, std::vector<std::filesystem::path>& inputs,
                    corpus::TextOptions& text, int& threads) {
  verb->add_option("INPUT", inputs,
                   ".txt files, a document each; .jsonl files, a document a line; folders of them")
      ->required();
  verb->add_option("--field", text.field, "The text's key in a line of JSONL")
      ->capture_default_str();
  verb->add_flag("--skip-bad-lines", text.skip_bad_lines,
                 "Leave out lines of JSONL that hold no text, and count them");
  verb->add_option("--threads", threads, "Cores to use; the result does not depend on it")
      ->check(CLI::Range(1, 1024));
}

void RegisterTrain(CLI::App& group, Invocation& invocation) {
  auto options = std::make_shared<TrainOptions>();
  options->train.threads = CoreCount();
  CLI::App* verb = AddVerb(group, "train", "Train a byte-level BPE tokenizer on text", invocation,
                           [&invocation, options] { return Train(invocation, *options); });
  AddTextOptions(verb, options->train.inputs, options->train.text, options->train.threads);
  verb->add_option("--out", options->out, "Folder for tokenizer.json and tokenizer_config.json")
      ->required();
  verb->add_option("--vocab-size", options->train.bpe.vocab_size, "Tokens in all")
      ->capture_default_str();
  verb->add_option("--min-frequency", options->train.bpe.min_frequency,
                   "Pairs that occur less often are not merged")
      ->capture_default_str();
  verb->add_option("--special", options->train.bpe.special_tokens,
                   "Special tokens, the first of them gets the id 0")
      ->capture_default_str();
  verb->add_option("--end-of-text", options->train.tokenizer.end_of_text,
                   "The special token that ends a document")
      ->capture_default_str();
  verb->add_option("--split", options->style, "How words are cut: llama3 or gpt2")
      ->capture_default_str();
  verb->add_option("--model-max-length", options->train.tokenizer.model_max_length,
                   "Written to tokenizer_config.json");
  verb->add_option("--word-memory-mib", options->word_mib,
                   "Memory for the table of words; beyond it the rarest are dropped")
      ->check(CLI::Range(uint64_t{16}, uint64_t{1} << 20))
      ->capture_default_str();
}

struct EncodeOptions {
  corpus::EncodeTextOptions encode;
  std::filesystem::path out;
  std::string end_of_text;
};

Status Encode(const Invocation& invocation, const EncodeOptions& options) {
  const auto result = corpus::EncodeText(options.encode, options.out, TellProgress(invocation));
  EndProgress();
  TG_ASSIGN_OR_RETURN(const corpus::EncodedText made, result);
  const ordered_json report = {
      {"out", options.out.native()},         {"tokens", made.tokens},
      {"documents", made.documents},         {"shards", made.shards},
      {"shards_before", made.shards_before}, {"text_bytes", made.text_bytes},
      {"bad_lines", made.bad_lines}};
  return Print(invocation, report, [](const ordered_json& r) {
    std::string text = fmt::format(
        "{}: {} tokens of {} documents in {} shards, {:.2f} bytes a token\n",
        r["out"].get<std::string>(), r["tokens"].get<uint64_t>(), r["documents"].get<uint64_t>(),
        r["shards"].get<uint64_t>(), r["text_bytes"].get<double>() / r["tokens"].get<double>());
    if (const auto before = r["shards_before"].get<uint64_t>(); before > 0) {
      text += fmt::format("{} shards were there from a run before\n", before);
    }
    if (const auto bad = r["bad_lines"].get<uint64_t>(); bad > 0) {
      text += fmt::format("{} lines were no text and were left out\n", bad);
    }
    return text;
  });
}

void RegisterEncode(CLI::App& group, Invocation& invocation) {
  auto options = std::make_shared<EncodeOptions>();
  options->encode.threads = CoreCount();
  CLI::App* verb =
      AddVerb(group, "encode", "Make token shards of text, for pretraining", invocation,
              [&invocation, options] { return Encode(invocation, *options); });
  AddTextOptions(verb, options->encode.inputs, options->encode.text, options->encode.threads);
  verb->add_option("--tokenizer", options->encode.tokenizer, "Folder or tokenizer.json")
      ->required();
  verb->add_option("--out", options->out,
                   "Folder for the shards; an encoding that was ended goes on in it")
      ->required();
  verb->add_option("--end-of-text", options->end_of_text,
                   "Token behind each document, \"\" for none; else the tokenizer's eos_token")
      ->each([options](const std::string& token) { options->encode.end_of_text = token; });
  verb->add_option("--shard-tokens", options->encode.shard_tokens, "Tokens in a shard")
      ->capture_default_str();
}

}  // namespace

void RegisterTokenizerVerbs(CLI::App& app, Invocation& invocation) {
  CLI::App* group = AddGroup(app, "tokenizer", "Tokenizers and token shards for pretraining");
  RegisterTrain(*group, invocation);
  RegisterEncode(*group, invocation);
}

}  // namespace tidegate::cli
