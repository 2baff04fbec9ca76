// A JSONL file of records: read to its end, each record encoded with a tokenizer and a template.
// Tokens and their mask are of one length and not more than asked for.
#include "fuzz.h"
#include "records/encode.h"
#include "records/jsonl.h"

namespace tidegate::fuzz {
namespace {

constexpr const char* kTemplate =
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor "
    "%}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

struct Tools {
  model::Tokenizer tokenizer;
  model::ChatTemplate chat;
  records::Encoder encoder;
  Folder folder;
  Tools()
      : tokenizer(*model::Tokenizer::FromJson(SourceFile("tests/golden/tokenizers/smollm.json"),
                                              "smollm.json")),
        chat(*model::ChatTemplate::Parse(kTemplate, "template")),
        encoder(tokenizer, &chat, {.bos_token = "<|im_start|>", .eos_token = "<|im_end|>"}) {}
};

Tools& AllTools() {
  static Tools tools;
  return tools;
}

}  // namespace

Target Describe() {
  Target target;
  const std::string messages =
      R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": )"
      R"("Hello \u00e9 12"}, {"role": "assistant", "content": "Yes.", "weight": 1}]})";
  const std::string lists =
      R"({"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", )"
      R"("content": "a"}]})";
  const std::string texts = R"({"prompt": "The sum of 1 and 2 is", "completion": " 3"})";
  const std::string plain = R"({"text": "A text, <|im_end|> and its end. 漢字 😀"})";
  const std::string alpaca =
      R"({"instruction": "Add.", "input": "1 2", "output": "3", "system": "calc"})";
  target.seeds = {messages + "\n",
                  lists,
                  texts + "\r\n",
                  plain,
                  alpaca,
                  messages + "\n\n" + plain + "\n" + alpaca + "\n" + texts + "\n" + lists + "\n"};
  target.memory = 16u << 20;
  target.memory_per_byte = 1024;
  return target;
}

void Encode(const Onshore<records::Record>& record) {
  Tools& tools = AllTools();
  for (const bool assistant_only : {true, false}) {
    const auto encoded =
        tools.encoder.Encode(record, {.max_length = 64, .assistant_only_loss = assistant_only});
    if (!encoded) continue;
    const records::Encoded& e = encoded->reveal();
    Require(e.tokens.ids.size() <= 64 && static_cast<int64_t>(e.tokens.ids.size()) <= e.length,
            "a record has at most max_length tokens");
    Require(e.tokens.loss_mask.size() == e.tokens.ids.size(), "each token has its mask");
  }
  (void)tools.encoder.Question(record).has_value();
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  const std::string_view text = AsText({data, size});
  const auto whole = records::ParseRecord(text, 1, "input");
  if (whole) fuzz::Encode(*whole);
  const fuzz::Folder& folder = fuzz::AllTools().folder;
  folder.Put("records.jsonl", text);
  auto reader = records::JsonlReader::Open(folder.path() + "/records.jsonl");
  fuzz::Require(reader.has_value(), "a file can be opened");
  // An end: each call takes a line or says that there is none.
  for (size_t calls = 0;; ++calls) {
    fuzz::Require(calls <= size + 1, "a reader ends");
    const int64_t before = reader->line();
    const auto record = reader->Next();
    if (record && !*record) break;
    if (record) {
      if (!whole) fuzz::Encode(**record);
    } else if (reader->line() == before) {
      break;  // not of a line's form
    }
  }
  return 0;
}
