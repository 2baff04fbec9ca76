"""A coordinator on this machine: jobs, sites, bases and rounds of a federation."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from . import _native

DEFAULT = 10.0


@dataclass(frozen=True)
class FederatedJob:
    """A job as the coordinator has it."""

    id: str
    name: str
    state: str
    version: int
    rounds: int
    ended: bool
    open_round: int | None
    accepted: int
    sites: int
    parameters: int


@dataclass(frozen=True)
class EnrolledSite:
    """A site of the federation."""

    name: str
    connected: bool
    key: str
    bytes_in: int
    refused: int


@dataclass(frozen=True)
class PublishedBase:
    """A version of a base that the coordinator publishes; ``patch_bytes`` is what a site with the
    version before pulls, 0 where there is no patch."""

    name: str
    version: int
    hash: str
    bytes: int
    patch_bytes: int
    licence: str
    created: str
    expires: str
    revoked: bool
    manifest: str


@dataclass(frozen=True)
class RoundEvent:
    """What happened to a job's round: opened, accepted, published (``round`` is the version then),
    abandoned."""

    number: int
    event: str
    round: int
    site: str
    weight: int
    time: str


class Coordinator:
    """The coordinator of this folder, which must run. Any thread may use it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._native = _native.open_coordinator(os.fspath(path))

    def jobs(self, timeout: float = DEFAULT) -> list[FederatedJob]:
        """All jobs, the oldest first."""
        return [FederatedJob(**job) for job in self._native.jobs(timeout)]

    def job(self, job: str, timeout: float = DEFAULT) -> FederatedJob:
        """By its id, the beginning of one, or its name."""
        return FederatedJob(**self._native.job(job, timeout))

    def submit(self, job_file: str | os.PathLike[str], timeout: float = 600.0) -> FederatedJob:
        """A job file (docs/formats/job.md); reads the whole base to name it by its hash."""
        return FederatedJob(**self._native.submit(os.fspath(job_file), timeout))

    def stop(self, job: str, timeout: float = DEFAULT) -> None:
        """Ends a job; what was published stays."""
        self._native.stop(job, timeout)

    def export(self, job: str, out: str | os.PathLike[str], version: int = -1,
               timeout: float = 60.0) -> str:
        """A version of the shared adapter as a PEFT folder; below 0: the newest."""
        self._native.export(job, version, os.fspath(out), timeout)
        return os.fspath(out)

    def sites(self, timeout: float = DEFAULT) -> list[EnrolledSite]:
        """The sites that are enrolled."""
        return [EnrolledSite(*told) for told in self._native.sites(timeout)]

    def bases(self, timeout: float = DEFAULT) -> list[PublishedBase]:
        """Every version of every base that it publishes, revoked ones too."""
        return [PublishedBase(*told) for told in self._native.bases(timeout)]

    def rounds(self, job: str, after: int = 0, timeout: float = DEFAULT) -> list[RoundEvent]:
        """What happened to a job's rounds since event ``after``."""
        return [RoundEvent(*told) for told in self._native.rounds(job, after, timeout)]

    def watch(self, job: str, every: float = 0.5) -> Iterator[RoundEvent]:
        """The same as it happens, until the job has ended."""
        after = 0
        while True:
            ended = self.job(job).ended
            for event in self.rounds(job, after):
                after = max(after, event.number)
                yield event
            if ended:
                return
            time.sleep(every)
