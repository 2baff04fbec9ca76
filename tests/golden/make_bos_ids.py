"""Ids of chats and texts by transformers, where tokenizer and template both know a BOS.

Writes chat/bos/tokenizer.json and tokenizer_config.json (the tiny tokenizer with Llama-3's markers,
a post-processor that puts BOS before a text, and a template that writes BOS itself) and
chat/bos/ids.json: {"bos", "eos", "chats": [{"messages", "prompt", "ids"}], "texts": [{"text",
"ids"}]}. A chat must begin with one BOS, not two: the template's.
"""

import json
import os

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "chat", "bos")
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
MARKERS = [BOS, EOS, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def main():
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(HERE, "chat", "renders.json"), encoding="utf-8") as f:
        renders = json.load(f)
    tokenizer = Tokenizer.from_file(os.path.join(HERE, "tiny_llama", "tokenizer.json"))
    tokenizer.add_special_tokens(MARKERS)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    tokenizer.save(os.path.join(OUT, "tokenizer.json"), pretty=False)
    settings = {
        "bos_token": BOS,
        "eos_token": EOS,
        "chat_template": renders["templates"]["llama3"]["template"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    with open(os.path.join(OUT, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(settings, f, ensure_ascii=False, indent=1)
        f.write("\n")

    reference = PreTrainedTokenizerFast.from_pretrained(OUT)
    chats = []
    for name in ("question", "system", "turns", "blanks", "unicode", "prompt"):
        messages = [{"role": r, "content": c} for r, c in renders["conversations"][name]]
        prompts = (True,) if name == "prompt" else (False,)
        for prompt in prompts:
            ids = reference.apply_chat_template(
                messages,
                tokenize=True,
                add_generation_prompt=prompt,
                return_dict=False,
                date_string="26 Jul 2024",  # RenderOptions' default day
            )
            chats.append({"messages": messages, "prompt": prompt, "ids": list(ids)})
    texts = [
        {"text": text, "ids": reference(text)["input_ids"]}
        for text in ("plain", " two words", "Grüße, 東京", f"spelt{EOS}out")
    ]
    result = {
        "bos": reference.bos_token_id,
        "eos": reference.eos_token_id,
        "chats": chats,
        "texts": texts,
    }
    with open(os.path.join(OUT, "ids.json"), "w", encoding="utf-8") as f:
        json.dump(result, f, ensure_ascii=False)
        f.write("\n")
    for chat in chats:
        assert chat["ids"].count(reference.bos_token_id) == 1, chat
    print(len(chats), "chats,", len(texts), "texts")


if __name__ == "__main__":
    main()
