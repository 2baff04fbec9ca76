#!/usr/bin/env python3
"""Makes tests/golden/pretrain/trace.json: a few steps of pretraining by PyTorch and transformers.

  python tests/golden/make_pretrain_trace.py

All weights of tests/golden/tiny_qwen3 are trained in float32 on fixed sequences with AdamW (matrices
decayed, norms not), clipping and the schedule cosine_with_min_lr. The trace holds the sequences and,
for each step, loss, gradient norm before clipping and learning rate, and the sum of every tensor at
the end. Needs the packages of requirements-golden.txt.
"""

import json
import os

import numpy as np
import torch
from golden_common import unit
from transformers import AutoModelForCausalLM
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, BATCH, LENGTH = 8, 4, 24
STREAM = 3 << 20
RATE, WARMUP, TOTAL, FLOOR = 3e-3, 2, 10, 0.1


def main():
    torch.use_deterministic_algorithms(True)
    model = AutoModelForCausalLM.from_pretrained(
        os.path.join(HERE, "tiny_qwen3"), dtype=torch.float32, attn_implementation="eager"
    )
    model.train()
    vocab = model.config.vocab_size
    count = STEPS * BATCH * (LENGTH + 1)
    drawn = (unit(STREAM, count).astype(np.float64) + 1) / 2 * vocab
    ids = torch.from_numpy(drawn.astype(np.int64)).reshape(STEPS * BATCH, LENGTH + 1)
    # Something to learn: every second token follows from the one before.
    ids[:, 1::2] = (ids[:, 0:-1:2] * 7 + 11) % vocab
    # PyTorch gives the embedding of the padding token no gradient; there is none in real data.
    if model.config.pad_token_id is not None:
        ids[ids == model.config.pad_token_id] = (model.config.pad_token_id + 1) % vocab
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=RATE,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    schedule = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, WARMUP, TOTAL, min_lr_rate=FLOOR
    )
    steps = []
    for step in range(STEPS):
        batch = ids[step * BATCH : (step + 1) * BATCH]
        logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, vocab).float(), batch[:, 1:].reshape(-1)
        )
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.append(
            {
                "loss": loss.item(),
                "grad_norm": norm.item(),
                "learning_rate": schedule.get_last_lr()[0],
            }
        )
        optimizer.step()
        schedule.step()
    sums = {name: value.double().sum().item() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        sums.pop("lm_head.weight", None)
    out = {
        "length": LENGTH,
        "batch": BATCH,
        "learning_rate": RATE,
        "warmup_steps": WARMUP,
        "total_steps": TOTAL,
        "min_lr_ratio": FLOOR,
        "weight_decay": 0.1,
        "ids": ids.tolist(),
        "steps": steps,
        "sums": sums,
    }
    folder = os.path.join(HERE, "pretrain")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "trace.json"), "w") as file:
        file.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
