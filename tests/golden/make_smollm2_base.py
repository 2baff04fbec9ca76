"""Dequantises a SmolLM2 GGUF to an f32 Hugging Face folder with transformers' own reader.

  python tests/golden/make_smollm2_base.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --out FOLDER

The folder is the reference our own GGUF importer is compared with, and the --base of
make_smollm2_traces.py and bench/peft_baseline.py.
"""

import argparse
import json
import os

import torch
from safetensors.torch import save_file


def main():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    folder, name = os.path.split(os.path.abspath(args.gguf))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    os.makedirs(args.out, exist_ok=True)
    tokenizer.save_pretrained(args.out)
    tied = model.config.tie_word_embeddings
    tensors = {
        key: value.contiguous()
        for key, value in model.state_dict().items()
        if not (tied and key == "lm_head.weight")
    }
    save_file(tensors, os.path.join(args.out, "model.safetensors"), metadata={"format": "pt"})
    config = model.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    config["architectures"] = ["LlamaForCausalLM"]
    with open(os.path.join(args.out, "config.json"), "w", encoding="utf-8") as out:
        json.dump(config, out, indent=2, sort_keys=True)
        out.write("\n")
    print(
        f"{len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} weights in {args.out}"
    )


if __name__ == "__main__":
    main()
