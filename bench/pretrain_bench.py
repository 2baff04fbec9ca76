#!/usr/bin/env python3
"""A 10 M-parameter decoder learns real text; and its steps beside PyTorch's, in one run.

  python bench/pretrain_bench.py --bin build/bin --dir build/pretrain_bench [--steps 200]

The text is Perl's manual, 9 MB of English prose with code (Debian's package perl-doc), its last file
held out. First examples/pretrain's pipeline on two ranks: tokenizer, shards, training, held-out loss.
Then steps of the same model, batch and data type by one rank with two threads and by transformers'
LlamaForCausalLM with torch.optim.AdamW on two threads (skipped by name where there is no torch).
Prints a line of JSON.
"""

import argparse
import glob
import json
import os
import pathlib
import shutil
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
CONFIG = HERE / "examples/pretrain/config.json"
LENGTH, BATCH, MICRO = 256, 32, 8


def run(words):
    begin = time.monotonic()
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def lines_of(run_dir, event):
    for line in open(run_dir / "metrics.jsonl"):
        entry = json.loads(line)
        if entry["event"] == event:
            yield entry


def text_of(folder):
    files = sorted(glob.glob("/usr/share/perl/5*/pod/*.pod"))
    if len(files) < 50:
        raise SystemExit("the text is missing: apt-get install perl-doc")
    for name in ("train", "held_out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for file in files:
        held_out = "held_out" if os.path.basename(file) == "perlre.pod" else "train"
        shutil.copy(file, folder / held_out / (os.path.basename(file) + ".txt"))


def pipeline(binaries, folder, steps):
    seconds = {}
    seconds["tokenizer"] = run([binaries / "tidegate", "tokenizer", "train", folder / "train",
                                "--out", folder / "tokenizer", "--vocab-size", 8192])
    for name in ("train", "held_out"):
        seconds["encode " + name] = run(
            [binaries / "tidegate", "tokenizer", "encode", folder / name, "--tokenizer",
             folder / "tokenizer", "--out", folder / ("tokens_" + name)])
    seconds["training"] = run(
        [binaries / "tidegate-pretrain", "--model_config", CONFIG, "--tokenizer", folder / "tokenizer",
         "--data", folder / "tokens_train", "--eval_data", folder / "tokens_held_out", "--output_dir",
         folder / "run", "--nproc", 2, "--max_length", LENGTH, "--per_device_train_batch_size", MICRO,
         "--global_batch_size", BATCH, "--learning_rate", "1e-3", "--max_steps", steps, "--eval_steps",
         max(1, steps // 8), "--save_steps", 0])
    return seconds


def ours(binaries, folder, dtype, steps):
    out = folder / ("alone_" + dtype)
    run([binaries / "tidegate-pretrain", "--model_config", CONFIG, "--data", folder / "tokens_train",
         "--output_dir", out, "--dtype", dtype, "--threads", 2, "--max_length", LENGTH,
         "--per_device_train_batch_size", MICRO, "--global_batch_size", BATCH, "--max_steps", steps,
         "--save_steps", 0])
    return max(entry["tokens_per_second"] for entry in lines_of(out, "step"))


def theirs(dtype, steps):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(CONFIG.parent))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    ids = torch.randint(0, 8192, (BATCH, LENGTH + 1))
    best = 0.0
    for _ in range(steps):
        begin = time.monotonic()
        optimizer.zero_grad()
        for at in range(0, BATCH, MICRO):
            micro = ids[at : at + MICRO]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
                logits = model(micro[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]).float(), micro[:, 1:].reshape(-1))
            (loss * MICRO / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        best = max(best, BATCH * LENGTH / (time.monotonic() - begin))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, type=pathlib.Path)
    parser.add_argument("--dir", required=True, type=pathlib.Path)
    parser.add_argument("--steps", default=200, type=int)
    options = parser.parse_args()
    shutil.rmtree(options.dir, ignore_errors=True)
    options.dir.mkdir(parents=True)
    text_of(options.dir)
    seconds = pipeline(options.bin, options.dir, options.steps)
    out = {"seconds": {name: round(value, 1) for name, value in seconds.items()}}
    steps = list(lines_of(options.dir / "run", "step"))
    out["first loss"] = round(steps[0]["loss"], 3)
    out["held-out NLL"] = {entry["step"]: round(entry["nll"], 3)
                           for entry in lines_of(options.dir / "run", "eval")}
    for dtype in ("bf16", "f32"):
        try:
            here = ours(options.bin, options.dir, dtype, 6)
        except subprocess.CalledProcessError:
            out[dtype] = "no such kernels here"
            continue
        row = out[dtype] = {"tokens/s": round(here)}
        try:
            row["torch tokens/s"] = round(theirs(dtype, 3))
            row["ratio"] = round(here / row["torch tokens/s"], 2)
        except ImportError as error:
            row["torch"] = f"skipped: {error}"
    print(json.dumps(out))


if __name__ == "__main__":
    main()
