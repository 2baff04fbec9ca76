"""What the tokenizers library trains on the texts of tokenizers/ids.json, and what it makes of our files.

Writes bpe/trained.json: for each way to cut text the vocabulary and the merges of BpeTrainer with
vocab_size 1400, min_frequency 2, the special tokens below and the alphabet of bytes; and of a text that
spells one token in two ways, so that a pair is merged twice.

With --ours FOLDER, a folder that `tidegate tokenizer train` made of those texts with the same options,
it is loaded by tokenizers and by transformers, compared with trained.json and asked for the ids of the
texts: bpe/ids.json.
"""

import argparse
import json
import os

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "bpe")
SPECIAL = ["<|endoftext|>", "<|user|>"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# "abc" comes of ab+c in some words and of a+bc in others, and goes on to be a part of more.
TWO_WAYS = ["abcd abcd ab ab ab c", "xabc xabc bc bc bc bcbc abcabc", "aabc aabc dabc dabcd zabcd"] * 3


def texts():
    with open(os.path.join(HERE, "tokenizers", "ids.json"), encoding="utf-8") as file:
        return json.load(file)["texts"]


def pre_tokenizer(style):
    if style == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train(style, corpus, vocab_size, min_frequency):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(style)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=min_frequency,
                                  special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    assert [model["vocab"][token] for token in tokens] == list(range(len(tokens)))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"tokens": tokens, "merges": merges}


def check_ours(folder):
    import transformers

    ours = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as file:
        model = json.load(file)["model"]
    with open(os.path.join(OUT, "trained.json"), encoding="utf-8") as file:
        theirs = json.load(file)["llama3"]
    assert model["merges"] == theirs["merges"]
    assert sorted(model["vocab"], key=model["vocab"].get) == theirs["tokens"]
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    assert auto.eos_token == SPECIAL[0] and auto.eos_token_id == 0
    ids = [ours.encode(text, add_special_tokens=False).ids for text in texts()]
    assert ids == [auto(text, add_special_tokens=False)["input_ids"] for text in texts()]
    with open(os.path.join(OUT, "ids.json"), "w", encoding="utf-8") as file:
        json.dump({"versions": {"transformers": transformers.__version__}, "ids": ids}, file)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ours")
    arguments = parser.parse_args()
    os.makedirs(OUT, exist_ok=True)
    trained = {style: train(style, texts(), 1400, 2) for style in ("llama3", "gpt2")}
    trained["two_ways"] = train("gpt2", TWO_WAYS, 300, 1)
    with open(os.path.join(OUT, "trained.json"), "w", encoding="utf-8") as file:
        json.dump(trained, file, ensure_ascii=True, indent=0)
        file.write("\n")
    if arguments.ours:
        check_ours(arguments.ours)


main()
