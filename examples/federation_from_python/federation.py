"""Two sites and a coordinator on this machine, from Python: set up, run, watch, export.

usage: federation.py BASE OUT     BASE: an HF folder; OUT: a folder to make

The federation of a real deployment is the same calls on three machines: the request and the approval are
files that people carry.
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import tidegate

PROGRAMS = os.environ.get("TIDEGATE_PROGRAMS", "")


def program(name: str) -> str:
    return os.path.join(PROGRAMS, name) if PROGRAMS else name


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Federation:
    """Folders, keys, enrolment and processes of a coordinator and its sites."""

    def __init__(self, out: pathlib.Path, base: pathlib.Path, sites: dict[str, list[dict[str, str]]]) -> None:
        self.out, self.base, self.names = out.resolve(), base.resolve(), list(sites)
        self.running: list[subprocess.Popen[bytes]] = []
        self.coordinator_dir = self.out / "coordinator"
        made = tidegate.run_tidegate("coordinator", "init", "--dir", self.coordinator_dir, "--name", "example",
                                     "--address", f"tcp://127.0.0.1:{free_port()}")
        self.key = str(made["key"])
        config = self.coordinator_dir / "coordinator.toml"
        config.write_text("".join(line for line in config.read_text().splitlines(keepends=True)
                                  if not line.startswith("web")) + 'web = "off"\n')
        for name, records in sites.items():
            self._enrol(name, records)

    def site_dir(self, name: str) -> pathlib.Path:
        return self.out / name

    def _enrol(self, name: str, records: list[dict[str, str]]) -> None:
        site, data = self.site_dir(name), self.out / f"{name}.jsonl"
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
        request = tidegate.run_tidegate("site", "request", "--name", name, "--dir", site)
        approval = tidegate.run_tidegate("site", "approve", request["request"], "--dir", self.coordinator_dir)
        tidegate.run_tidegate("site", "accept", approval["approval"], "--dir", site, "--base", self.base,
                              "--records", data, "--allow_job", "example", "--waiver", "an example: invented records")
        config = site / "site.toml"
        config.write_text("".join(line for line in config.read_text().splitlines(keepends=True)
                                  if not line.startswith(("threads", "dtype"))) + 'threads = 1\ndtype = "f32"\n')

    def start(self) -> tidegate.Coordinator:
        """Coordinator and sites as processes; returns when the coordinator answers."""
        self._run("tidegate-coordinator", self.coordinator_dir)
        coordinator = tidegate.Coordinator(self.coordinator_dir)
        self._until(lambda: coordinator.jobs() is not None)
        for name in self.names:
            self._run("tidegate-onshore", self.site_dir(name))
        return coordinator

    def site(self, name: str) -> tidegate.Site:
        """A connection to a site, as soon as it listens."""
        return self._until(lambda: tidegate.Site(self.site_dir(name)))

    def submit(self, coordinator: tidegate.Coordinator, text: str) -> tidegate.FederatedJob:
        """A job file with these lines."""
        file = self.out / "example.toml"
        file.write_text(f'name = "example"\nbase = "{self.base}"\n{text}')
        return coordinator.submit(file)

    def _run(self, name: str, folder: pathlib.Path) -> None:
        log = open(self.out / f"{folder.name}.log", "ab")
        self.running.append(subprocess.Popen([program(name), "--dir", str(folder)], stdout=log, stderr=log,
                                             stdin=subprocess.DEVNULL))
        log.close()

    def _until(self, ask, seconds: float = 30.0):  # type: ignore[no-untyped-def]
        end = time.monotonic() + seconds
        while True:
            try:
                return ask()
            except tidegate.Error as error:
                if error.code != "UNAVAILABLE" or time.monotonic() > end:
                    raise
                if any(p.poll() is not None for p in self.running):
                    raise RuntimeError(f"a process has ended; its log is in {self.out}") from error
                time.sleep(0.02)

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *ignored: object) -> None:
        for process in reversed(self.running):
            process.terminate()
        for process in self.running:
            process.wait(30)


JOB = """rounds = 2
codec = "fixed32"
[lora]
r = 4
alpha = 8
[train]
local_steps = 2
batch_size = 2
max_length = 64
packing = false
learning_rate = 5e-3
"""


def invented(place: str) -> list[dict[str, str]]:
    return [{"prompt": f"where is crate {i}?", "completion": f"in {place}, row {i % 3}"} for i in range(12)]


def main(base: str, out: str) -> None:
    with Federation(pathlib.Path(out), pathlib.Path(base),
                    {"harbour": invented("the harbour"), "hill": invented("the hill")}) as federation:
        coordinator = federation.start()
        job = federation.submit(coordinator, JOB)
        for event in coordinator.watch(job.id):
            print(event.time, event.event, event.round or "", event.site)
        adapter = coordinator.export(job.id, federation.out / "adapter")
        print("the shared adapter of version", coordinator.job(job.id).version, "is in", adapter)
        for name in federation.names:
            found = federation.site(name).verify_ledger(federation.key)
            print(name, "made", found["exports"], "exports; ledger verified:", found["verified"])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
