#!/usr/bin/env python3
"""Writes formats/tensors.safetensors: blocks of ggml types with gguf-py's own decoding, and 16-bit
float conversions with torch's. Needs: gguf, torch, numpy, safetensors."""
import pathlib

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parent / "formats"
OUT.mkdir(exist_ok=True)
rng = np.random.default_rng(20261125)
tensors = {}

for name in ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"):
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (4, size), dtype=np.uint8)
    # Finite, small scales wherever the format keeps a half.
    halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q6_K": [208]}[name]
    for at in halves:
        scale = rng.normal(0, 0.1, 4).astype(np.float16).view(np.uint8).reshape(4, 2)
        blocks[:, at:at + 2] = scale
    tensors[f"{name}.raw"] = blocks.reshape(-1)
    tensors[f"{name}.f32"] = gguf.quants.dequantize(blocks, kind).reshape(-1).astype(np.float32)
    assert tensors[f"{name}.f32"].size == 4 * elements

bits = rng.integers(0, 2**32, 4096, dtype=np.uint32)
bits[:2048] = (bits[:2048] & 0x8fffffff) + 0x37000000  # around the halves' range
edge = np.array([0.0, -0.0, 65504.0, 65519.996, 65520.0, 2.0**-24, 2.0**-25, 2.0**-25 * 1.0001,
                 2.0**-14, 6.1e-5, np.inf, -np.inf, 3.4e38, 1.00390625, 1.01171875], np.float32)
values = np.concatenate([bits.view(np.float32), edge])
values = values[~np.isnan(values)]
t = torch.from_numpy(values)
tensors["convert.f32"] = values
tensors["convert.f16"] = t.to(torch.float16).view(torch.int16).numpy().view(np.uint16)
tensors["convert.bf16"] = t.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
tensors["scalar"] = np.array(3.5, np.float64)
tensors["empty"] = np.zeros((0, 3), np.float32)
save_file(tensors, OUT / "tensors.safetensors", metadata={"made_by": "make_formats.py"})
