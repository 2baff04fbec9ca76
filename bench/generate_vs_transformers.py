"""Tidegate and transformers side by side generating: the same model, lengths, threads, in turn.

  python bench/generate_vs_transformers.py --bench build/bin/generate_bench --base FOLDER

Prints a line of JSON for each engine and type and one with the ratios: "decode" and "prefill" are
our tokens per second over theirs in the fastest repeat of each (what else runs on the machine only
slows one), "median_" those of the medians; "share_of_read" is our decoding over reading the weights
once a token at the rate that the same repeat measured. Exit status 1 when a target is missed, 2
when a case did not run. Only a quiet machine gives numbers to quote: the load average is printed
with them. FOLDER is a Hugging Face folder (scripts/smollm2_base.sh makes one); --python is one with
the packages of tests/golden/requirements-golden.txt.
"""

import argparse
import json
import os
import subprocess
import sys


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True, help="the program generate_bench")
    parser.add_argument("--base", required=True, help="Hugging Face folder")
    parser.add_argument("--python", default=sys.executable, help="one that has transformers")
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--min-decode", type=float, default=5.0, help="in bf16")
    parser.add_argument("--min-prefill", type=float, default=1.2)
    parser.add_argument("--min-share", type=float, default=0.75)
    args = parser.parse_args()
    if not os.path.isfile(os.path.join(args.base, "config.json")):
        parser.error(
            f"--base {args.base}: no config.json there; scripts/smollm2_base.sh BUILD makes the folder"
        )
    if not os.access(args.bench, os.X_OK):
        parser.error(f"--bench {args.bench}: no such program; build it first")
    return args


def run(command, environment=None):
    """The record that the last line of the command's output holds, or None."""
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, check=False, text=True
    )
    if done.returncode != 0 or not done.stdout.strip():
        print(f"generate_vs_transformers: {command[0]} ended with {done.returncode}", file=sys.stderr)
        return None
    record = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(record), flush=True)
    return record


def compare(args, dtype):
    """Runs both engines; returns the ratios and what was missed, or None when one did not run."""
    common = ["--base", args.base, "--dtype", dtype, "--prompt", str(args.prompt)]
    common += ["--new", str(args.new), "--prefill", str(args.prefill)]
    common += ["--repeats", str(args.repeats), "--threads", str(args.threads)]
    # As the programs have it: waiting threads give way soon, or a shared core costs whole slices.
    environment = dict(os.environ, GOMP_SPINCOUNT="2000")
    ours = run([args.bench, *common], environment)
    folder = os.path.dirname(os.path.abspath(__file__))
    theirs = run([args.python, os.path.join(folder, "transformers_baseline.py"), *common])
    if ours is None or theirs is None:
        return None
    ratios = {}
    for kind in ("decode", "prefill"):
        for prefix, name in (("best_", kind), ("", f"median_{kind}")):
            key = f"{prefix}{kind}_tokens_per_second"
            ratios[name] = ours[key] / theirs[key]
    ratios["share_of_read"] = ours["best_share_of_read"]
    ratios["median_share_of_read"] = ours["share_of_read"]
    ratios["load_average"] = os.getloadavg()[0]
    line = {"compared": "tidegate/transformers", "dtype": dtype}
    line |= {name: round(value, 3) for name, value in ratios.items()}
    print(json.dumps(line), flush=True)
    wanted = [("prefill", args.min_prefill), ("share_of_read", args.min_share)]
    if dtype == "bf16":
        wanted.append(("decode", args.min_decode))
    missed = [f"{dtype}: {n} {ratios[n]:.2f}, wanted {w}" for n, w in wanted if ratios[n] < w]
    return {"dtype": dtype, "ratios": ratios, "missed": missed}


def main():
    args = parse()
    cases = [compare(args, dtype) for dtype in args.dtype]
    if None in cases:
        return 2
    missed = [line for case in cases for line in case["missed"]]
    for line in missed:
        print(f"generate_vs_transformers: {line}", file=sys.stderr)
    for case in cases:
        r = case["ratios"]
        print(
            f"tidegate/transformers {case['dtype']}: decode {r['decode']:.1f} x (bf16 target "
            f"{args.min_decode}), {100 * r['share_of_read']:.0f} % of reading the weights (target "
            f"{100 * args.min_share:.0f} %), prefill {r['prefill']:.2f} x (target {args.min_prefill})"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
