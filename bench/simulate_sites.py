#!/usr/bin/env python3
"""How a simulation's memory and time grow with its sites: `tidegate simulate --light` with 1,000, 10,000
and 100,000 sites of which a round asks 1,000, and 100,000 over two ranks where there is mpirun. A line of JSON
each; DIR/100000/rounds.html is the chart of its rounds. Fails when a site costs more than 512 bytes, or when
two ranks give other bytes than one process.

  python3 bench/simulate_sites.py --bin build/bin --base tests/golden/tiny_llama --dir build/simulate_sites
"""

import argparse
import filecmp
import json
import os
import shutil
import subprocess
import sys

SITES = (1000, 10000, 100000)
MOST_BYTES_A_SITE = 512
JOB = """rounds = {rounds}
sites_per_round = {asked}
weighting = "tokens"
[lora]
r = 4
alpha = 8
[train]
local_steps = 2
batch_size = 2
max_length = 64
learning_rate = 5e-3
"""


def play(args, name, sites, more=()):
    """The result of a simulation, and its folder."""
    out = os.path.join(args.dir, name)
    done = subprocess.run(
        [os.path.join(args.bin, "tidegate"), "simulate", os.path.join(args.dir, "job.toml"), "--light", str(sites),
         "--records", os.path.join(args.dir, "records.jsonl"), "--base", args.base, "--out", out, "--format", "json",
         *more], stdout=subprocess.PIPE, check=True, text=True)
    result = json.loads(done.stdout)
    rounds = result["rounds"]
    print(json.dumps({
        "sites": sites, "ranks": result["ranks"], "rounds": len(rounds), "updates": sum(r["updates"] for r in rounds),
        "seconds_a_round": round(sum(r["seconds"] for r in rounds) / len(rounds), 2),
        "bytes_up_a_round": result["bytes"] // len(rounds), "bytes_down_a_round": result["bytes_down"] // len(rounds),
        "peak_bytes": result["peak_bytes"]}), flush=True)
    return result, out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--asked", type=int, default=1000)
    args = parser.parse_args()
    shutil.rmtree(args.dir, ignore_errors=True)
    os.makedirs(args.dir)
    with open(os.path.join(args.dir, "job.toml"), "w", encoding="utf-8") as file:
        file.write(JOB.format(rounds=args.rounds, asked=args.asked))
    with open(os.path.join(args.dir, "records.jsonl"), "w", encoding="utf-8") as file:
        for i in range(10000):
            file.write(json.dumps({"prompt": f"what is {i} times 7 ", "completion": f"it is {i * 7}"}) + "\n")
    peaks = []
    for sites in SITES:
        result, out = play(args, str(sites), sites)
        peaks.append(result["peak_bytes"])
    a_site = (peaks[-1] - peaks[0]) / (SITES[-1] - SITES[0])
    print(json.dumps({"bytes_a_site": round(a_site)}))
    failed = a_site > MOST_BYTES_A_SITE
    if shutil.which("mpirun"):
        _, two = play(args, "two_ranks", SITES[-1], ("--nproc", "2"))
        for file in ("rounds.jsonl", os.path.join("adapter", "adapter_model.safetensors")):
            if not filecmp.cmp(os.path.join(out, file), os.path.join(two, file), shallow=False):
                print(f"two ranks: another {file}", file=sys.stderr)
                failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
