"""Reads a site's ledger as an auditor: what left, who let it out, what was refused, and whether the book is whole.

usage: audit.py LEDGER KEY [RECEIPT]

LEDGER: the file, or the folder that `tidegate ledger export` made. KEY: the coordinator's, "ed25519:...". RECEIPT: one that
was kept elsewhere; without it nobody can tell whether the end was cut.
"""

from __future__ import annotations

import os
import sys

import tidegate


def audit(ledger: str, key: str, receipt: str = "") -> int:
    """0: verified. 1: consistent by itself only. An error: damaged, or not this coordinator's."""
    if os.path.isdir(ledger):
        receipt = receipt or os.path.join(ledger, "receipt")
        ledger = os.path.join(ledger, "ledger")
    head = ["--head", receipt] if os.path.exists(receipt) else []
    found = tidegate.run_tidegate("ledger", "verify", ledger, "--key", key, *head)
    leaves = tidegate.run_tidegate("ledger", "show", ledger)["leaves"]
    released = {leaf["plaintext_sha256"]: leaf for leaf in leaves if leaf["type"] in ("approval", "decision")}
    outside = {leaf["plaintext_sha256"]: leaf["uid"] for leaf in leaves if leaf["type"] == "outside"}
    for leaf in leaves:
        if leaf["type"] == "intent":
            by = released.get(leaf["plaintext_sha256"])
            who = f", released by {by['approver']}" if by else ""
            where = outside.get(leaf["plaintext_sha256"])
            made = f", trained by uid {where}" if where is not None else ""
            print(f"round {leaf['round']}: {leaf['ciphertext_bytes']} bytes left, at most "
                  f"{leaf['capacity_bits']:.0f} bits, L2 {leaf['l2_norm']:.3g}{who}{made}")
        elif leaf["type"] == "refusal":
            print(f"round {leaf['round']}: {leaf['what']} refused by {leaf['rule']}: {leaf['reason']}")
    print("verified against a receipt" if found["verified"] else
          "consistent by itself; without a receipt from elsewhere an end that was cut would not show")
    return 0 if found["verified"] else 1


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    sys.exit(audit(*sys.argv[1:]))
