"""Loads an exported adapter with llama.cpp and compares what it makes of texts with ours.

  python tests/golden/check_llama_cpp.py --tidegate build/bin/tidegate --gguf FILE --base FOLDER \
      --adapter FOLDER [--adapter FOLDER ...]

Needs llama-cpp-python, which builds llama.cpp out of its own sdist: CMAKE_ARGS=-DGGML_NATIVE=ON
pip install --no-binary llama-cpp-python llama-cpp-python. FILE is a GGUF base, FOLDER of --base what
`tidegate base import --dtype f32` makes of it, an adapter a PEFT folder. llama.cpp turns the base
into F32, so that both sides have the same weights; ours runs in f32.

Compared, without and with each adapter: the NLL of a text (`tidegate eval`), and a greedy
continuation (`tidegate generate --raw`). Exit status 0 and a line of JSON each when they agree.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np

# Of the NLL; measured: 3e-7 and below.
BOUND = 1e-5
TEXT = (
    "The harbour keeps two clocks. One shows the hour in the town, the other the height of the "
    "water at the gate, and a pilot who trusts the first alone will find his keel in the mud. "
    "Der Ärger kam 1987 zurück, 3 Tage später."
)
PROMPT = "The keeper of the harbour writes every morning"
NEW_TOKENS = 24


def as_f32(gguf, out):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    parameters.allow_requantize = True
    code = llama_cpp.llama_model_quantize(gguf.encode(), out.encode(), ctypes.byref(parameters))
    if code != 0:
        sys.exit(f"llama.cpp cannot write {gguf} as F32: {code}")


def nll_and_text(model_path, lora):
    """NLL a token of TEXT with its end of sequence, and what follows PROMPT."""
    # Its cache of keys and values is F16 as it comes, which costs 2e-4 of the NLL.
    options = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    options |= {"lora_path": lora} if lora else {}
    model = llama_cpp.Llama(
        model_path, n_ctx=512, n_batch=512, logits_all=True, verbose=False, n_threads=2, **options
    )
    ids = model.tokenize(TEXT.encode(), add_bos=False, special=False) + [model.token_eos()]
    model.reset()
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)], dtype=np.float64)
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    losses = [log_sum[i] - logits[i][ids[i + 1]] for i in range(len(ids) - 1)]
    prompt = model.tokenize(PROMPT.encode(), add_bos=False, special=False)
    answer = []
    model.reset()
    model.eval(prompt)
    for _ in range(NEW_TOKENS):
        token = int(np.argmax(model.scores[model.n_tokens - 1]))
        if token == model.token_eos():
            break
        answer.append(token)
        model.eval([token])
    return float(np.mean(losses)), len(losses), model.detokenize(answer).decode()


def run(tidegate, *words):
    done = subprocess.run(
        [tidegate, *words, "--format", "json"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def ours(args, adapter, folder):
    data = os.path.join(folder, "text.jsonl")
    with open(data, "w", encoding="utf-8") as out:
        out.write(json.dumps({"text": TEXT}) + "\n")
    common = ["--base", args.base, "--dtype", "f32"]
    common += ["--adapter", adapter] if adapter else []
    measured = run(args.tidegate, "eval", "--data", data, *common)
    answer = run(
        args.tidegate, "generate", "--raw", "--prompt", PROMPT, *common,
        "--max_new_tokens", str(NEW_TOKENS),
    )  # fmt: skip
    return measured["nll"], measured["targets"], answer["text"]


@llama_cpp.llama_log_callback
def quiet(_level, _text, _data):
    pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tidegate", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", action="append", default=[])
    args = parser.parse_args()
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    good = True
    with tempfile.TemporaryDirectory() as folder:
        base = os.path.join(folder, "base.gguf")
        as_f32(args.gguf, base)
        for adapter in [None, *args.adapter]:
            lora = None
            if adapter:
                lora = os.path.join(folder, "adapter.gguf")
                if os.path.exists(lora):
                    os.remove(lora)
                run(
                    args.tidegate, "adapter", "export", adapter, "--base", args.base,
                    "--out", lora,
                )  # fmt: skip
            theirs = nll_and_text(base, lora)
            mine = ours(args, adapter, folder)
            difference = abs(theirs[0] - mine[0]) / mine[0]
            same = difference < BOUND and theirs[1:] == mine[1:]
            good = good and same
            print(
                json.dumps(
                    {
                        "adapter": adapter,
                        "agree": same,
                        "nll_llama_cpp": theirs[0],
                        "nll": mine[0],
                        "relative": difference,
                        "targets": mine[1],
                        "text": mine[2],
                        "text_llama_cpp": theirs[2],
                    },
                    ensure_ascii=False,
                )
            )
    print(f"llama-cpp-python {llama_cpp.__version__}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
