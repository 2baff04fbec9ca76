"""A site on this machine: tidegate-onshore, over its unix socket."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import _native
from ._flags import to_toml
from ._jobs import VERBS, Job

_KINDS = {"records": 0, "heldout": 1}
_SOURCES = ("site", "path", "descriptor", "gone")
_HOLDS = ("paused", "job_stopped", "coordinator_lost", "dataset_gone", "dataset_refused")
_NEW = 2**64 - 1
DEFAULT = 10.0


@dataclass(frozen=True)
class SiteStatus:
    """How a site is. Numbers that there are none of are None."""

    site: str
    version: str
    uid: int
    job: str | None
    job_name: str
    job_rounds: int
    job_ended: bool
    round: int | None
    adapter_version: int | None
    held_round: int | None
    train_loss: float | None
    heldout_loss: float | None
    connected: bool
    holds: tuple[str, ...]
    open_exports: int
    local_jobs: int
    spool_bytes: int
    epoch: int
    last_event: int


@dataclass(frozen=True)
class Dataset:
    """What federated jobs train on: where it comes from, never what is in it."""

    name: str
    source: str
    bytes: int
    path: str


@dataclass(frozen=True)
class Adapter:
    """An adapter of the site: the kept one, or a local job's."""

    kept: bool
    name: str
    bytes: int
    unix_millis: int


@dataclass(frozen=True)
class Event:
    """Something that happened at the site; ``name`` is the first word of ``text``."""

    sequence: int
    name: str
    text: str
    code: int
    source: int
    arguments: tuple[int, int, int, int]
    unix_millis: int
    lost: int


@dataclass(frozen=True)
class Verdict:
    """What the gate made of an update."""

    round: int
    released: bool
    abandoned: bool
    reason: str


class Round:
    """A round that this program is to train: ``adapter`` is the PEFT folder to begin with."""

    def __init__(self, rounds: Any, adapter: str, told: tuple[int, int, int, float, str]) -> None:
        self._rounds = rounds
        self.adapter: str = adapter
        self.number, self.adapter_version, self.local_steps, self.norm_clip, self.job = told

    def submit(self, adapter: str | os.PathLike[str], *, weight: int = 1, train_loss: float = 0.0,
               heldout_loss: float = 0.0, timeout: float = -1) -> Verdict:
        """Hands the trained adapter to the site's gate and waits for its verdict. ``weight``: how
        many targets it was trained on. An update that is held for people has no verdict until they
        have decided; a ``DEADLINE_EXCEEDED`` then leaves it where it is, and ``verdict()`` waits on."""
        self._rounds.submit(os.fspath(adapter), weight, train_loss, heldout_loss, timeout)
        return self.verdict(timeout)

    def verdict(self, timeout: float = -1) -> Verdict:
        """What became of the update that was submitted."""
        return Verdict(*self._rounds.result(timeout))


class Site:
    """A connection to a site. Any thread may use it; calls wait for each other. ``timeout`` is in
    seconds, of each call; errors are ``tidegate.Error``."""

    def __init__(self, path: str | os.PathLike[str], timeout: float = DEFAULT) -> None:
        """``path``: the site's folder, or its socket."""
        self._native = _native.connect(os.fspath(path), timeout)

    def status(self, timeout: float = DEFAULT) -> SiteStatus:
        """How the site is."""
        told = self._native.status(timeout)
        told["holds"] = tuple(n for i, n in enumerate(_HOLDS) if told["holds"] >> i & 1)
        return SiteStatus(**told)

    def pause(self, timeout: float = DEFAULT) -> None:
        """Stops the site's own training after the step at hand, until ``resume``."""
        self._native.pause(timeout)

    def resume(self, timeout: float = DEFAULT) -> None:
        """Ends a pause or a stop."""
        self._native.resume(timeout)

    def stop_job(self, timeout: float = DEFAULT) -> None:
        """Pauses for the federated job of now."""
        self._native.stop_job(timeout)

    def shutdown(self, timeout: float = DEFAULT) -> None:
        """Ends tidegate-onshore."""
        self._native.shutdown(timeout)

    def datasets(self, timeout: float = DEFAULT) -> list[Dataset]:
        """What federated jobs train on."""
        return [Dataset("heldout" if kind else "records", _SOURCES[source], size, path)
                for kind, source, size, path in self._native.datasets(timeout)]

    def set_dataset(self, name: str, path: str | os.PathLike[str], *, hand_over: bool = True,
                    timeout: float = DEFAULT) -> None:
        """``name``: records or heldout. Handed over, the file needs no right of the site's user;
        else it is named, and survives a restart of the site."""
        self._native.set_dataset(_KINDS[name], os.fspath(path), hand_over, timeout)

    def reset_dataset(self, name: str, timeout: float = DEFAULT) -> None:
        """Those of site.toml again."""
        self._native.reset_dataset(_KINDS[name], timeout)

    def events(self, *, epoch: int = 0, after: int = 0, new_only: bool = False,
               timeout: float = -1) -> Iterator[Event]:
        """What happens, as it happens; without end. All that the site still has comes first, or what
        is after ``after`` of this ``epoch``, or with ``new_only`` only what is to come."""
        watch = self._native.watch(epoch, _NEW if new_only else after, DEFAULT)

        def told() -> Iterator[Event]:
            while True:
                event = watch.next(timeout)
                yield Event(name=event["text"].split(" ", 1)[0], **event)

        return told()

    def start(self, verb: str, *, data: str | os.PathLike[str] = "",
              eval_data: str | os.PathLike[str] = "", **flags: Any) -> Job:
        """A local job behind the site's walls: finetune, eval, generate or data-check. ``data`` and
        ``eval_data`` are handed over opened; paths in ``flags`` are the site's to read. A finetune
        writes to ``output_dir="local/NAME"``, an adapter of that name."""
        return Job(self._native.start(VERBS[verb], to_toml(flags), os.fspath(data),
                                      os.fspath(eval_data), DEFAULT))

    def adapters(self, timeout: float = DEFAULT) -> list[Adapter]:
        """The adapters that the site has."""
        return [Adapter(*told) for told in self._native.adapters(timeout)]

    def save_adapter(self, out: str | os.PathLike[str], name: str = "",
                     timeout: float = 60.0) -> str:
        """A copy as a PEFT folder; without a name of the kept one."""
        self._native.save_adapter(name, os.fspath(out), timeout)
        return os.fspath(out)

    def held(self, timeout: float = DEFAULT) -> list[str]:
        """Updates that policy holds for the site's people, by name."""
        return list(self._native.held(timeout))

    def review(self, name: str, timeout: float = DEFAULT) -> dict[str, Any]:
        """What would cross: tensors, norms, sizes, bytes."""
        return json.loads(self._native.review(name, timeout))

    def release(self, name: str, reason: str = "", timeout: float = DEFAULT) -> None:
        """Lets a held update leave, said by this user; counts where policy names the user."""
        self._native.decide(name, True, reason, timeout)

    def refuse(self, name: str, reason: str, timeout: float = DEFAULT) -> None:
        """Refuses a held update."""
        self._native.decide(name, False, reason, timeout)

    def ledger(self, timeout: float = 60.0) -> list[dict[str, Any]]:
        """Every leaf of the ledger, not verified."""
        return json.loads(self._native.ledger(timeout))["leaves"]

    def save_ledger(self, file: str | os.PathLike[str], timeout: float = 60.0) -> None:
        """A copy of the ledger's file."""
        self._native.save_ledger(os.fspath(file), timeout)

    def verify_ledger(self, key: str, timeout: float = 60.0) -> dict[str, Any]:
        """Against the newest receipt of the coordinator, whose ``key`` this is ("ed25519:...").
        What is wrong is raised; ``verified`` says whether a receipt was there."""
        return json.loads(self._native.verify_ledger(key, timeout))

    def export_ledger(self, key: str, out: str | os.PathLike[str],
                      timeout: float = 60.0) -> dict[str, Any]:
        """A folder for a regulator: ledger, receipt, report.html."""
        return json.loads(self._native.export_ledger(key, os.fspath(out), timeout))

    def rounds(self, folder: str | os.PathLike[str], timeout: float = -1) -> Iterator[Round]:
        """The rounds of the site's job, for this program to train in the place of the site's trainer:
        each is written into ``folder`` as a PEFT folder, and goes back by ``Round.submit``. Ends
        with the job. Pause the site first, or its own trainer goes on where this ends."""
        native = self._native.train_rounds(DEFAULT)

        def each() -> Iterator[Round]:
            while True:
                try:
                    told = native.next(os.fspath(folder), timeout)
                except Exception as error:
                    if getattr(error, "code", "") == "UNAVAILABLE":
                        return  # the job is over
                    raise
                yield Round(native, os.fspath(folder), told)

        return each()

    def submit_update(self, adapter: str | os.PathLike[str], *, weight: int = 1,
                      train_loss: float = 0.0, heldout_loss: float = 0.0,
                      timeout: float = 60.0) -> Verdict:
        """The open round's update, from an adapter that was trained elsewhere: the same rules,
        budget and ledger as for the site's own."""
        import tempfile

        with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
            for round_ in self.rounds(folder, timeout):
                return round_.submit(adapter, weight=weight, train_loss=train_loss,
                                     heldout_loss=heldout_loss, timeout=timeout)
        from ._errors import Error

        raise Error("FAILED_PRECONDITION", "the site's job has ended: there is no round to submit for")
