"""Writes the tiny random model folders that the tests train on.

  python tests/golden/make_tiny_models.py

tiny_llama:         tied head, grouped-query attention 3:1, head_dim 32, transformers v4 config
                    keys (rope_theta).
tiny_llama_untied:  own lm_head, head_dim 64 independent of hidden/heads, llama3 rope scaling short
                    enough to bite within a test row, transformers v5 config keys (rope_parameters).
tiny_mistral:       Mistral's keys, own lm_head, two KV heads.
tiny_qwen2:         biases on q, k and v, tied head, no head_dim in the config.
tiny_qwen3:         RMSNorm over each head of q and k, head_dim 32 where hidden/heads is 16.

Weights are bf16 values stored as f32, so an f32 and a bf16 engine read the same model.
"""

import json
import os
import sys

import torch
from safetensors.torch import save_file

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from golden_common import hashed  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# In rank order; every merge joins two pieces that exist by then. "Ġ" is the byte-level letter for a
# space.
MERGES = """
h e|i n|Ġ t|Ġ a|e r|o n|r e|Ġt he|a t|e n|o r|e s|i s|i t|o u|Ġ s|Ġ w|n d|in g|Ġ o|Ġ f|Ġ c|s t|a r
Ġ b|Ġ p|l e
a n|Ġ d|i c|Ġ m|Ġa nd|e d|a l|Ġo f|Ġ in|Ġt o|a s|i on|Ġ h|o m|l l|en t|v e|Ġ l|r o
a g|ag e|t or|tor age|Ġs torage
s er|u ser|is t|s ist|as sist|an t|assist ant|s y|st e|m ent|Ġ is|Ġf or|Ġw i
"""
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a tiny test model.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% "
    "endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_letters():
    """GPT-2's printable letter for each byte, in byte order."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters, extra = {}, 0
    for byte in range(256):
        if byte in keep:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(256 + extra)
            extra += 1
    return [letters[b] for b in range(256)]


def build_tokenizer():
    vocab = {text: i for i, text in enumerate(SPECIALS + byte_letters())}
    merges = []
    for rule in MERGES.strip().replace("\n", "|").split("|"):
        left, right = rule.split(" ")
        if left not in vocab or right not in vocab or left + right in vocab:
            raise SystemExit(f"merge {rule!r} does not join two known pieces into a new one")
        merges.append([left, right])
        vocab[left + right] = len(vocab)
    added = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, text in enumerate(SPECIALS)
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<|endoftext|>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True},
        "model": model,
    }


FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def config(hidden, inner, layers, heads, kv_heads, head_dim, tied, vocab, family="llama"):
    return {
        "architectures": [FAMILIES[family]],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": inner,
        "max_position_embeddings": 256,
        "mlp_bias": False,
        "model_type": family,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": tied,
        "use_cache": True,
        "vocab_size": vocab,
    }


def weights(c):
    """Every tensor of the model; linear layers have unit gain so that each one matters."""
    hidden, inner, family = c["hidden_size"], c["intermediate_size"], c["model_type"]
    head_dim = c.get("head_dim", hidden // c["num_attention_heads"])
    q_out, kv_out = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    shapes = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes[at + "input_layernorm.weight"] = (hidden,)
        shapes[at + "post_attention_layernorm.weight"] = (hidden,)
        shapes[at + "self_attn.q_proj.weight"] = (q_out, hidden)
        shapes[at + "self_attn.k_proj.weight"] = (kv_out, hidden)
        shapes[at + "self_attn.v_proj.weight"] = (kv_out, hidden)
        shapes[at + "self_attn.o_proj.weight"] = (hidden, q_out)
        shapes[at + "mlp.gate_proj.weight"] = (inner, hidden)
        shapes[at + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[at + "mlp.down_proj.weight"] = (hidden, inner)
        if family == "qwen2":
            shapes[at + "self_attn.q_proj.bias"] = (q_out,)
            shapes[at + "self_attn.k_proj.bias"] = (kv_out,)
            shapes[at + "self_attn.v_proj.bias"] = (kv_out,)
        if family == "qwen3":
            shapes[at + "self_attn.q_norm.weight"] = (head_dim,)
            shapes[at + "self_attn.k_norm.weight"] = (head_dim,)
    shapes["model.norm.weight"] = (hidden,)
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], hidden)
    tensors = {}
    for stream, (name, shape) in enumerate(shapes.items()):
        if name.endswith(".bias"):
            value = hashed(stream, shape, 0.5)
        elif len(shape) == 1:
            value = 1.0 + hashed(stream, shape, 0.25)
        elif "embed" in name or "lm_head" in name:
            value = hashed(stream, shape, 0.25)
        else:
            value = hashed(stream, shape, (3.0 / shape[1]) ** 0.5)
        tensors[name] = value.to(torch.bfloat16).float().contiguous()
    return tensors


def dump(value, path):
    with open(path, "w", encoding="utf-8") as out:
        json.dump(value, out, indent=1, ensure_ascii=False)
        out.write("\n")


def write(name, c, tokenizer):
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    dump(c, os.path.join(folder, "config.json"))
    dump(tokenizer, os.path.join(folder, "tokenizer.json"))
    dump(
        {
            "add_prefix_space": False,
            "bos_token": "<|im_start|>",
            "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "model_max_length": c["max_position_embeddings"],
            "pad_token": "<|im_end|>",
            "tokenizer_class": "GPT2Tokenizer",
            "unk_token": "<|endoftext|>",
        },
        os.path.join(folder, "tokenizer_config.json"),
    )
    save_file(weights(c), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})


def main():
    tokenizer = build_tokenizer()
    vocab = len(tokenizer["model"]["vocab"])
    tied = config(96, 160, 3, 3, 1, 32, True, vocab)
    tied |= {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float32"}
    write("tiny_llama", tied, tokenizer)
    untied = config(128, 160, 2, 2, 1, 64, False, vocab)
    untied |= {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        "dtype": "float32",
    }
    write("tiny_llama_untied", untied, tokenizer)
    mistral = config(64, 96, 2, 4, 2, 16, False, vocab, "mistral")
    del mistral["attention_bias"], mistral["mlp_bias"]
    mistral |= {"rope_theta": 1000000.0, "sliding_window": None, "torch_dtype": "float32"}
    write("tiny_mistral", mistral, tokenizer)
    qwen2 = config(64, 96, 2, 4, 2, 16, True, vocab, "qwen2")
    del qwen2["attention_bias"], qwen2["mlp_bias"], qwen2["head_dim"]
    qwen2 |= {
        "rope_theta": 1000000.0,
        "sliding_window": 128,
        "max_window_layers": 2,
        "use_sliding_window": False,
        "torch_dtype": "float32",
    }
    write("tiny_qwen2", qwen2, tokenizer)
    qwen3 = config(64, 96, 2, 4, 2, 32, False, vocab, "qwen3")
    del qwen3["mlp_bias"]
    qwen3 |= {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "layer_types": ["full_attention", "full_attention"],
        "sliding_window": None,
        "max_window_layers": 2,
        "use_sliding_window": False,
        "dtype": "float32",
    }
    write("tiny_qwen3", qwen3, tokenizer)
    print(f"vocabulary {vocab}, {len(tokenizer['model']['merges'])} merges")


if __name__ == "__main__":
    main()
