"""Reference trace of SmolLM2-135M-Instruct from transformers + PEFT in f32, f64 and bf16.

  python tests/golden/make_smollm2_traces.py --base FOLDER [--threads 2]

The steps are on the rows' chats alone, which keeps the test that repeats them short.
FOLDER comes from make_smollm2_base.py. The adapter is not stored: it follows the counter formula
in README.md and in the trace's metadata. All precisions start from the same f32 weights; bf16
rounds them once.
"""

import argparse
import json
import os
import sys

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from golden_common import (  # noqa: E402
    ADAPTER_FORMULA,
    FORMULA,
    MODULES,
    Batch,
    adapter_parameters,
    attach_lora,
    fill_adapter,
    forward,
    relative_l2,
    save_stable,
    train,
    versions,
)

HERE = os.path.dirname(os.path.abspath(__file__))
RANK, ALPHA, STEPS, RATE, WARMUP = 16, 32, 20, 2e-4, 2
SCALE_A, SCALE_B = 2.0**-5, 2.0**-7
HEAD = 8
TEXTS = [
    (
        "The harbour keeps two clocks. One shows the hour in the town, the other the height of "
        "the water at the "
        "gate, and a pilot who trusts the first alone will find his keel in the mud. At spring "
        "tide the basin fills "
        "in 3 hours and 40 minutes; at neap tide it takes almost 5. The keeper writes both "
        "numbers into a bound "
        "book every morning, signs the line with her initials, and shuts the lower sluice "
        "before the ferry leaves. "
        "Nobody may open it again until the pressure on both sides is equal, however urgent the "
        "cargo may be.",
        0,
    ),
    (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
        "Face<|im_end|>\n"
        "<|im_start|>user\nHow do I keep bread fresh for a week, and when should I freeze "
        "it?<|im_end|>\n"
        "<|im_start|>assistant\n",
        "Keep the loaf whole and cut it only when you eat. A paper bag inside a bread box holds "
        "the crust for two "
        "days; a cloth bag does about as well. If you will not finish the loaf by the third "
        "day, slice it, wrap the "
        "slices tightly and freeze them at -18 °C. Toast them straight from the freezer.<|im_end|>",
    ),
    (
        "def moving_average(values, width):\n    total = 0.0\n    result = []\n    for index, "
        "value in "
        "enumerate(values):\n        total += value\n        if index >= width:\n            "
        "total -= values[index "
        "- width]\n        result.append(total / min(index + 1, width))\n    return result\n\n# "
        "The first width "
        "entries average what is there so far,\n# so that the output is as long as the "
        "input.\nprint("
        "moving_average([3, 1, 4, 1, 5, 9, 2, 6], 3))\n",
        0,
    ),
    (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
        "Face<|im_end|>\n"
        "<|im_start|>user\nWarum ist der Himmel blau? Answer in English, please.<|im_end|>\n"
        "<|im_start|>assistant\n",
        "Sunlight holds every colour. The air scatters short waves far more than long ones: the "
        "strength goes with "
        "the inverse fourth power of the wavelength, so blue at 450 nm is scattered about 4.4 "
        "times as much as red "
        "at 650 nm. Violet is scattered even more, yet the sun sends less of it and our eyes "
        "see it poorly.<|im_end|>",
    ),
]


def packed_rows(base):
    """Two rows of two segments: a text with every token a target, a chat with its answer as one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    segments = []
    for text, answer in TEXTS:
        prompt = tokenizer(text, add_special_tokens=False).input_ids
        if answer:
            target = tokenizer(answer, add_special_tokens=False).input_ids
            segments.append((prompt + target, [0] * len(prompt) + [1] * len(target)))
        else:
            segments.append((prompt, [0] + [1] * (len(prompt) - 1)))
    return [Batch(segments[:2]), Batch(segments[2:])]


def load(base, dtype):
    from transformers import AutoModelForCausalLM

    base_dtype = torch.float32 if dtype == torch.float64 else dtype
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=base_dtype, attn_implementation="eager"
    )
    model = attach_lora(model, RANK, ALPHA)
    fill_adapter(model, SCALE_A, SCALE_B)
    return model.double() if dtype == torch.float64 else model


def stream_order(model):
    """Adapter matrices in the order of the formula's stream number."""

    def key(item):
        parts = item[0].split(".")
        module = next(i for i, m in enumerate(MODULES) if m in parts)
        return int(parts[parts.index("layers") + 1]) * 14 + module * 2 + int("lora_B" in parts)

    return sorted(adapter_parameters(model), key=key)


def positions(batch):
    """Middle and last position of every segment."""
    bounds = batch.starts.tolist()
    return [p for a, b in zip(bounds, bounds[1:]) for p in ((a + b) // 2, b - 1)]


def run(base, dtype, rows):
    model = load(base, dtype)
    loss, per_token, logits = forward(model, rows[0])
    loss.backward()
    result = {
        "loss": loss.detach(),
        "per_token": per_token.detach(),
        "logits": torch.cat(logits).detach(),
    }
    result["grads"] = [p.grad.detach().clone() for _, p in stream_order(model)]
    del logits, loss
    for _, p in adapter_parameters(model):
        p.grad = None
    chats = [Batch([(ids.tolist(), mask.tolist()) for ids, mask in r.segments[1:]]) for r in rows]
    result["losses"], result["norms"], result["rates"] = train(model, chats, STEPS, RATE, WARMUP)
    return result


def deviation(value, reference):
    loss = float(reference["loss"])
    per_gradient = [relative_l2(a, b) for a, b in zip(value["grads"], reference["grads"])]
    whole = relative_l2(
        *(torch.cat([g.double().flatten() for g in x["grads"]]) for x in (value, reference))
    )
    report = {
        "loss": abs(float(value["loss"]) - loss) / loss,
        "per_token_max_abs": float(
            (value["per_token"].double() - reference["per_token"].double()).abs().max()
        ),
        "logits_max_abs": float(
            (value["logits"].double() - reference["logits"].double()).abs().max()
        ),
        "gradient_max_rel_l2": max(per_gradient),
        "gradient_whole_rel_l2": whole,
    }
    for name in ("losses", "norms"):
        pairs = zip(value[name], reference[name])
        report[f"steps_{name}_max_rel"] = max(abs(a - b) / b for a, b in pairs)
    return report, torch.tensor(per_gradient)


def tensors_of(prefix, result, at):
    top = torch.topk(result["logits"][at].float(), 5, dim=-1)
    return {
        prefix + "loss": result["loss"].float().reshape(1),
        prefix + "per_token_loss": result["per_token"].float(),
        prefix + "grad.l2": torch.stack([g.double().norm().float() for g in result["grads"]]),
        prefix + "grad.head": torch.stack([g.flatten()[:HEAD].float() for g in result["grads"]]),
        prefix + "top5.ids": top.indices.to(torch.int32),
        prefix + "top5.logits": top.values,
        prefix + "step.loss": torch.tensor(result["losses"]),
        prefix + "step.grad_norm": torch.tensor(result["norms"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="f32 Hugging Face folder")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    rows = packed_rows(args.base)
    at = positions(rows[0])
    f32 = run(args.base, torch.float32, rows)
    bf16 = run(args.base, torch.bfloat16, rows)
    f64 = run(args.base, torch.float64, rows)
    f32_report, f32_per_gradient = deviation(f32, f64)
    bf16_report, bf16_per_gradient = deviation(bf16, f32)
    tensors = (
        tensors_of("f32.", f32, at) | tensors_of("f64.", f64, at) | tensors_of("bf16.", bf16, at)
    )
    tensors |= rows[0].tensors("batch0.") | rows[1].tensors("batch1.")
    tensors["top5.positions"] = torch.tensor(at, dtype=torch.int32)
    tensors["step.learning_rate"] = torch.tensor(f32["rates"])
    tensors["f32.grad.rel_l2"] = f32_per_gradient
    tensors["bf16.grad.rel_l2"] = bf16_per_gradient
    metadata = {
        "format": "pt",
        "made_with": json.dumps(versions()),
        "rank": str(RANK),
        "alpha": str(ALPHA),
        "model": "SmolLM2-135M-Instruct, Q4_1 GGUF dequantised to f32",
        "optimizer": json.dumps(
            {
                "name": "AdamW",
                "learning_rate": RATE,
                "beta1": 0.9,
                "beta2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "max_grad_norm": 1.0,
                "schedule": "linear",
                "warmup_steps": WARMUP,
                "steps": STEPS,
            }
        ),
        "hash": FORMULA,
        "adapter": f"{ADAPTER_FORMULA}; scale 2^-5 for A, 2^-7 for B",
        "f32_deviation_from_f64": json.dumps(f32_report),
        "bf16_deviation_from_f32": json.dumps(bf16_report),
    }
    folder = os.path.join(HERE, "smollm2")
    os.makedirs(folder, exist_ok=True)
    save_stable(tensors, os.path.join(folder, "trace.safetensors"), metadata)
    print([len(r.ids) for r in rows], "loss", float(f32["loss"]), "bf16", float(bf16["loss"]))
    print("steps", f32["losses"], "norms", f32["norms"])
    print("f32 - f64", f32_report)
    print("bf16 - f32", bf16_report)


if __name__ == "__main__":
    main()
