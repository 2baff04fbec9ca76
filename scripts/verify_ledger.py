#!/usr/bin/env python3
"""A second verifier of a Tidegate ledger, written from docs/formats/ledger.md and keys.md alone.

    verify_ledger.py LEDGER --key ed25519:COORDINATOR-KEY [--head RECEIPT]

Python's standard library and the openssl program (3.0 or later), nothing of ours: so that nobody has
to trust one implementation. Exit codes: 0 verified against a receipt that was kept elsewhere,
65 internally consistent only (no --head), 1 something does not fit: it says what and where.
"""
import argparse, base64, hashlib, pathlib, struct, subprocess, sys, tempfile

PEM = "-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----\n"
DER_PREFIX = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo of Ed25519, RFC 8410
LEAF, HEAD, OPENED, INTENT, RECEIPT = 1, 2, 1, 6, 7


class Bad(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Bad(why)


def sha(data):
    return hashlib.sha256(data).digest()


def verify(key, message, signature, what):
    """Ed25519 by openssl, which takes files only."""
    with tempfile.TemporaryDirectory() as name:
        d = pathlib.Path(name)
        (d / "key").write_text(PEM % base64.b64encode(DER_PREFIX + key).decode())
        (d / "message").write_bytes(message)
        (d / "signature").write_bytes(signature)
        done = subprocess.run(["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", d / "key",
                               "-in", d / "message", "-sigfile", d / "signature"], capture_output=True)
    need(len(signature) == 64 and done.returncode == 0, f"{what}: the signature does not verify")


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        need(self.at + n <= len(self.data), "a body ends early")
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def counted(self):
        return self.take(self.number("I"))

    def end(self):
        need(self.at == len(self.data), "bytes after the last field of a body")


class Log:
    """The leaves so far: roots[n] is RFC 6962's root of the first n of them."""

    def __init__(self):
        self.stack, self.roots, self.site_key = [], [sha(b"")], None  # stack: (leaves below, hash)

    def append(self, payload):
        self.stack.append((1, sha(b"\0" + payload)))
        while len(self.stack) > 1 and self.stack[-1][0] == self.stack[-2][0]:
            (n, right), (_, left) = self.stack.pop(), self.stack.pop()
            self.stack.append((2 * n, sha(b"\1" + left + right)))
        root = self.stack[-1][1]
        for _, left in reversed(self.stack[:-1]):
            root = sha(b"\1" + left + root)
        self.roots.append(root)

    def head(self, text, what):
        """How many leaves a signed head covers: it must be of this log."""
        body, blank, rest = text.partition(b"\n\n")
        lines = body.split(b"\n")
        need(blank and len(lines) == 3 and rest.endswith(b"\n") and rest.count(b"\n") == 1, f"{what}: not a signed note")
        dash, name, encoded = rest[:-1].split(b" ")
        blob = base64.b64decode(encoded, validate=True)
        need(dash == "\u2014".encode() and name.decode() == self.site and lines[0] == self.origin.encode(), f"{what}: of another log")
        need(blob[:4] == sha(name + b"\n\1" + self.site_key)[:4], f"{what}: of another key")
        need(base64.b64encode(blob) == encoded and str(int(lines[1])).encode() == lines[1], f"{what}: not canonical")
        size = int(lines[1])
        need(0 < size < len(self.roots) and base64.b64encode(self.roots[size]) == lines[2], f"{what}: its root is not this log's")
        verify(self.site_key, body + b"\n", blob[4:], what)
        return size

    def receipt(self, signed, key, what):
        outer = Reader(signed)
        body, signature = outer.counted(), outer.take(64)
        outer.end()
        verify(key, b"tidegate/v1/receipt\0" + body, signature, what)
        r = Reader(body)  # federation, key (job, round, phase, site), content, outcome, time, head
        r.take(16 + 16 + 4 + 1), r.counted(), r.take(32 + 1 + 8)
        head = r.counted()
        r.end()
        return self.head(head, what)

    def leaf(self, payload, key):
        r = Reader(payload)
        index, _, kind, body = r.number("Q"), r.number("q"), r.number("B"), Reader(r.counted())
        r.end()
        need(index == len(self.roots) - 1, f"leaf {index}: out of order")
        if index == 0:
            need(kind == OPENED, "leaf 0 does not say whose ledger this is")
            federation, self.site = body.take(16).hex(), body.counted().decode()
            self.site_key, coordinator = body.take(32), body.take(32)
            body.end()
            self.origin = f"tidegate/{federation}/{self.site}"
            need(coordinator == key, "the ledger names another coordinator's key than --key")
        if kind == RECEIPT:
            self.receipt(body.data, key, f"leaf {index}: receipt")
        self.append(payload)
        return kind


def check(data, key):
    log, at, covered, kinds = Log(), 0, 0, []
    while at < len(data) and data[at:at + 4] == b"TGLR":
        kind, size, digest = struct.unpack_from("<IQ32s", data, at + 4)
        payload = data[at + 48:at + 48 + size]
        end = at + 48 + -(-size // 8) * 8
        need(kind in (LEAF, HEAD) and len(payload) == size and sha(payload) == digest and not any(data[at + 48 + size:end]),
             f"the record at byte {at} is damaged")
        if kind == LEAF:
            kinds.append(log.leaf(payload, key))
        else:
            covered = log.head(payload, f"the head at byte {at}")
            need(covered == len(log.roots) - 1, f"the head at byte {at} is not over all leaves before it")
        at = end
    need(not data[at:].strip(b"\0"), f"bytes at {at} that are no record")
    need(kinds and covered == len(kinds), "the last leaf is covered by no head")
    return log, kinds


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("ledger", type=pathlib.Path)
    p.add_argument("--key", required=True)
    p.add_argument("--head", type=pathlib.Path)
    args = p.parse_args()
    try:
        need(args.key.startswith("ed25519:"), "--key is ed25519:BASE64")
        key = base64.b64decode(args.key[8:], validate=True)
        log, kinds = check(args.ledger.read_bytes(), key)
        print(f"{log.site}: {len(kinds)} leaves, {kinds.count(INTENT)} exports, {kinds.count(RECEIPT)} receipts")
        if not args.head:
            print("internally consistent only: give --head RECEIPT, one that was kept elsewhere")
            return 65
        receipt = args.head.read_bytes()
        if receipt.startswith(b"-----BEGIN "):
            receipt = base64.b64decode(b"".join(receipt.split(b"\n")[1:-2]), validate=True)
        print(f"verified: the receipt's head covers leaves 0 to {log.receipt(receipt, key, str(args.head)) - 1}, unchanged")
        return 0
    except (Bad, OSError, ValueError, struct.error) as error:
        print(f"{args.ledger}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
