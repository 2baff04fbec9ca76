#!/usr/bin/env python3
"""Writes formats/quantized.safetensors: a matrix and what bitsandbytes makes of it in int8, NF4 and
NF4 with double quantization. Needs: bitsandbytes, torch, safetensors."""
import pathlib

import bitsandbytes.functional as bnb
import torch
from golden_common import hashed
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "formats" / "quantized.safetensors"
# 260 blocks of 64: more than the 256 whose scales share a scale. A row of 128 is two whole blocks,
# since bitsandbytes' CPU code unpacks rows of other lengths wrongly.
ROWS, COLUMNS = 130, 128

# Spread over rows as trained weights are, so that scales differ.
w = hashed(1 << 21, (ROWS, COLUMNS), 1.0) * torch.linspace(0.01, 0.2, ROWS)[:, None]
w = w.to(torch.bfloat16).to(torch.float32)

plain, plain_state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4")
double, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
assert torch.equal(plain, double)
half = w.to(torch.float16)  # int8 takes halves alone
rows, row_scales, _ = bnb.int8_vectorwise_quant(half)
save_file({
    "w": w.to(torch.bfloat16),
    "nf4.codes": plain.flatten(),
    "nf4.absmax": plain_state.absmax,
    "nf4.values": plain_state.code,
    "double.absmax": state.absmax,
    "double.outer": state.state2.absmax,
    "double.map": state.state2.code,
    "double.offset": state.offset.reshape(1),
    "double.bf16": bnb.dequantize_4bit(double, state).to(torch.bfloat16),
    "int8.w": half,
    "int8.codes": rows,
    "int8.absmax": row_scales,
}, OUT)
print(OUT, OUT.stat().st_size)
