"""What transformers + PEFT reach here: tokens per second and peak memory of LoRA, on the CPU or a GPU.

  python bench/peft_baseline.py --base FOLDER          every shape and precision, a JSON line each
  python bench/peft_baseline.py --base FOLDER --shape 4x512 --dtype bf16 --steps 5

FOLDER is an f32 Hugging Face folder (tests/golden/make_smollm2_base.py); the packages are in
tests/golden/requirements-golden.txt. Every case runs in a process of its own, because peak memory
is per process. A case is full rows of random token ids (no padding, so packing has nothing left to
gain), every token a target, LoRA on all linear layers, AdamW and clipping to norm 1, exactly as a
PEFT user writes it. One warm-up step is not counted.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

DTYPES = ("bf16", "f32")
SHAPES = ("4x512", "1x2048")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="f32 Hugging Face folder")
    parser.add_argument("--dtype", choices=DTYPES, help="default: both")
    parser.add_argument("--shape", help=f"rows x length; default: {' and '.join(SHAPES)}")
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after one of warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    parser.add_argument("--one-case", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not os.path.isfile(os.path.join(args.base, "config.json")):
        parser.error(f"--base {args.base}: no config.json there; give a Hugging Face model folder")
    if args.steps < 1 or args.threads < 1 or args.rank < 1:
        parser.error("--steps, --threads and --rank start at 1")
    if args.shape:
        rows_length(args.shape, parser)
    return args


def rows_length(shape, parser=None):
    parts = shape.split("x")
    if len(parts) == 2 and all(p.isdigit() and int(p) > 0 for p in parts) and int(parts[1]) > 1:
        return int(parts[0]), int(parts[1])
    parser.error(f"--shape {shape}: want ROWSxLENGTH, such as 4x512, with a length of at least 2")


def resident_mib():
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(args):
    """One case in this process; returns the record that is printed."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    rows, length = rows_length(args.shape)
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.base, dtype=dtype, attn_implementation=args.attention, local_files_only=True
    ).to(args.device)
    config = peft.LoraConfig(
        r=args.rank, lora_alpha=args.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(model, config)
    model.config.use_cache = False
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.0)
    loaded = resident_mib()
    generator = torch.Generator().manual_seed(1)
    seconds, losses = [], []
    for _ in range(args.steps + 1):
        ids = torch.randint(0, model.config.vocab_size, (rows, length), generator=generator)
        ids = ids.to(args.device)
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if args.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    timed = sorted(seconds[1:])
    tokens = rows * length
    return {
        "engine": "transformers+peft",
        "dtype": args.dtype,
        "rows": rows,
        "length": length,
        "rank": args.rank,
        "device": args.device,
        "threads": args.threads,
        "steps": args.steps,
        "attention": args.attention,
        "tokens_per_second": round(tokens * args.steps / sum(timed), 2),
        "best_tokens_per_second": round(tokens / timed[0], 2),
        "seconds_per_step": [round(s, 3) for s in seconds[1:]],
        "warm_up_seconds": round(seconds[0], 3),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "loaded_rss_mib": round(loaded, 1),
        "first_loss": round(losses[0], 5),
        "last_loss": round(losses[-1], 5),
        "trained_parameters": sum(p.numel() for p in parameters),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def main():
    args = parse()
    if args.one_case:
        print(json.dumps(measure(args)), flush=True)
        return 0
    # Thread counts must be in the environment before torch is loaded; OpenBLAS belongs to numpy
    # alone, which is unused.
    environment = dict(
        os.environ, OMP_NUM_THREADS=str(args.threads), MKL_NUM_THREADS=str(args.threads)
    )
    environment["HF_HUB_OFFLINE"] = "1"
    for dtype in [args.dtype] if args.dtype else DTYPES:
        for shape in [args.shape] if args.shape else SHAPES:
            case = [sys.executable, os.path.abspath(__file__), "--one-case", "--base", args.base]
            case += ["--dtype", dtype, "--shape", shape, "--attention", args.attention]
            case += ["--steps", str(args.steps), "--threads", str(args.threads)]
            case += ["--device", args.device, "--rank", str(args.rank), "--alpha", str(args.alpha)]
            case += ["--learning-rate", str(args.learning_rate)]
            done = subprocess.run(
                case, env=environment, stdout=subprocess.PIPE, check=False, text=True
            )
            if done.returncode != 0:
                print(
                    f"peft_baseline: case {dtype} {shape} ended with {done.returncode}",
                    file=sys.stderr,
                )
                return 1
            print(done.stdout.strip().splitlines()[-1], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
