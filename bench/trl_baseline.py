"""What TRL's SFTTrainer reaches here on a file of chats: real tokens a second and peak memory.

  python bench/trl_baseline.py --base FOLDER --data chats.jsonl --steps 4 [--packing]

SFTTrainer as it comes: its own defaults (rows padded to the longest of the batch, every token a
target, gradient checkpointing, bf16 autocast), a LoRA adapter on all linear layers, batches of 8 on
the CPU. --weights bf16 loads the base in bf16 instead of TRL's own choice. Tokens are real ones: what
the attention mask leaves out is not counted. A step lasts from the trainer's own on_step_begin to its
on_step_end; the first is not counted. The packages are those of
tests/golden/requirements-golden.txt, and trl.
"""

import argparse
import json
import os
import resource
import tempfile
import time


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="Hugging Face folder")
    parser.add_argument("--data", required=True, help="JSONL of messages")
    parser.add_argument("--steps", type=int, default=4, help="timed steps, after one of warm-up")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--weights", choices=("default", "bf16"), default="default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=int, default=32)
    args = parser.parse_args()
    if args.steps < 1:
        parser.error("--steps starts at 1")
    return args


def measure(args):
    import datasets
    import peft
    import torch
    import transformers
    import trl

    torch.set_num_threads(args.threads)
    rows = [json.loads(line) for line in open(args.data, encoding="utf-8")]
    data = datasets.Dataset.from_list([{"messages": row["messages"]} for row in rows])

    class Times(transformers.TrainerCallback):
        def __init__(self):
            self.begun, self.seconds = 0.0, []

        def on_step_begin(self, *_, **__):
            self.begun = time.perf_counter()

        def on_step_end(self, *_, **__):
            self.seconds.append(time.perf_counter() - self.begun)

    class Counted(trl.SFTTrainer):
        def training_step(self, model, inputs, *rest, **named):
            mask = inputs.get("attention_mask")
            whole = inputs["input_ids"].numel()
            self.real.append(whole if mask is None else int(mask.sum()))
            self.padded.append(whole)
            return super().training_step(model, inputs, *rest, **named)

    with tempfile.TemporaryDirectory() as output:
        config = trl.SFTConfig(
            output_dir=output,
            use_cpu=True,
            max_steps=args.steps + 1,
            packing=args.packing,
            report_to="none",
            save_strategy="no",
            model_init_kwargs={"dtype": "bfloat16"} if args.weights == "bf16" else None,
        )
        times = Times()
        trainer = Counted(
            model=args.base,
            args=config,
            train_dataset=data,
            peft_config=peft.LoraConfig(
                r=args.rank,
                lora_alpha=args.alpha,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            callbacks=[times],
        )
        trainer.real, trainer.padded = [], []
        trainer.train()
        weights = next(p.dtype for n, p in trainer.model.named_parameters() if "lora_" not in n)
    real, seconds = trainer.real[1:], times.seconds[1:]
    return {
        "engine": "trl",
        "data": "packed" if args.packing else "padded",
        "weights": str(weights).removeprefix("torch."),
        "batch": config.per_device_train_batch_size,
        "steps": len(seconds),
        "tokens_per_second": round(sum(real) / sum(seconds), 2),
        "best_tokens_per_second": round(max(n / s for n, s in zip(real, seconds)), 2),
        "padded_tokens_per_second": round(sum(trainer.padded[1:]) / sum(seconds), 2),
        "seconds_per_step": [round(s, 3) for s in times.seconds],
        "real_tokens": trainer.real,
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "threads": args.threads,
        "trl": trl.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


if __name__ == "__main__":
    arguments = parse()
    # Before torch is loaded.
    os.environ.update(
        OMP_NUM_THREADS=str(arguments.threads),
        MKL_NUM_THREADS=str(arguments.threads),
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
    )
    print(json.dumps(measure(arguments)), flush=True)
