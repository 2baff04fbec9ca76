#!/usr/bin/env python3
"""Makes tests/crypto/hpke_vectors.txt: HPKE base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256.

RFC 9180 is written out below over X25519, HMAC and AES-GCM of the Python package `cryptography`.
Before anything is printed, the result is compared with values published for both suites:
  aead 1  RFC 9180, appendix A.1.1
  aead 2  the test-vectors.json that accompanies the RFC (mode 0, kem 32, kdf 1, aead 2), and the
          digest over 1000 encryptions of that suite in Go's crypto/hpke/testdata/rfc9180.json

Run: python3 tests/golden/hpke_vectors.py > tests/crypto/hpke_vectors.txt
"""
import hashlib
import hmac
import struct
import sys

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

INFO = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
TEXT = bytes.fromhex("4265617574792069732074727574682c20747275746820626561757479")
SEQUENCES = (0, 1, 2, 4, 255, 256)

CASES = {
    1: {
        "skE": "52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736",
        "skR": "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
        "published": {
            "enc": "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
            "pkR": "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d",
            "key": "4531685d41d65f03dc48f6b8302c05b0",
            "base_nonce": "56d890e5accaaf011cff4b7d",
            "exporter_secret": "45ff1c2e220db587171952c0592d5f5ebe103f1561a2614e38f2ffd47e99e3f8",
            "ct 0": "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a9"
                    "6d8770ac83d07bea87e13c512a",
            "ct 1": "af2d7e9ac9ae7e270f46ba1f975be53c09f8d875bdc8535458c2494e8a6eab25"
                    "1c03d0c22a56b8ca42c2063b84",
            "ct 2": "498dfcabd92e8acedc281e85af1cb4e3e31c7dc394a1ca20e173cb7251649158"
                    "8d96a19ad4a683518973dcc180",
            "ct 4": "583bd32bc67a5994bb8ceaca813d369bca7b2a42408cddef5e22f880b631215a"
                    "09fc0012bc69fccaa251c0246d",
            "ct 255": "7175db9717964058640a3a11fb9007941a5d1757fda1a6935c805c21af32505b"
                      "f106deefec4a49ac38d71c9e0a",
            "ct 256": "957f9800542b0b8891badb026d79cc54597cb2d225b54c00c5238c25d05c30e3"
                      "fbeda97d2e0e1aba483a2df9f2",
            "export -": "3853fe2b4035195a573ffc53856e77058e15d9ea064de3e59f4961d0095250ee",
            "export 00": "2e8f0b54673c7029649d4eb9d5e33bf1872cf76d623ff164ac185da9e88c21a5",
            "export 54657374436f6e74657874":
                "e9e43065102c3836401bed8c3c3c75ae46be1639869391d62c61f1ec7af54931",
        },
    },
    2: {
        "skE": "179d4b53b6365c45b600c4163b61d95cbc2f4d9e36f1695558dce265ab8bab11",
        "skR": "497b4502664cfea5d5af0b39934dac72242a74f8480451e1aee7d6a53320333d",
        "published": {
            "enc": "6c93e09869df3402d7bf231bf540fadd35cd56be14f97178f0954db94b7fc256",
            "pkR": "430f4b9859665145a6b1ba274024487bd66f03a2dd577d7753c68d7d7d00c00c",
            "key": "f50b0609186798729ed0564b36ef2ef8044f1f9d05636874d1f46c819c7a669f",
            "base_nonce": "151d9929e2449747889bc923",
            "ct 0": "e5d84cd531cfb583096e7cfa9641bd3079cf3a91cda813c52deb5f512be99319"
                    "80a41de125a925cdad859d5b7a",
            "export -": "ded6cffafaea6b812cbf3e241e88332adbc077aca81512914213810ee291770a",
            "export 00": "04d3cb6cc116b28ffd22ad5bc276c60d31fec71ceb87ae24db811c64b7507339",
            "export 54657374436f6e74657874":
                "7c5ded445732c14fe09727d29b4251c0fd38455fe8440571e687f0886aac94d2",
            "accumulated": "1702e73e1e71705faa8241022af1deea",
        },
    },
}


def extract(suite, salt, label, ikm):
    return hmac.new(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, hashlib.sha256).digest()


def expand(suite, prk, label, info, length):
    info = struct.pack(">H", length) + b"HPKE-v1" + suite + label + info
    out, block, i = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([i]), hashlib.sha256).digest()
        out, i = out + block, i + 1
    return out[:length]


class Context:
    def __init__(self, aead, sk_e, sk_r, info=INFO):
        self.suite = b"HPKE" + struct.pack(">HHH", 32, 1, aead)
        kem = b"KEM" + struct.pack(">H", 32)
        secret_key = X25519PrivateKey.from_private_bytes(sk_e)
        self.enc = secret_key.public_key().public_bytes_raw()
        self.pk_r = X25519PrivateKey.from_private_bytes(sk_r).public_key().public_bytes_raw()
        dh = secret_key.exchange(X25519PublicKey.from_public_bytes(self.pk_r))
        shared = expand(kem, extract(kem, b"", b"eae_prk", dh), b"shared_secret",
                        self.enc + self.pk_r, 32)
        context = (b"\0" + extract(self.suite, b"", b"psk_id_hash", b"")
                   + extract(self.suite, b"", b"info_hash", info))
        secret = extract(self.suite, shared, b"secret", b"")
        self.key = expand(self.suite, secret, b"key", context, {1: 16, 2: 32}[aead])
        self.base_nonce = expand(self.suite, secret, b"base_nonce", context, 12)
        self.exporter = expand(self.suite, secret, b"exp", context, 32)

    def seal(self, sequence, aad, text):
        nonce = (int.from_bytes(self.base_nonce, "big") ^ sequence).to_bytes(12, "big")
        return AESGCM(self.key).encrypt(nonce, text, aad)

    def export(self, context, length):
        return expand(self.suite, self.exporter, b"sec", context, length)


def accumulated(context):
    """Go's digest: inputs drawn from SHAKE-128 of nothing, ciphertexts absorbed by another."""
    stream, at, sink = hashlib.shake_128().digest(1 << 20), 0, hashlib.shake_128()

    def draw():
        nonlocal at
        length = stream[at]
        value = stream[at + 1:at + 1 + length]
        at += 1 + length
        return value

    for sequence in range(1000):
        aad, text = draw(), draw()
        sink.update(context.seal(sequence, aad, text))
    return sink.hexdigest(16)


def main():
    print("# HPKE base mode, kem 32, kdf 1. Made by tests/golden/hpke_vectors.py; do not edit.")
    print("# info and plaintext as in RFC 9180 A.1; the aad of message N is \"Count-N\".")
    for aead, case in CASES.items():
        c = Context(aead, bytes.fromhex(case["skE"]), bytes.fromhex(case["skR"]))
        rows = {"aead": str(aead), "info": INFO.hex(), "plaintext": TEXT.hex(),
                "skE": case["skE"], "skR": case["skR"], "enc": c.enc.hex(), "pkR": c.pk_r.hex(),
                "key": c.key.hex(), "base_nonce": c.base_nonce.hex(),
                "exporter_secret": c.exporter.hex()}
        for n in SEQUENCES:
            rows[f"ct {n}"] = c.seal(n, b"Count-%d" % n, TEXT).hex()
        for name in ("", "00", "54657374436f6e74657874"):
            rows[f"export {name or '-'}"] = c.export(bytes.fromhex(name), 32).hex()
        for name, value in case["published"].items():
            made = accumulated(c) if name == "accumulated" else rows[name]
            if made != value:
                sys.exit(f"aead {aead}, {name}: made {made}, published {value}")
        for name, value in rows.items():
            if name not in ("key", "base_nonce", "exporter_secret"):
                print(name, value)
        print()


if __name__ == "__main__":
    main()
