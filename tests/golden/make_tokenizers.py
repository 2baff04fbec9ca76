"""Small byte-level BPE tokenizers of each family, and the ids that the tokenizers library gives.

Writes tokenizers/<family>.json (tokenizer.json files of some 500 tokens, trained on the words below)
and tokenizers/ids.json: {"texts": [...], "ids": {family: [[...], ...]}}, without added specials.
The families differ in how they cut text (SmolLM2, Llama-3, Qwen2, GPT-2), in normalisation, in
ignore_merges and in the flags of added tokens. The texts are words of many scripts with prefixes
and endings, and soups of the characters that such patterns trip over.
"""

import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import trainers
from tokenizers.processors import TemplateProcessing

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "tokenizers")

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

STEMS = (
    "the house water storage assistant record federated training number straße grün weiß Öffnung "
    "Việt Nam nước tiếng người đường öğrenci güneş ılık école garçon naïve señor año coração "
    "привет мир хранение запись καλημέρα κόσμος αρχείο مرحبا سجل שלום עולם नमस्ते दुनिया สวัสดี โลก "
    "東京 記録 こんにちは カタカナ 你好 数据 存储 안녕하세요 기록 Ünïcödé 123 4567 3.14 1,000 x1y2 don't WE'LL it’s"
).split()
PREFIXES = ["", " ", "un", " re", "\n", "  ", "(", " \"", "\t", "'"]
ENDINGS = ["", "s", "ing", "ed ", "'s", "!", ", ", "ung", "\n\n", "42", "...", "\u0301", " "]
SOUP = list(
    "aeZ's'T’ \t\n\r.,!?-_/\\@#0129٣²½Ⅷ٪éßſﬁçñ東한ไद्ा\u0301\u0323\u200d\u200b\u00a0\u3000\u2028\u180e"
    "\u0085\u001f\u007f\ufeff\U0001f600\U0001f469\U0001f3fd\u1100\u1161\u11a8\u0344\u212b\u0958\u00ad"
    "\u200cⒶ\U0001f130\U0001f150\u2160º"
) + ["<|im_end|>", "<tool>", "<mask>", "word", "'ll", "\r\n", "   ", "e\u0301", "A\u030a"]


def make_texts():
    draw = random.Random(20240726)
    texts = ["", " ", "\n", "'", "\u0301", " Việt", "Việt", " don't", "DON'T I'LL"]
    for _ in range(400):
        words = [
            draw.choice(PREFIXES) + draw.choice(STEMS) + draw.choice(ENDINGS)
            for _ in range(draw.randrange(1, 4))
        ]
        texts.append("".join(words))
    for _ in range(300):
        texts.append("".join(draw.choice(SOUP) for _ in range(draw.randrange(1, 12))))
    return texts


def train(normalizer, pre_tokenizer, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    draw = random.Random(1)
    corpus = [" ".join(draw.choice(STEMS) for _ in range(8)) for _ in range(400)]
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=480,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|endoftext|>"],
            show_progress=False,
        ),
    )
    return tokenizer


def unreachable(tokenizer, words):
    """Adds tokens that no merge makes: only ignore_merges finds them."""
    root = json.loads(tokenizer.to_str())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for word in words:
        spelt = byte_level.pre_tokenize_str(word)[0][0]
        root["model"]["vocab"].setdefault(spelt, len(root["model"]["vocab"]))
    return Tokenizer.from_str(json.dumps(root))


def split(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def families():
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    smollm = train(
        None,
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
    )
    smollm.add_special_tokens(["<|im_end|>"])

    llama3 = train(None, split(LLAMA3), ignore_merges=True)
    llama3 = unreachable(llama3, [" zebraing", " Vietnam", "word", "ed ", "東京s"])
    llama3.add_special_tokens(["<|begin_of_text|>", "<|im_end|>"])
    llama3.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A",
        special_tokens=[("<|begin_of_text|>", llama3.token_to_id("<|begin_of_text|>"))],
    )

    qwen2 = train(normalizers.NFC(), split(QWEN2))
    qwen2.add_special_tokens(["<|im_end|>"])
    qwen2.add_tokens([AddedToken("e\u0301", normalized=True, special=False)])

    gpt2 = train(None, byte_level)
    gpt2.add_tokens(
        [
            AddedToken("<mask>", lstrip=True, normalized=False, special=True),
            AddedToken("<tool>", rstrip=True, normalized=True, special=False),
            AddedToken("word", single_word=True, normalized=False, special=False),
            AddedToken("<|im_end|>", normalized=False, special=True),
        ]
    )
    return {"smollm": smollm, "llama3": llama3, "qwen2": qwen2, "gpt2": gpt2}


def main():
    os.makedirs(OUT, exist_ok=True)
    texts = make_texts() + [" zebraing", " Vietnam", "wordy word", "東京s <mask>  <tool>  x"]
    ids = {}
    for name, tokenizer in families().items():
        tokenizer.save(os.path.join(OUT, f"{name}.json"), pretty=False)
        ids[name] = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    with open(os.path.join(OUT, "ids.json"), "w", encoding="utf-8") as f:
        json.dump({"texts": texts, "ids": ids}, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")
    print(len(texts), "texts,", {n: sum(map(len, i)) for n, i in ids.items()})


if __name__ == "__main__":
    main()
