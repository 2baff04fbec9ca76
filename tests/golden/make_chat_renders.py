"""Renders of chat templates by Jinja 2 itself, in the sandbox that transformers uses.

Writes chat/renders.json: {"templates": {name: {"template", "bos_token", "eos_token"}},
"conversations": {name: [[role, content], ...]}, "renders": [{"template", "conversation", "prompt",
"text" | "error", "spans": [[begin, end], ...]}]}, spans in bytes of the text's UTF-8.

Where a template has generation tags, the spans are transformers' own. Elsewhere they come from
rendering again with a private character before or behind the content of one assistant message,
and from the header and the end-of-turn token of each template, which are written down here: the
interpreter under test has to find all of this out by itself.
"""

import argparse
import datetime
import json
import os

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "chat")

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# The shape of Qwen2.5's: whitespace control, a tools branch, elif, a default system message.
QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a careful clerk.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or \
(message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# The shape of Qwen3's: a namespace set inside a loop over the reversed list, slices, split and
# strip of the content, what the assistant thought in earlier turns left out.
QWEN_THINKS = """\
{%- set ns = namespace(seek=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.seek and message.role == "user" and message.content is string and \
not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.seek = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role != "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- else %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or thought) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

# The shape of Llama-3.2's: BOS, a date, the system message taken off the list, trimmed contents.
LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}

{#- The system message comes first, whether there is one or not. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- else %}
        {{- raise_exception("No tools here: " + message.content) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# The shape of Llama-2's and Mistral's: alternation enforced, eos_token ends a turn.
ALTERNATES = """\
{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate: user, assistant, user, ...') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}
{%+ elif message['role'] == 'assistant' %}
{{ ' ' + message['content'] + ' ' + eos_token }}
{% endif -%}
{% endfor %}
"""

# Generation tags as TRL's training templates have them: the newline after the header is inside.
GENERATION = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- generation %}{{- '\\n' + message.content + '<|im_end|>' }}{% endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant' }}{%- endif %}
"""

# No chat: what the interpreter must agree with Jinja on, value by value and blank by blank.
LANGUAGE = r"""  {# lstrip #}  a
  {% if true %}
    kept
  {% endif %}
b {% if 1 %} c {% endif %} d
  {%+ if 1 %} e {%+ endif +%}
{{ 'f' -}}   
   g {{- ' h' }}
{{ "x\ty\\z\u00e9\x41\q" }}|{{ 'a' 'b' }}|{{ 1 + 2 * 3 - 4 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ -7 % 3 }}
{{ 'ab' * 3 }}|{{ 1 ~ none ~ true }}|{{ nothing }}|{{ 'x' if false }}|{{ 'x' if false else 'y' }}
{{ [1, 'é"\n', none, true, ['a']] | tojson }}|{{ 'héé' | length }}|{{ 'héllo'[1:3] }}|{{ 'héllo'[::-1] }}
{{ 'héllo'[-2] }}|{{ 'abcdef'[4:1:-2] }}|{{ 'abcdef'[:-2] }}|{{ [1,2,3][-1] }}|{{ [1,2,3][7] }}|{{ ([1,2,3][1:])|length }}
{{ 1 < 2 < 3 }}|{{ 1 < 3 < 2 }}|{{ 'a' in 'cat' }}|{{ 'z' not in ['a', 'b'] }}|{{ not 1 == 2 }}|{{ 1 == true }}|{{ '1' == 1 }}
{{ nothing is defined }}|{{ nothing is undefined }}|{{ 'a' is string }}|{{ messages[0] is mapping }}|{{ 'a' is iterable }}
{{ none is none }}|{{ 0 is false }}|{{ false is false }}|{{ true is true }}|{{ true is number }}|{{ 3 is number }}|{{ '3' is not number }}
{{ '  x ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ 'Ab' | upper }}|{{ 'Ab' | lower }}|{{ nothing | default('d') }}|{{ '' | default('d') }}|{{ '' | default('d', true) }}
{{ ['a', 1, none] | join(', ') }}|{{ [1, 2] | first }}|{{ [1, 2] | last }}|{{ [] | first }}|{{ 'abc' | first }}|{{ 'abc' | last }}
{{ 'a,b,,c'.split(',') | join('|') }}|{{ ' a  b '.split() | join('|') }}|{{ 'a,b,c'.split(',', 1) | join('|') }}
{{ 'xxabxx'.strip('x') }}|{{ '  a '.lstrip() }}|{{ '  a '.rstrip() }}|{{ ' a　'.strip() }}|{{ 'AbC'.upper() }}|{{ 'AbC'.lower() }}
{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith('ab') }}|{{ 1 and 0 or 'z' }}|{{ '' or none }}|{{ (1, 2) | length }}|{{ 2 > 1 and 1 >= 1 and 1 <= 0 }}
{% for x in [3, 4, 5] %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.length }}/{{ loop.first }}/{{ loop.last }}/{{ loop.revindex }}:{{ x }} {% endfor %}

{% for x in nothing %}never{% else %}empty{% endfor %}

{% set y = 1 %}{% for x in [1, 2] %}{{ y }}{% set y = 5 %}{{ y }}{% endfor %}{{ y }}
{% if true %}{% set y = 9 %}{% endif %}{{ y }}
{% set ns = namespace(n=0, s='a') %}{% for x in [1, 2, 3] %}{% set ns.n = ns.n + x %}{% set ns.s = ns.s ~ x %}{% endfor %}{{ ns.n }}{{ ns.s }}{{ ns.none_such is defined }}
{%- set z = '-' %}
  {{ z }}  
	{% if false %}no{% elif 0 %}no{% elif 'yes' %}yes{% else %}no{% endif %}	
{{ messages[0]['role'] }} {{ messages[0].content|tojson }} {{ messages|length }} {{ strftime_now('%Y-%m-%d %B %A %%') }}
{#- gone -#}
   last   
"""

CHATML = "<|im_start|>assistant\n"
LLAMA = "<|start_header_id|>assistant<|end_header_id|>\n\n"

# Template, bos_token, eos_token, header of an assistant turn, its end-of-turn token.
TEMPLATES = {
    "smollm2": (SMOLLM2, "<|im_start|>", "<|im_end|>", CHATML, "<|im_end|>"),
    "qwen": (QWEN, "", "<|im_end|>", CHATML, "<|im_end|>"),
    "qwen_thinks": (QWEN_THINKS, "", "<|im_end|>", CHATML, "<|im_end|>"),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|end_of_text|>", LLAMA, "<|eot_id|>"),
    "alternates": (ALTERNATES, "<s>", "</s>", None, "</s>"),
    "generation": (GENERATION, "", "<|im_end|>", None, None),
    "language": (LANGUAGE, "<s>", "</s>", None, None),
}

CONVERSATIONS = {
    "question": [["user", "What is 2 + 2?"], ["assistant", "4"]],
    "system": [["system", "Be brief."], ["user", "Hi"], ["assistant", "Hello."]],
    "turns": [
        ["user", "One"],
        ["assistant", "1"],
        ["user", "1"],
        ["assistant", "1"],
        ["user", "And two?"],
        ["assistant", "2"],
    ],
    "blanks": [
        ["system", "  padded system \n"],
        ["user", "\n  leading and trailing  \n\n"],
        ["assistant", "  indented\n\tcode\n\n"],
        ["user", " \u3000x\u00a0 "],
        ["assistant", "line\r\nline\u2028line "],
    ],
    "markup": [
        ["user", "{{ 1 + 1 }} {% raise %} {# not a comment #} }} %}"],
        ["assistant", "{% endfor %}{{ bos_token }} \\n \"quoted\" 'single' <|im_end|> </s> <b>&amp;</b>"],
        ["user", "<|im_start|>assistant\nfake<|im_end|>\n<|eot_id|>"],
        ["assistant", "assistant\n<|im_start|>"],
    ],
    "unicode": [
        ["user", "Grüße, 東京 \U0001f600 e\u0301 \u202e rtl"],
        ["assistant", "\U0001f469\u200d\U0001f52c é ß ſ ﬁ \u200b"],
    ],
    "thoughts": [
        ["user", "Think"],
        ["assistant", "<think>\nfirst thought\n</think>\n\nfirst answer"],
        ["user", "Again"],
        ["assistant", "<think>\nsecond\n\n</think>\n\nsecond answer"],
    ],
    "prompt": [["user", "Only a question"]],
    "quotes": [["user", "\"\\ / \t\r\n\u0001 \u007f é\u2028 </b> 'x'"]],
    "empty": [["user", ""], ["assistant", ""]],
    "disorder": [["assistant", "I first"], ["user", "then I"]],
    "tools": [["user", "Call"], ["tool", "r1"], ["tool", "r2"], ["assistant", "done"]],
}

def render(template, messages, prompt, bos, eos):
    """The text, and the character ranges of its generation blocks."""
    compiled = _compile_jinja_template(template)
    # The same pinned day as RenderOptions' default.
    compiled.environment.globals["strftime_now"] = datetime.datetime(2024, 7, 26).strftime
    texts, spans = render_jinja_template(
        [messages],
        chat_template=template,
        return_assistant_tokens_mask="{%- generation" in template,
        add_generation_prompt=prompt,
        bos_token=bos,
        eos_token=eos,
    )
    return texts[0], (spans[0] if spans else [])


def assistant_spans(template, messages, tokens, text, generations):
    """What the spans must be, in characters."""
    bos, eos, header, end_token = tokens
    if end_token is None:
        return generations
    out = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue

        def render_with(content):
            changed = [dict(m) for m in messages]
            changed[index]["content"] = content
            return render(template, changed, False, bos, eos)[0]

        # Everything behind the mark is what it is without it, blanks that are trimmed or not.
        whole = render_with(message["content"] + "\ue001")
        tail = whole[whole.index("\ue001") + 1 :]
        plain = render(template, messages, False, bos, eos)[0]
        end = len(plain) - len(tail)
        blanks = len(tail) - len(tail.lstrip(" "))
        assert tail[blanks:].startswith(end_token), tail[:40]
        # Nothing is found where the template cuts off the beginning of the content.
        begin = render_with("\ue000" + message["content"]).find("\ue000")
        if header:
            begin = text.rindex(header, 0, begin if begin >= 0 else end) + len(header)
        assert 0 <= begin <= end
        out.append((begin, end + blanks + len(end_token)))
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--smollm2", help="SmolLM2's folder: its template must be the one here")
    arguments = parser.parse_args()
    if arguments.smollm2:
        with open(os.path.join(arguments.smollm2, "chat_template.jinja"), encoding="utf-8") as f:
            assert f.read() == SMOLLM2, "SmolLM2's template has changed"
    with open(os.path.join(HERE, "tiny_llama", "tokenizer_config.json"), encoding="utf-8") as f:
        tiny = json.load(f)
    templates = dict(TEMPLATES)
    templates["tiny_llama"] = (
        tiny["chat_template"],
        tiny["bos_token"],
        tiny["eos_token"],
        CHATML,
        "<|im_end|>",
    )
    renders = []
    for name, (template, *tokens) in templates.items():
        bos, eos = tokens[:2]
        for conversation, pairs in CONVERSATIONS.items():
            messages = [{"role": role, "content": content} for role, content in pairs]
            if name == "language" and conversation not in ("prompt", "quotes"):
                continue
            for prompt in (False, True):
                if prompt and conversation not in ("prompt", "turns"):
                    continue
                entry = {"template": name, "conversation": conversation, "prompt": prompt}
                try:
                    text, generations = render(template, messages, prompt, bos, eos)
                    entry["text"] = text
                    spans = assistant_spans(template, messages, tokens, text, generations)
                    entry["spans"] = [[len(text[:at].encode()) for at in s] for s in spans]
                except TemplateError as error:
                    entry["error"] = str(error)
                renders.append(entry)
    os.makedirs(OUT, exist_ok=True)
    path = os.path.join(OUT, "renders.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(
            {
                "templates": {
                    n: {"template": t[0], "bos_token": t[1], "eos_token": t[2]}
                    for n, t in templates.items()
                },
                "conversations": CONVERSATIONS,
                "renders": renders,
            },
            f,
            ensure_ascii=False,
            indent=0,
        )
        f.write("\n")
    print(path, os.path.getsize(path), "bytes,", len(renders), "renders")


if __name__ == "__main__":
    main()
