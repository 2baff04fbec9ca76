"""Two sites hold what would leave until two of their people have released it; one refuses.

usage: four_eyes.py BASE OUT     BASE: an HF folder; OUT: a folder to make

The keys of all approvers lie in OUT here. Of a real site each lies with one person, who signs on a machine of their own.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import tidegate

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "federation_from_python"))
import federation  # noqa: E402

# The first update that goes out ends the round.
JOB = federation.JOB.replace("rounds = 2", "rounds = 1\ntarget_updates = 1")
SECONDS = 60.0


class Approver:
    """A person with a key."""

    def __init__(self, name: str, out: pathlib.Path) -> None:
        self.name, self.file = name, out / f"{name}.key"
        self.key = str(tidegate.run_tidegate("approver", "init", "--out", self.file)["key"])

    def says(self, verb: str, update: str, site: pathlib.Path, reason: str) -> None:
        """`verb`: release or refuse. Signs the digest of the update's bytes."""
        tidegate.run_tidegate(verb, update, "--dir", site, "--key", self.file, "--approver", self.name,
                              "--reason", reason)


def policy(approvers: list[Approver]) -> str:
    """What is added to SITE/policy.toml; its owner alone may change that file."""
    names = ", ".join(f'{one.name} = "{one.key}"' for one in approvers)
    return f'\n[approval]\nhold = "always"\nneeded = 2\napprovers = {{ {names} }}\n'


def until(site: tidegate.Site, name: str) -> tidegate.Event:
    """The site's event of this name, which may have been."""
    return next(event for event in site.events(timeout=SECONDS) if event.name == name)


def show(site: tidegate.Site, name: str) -> str:
    """The update that waits, and what people are shown of it: sizes and norms, no value."""
    until(site, "update_held")
    update = site.held()[0]
    seen = site.review(update)
    print(f"{name} holds {update}: {seen['sealed_bytes']} bytes, L2 norm {seen['l2_norm']:.3g}, {seen['approvals_needed']} people needed")
    return update


def about(site: tidegate.Site, kind: str) -> list[dict[str, Any]]:
    return [leaf for leaf in site.ledger() if leaf["type"] == kind]


def main(base: str, out: str) -> None:
    folder = pathlib.Path(out)
    with federation.Federation(folder, pathlib.Path(base), {"harbour": federation.invented("the harbour"),
                                                            "hill": federation.invented("the hill")}) as fed:
        people = [Approver("alice", folder), Approver("bob", folder)]
        for name in fed.names:
            with open(fed.site_dir(name) / "policy.toml", "a", encoding="utf-8") as file:
                file.write(policy(people))
        coordinator = fed.start()
        harbour, hill = fed.site("harbour"), fed.site("hill")
        job = fed.submit(coordinator, JOB)

        held = {"harbour": show(harbour, "harbour"), "hill": show(hill, "hill")}
        # One yes is not enough.
        for name, update in held.items():
            people[0].says("release", update, fed.site_dir(name), "sizes and norm are as agreed")
        print(f"alice has released both; at the coordinator: {coordinator.job(job.id).accepted}; still held:",
              harbour.held() + hill.held())
        # One no is.
        people[1].says("refuse", held["harbour"], fed.site_dir("harbour"), "not before the audit")
        print("harbour:", until(harbour, "update_refused").text)
        people[1].says("release", held["hill"], fed.site_dir("hill"), "looked at by me too")
        print("hill:", until(hill, "update_released").text)

        for event in coordinator.watch(job.id):
            print("coordinator:", event.event, event.site)
        for leaf in about(harbour, "refusal"):
            print(f"harbour's ledger: {leaf['what']} refused by {leaf['rule']}: {leaf['reason']}")
        for leaf in about(hill, "approval"):
            print(f"hill's ledger: released by {leaf['approver']}: {leaf['reason']}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
