"""`tidegate finetune` beside TRL's SFTTrainer on short chats, one after another.

  python bench/finetune_vs_trl.py --tidegate build/bin/tidegate --base FOLDER

The chats are passages of this repository's documentation as questions and answers, with log-normal
lengths whose median is some 120 tokens. Both train every token of them in batches of 8 with LoRA
r=16 on all linear layers; TRL is as it comes (bench/trl_baseline.py). Twice: TRL pads, ours takes
the same 8 chats without padding; and both pack into rows of 1024. Tokens are real ones. Prints a line
of JSON for each engine and case and one with the ratios: "speed" is our tokens per second over
theirs in the best step of each, "memory" our peak over theirs. Exit status 1 when speed is under
--min-speed against padded rows, 2 when a case did not run. The load average is printed with them.
--python is one with the packages of tests/golden/requirements-golden.txt, and trl.
"""

import argparse
import glob
import json
import math
import os
import random
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS_A_WORD, TEMPLATE_TOKENS = 1.08, 38  # of this text, measured


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tidegate", required=True, help="the program tidegate")
    parser.add_argument("--base", required=True, help="Hugging Face folder")
    parser.add_argument("--python", default=sys.executable, help="one that has trl")
    parser.add_argument("--weights", choices=("default", "bf16"), default="default", help="TRL's")
    parser.add_argument("--case", nargs="+", choices=("padded", "packed"), default=["padded", "packed"])
    parser.add_argument("--chats", type=int, default=240)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a padded case")
    parser.add_argument("--packed-steps", type=int, default=1, help="those of a packed one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--min-speed", type=float, default=5.0)
    args = parser.parse_args()
    if not os.access(args.tidegate, os.X_OK):
        parser.error(f"--tidegate {args.tidegate}: no such program; build it first")
    if not os.path.isfile(os.path.join(args.base, "config.json")):
        parser.error(f"--base {args.base}: no config.json there")
    return args


def chats(count):
    """Questions and answers; the same ones for the same documentation."""
    words = []
    for path in sorted(glob.glob(os.path.join(HERE, "..", "**", "*.md"), recursive=True)):
        with open(path, encoding="utf-8") as page:
            words += [w for w in page.read().split() if w.isascii() and w[0].isalpha()]
    draw = random.Random(1)
    for _ in range(count):
        tokens = min(900, draw.lognormvariate(math.log(120), 0.7)) - TEMPLATE_TOKENS
        wanted = max(6, int(tokens / TOKENS_A_WORD))
        at = draw.randrange(len(words) - wanted)
        asked = max(2, wanted // 4)
        text = words[at : at + wanted]
        yield {
            "messages": [
                {"role": "user", "content": " ".join(text[:asked])},
                {"role": "assistant", "content": " ".join(text[asked:])},
            ]
        }


def run(command):
    """(standard output, peak resident bytes of the largest process), or None."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        print(f"finetune_vs_trl: {command[0]} ended with {child.returncode}", file=sys.stderr)
        return None
    return out, usage.ru_maxrss * 1024


def ours(args, data, case, folder):
    steps = (args.packed_steps if case == "packed" else args.steps) + 1
    out = os.path.join(folder, case)
    command = [args.tidegate, "finetune", "--base", args.base, "--data", data, "--out", out]
    command += ["--assistant-only-loss", "false", "--max-steps", str(steps)]
    command += ["--threads", str(args.threads), "--save-steps", "0"]
    if case == "padded":
        command += ["--packing", "false", "--per-device-train-batch-size", "8"]
        command += ["--gradient-accumulation-steps", "1"]
    ran = run(command)
    if ran is None:
        return None
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as metrics:
        lines = [json.loads(line) for line in metrics]
    timed = [line for line in lines if line.get("event") == "step"][1:]
    tokens = sum(line["tokens"] for line in timed)
    seconds = sum(line["tokens"] / line["tokens_per_second"] for line in timed)
    record = {"engine": "tidegate", "data": "packed" if case == "packed" else "8 chats a step"}
    record |= {"steps": len(timed), "tokens_per_second": round(tokens / seconds, 2)}
    record |= {"best_tokens_per_second": max(line["tokens_per_second"] for line in timed)}
    record |= {"real_tokens": [line["tokens"] for line in timed], "peak_rss_bytes": ran[1]}
    print(json.dumps(record), flush=True)
    return record


def theirs(args, data, case):
    steps = args.packed_steps if case == "packed" else args.steps
    command = [args.python, os.path.join(HERE, "trl_baseline.py"), "--base", args.base]
    command += ["--data", data, "--steps", str(steps), "--threads", str(args.threads)]
    command += ["--weights", args.weights] + (["--packing"] if case == "packed" else [])
    ran = run(command)
    if ran is None:
        return None
    record = json.loads(ran[0].strip().splitlines()[-1])
    print(json.dumps(record), flush=True)
    return record


def compare(args, data, case, folder):
    before = round(os.getloadavg()[0], 2)
    mine, other = ours(args, data, case, folder), theirs(args, data, case)
    if mine is None or other is None:
        return None
    speed = mine["best_tokens_per_second"] / other["best_tokens_per_second"]
    line = {"compared": "tidegate/trl", "data": case, "dtype": "bf16", "speed": round(speed, 2)}
    line["mean_speed"] = round(mine["tokens_per_second"] / other["tokens_per_second"], 2)
    line["memory"] = round(mine["peak_rss_bytes"] / (other["peak_rss_mib"] * 2**20), 3)
    line |= {"load_average_before": before, "load_average": round(os.getloadavg()[0], 2)}
    print(json.dumps(line), flush=True)
    return speed


def main():
    args = parse()
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "chats.jsonl")
        with open(data, "w", encoding="utf-8") as out:
            for chat in chats(args.chats):
                out.write(json.dumps(chat) + "\n")
        for case in args.case:
            speed = compare(args, data, case, folder)
            if speed is None:
                return 2
            if case == "padded" and speed < args.min_speed:
                print(f"finetune_vs_trl: speed {speed:.2f}, wanted {args.min_speed}", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
