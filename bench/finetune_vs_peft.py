"""Tidegate and transformers + PEFT side by side: the same model, shapes, threads, one after another.

  python bench/finetune_vs_peft.py --bench build/bin/finetune_step_bench --base FOLDER

Prints a line of JSON for each engine and case and one with the ratios: "speed" is our tokens per
second over theirs in the fastest step of each (what else runs on the machine only slows a step),
"mean_speed" over all steps, "memory" our peak over theirs, "gflops" all that our step computes (4 N,
LoRA, causal attention) in a second, and "of_packed_gemm" the share of the best rate of a single product
(packed_gemm_bench, beside --bench). Exit status 1 when bf16 is under
--min-speed times or any case over --max-memory times; 2 when a case did not run. Only a quiet
machine gives numbers to quote: the load average is printed with them. The last line is the least
speed in bf16 and the most memory. FOLDER is a Hugging Face folder (scripts/smollm2_base.sh makes
one); --python is one with the packages of tests/golden/requirements-golden.txt.
"""

import argparse
import json
import os
import subprocess
import sys


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True, help="the program finetune_step_bench")
    parser.add_argument("--base", required=True, help="Hugging Face folder")
    parser.add_argument("--python", default=sys.executable, help="one that has torch and peft")
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"])
    parser.add_argument("--shape", nargs="+", default=["4x512", "1x2048"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--min-speed", type=float, default=2.6, help="in bf16")
    parser.add_argument("--max-memory", type=float, default=0.25)
    args = parser.parse_args()
    if not os.path.isfile(os.path.join(args.base, "config.json")):
        parser.error(
            f"--base {args.base}: no config.json there; scripts/smollm2_base.sh BUILD makes the folder"
        )
    if not os.access(args.bench, os.X_OK):
        parser.error(f"--bench {args.bench}: no such program; build it first")
    return args


def run(command):
    """The record that the last line of the command's output holds, or None."""
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode != 0 or not done.stdout.strip():
        print(f"finetune_vs_peft: {command[0]} ended with {done.returncode}", file=sys.stderr)
        return None
    record = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(record), flush=True)
    return record


def flop_a_token(base, length, rank=16):
    """Of a step: forward and the way back through frozen weights (4 N), LoRA, causal attention."""
    with open(os.path.join(base, "config.json"), encoding="utf-8") as text:
        config = json.load(text)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, config["num_key_value_heads"] * head_dim
    linear = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    linear += [(hidden, inner), (hidden, inner), (inner, hidden)]
    layers = config["num_hidden_layers"]
    weights = layers * sum(k * n for k, n in linear) + config["vocab_size"] * hidden
    lora = layers * 6 * rank * sum(k + n for k, n in linear)
    return 4 * weights + lora + layers * 7 * length * queries


def packed_rates(args):
    """The machine's best rate of a single product, GF/s by type; empty when it was not measured."""
    program = os.path.join(os.path.dirname(args.bench), "packed_gemm_bench")
    rates = {}
    if os.access(program, os.X_OK):
        for dtype in args.dtype:
            record = run([program, "--dtype", dtype, "--threads", str(args.threads)])
            if record is not None:
                rates[dtype] = record["best_gflops"]
    return rates


def compare(args, dtype, shape, packed):
    """Runs both engines; returns the ratios and what was missed, or None when one did not run."""
    rows, length = shape.split("x")
    common = ["--base", args.base, "--dtype", dtype, "--steps", str(args.steps)]
    common += ["--threads", str(args.threads)]
    ours = run([args.bench, *common, "--rows", rows, "--length", length])
    baseline = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peft_baseline.py")
    theirs = run([args.python, baseline, *common, "--shape", shape])
    if ours is None or theirs is None:
        return None
    speed = ours["best_tokens_per_second"] / theirs["best_tokens_per_second"]
    mean_speed = ours["tokens_per_second"] / theirs["tokens_per_second"]
    memory = ours["peak_rss_bytes"] / (theirs["peak_rss_mib"] * 2**20)
    missed = []
    if dtype == "bf16" and speed < args.min_speed:
        missed.append(f"{dtype} {shape}: speed {speed:.2f}, wanted {args.min_speed}")
    if memory > args.max_memory:
        missed.append(f"{dtype} {shape}: memory {memory:.2f}, allowed {args.max_memory}")
    load = round(os.getloadavg()[0], 2)
    ratios = {"speed": speed, "mean_speed": mean_speed, "memory": memory, "load_average": load}
    gflops = ours["best_tokens_per_second"] * flop_a_token(args.base, int(length)) * 1e-9
    ratios["gflops"] = gflops
    if packed is not None:
        ratios["of_packed_gemm"] = gflops / packed
    line = {"compared": "tidegate/peft", "dtype": dtype, "shape": shape}
    line |= {name: round(value, 3) for name, value in ratios.items()}
    print(json.dumps(line), flush=True)
    return {"speed": speed if dtype == "bf16" else None, "memory": memory, "missed": missed}


def main():
    args = parse()
    cases = []
    packed = packed_rates(args)
    for dtype in args.dtype:
        for shape in args.shape:
            cases.append(compare(args, dtype, shape, packed.get(dtype)))
            if cases[-1] is None:
                return 2
    missed = [line for case in cases for line in case["missed"]]
    for line in missed:
        print(f"finetune_vs_peft: {line}", file=sys.stderr)
    speeds = [case["speed"] for case in cases if case["speed"] is not None]
    least = f"bf16 speed at least {min(speeds):.2f} x (target {args.min_speed}), " if speeds else ""
    most = max(case["memory"] for case in cases)
    print(f"tidegate/peft: {least}memory at most {most:.2f} x (target {args.max_memory})")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
