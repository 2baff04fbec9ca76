// What is asked of a model over HTTP, and the lines between the server and the walled process that
// has it. The first byte says which: a chat, a completion, a command, an event. What the server
// takes the process takes; a line that decodes encodes to one that decodes to the same.
#include <algorithm>

#include "fuzz.h"
#include "serve/openai.h"

namespace tidegate::fuzz {
namespace {

void CheckAsk(const onshore::Ask& ask) {
  const std::string line = onshore::EncodeAsk(ask);
  Require(std::count(line.begin(), line.end(), '\n') == 1 && line.back() == '\n', "it is a line");
  if (line.size() > onshore::kMaxAskBytes) return;
  const auto command = onshore::DecodeCommand(line);
  Require(command && !command->cancel, "a question that was taken can be asked");
  Require(onshore::EncodeAsk(command->ask) == line, "a question has one line");
}

void Body(serve::Api api, std::string_view body) {
  const auto question = serve::ParseQuestion(api, body, 7);
  if (!question) {
    (void)serve::ErrorBody(question.error())
        .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    return;
  }
  Require((api == serve::Api::kChat) == !question->ask.messages.empty(), "a chat has messages");
  CheckAsk(question->ask);
}

void Command(std::string_view line) {
  const auto command = onshore::DecodeCommand(line);
  if (command && !command->cancel) CheckAsk(command->ask);
}

void Event(std::string_view line) {
  const auto event = onshore::DecodeEvent(line);
  if (!event) return;
  const std::string once = onshore::EncodeEvent(*event);
  Require(std::count(once.begin(), once.end(), '\n') == 1, "it is a line");
  const auto again = onshore::DecodeEvent(once);
  Require(again && onshore::EncodeEvent(*again) == once, "an event has one line");
  const serve::AnswerHead head{serve::Api::kChat, "chatcmpl-1", 5, "m"};
  (void)serve::WholeAnswer(head, event->text, *event)
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  Require(serve::TextChunk(head, event->text).ends_with("\n\n"), "it is an event of a stream");
  (void)serve::LastChunks(head, *event, true);
}

}  // namespace

Target Describe() {
  Target target;
  onshore::Ask ask;
  ask.id = 3;
  ask.model = "base";
  ask.messages = {{"system", "be brief"}, {"user", "hello"}};
  ask.max_new_tokens = 20;
  ask.stop = {"\n\n", "END"};
  onshore::AnswerEvent end;
  end.kind = onshore::AnswerEvent::Kind::kEnd;
  end.id = 3;
  end.text = "stop";
  end.prompt_tokens = 12;
  end.new_tokens = 5;
  onshore::AnswerEvent text;
  text.id = 3;
  text.text = "h\u00e9llo";
  target.seeds = {
      '\0' + std::string(
                 R"({"model":"base","messages":[{"role":"developer","content":"a"},{"role":"user",)"
                 R"("content":[{"type":"text","text":"b"}]}],"max_tokens":5,"temperature":0.5,)"
                 R"("top_p":0.9,"top_k":4,"seed":-3,"stream":true,"stream_options":)"
                 R"({"include_usage":true},"stop":["x"],"n":1,"tools":[],"logprobs":false,)"
                 R"("response_format":{"type":"text"},"repetition_penalty":1.1})"),
      '\1' + std::string(R"({"model":"base","prompt":["once"],"stop":"x","presence_penalty":0})"),
      '\2' + onshore::EncodeAsk(ask),
      '\2' + onshore::EncodeCancel(3),
      '\3' + onshore::EncodeEvent(end),
      '\3' + onshore::EncodeEvent(text)};
  target.memory_per_byte = 512;
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  const std::string_view text = AsText({data + 1, size - 1});
  switch (data[0] % 4) {
    case 0:
      fuzz::Body(serve::Api::kChat, text);
      break;
    case 1:
      fuzz::Body(serve::Api::kCompletion, text);
      break;
    case 2:
      fuzz::Command(text);
      break;
    default:
      fuzz::Event(text);
  }
  return 0;
}
