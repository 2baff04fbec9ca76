"""Tokens a second of greedy generation and of prefilling by transformers on CPU, as JSON lines.

  python bench/transformers_baseline.py --base FOLDER [--dtype bf16|f32]

What bench/generate_bench.cc times: --new tokens after a prompt of --prompt random ids with the KV
cache, as model.generate() gives them, and one forward pass over --prefill ids that ends in the
logits after the last. The decode rate leaves out the prompt's pass: of two runs, one of one new
token, the difference is taken. Medians of --repeats after one of warm-up; "best_" is the fastest.
"""

import argparse
import json
import os
import subprocess
import sys
import time

DTYPES = ("bf16", "f32")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="Hugging Face folder")
    parser.add_argument("--dtype", choices=DTYPES, help="default: both")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one-case", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not os.path.isfile(os.path.join(args.base, "config.json")):
        parser.error(f"--base {args.base}: no config.json there; give a Hugging Face model folder")
    if min(args.prompt, args.prefill, args.repeats, args.threads) < 1 or args.new < 2:
        parser.error("--prompt, --prefill, --repeats and --threads start at 1, --new at 2")
    return args


def measure(args):
    """One case in this process; returns the record that is printed."""
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.base, dtype=dtype, local_files_only=True
    ).eval()
    generator = torch.Generator().manual_seed(1)

    def random_ids(count):
        return torch.randint(0, model.config.vocab_size, (1, count), generator=generator)

    def seconds(work):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    prompt, long_prompt = random_ids(args.prompt), random_ids(args.prefill)

    def generate(count):
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
            pad_token_id=0,
        )
        assert out.shape[1] == args.prompt + count

    decodes, prefills = [], []
    with torch.inference_mode():
        for _ in range(args.repeats + 1):
            prefills.append(
                seconds(lambda: model(long_prompt, use_cache=True, logits_to_keep=1))
            )
            first = seconds(lambda: generate(1))
            decodes.append(seconds(lambda: generate(args.new)) - first)
    decodes, prefills = sorted(decodes[1:]), sorted(prefills[1:])
    steps = args.new - 1
    return {
        "engine": "transformers",
        "dtype": args.dtype,
        "prompt_tokens": args.prompt,
        "new_tokens": args.new,
        "threads": args.threads,
        "decode_tokens_per_second": round(steps / decodes[len(decodes) // 2], 2),
        "best_decode_tokens_per_second": round(steps / decodes[0], 2),
        "prefill_tokens": args.prefill,
        "prefill_tokens_per_second": round(args.prefill / prefills[len(prefills) // 2], 2),
        "best_prefill_tokens_per_second": round(args.prefill / prefills[0], 2),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def main():
    args = parse()
    if args.one_case:
        print(json.dumps(measure(args)), flush=True)
        return 0
    # Thread counts must be in the environment before torch is loaded.
    environment = dict(
        os.environ, OMP_NUM_THREADS=str(args.threads), MKL_NUM_THREADS=str(args.threads)
    )
    environment["HF_HUB_OFFLINE"] = "1"
    for dtype in [args.dtype] if args.dtype else DTYPES:
        case = [sys.executable, os.path.abspath(__file__), "--one-case", "--base", args.base]
        case += ["--dtype", dtype, "--prompt", str(args.prompt), "--new", str(args.new)]
        case += ["--prefill", str(args.prefill), "--repeats", str(args.repeats)]
        case += ["--threads", str(args.threads)]
        done = subprocess.run(case, env=environment, stdout=subprocess.PIPE, check=False, text=True)
        if done.returncode != 0:
            print(f"transformers_baseline: {dtype} ended with {done.returncode}", file=sys.stderr)
            return 1
        print(done.stdout.strip().splitlines()[-1], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
