#!/usr/bin/env python3
"""Makes the vectors of protocols/vectors/v1 that are not one archive's encoding: a whole frame, a
CHUNK, the encoded update in each codec, and a sealed body. Written from the pages alone
(protocols/header.md, messages.md, update.md, docs/formats/sealed-update.md), so that a field that
both sides of our code take for another shows.

Run: python3 tests/golden/wire_vectors.py        files that exist are compared, never replaced
"""
import hashlib
import os
import struct
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import hpke_vectors

FOLDER = os.path.join(os.path.dirname(__file__), "../../protocols/vectors/v1")

FEDERATION, JOB = bytes(range(1, 17)), bytes(range(9, 25))
BASE_HASH, CONTENT = bytes(range(2, 34)), bytes(range(8, 40))
ROUND, SITE, CODECS = 3, b"north", {"fixed32": 1, "int8": 2, "bf16": 3, "int4": 4}
# name, rows, cols, group; the values of each as integers.
LAYOUT = (("layer.0.lora_A", 1, 257, 0), ("layer.0.lora_B", 3, 2, 1))
INT8 = ([(i * 37 % 255) - 127 for i in range(256)] + [127], [1, -2, 3, -127, 5, 0])
INT8_SCALES = ([2.0 ** -10, 2.0 ** -7], [2.0 ** -12])
INT4 = ([(i * 4 % 15) - 7 for i in range(256)] + [7], [1, -2, 3, -7, 5, 0])
INT4_SCALES = ([2.0 ** -10, 2.0 ** -9, 0.75, 2.0 ** -40, 2.0 ** -7], [2.0 ** -12])
BF16 = ([(i * 37 % 255 - 127) * 2.0 ** (-26 + i % 24) for i in range(257)],
        [31.875, -31.875, 2.0 ** -133, 0.0, -1.5, 2.0 ** -9])
FIXED32 = [1, -1, 2 ** 27, -2 ** 30, 12345, 0]


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def sha256(data):
    return hashlib.sha256(data).digest()


def text(value):
    return struct.pack("<I", len(value)) + value


def frame(kind, sequence, body):
    head = struct.pack("<4sHH16sQIII", b"TGW1", 1, kind, FEDERATION, sequence, len(body), 0,
                       crc32c(body))
    return head + struct.pack("<I", crc32c(head)) + body


def layout_digest():
    tensors = b"".join(text(name.encode()) + struct.pack("<IIB", rows, cols, group)
                       for name, rows, cols, group in LAYOUT)
    return sha256(struct.pack("<I", len(LAYOUT)) + tensors)


def update_header(phase, groups, codec, tensors, values):
    return struct.pack("<4sHBB16sIB3x64s32s32sIIQII24x", b"TGU1", 1, phase, groups, JOB, ROUND,
                       CODECS[codec], SITE, BASE_HASH, layout_digest(), tensors, 4096, values,
                       2345, 6789)


def update_int8():
    out = update_header(0, 3, "int8", 2, 263)
    for scales, values in zip(INT8_SCALES, INT8):
        out += struct.pack(f"<{len(scales)}f", *scales) + struct.pack(f"{len(values)}b", *values)
        out += bytes(-len(values) % 4)
    return out


def update_fixed32():
    return update_header(1, 2, "fixed32", 1, 6) + struct.pack("<6i", *FIXED32)


def update_bf16():
    """A bfloat16 is the first half of a float32; these numbers have eight bits and lose nothing."""
    out = update_header(0, 3, "bf16", 2, 263)
    for values in BF16:
        for value in values:
            whole = struct.pack(">f", value)
            if whole[2:] != bytes(2):
                sys.exit(f"{value} is no bfloat16")
            out += whole[1::-1]
        out += bytes(-2 * len(values) % 4)
    return out


def update_int4():
    out = update_header(0, 3, "int4", 2, 263)
    for scales, values in zip(INT4_SCALES, INT4):
        halves = [value % 16 for value in values] + [0] * (len(values) % 2)
        packed = bytes(low + 16 * high for low, high in zip(halves[::2], halves[1::2]))
        out += struct.pack(f"<{len(scales)}f", *scales) + packed + bytes(-len(packed) % 4)
    return out


def sealed_body():
    """300,000 bytes in two chunks; ciphertext by its digests and its ends."""
    plain = bytes(i % 251 for i in range(300_000))
    info = b"tidegate/v1/sealed-update\0" + FEDERATION + bytes([1])
    aad = (JOB + struct.pack("<IB", ROUND, 0) + text(SITE) + BASE_HASH + layout_digest() +
           bytes([CODECS["int8"]]))
    recipient, ephemeral = bytes(range(64, 96)), bytes(range(96, 128))
    context = hpke_vectors.Context(2, ephemeral, recipient, b"tidegate/v1/seal/TG1\n" + info)
    key = context.export(b"tidegate/v1/seal key\n" + sha256(aad), 32)
    commitment = context.export(b"tidegate/v1/seal commitment\n" + sha256(aad), 32)
    bucket = struct.pack("<Q", len(plain)) + plain
    bucket += bytes(-len(bucket) % 65536)
    pieces = [bucket[i:i + 262128] for i in range(0, len(bucket), 262128)]
    chunks = [AESGCM(key).encrypt(i.to_bytes(11, "big") + bytes([i == len(pieces) - 1]), piece, b"")
              for i, piece in enumerate(pieces)]
    rows = [("recipient_secret", recipient), ("recipient_public", context.pk_r),
            ("ephemeral_secret", ephemeral), ("info", info), ("aad", aad),
            ("plaintext_sha256", sha256(plain)), ("enc", context.enc), ("body_key", key),
            ("commitment", commitment)]
    for i, chunk in enumerate(chunks):
        rows += [(f"chunk_{i}_bytes", struct.pack(">I", len(chunk))), (f"chunk_{i}_begin", chunk[:32]),
                 (f"chunk_{i}_end", chunk[-32:]), (f"chunk_{i}_sha256", sha256(chunk))]
    rows.append(("content", sha256(b"".join(sha256(chunk) for chunk in chunks))))
    head = ("# A sealed body. Made by tests/golden/wire_vectors.py; do not edit. The plaintext is\n"
            "# 300000 bytes, byte i is i mod 251.\n")
    return head + "".join(f"{name} {value.hex()}\n" for name, value in rows)


def main():
    commit = CONTENT  # the body of COMMIT is a content id
    made = {
        "frame.hex": frame(9, 0x0102030405060708, commit).hex() + "\n",
        "chunk.hex": (CONTENT + struct.pack("<II", 5, 20) + bytes(range(200, 220))).hex() + "\n",
        "update_int8.hex": update_int8().hex() + "\n",
        "update_fixed32.hex": update_fixed32().hex() + "\n",
        "update_bf16.hex": update_bf16().hex() + "\n",
        "update_int4.hex": update_int4().hex() + "\n",
        "sealed_body.txt": sealed_body(),
    }
    for name, value in made.items():
        path = os.path.join(FOLDER, name)
        if not os.path.exists(path):
            with open(path, "w", encoding="ascii") as file:
                file.write(value)
        with open(path, encoding="ascii") as file:
            if file.read() != value:
                sys.exit(f"{name} is not what the pages say")
        print("same", name)


if __name__ == "__main__":
    main()
