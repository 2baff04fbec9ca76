"""Reference numbers of PEFT's rank_pattern and alpha_pattern.

  python tests/golden/make_patterns.py            (after make_tiny_models.py)

Writes patterns/matches.json (which key PEFT takes for which module) and, for two adapters,
patterns/<name>/: a PEFT folder with a non-zero B and trace.safetensors as make_traces.py has it,
less the steps: loss, per_token_loss, logits.S, grad.<PEFT name>.
"""

import copy
import json
import os
import sys

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from golden_common import (  # noqa: E402
    MODULES,
    adapter_parameters,
    fill_adapter,
    save_adapter,
    save_stable,
    versions,
)
from make_traces import LOGIT_ROWS, SCALE_A, SCALE_B, gradients, packed_batches  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "patterns")
ADAPTERS = {
    "plain": (
        "tiny_mistral",
        {
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {
                "layers.1.mlp.down_proj": 7,
                "mlp\\..*": 3,
                "model.layers.0.self_attn.q_proj": 1,
                "q_proj": 2,
            },
            "alpha_pattern": {"gate_proj": 10.5, "layers.0.self_attn.[kv]_proj": 3, "q_proj": 16},
        },
    ),
    "rslora": (
        "tiny_llama",
        {
            "r": 4,
            "lora_alpha": 8,
            "use_rslora": True,
            "layers_to_transform": [1, 2],
            "rank_pattern": {"(q|v)_proj": 3, "layers.2.self_attn.o_proj": 8},
            "alpha_pattern": {".*\\.2\\.mlp\\.\\w+": 5, "k_proj": 2},
        },
    ),
}
# Keys in their order, and modules' paths.
KEYS = [
    ["q_proj", "self_attn.q_proj", "model.layers.0.self_attn.q_proj"],
    ["layers.1", "layers.1\\..*", "1.mlp.up_proj"],
    ["proj", "_proj", ".*_proj", ".*"],
    ["(?:q|k)_proj", "[vo]_proj", "\\w+_proj"],
    ["layers.\\d.mlp.(gate|up)_proj", "mlp.*"],
    ["^model.layers.0.*", "^q_proj", "layers.0.self_attn.q_proj$"],
    ["q_proj|up_proj", "q_proj)|(model.layers.1.mlp.u"],
    ["Q_proj", "layers.11.mlp.up_proj", "layers?.1.mlp.up_proj"],
    ["(?<!1\\.)mlp.up_proj", "(?=model)model.*", "(?!q).*_proj"],
    ["(?P<q>self)_attn.*", "layers.[^0].*", "\\Smodel.*"],
]
PATHS = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.v_proj",
    "model.layers.1.mlp.up_proj",
    "model.layers.11.mlp.up_proj",
    "model.layers.11.mlp.down_proj",
]


def write_matches():
    from peft.utils.other import get_pattern_key

    cases = []
    for keys in KEYS:
        found = [get_pattern_key(keys, path) for path in PATHS]
        # A path without a key is given back itself.
        cases.append({"keys": keys, "taken": [k if k in keys else None for k in found]})
    with open(os.path.join(OUT, "matches.json"), "w", encoding="utf-8") as out:
        json.dump({"paths": PATHS, "cases": cases}, out, indent=1)
        out.write("\n")


def write_adapter(name, model_name, settings):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = os.path.join(HERE, model_name)
    batch = packed_batches(folder)[0]
    base = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    config = LoraConfig(
        target_modules=MODULES, lora_dropout=0.0, task_type="CAUSAL_LM", **settings
    )
    model = get_peft_model(base, config)
    fill_adapter(model, SCALE_A, SCALE_B)
    save_adapter(model, os.path.join(OUT, name), model_name)
    loss, per_token, logits, grads = gradients(model, batch)
    tensors = {"loss": loss.reshape(1), "per_token_loss": per_token} | batch.tensors("batch0.")
    for i, rows in enumerate(logits):
        tensors[f"logits.{i}"] = rows[-LOGIT_ROWS:]
    tensors |= {"grad." + n: g for n, g in grads.items()}
    tensors = {n: copy.deepcopy(t).contiguous() for n, t in tensors.items()}
    metadata = {"format": "pt", "made_with": json.dumps(versions()), "model": model_name}
    save_stable(tensors, os.path.join(OUT, name, "trace.safetensors"), metadata)
    shapes = {n: tuple(p.shape) for n, p in adapter_parameters(model)}
    print(name, "loss", float(loss), {n: s for n, s in shapes.items() if "lora_A" in n})


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    os.makedirs(OUT, exist_ok=True)
    write_matches()
    for name, (model_name, settings) in ADAPTERS.items():
        write_adapter(name, model_name, settings)


if __name__ == "__main__":
    main()
