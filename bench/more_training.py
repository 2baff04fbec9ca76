"""A base with more training of all its weights, to measure what a patch saves (docs/speed.md): f32
master weights, AdamW, one row of 256 tokens a step; written as the base was, in its own types.

usage: more_training.py BASE OUT STEPS[,STEPS…] LR TEXT…        OUT-STEPS is made for each count

Needs torch, transformers and safetensors.
"""

import os
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

ROW = 256


def write(base, out, model):
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(base, out)
    old = load_file(os.path.join(base, "model.safetensors"))
    new = model.state_dict()
    save_file({name: new[name].to(tensor.dtype).contiguous() for name, tensor in old.items()},
              os.path.join(out, "model.safetensors"), metadata={"format": "pt"})


def main(base, out, counts, lr, texts):
    counts = [int(count) for count in counts.split(",")]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    text = ""
    for path in sorted(texts):
        with open(path, encoding="utf-8") as file:
            text += file.read() + "\n"
    ids = tokenizer(text)["input_ids"]
    rows = [ids[i:i + ROW] for i in range(0, len(ids) - ROW, ROW)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(lr), betas=(0.9, 0.95),
                                  weight_decay=0.1)
    for step in range(1, max(counts) + 1):
        row = torch.tensor([rows[(step - 1) % len(rows)]])
        loss = model(input_ids=row, labels=row).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(step, round(float(loss), 3), flush=True)
        if step in counts:
            write(base, f"{out}-{step}", model)


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(*sys.argv[1:5], sys.argv[5:])
