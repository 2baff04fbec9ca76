"""Local jobs: what runs behind walls, watched as it goes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import _native
from ._errors import Error
from ._flags import to_toml

_LINE, _STEP, _EVAL, _OUTPUT, _ENDED = 1, 2, 3, 4, 5
VERBS = {"finetune": 0, "eval": 1, "generate": 2, "data-check": 3}


@dataclass(frozen=True)
class Step:
    """One line of a training's progress."""

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """The loss on held-out records at a step."""

    step: int
    heldout_loss: float


class Job:
    """A finetune, eval or the like that runs. Iterate over it for its progress; ``result()`` waits
    for its end. It is stopped when it is garbage. One thread at a time, but ``stop()``."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self._output: list[str] = []
        self._end: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Step | Evaluation | str]:
        """Steps, evaluations and other lines, until the job's end. An error of the job is raised."""
        while self._end is None:
            told = self._next(-1)
            if told is not None:
                yield told
        self._check()

    def _next(self, timeout: float) -> Step | Evaluation | str | None:
        event = self._native.next(timeout)
        kind = event["kind"]
        if kind == _STEP:
            return Step(event["step"], event["total_steps"], event["loss"], event["learning_rate"],
                        event["tokens_per_second"])
        if kind == _EVAL:
            return Evaluation(event["step"], event["heldout_loss"])
        if kind == _LINE:
            return str(event["text"])
        if kind == _OUTPUT:
            self._output.append(event["text"])
        if kind == _ENDED:
            self._end = event
        return None

    def _check(self) -> None:
        assert self._end is not None
        code = self._end["exit_code"]
        if code != 0:
            raise Error(code if code <= 13 else "USAGE", self._end["text"] or "the job ended without a word")

    def result(self, timeout: float = -1) -> dict[str, Any]:
        """What the job says at its end; below 0 there is no timeout (of each silence)."""
        while self._end is None:
            self._next(timeout)
        self._check()
        text = "".join(self._output)
        return json.loads(text) if text.strip() else {}

    def stop(self) -> None:
        """In good order: a finetune saves its state, and ``resume=True`` goes on with it."""
        self._native.stop()


def start_finetune(base: str | os.PathLike[str], data: str | os.PathLike[str], *,
                   output_dir: str | os.PathLike[str] = "adapter",
                   eval_data: str | os.PathLike[str] | None = None, **flags: Any) -> Job:
    """``finetune`` as a job that is watched while it runs."""
    absolute = {"base": os.path.abspath(base), "output_dir": os.path.abspath(output_dir),
                "data": os.path.abspath(data)}
    if eval_data is not None:
        absolute["eval_data"] = os.path.abspath(eval_data)
    return Job(_native.start_finetune(to_toml({**absolute, **flags}), "", "", 10))


def finetune(base: str | os.PathLike[str], data: str | os.PathLike[str], *,
             output_dir: str | os.PathLike[str] = "adapter",
             eval_data: str | os.PathLike[str] | None = None, progress: bool = False,
             **flags: Any) -> str:
    """Trains a LoRA adapter of ``base`` (an HF folder) on ``data`` (JSONL, docs/formats/data.md) in
    a process that has no network and knows no other file; returns the PEFT folder.

    ``flags`` are those of ``tidegate finetune``, named as in PEFT and TRL: ``learning_rate``,
    ``max_steps``, ``lora_r``, ``per_device_train_batch_size``, ... With ``progress`` its lines are
    printed.

    >>> path = tidegate.finetune("smollm2", "train.jsonl", max_steps=24, learning_rate=2e-3)
    >>> model = peft.PeftModel.from_pretrained(base_model, path)
    """
    job = start_finetune(base, data, output_dir=output_dir, eval_data=eval_data, **flags)
    for told in job:
        if progress:
            print(told, flush=True)
    return str(job.result()["output_dir"])


def run_tidegate(*words: str | os.PathLike[str], timeout: float = 600) -> Any:
    """The command line's answer (docs/cli.md), decoded."""
    text = _native.run_tidegate([os.fspath(word) for word in words], timeout)
    return json.loads(text) if text.strip() else None
