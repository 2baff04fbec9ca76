"""Shared by the golden scripts: the counter hash of all inputs, and one reference training step.

No library random generator is used anywhere: every number is a pure function of (stream, index),
so a C++ test can rebuild the inputs bit for bit and a new torch version cannot change them.
"""

import json
import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FORMULA = (
    "z = (stream << 32) + index + 1; z *= 0x9E3779B97F4A7C15; z ^= z >> 30; z *= "
    "0xBF58476D1CE4E5B9; "
    "z ^= z >> 27; z *= 0x94D049BB133111EB; z ^= z >> 31 (all modulo 2^64); "
    "u = float(z >> 40) * 2^-23 - 1, which is exact in f32 and lies in [-1, 1)"
)
ADAPTER_FORMULA = (
    "stream = layer * 14 + module * 2 + (0 for lora_A, 1 for lora_B) + 2^20, modules in the order "
    "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj; index = row-major element; value "
    "= u * scale"
)


def unit(stream, count):
    """`count` values of FORMULA for one stream, as exact float32 in [-1, 1)."""
    with np.errstate(over="ignore"):
        z = (np.uint64(stream) << np.uint64(32)) + np.arange(1, count + 1, dtype=np.uint64)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z ^= z >> np.uint64(30)
        z = z * np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z = z * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0).astype(np.float32)


def hashed(stream, shape, scale):
    """A float32 tensor of FORMULA values times `scale`."""
    values = unit(stream, int(np.prod(shape))) * np.float32(scale)
    return torch.from_numpy(values.reshape(shape))


def adapter_parameters(model):
    """(saved PEFT name, parameter) of every adapter matrix, sorted by name."""
    named = [(n.replace(".default.", "."), p) for n, p in model.named_parameters() if ".lora_" in n]
    return sorted(named, key=lambda item: item[0])


def fill_adapter(model, scale_a, scale_b):
    """Writes ADAPTER_FORMULA into every lora_A and lora_B of a PEFT model."""
    with torch.no_grad():
        for name, parameter in adapter_parameters(model):
            parts = name.split(".")
            layer = int(parts[parts.index("layers") + 1])
            module = next(i for i, m in enumerate(MODULES) if m in parts)
            is_b = "lora_B" in parts
            stream = layer * 14 + module * 2 + int(is_b) + 2**20
            value = hashed(stream, tuple(parameter.shape), scale_b if is_b else scale_a)
            parameter.copy_(value.to(parameter.dtype))


class Batch:
    """A packed row: token ids, the start of every segment, and which tokens are targets."""

    def __init__(self, segments):
        self.segments = [(torch.tensor(ids), torch.tensor(mask)) for ids, mask in segments]
        self.ids = torch.cat([ids for ids, _ in self.segments])
        self.mask = torch.cat([mask for _, mask in self.segments])
        lengths = [0] + [len(ids) for ids, _ in self.segments]
        self.starts = torch.tensor(np.cumsum(lengths))
        for start in self.starts[:-1]:
            assert self.mask[start] == 0, "the first token of a segment has no prediction"

    def tensors(self, prefix):
        as_i32 = {"input_ids": self.ids, "segment_starts": self.starts, "loss_mask": self.mask}
        return {prefix + name: value.to(torch.int32) for name, value in as_i32.items()}


def forward(model, batch):
    """Runs every segment by itself: what block-diagonal attention with restarting positions means.

    Returns the mean loss over all targets of the row, the loss of every token, and the logits of
    every segment.
    """
    losses, logits_of = [], []
    for ids, _ in batch.segments:
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        token = F.cross_entropy(logits[:-1], ids[1:], reduction="none")
        losses.append(torch.cat([token.new_zeros(1), token]))
        logits_of.append(logits)
    per_token = torch.cat(losses)
    mask = batch.mask.to(per_token.dtype)
    return (per_token * mask).sum() / mask.sum(), per_token, logits_of


def train(model, batches, steps, learning_rate, warmup):
    """AdamW as the HF trainer runs it; returns losses, unclipped norms and learning rates."""
    from transformers import get_linear_schedule_with_warmup

    parameters = [p for _, p in adapter_parameters(model)]
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, foreach=False
    )
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    losses, norms, rates = [], [], []
    for step in range(steps):
        loss, _, _ = forward(model, batches[step % len(batches)])
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=False)))
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses, norms, rates


def relative_l2(value, reference):
    """|value - reference| / |reference| over all elements."""
    difference = (value.double() - reference.double()).norm()
    return float(difference / reference.double().norm())


def attach_lora(model, rank, alpha):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules="all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def save_stable(tensors, path, metadata):
    """save_file, but with sorted metadata keys: the library's order changes every time."""
    save_file(tensors, path, metadata=metadata)
    with open(path, "rb") as source:
        length = int.from_bytes(source.read(8), "little")
        header, data = json.loads(source.read(length)), source.read()
    header = {"__metadata__": dict(sorted(metadata.items()))} | {
        k: v for k, v in header.items() if k[0] != "_"
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text + data)


def save_adapter(model, folder, base_name):
    """A PEFT folder whose bytes depend on the adapter alone: sorted lists, no absolute path."""
    os.makedirs(folder, exist_ok=True)
    tensors = {n: p.detach().float().contiguous() for n, p in adapter_parameters(model)}
    save_file(tensors, os.path.join(folder, "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {
        key: sorted(value) if isinstance(value, (set, list)) else value
        for key, value in model.peft_config["default"].to_dict().items()
    }
    config.update(base_model_name_or_path=base_name, inference_mode=True, auto_mapping=None)
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as out:
        json.dump(config, out, indent=2, sort_keys=True, default=str)
        out.write("\n")


def versions():
    import peft
    import transformers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
