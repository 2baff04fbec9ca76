// A chat template: parsed, and rendered for fixed messages within its steps and bytes. Spans are
// ascending and in the text.
#include "model/chat_template.h"

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "fuzz.h"

namespace tidegate::fuzz {

Target Describe() {
  Target target;
  const auto renders = nlohmann::json::parse(SourceFile("tests/golden/chat/renders.json"));
  for (const auto& item : renders["templates"]) {
    target.seeds.push_back(item["template"].get<std::string>());
  }
  target.seeds.push_back(
      "{% macro m(a, b=2) %}{{ a ~ b }}{% endmacro %}{% set ns = namespace(n=0) %}{% for i in "
      "range(3) %}{% set ns.n = ns.n + i * 2 // 3 % 5 %}{% endfor %}{{ ns.n }}{{ [1, 2, "
      "'x']|join(',') }}{{ {'a': 1}|tojson }}{{ 'abc'[::-1] }}{{ messages|length }}{% if x is "
      "defined and not loop %}{% else %}{{ 'a'|upper|trim }}{% endif %}");
  target.memory = 4 * kMaxTemplateOutputBytes;  // a short template may write this much
  target.memory_per_byte = 4096;
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  static const std::vector<model::ChatMessage> kMessages = {
      {"system", "Be brief."},
      {"user", "Wie geht's? \xc3\xa9 {{ 1 }}\n"},
      {"assistant", "Good."},
      {"user", "And you?"},
      {"assistant", "  Fine  <|im_end|>"}};
  const auto parsed = model::ChatTemplate::Parse(AsText({data, size}), "input");
  if (!parsed) return 0;
  for (const bool prompt : {false, true}) {
    model::RenderOptions options;
    options.add_generation_prompt = prompt;
    options.bos_token = "<s>";
    options.eos_token = "</s>";
    const auto rendered =
        parsed->Render(std::span(kMessages).first(prompt ? 4 : kMessages.size()), options);
    if (!rendered) continue;
    fuzz::Require(rendered->text.size() <= kMaxTemplateOutputBytes, "a render has its bound");
    size_t end = 0;
    for (const model::ByteSpanRange& span : rendered->assistant_spans) {
      fuzz::Require(end <= span.begin && span.begin <= span.end, "spans ascend");
      end = span.end;
    }
    fuzz::Require(end <= rendered->text.size(), "spans are in the text");
  }
  return 0;
}
