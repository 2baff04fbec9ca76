#!/usr/bin/env python3
"""Makes tests/crypto/ed25519_cases.txt and x25519_cases.txt: signatures and points that sit on the
edges of RFC 8032 and RFC 7748, in the manner of Wycheproof and of ed25519-speccheck.

Curve arithmetic is written out below, as both RFCs have it. Of each signature two verdicts are
found by it: of the equation without the cofactor over reduced points, and of that times 8. What
OpenSSL says, asked through the Python package `cryptography`, stands beside them: a case that it
accepts and that we refuse shows what src/crypto has to add.

Run: python3 tests/golden/curve_cases.py      writes both files
"""
import hashlib
import os

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

FOLDER = os.path.join(os.path.dirname(__file__), "../crypto")
P = 2 ** 255 - 19
L = 2 ** 252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)
MESSAGE = b"tidegate"


def recover_x(y, sign):
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P:
        return None
    return P - x if x % 2 != sign and x else x


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2
    return ((x1 * y2 + x2 * y1) * pow(1 + t, P - 2, P) % P,
            (y1 * y2 + x1 * x2) * pow(1 - t, P - 2, P) % P)


def times(n, point):
    out = (0, 1)
    while n:
        if n & 1:
            out = add(out, point)
        point = add(point, point)
        n >>= 1
    return out


def negative(point):
    return (-point[0] % P, point[1])


def encode(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def decode(data):
    """As lenient as OpenSSL: y is reduced, a sign of x = 0 is let through."""
    number = int.from_bytes(data, "little")
    y = (number & (1 << 255) - 1) % P
    x = recover_x(y, number >> 255)
    return None if x is None else (x, y)


BASE = (recover_x(4 * pow(5, P - 2, P) % P, 0), 4 * pow(5, P - 2, P) % P)
# L times any point is of small order; this one's is 8.
ORDER8 = next(t for t in (times(L, (recover_x(y, 0), y)) for y in range(2, 50)
                          if recover_x(y, 0) is not None) if times(4, t) != (0, 1))
IDENTITY = (0, 1)


def number(text, *parts):
    return int.from_bytes(hashlib.sha512(text + b"".join(parts)).digest(), "little") % L


SECRET = number(b"a secret of no use")
KEY = encode(times(SECRET, BASE))


def signature(r_bytes, key, secret, nonce, message=MESSAGE):
    h = number(b"", r_bytes, key, message)
    return r_bytes + ((nonce + h * secret) % L).to_bytes(32, "little")


def verdicts(key, message, sig):
    """(plain equation, times 8) over whatever points decode; None where one does not."""
    a, r = decode(key), decode(sig[:32])
    s = int.from_bytes(sig[32:], "little")
    if a is None or r is None:
        return False, False
    h = number(b"", sig[:32], key, message)
    left, right = times(s, BASE), add(r, times(h, a))
    return left == right, times(8, left) == times(8, right)


def openssl_accepts(key, message, sig):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(sig, message)
        return True
    except (InvalidSignature, ValueError):
        return False


def both_mixed():
    """A key with a part of small order, and a signature whose R is of small order and cancels it."""
    for i in range(100):
        secret = number(b"mixed", bytes([i]))
        key = encode(add(times(secret, BASE), ORDER8))
        for k in range(1, 8):
            sig = signature(encode(times(k, ORDER8)), key, secret, 0)
            if verdicts(key, MESSAGE, sig)[0]:
                return key, sig
    raise ValueError("none was found")


def ed25519_cases():
    nonce = number(b"a nonce")
    good = signature(encode(times(nonce, BASE)), KEY, SECRET, nonce)
    yield "valid", "ok", KEY, good

    def with_s(value):
        return good[:32] + value.to_bytes(32, "little")
    s = int.from_bytes(good[32:], "little")
    yield "s-plus-l", "signature", KEY, with_s(s + L)
    yield "s-is-l", "signature", KEY, with_s(L)
    yield "s-is-l-minus-1", "signature", KEY, with_s(L - 1)
    yield "s-is-0", "signature", KEY, with_s(0)
    yield "s-has-all-bits", "signature", KEY, with_s(2 ** 256 - 1)
    yield "s-with-bit-255", "signature", KEY, with_s(s | 1 << 255)
    yield "all-zero", "signature", KEY, bytes(64)
    yield "r-negated", "signature", KEY, encode(negative(times(nonce, BASE))) + good[32:]
    yield "r-plus-order-8", "signature", KEY, signature(
        encode(add(times(nonce, BASE), ORDER8)), KEY, SECRET, nonce)
    yield "r-off-curve", "signature", KEY, signature(
        next(y for y in range(2, 99) if recover_x(y, 0) is None).to_bytes(32, "little"), KEY,
        SECRET, nonce)
    # The owner of a key chose the nonce 0: such a signature gives the secret away.
    for name, r in (("identity", encode(IDENTITY)),
                    ("identity-with-sign", (1 | 1 << 255).to_bytes(32, "little")),
                    ("identity-not-reduced", (P + 1).to_bytes(32, "little")),
                    ("identity-not-reduced-with-sign", (P + 1 | 1 << 255).to_bytes(32, "little")),
                    ("order-2", encode(times(4, ORDER8))), ("order-4", encode(times(2, ORDER8))),
                    ("order-8", encode(ORDER8))):
        yield "r-" + name, "signature", KEY, signature(r, KEY, SECRET, 0)
    # A key with a part of small order. Without the cofactor one signature in eight is good.
    mixed = encode(add(times(SECRET, BASE), ORDER8))
    kinds = {}
    for i in range(200):
        k = number(b"mixed", bytes([i]))
        sig = signature(encode(times(k, BASE)), mixed, SECRET, k)
        plain, cofactored = verdicts(mixed, MESSAGE, sig)
        assert cofactored
        kinds.setdefault(plain, sig)
    yield "key-with-order-8-part-equation-holds", "ok", mixed, kinds[True]
    yield "key-with-order-8-part-needs-cofactor", "signature", mixed, kinds[False]
    yield "key-and-r-with-order-8-part", "signature", *both_mixed()
    off = next(y for y in range(2, 99) if recover_x(y, 0) is None).to_bytes(32, "little")
    yield "key-off-curve", "signature", off, good
    # Under a key of small order one signature is good for every message, or for one in eight.
    small = [("identity", encode(IDENTITY)),
             ("identity-with-sign", (1 | 1 << 255).to_bytes(32, "little")),
             ("identity-not-reduced", (P + 1).to_bytes(32, "little")),
             ("zero-not-reduced", P.to_bytes(32, "little")),
             ("zero-not-reduced-with-sign", (P | 1 << 255).to_bytes(32, "little"))]
    small += [(f"order-8-times-{i}", encode(times(i, ORDER8))) for i in range(1, 8)]
    for name, key in small:
        yield "key-" + name, "key", key, encode(IDENTITY) + bytes(32)


def write_ed25519():
    lines = ["# Edges of Ed25519. Made by tests/golden/curve_cases.py; do not edit. All sign \"tidegate\".",
             "# name, what we say (ok, or what is refused: key, signature), what OpenSSL says,",
             "# key, signature"]
    for name, ours, key, sig in ed25519_cases():
        theirs = openssl_accepts(key, MESSAGE, sig)
        if ours == "ok":
            assert theirs and verdicts(key, MESSAGE, sig)[0], name
        lines.append(f"{name} {ours} {'accepts' if theirs else 'refuses'} {key.hex()} {sig.hex()}")
    write("ed25519_cases.txt", lines)


def ladder(secret, u_bytes):
    """RFC 7748, section 5."""
    k = int.from_bytes(secret, "little")
    k = (k & ~7 & (1 << 255) - 1) | 1 << 254
    u = (int.from_bytes(u_bytes, "little") & (1 << 255) - 1) % P
    x1, x2, z2, x3, z3, swap = u, 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def on_curve(u):
    return pow(u ** 3 + 486662 * u * u + u, (P - 1) // 2, P) == 1


ORDER8_U = ("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157")


def x25519_cases():
    numbers = [("zero", 0), ("one-order-4", 1), ("minus-one-of-the-twist", P - 1),
               ("order-8-a", int.from_bytes(bytes.fromhex(ORDER8_U[0]), "little")),
               ("order-8-b", int.from_bytes(bytes.fromhex(ORDER8_U[1]), "little")),
               ("p-is-zero", P), ("p-plus-1-is-one", P + 1)]
    for name, u in numbers:
        yield "small-order-" + name, u
        yield "small-order-" + name + "-with-bit-255", u | 1 << 255
    for more in (2, 3, 9, 18):
        yield f"not-reduced-p-plus-{more}", P + more
    yield "not-reduced-p-plus-9-with-bit-255", P + 9 | 1 << 255
    yield "base-point", 9
    yield "base-point-with-bit-255", 9 | 1 << 255
    twist = [u for u in range(2, 60) if not on_curve(u)]
    for u in twist[:3]:
        yield f"twist-{u}", u
    yield "twist-large", next(u for u in range(P - 2, 0, -1) if not on_curve(u))
    yield "curve-large", next(u for u in range(P - 2, 0, -1) if on_curve(u))


def write_x25519():
    secret = hashlib.sha256(b"a secret of no use").digest()
    own = X25519PrivateKey.from_private_bytes(secret)
    lines = ["# Edges of X25519. Made by tests/golden/curve_cases.py; do not edit.",
             "# name, peer's u coordinate, shared secret or \"refused\"; the first line is the secret key",
             "secret " + secret.hex()]
    for name, u in x25519_cases():
        u_bytes = u.to_bytes(32, "little")
        shared = ladder(secret, u_bytes)
        try:
            theirs = own.exchange(X25519PublicKey.from_public_bytes(u_bytes))
        except ValueError:
            theirs = bytes(32)
        assert shared == theirs, name
        lines.append(f"{name} {u_bytes.hex()} {shared.hex() if any(shared) else 'refused'}")
    write("x25519_cases.txt", lines)


def write(name, lines):
    with open(os.path.join(FOLDER, name), "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_ed25519()
    write_x25519()
