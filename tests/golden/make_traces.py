"""Reference traces of the tiny models from transformers + PEFT.

  python tests/golden/make_traces.py            (after make_tiny_models.py)

Forward, loss, gradients and ten training steps. Writes <model>/adapter_in/ (a PEFT folder with a
non-zero B) and <model>/trace.safetensors; README.md lists the tensors.
"""

import copy
import json
import os
import sys

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from golden_common import (  # noqa: E402
    ADAPTER_FORMULA,
    FORMULA,
    Batch,
    adapter_parameters,
    attach_lora,
    fill_adapter,
    forward,
    relative_l2,
    save_adapter,
    save_stable,
    train,
    versions,
)

HERE = os.path.dirname(os.path.abspath(__file__))
RANK, ALPHA, STEPS, RATE, WARMUP = 4, 8, 10, 1e-2, 2
SCALE_A, SCALE_B = 0.125, 0.0625
LOGIT_ROWS = 4
MODELS = ("tiny_llama", "tiny_llama_untied", "tiny_mistral", "tiny_qwen2", "tiny_qwen3")
CONVERSATIONS = [
    [
        ("What is the storage rule?", "Store it at 4 C."),
        ("Say hi.", "Hi."),
        ("And in the warm rooms?", "Keep 17 of them on the shelf, and the rest in the cellar."),
    ],
    [
        ("Name the user.", "Ana Ruíz."),
        ("How many are there in the storage of the assistant?", "300"),
        ("Which is it?", "It is for the one in the middle, ô user.\nNot the other two."),
    ],
]


def packed_batches(folder):
    """Two packed rows of three conversations; targets are the answer and its end-of-turn token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    batches = []
    for row in CONVERSATIONS:
        segments = []
        for question, answer in row:
            prompt = tokenizer(
                f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            ).input_ids
            target = tokenizer(f"{answer}<|im_end|>").input_ids
            tail = tokenizer("\n").input_ids
            mask = [0] * len(prompt) + [1] * len(target) + [0] * len(tail)
            segments.append((prompt + target + tail, mask))
        batches.append(Batch(segments))
    return batches


def load(folder, dtype):
    """The PEFT model with the hashed adapter; adapters stay f32 unless the whole model is f64."""
    from transformers import AutoModelForCausalLM

    base_dtype = torch.float32 if dtype == torch.float64 else dtype
    base = AutoModelForCausalLM.from_pretrained(
        folder, dtype=base_dtype, attn_implementation="eager"
    )
    model = attach_lora(base, RANK, ALPHA)
    fill_adapter(model, SCALE_A, SCALE_B)
    return model.double() if dtype == torch.float64 else model


def gradients(model, batch):
    loss, per_token, logits = forward(model, batch)
    loss.backward()
    grads = {name: p.grad.detach().clone() for name, p in adapter_parameters(model)}
    for _, p in adapter_parameters(model):
        p.grad = None
    return loss.detach(), per_token.detach(), [x.detach() for x in logits], grads


def run(folder, dtype, batches):
    """Everything one precision gives: the first row's numbers and the ten steps."""
    model = load(folder, dtype)
    loss, per_token, logits, grads = gradients(model, batches[0])
    losses, norms, rates = train(model, batches, STEPS, RATE, WARMUP)
    final = {name: p.detach().clone() for name, p in adapter_parameters(model)}
    return {
        "loss": loss,
        "per_token": per_token,
        "logits": logits,
        "grads": grads,
        "losses": losses,
        "norms": norms,
        "rates": rates,
        "final": final,
    }


def deviation(value, reference):
    """How far one precision is from another: the bounds the tests are set from."""
    pairs = zip(value["losses"], reference["losses"])
    norm_pairs = zip(value["norms"], reference["norms"])
    return {
        "loss": abs(float(value["loss"]) - float(reference["loss"])) / float(reference["loss"]),
        "per_token_max_abs": float(
            (value["per_token"].double() - reference["per_token"].double()).abs().max()
        ),
        "logits_max_abs": max(
            float((a.double() - b.double()).abs().max())
            for a, b in zip(value["logits"], reference["logits"])
        ),
        "gradient_max_rel_l2": max(
            relative_l2(value["grads"][n], g) for n, g in reference["grads"].items()
        ),
        "ten_losses_max_rel": max(abs(a - b) / b for a, b in pairs),
        "ten_norms_max_rel": max(abs(a - b) / b for a, b in norm_pairs),
        "final_max_rel_l2": max(
            relative_l2(value["final"][n], p) for n, p in reference["final"].items()
        ),
    }


def write_trace(name):
    from transformers import AutoModelForCausalLM

    folder = os.path.join(HERE, name)
    batches = packed_batches(folder)
    save_adapter(load(folder, torch.float32), os.path.join(folder, "adapter_in"), name)
    base = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        base_loss, base_per_token, _ = forward(base, batches[0])
    f32 = run(folder, torch.float32, batches)
    f64 = run(folder, torch.float64, batches)
    bf16 = run(folder, torch.bfloat16, batches)
    tensors = {
        "loss": f32["loss"].reshape(1),
        "per_token_loss": f32["per_token"],
        "base.loss": base_loss.reshape(1),
        "base.per_token_loss": base_per_token,
        "step.loss": torch.tensor(f32["losses"]),
        "step.grad_norm": torch.tensor(f32["norms"]),
        "step.learning_rate": torch.tensor(f32["rates"]),
        "bf16.loss": bf16["loss"].reshape(1),
        "bf16.per_token_loss": bf16["per_token"],
        "bf16.step.loss": torch.tensor(bf16["losses"]),
        "bf16.step.grad_norm": torch.tensor(bf16["norms"]),
    }
    for i, batch in enumerate(batches):
        tensors |= batch.tensors(f"batch{i}.")
    for i, logits in enumerate(f32["logits"]):
        tensors[f"logits.{i}"] = logits[-LOGIT_ROWS:]
    tensors |= {"grad." + n: g for n, g in f32["grads"].items()}
    tensors |= {"final." + n: p for n, p in f32["final"].items()}
    tensors = {n: copy.deepcopy(t).contiguous() for n, t in tensors.items()}
    metadata = {
        "format": "pt",
        "made_with": json.dumps(versions()),
        "rank": str(RANK),
        "alpha": str(ALPHA),
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
        "adapter_in": f"{ADAPTER_FORMULA}; scale {SCALE_A} for A, {SCALE_B} for B",
        "f32_deviation_from_f64": json.dumps(deviation(f32, f64)),
        "bf16_deviation_from_f32": json.dumps(deviation(bf16, f32)),
    }
    save_stable(tensors, os.path.join(folder, "trace.safetensors"), metadata)
    print(name, [len(b.ids) for b in batches], "loss", float(f32["loss"]), "base", float(base_loss))
    print("  steps", [round(x, 4) for x in f32["losses"]])
    print("  norms", [round(x, 3) for x in f32["norms"]], "rates", f32["rates"])
    print("  f32 - f64", metadata["f32_deviation_from_f64"])
    print("  bf16 - f32", metadata["bf16_deviation_from_f32"])


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in MODELS:
        write_trace(name)


if __name__ == "__main__":
    main()
