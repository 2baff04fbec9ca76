"""Trains a site's rounds with PyTorch and PEFT; what comes of it goes through the site's gate.

usage: outside.py SITE BASE RECORDS     SITE: the site's folder; RECORDS: JSONL with prompt and completion
"""

from __future__ import annotations

import json
import sys
import tempfile

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import tidegate


class Records(torch.utils.data.Dataset):
    def __init__(self, path: str, tokenizer, length: int = 64) -> None:  # type: ignore[no-untyped-def]
        self.rows = []
        with open(path, encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        for record in records:
            prompt = tokenizer(record["prompt"], add_special_tokens=False)["input_ids"]
            answer = tokenizer(record["completion"], add_special_tokens=False)["input_ids"]
            ids, labels = (prompt + answer)[:length], ([-100] * len(prompt) + answer)[:length]
            room = length - len(ids)
            self.rows.append({"input_ids": ids + [0] * room, "labels": labels + [-100] * room,
                              "attention_mask": [1] * len(ids) + [0] * room})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(values) for name, values in self.rows[index].items()}


def main(site_path: str, base_path: str, records_path: str) -> list[tidegate.Verdict]:
    tokenizer = AutoTokenizer.from_pretrained(base_path)
    records = Records(records_path, tokenizer)
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        # These five lines are what is Tidegate's.
        site = tidegate.Site(site_path)
        site.pause()
        for round in site.rounds(folder):
            hook = tidegate.GateCallback(round)
            model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32),
                                              round.adapter, is_trainable=True)
            args = TrainingArguments(output_dir=folder + "/run", max_steps=round.local_steps, learning_rate=5e-3,
                                     per_device_train_batch_size=2, report_to=[], save_strategy="no", logging_steps=1,
                                     use_cpu=True, disable_tqdm=True)
            Trainer(model=model, args=args, train_dataset=records, callbacks=[hook]).train()
            assert hook.verdict is not None
            print(f"round {round.number}: {'released' if hook.verdict.released else hook.verdict.reason}")
            verdicts.append(hook.verdict)
    return verdicts


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
