"""A base and its adapters that answer, held by a walled process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, overload

from . import _native
from ._errors import Error

Path = str | os.PathLike[str]
ANSWER_SECONDS = 600.0


class Answer:
    """What a model says to one question: iterate over it for its text as it comes. After the end
    ``reason`` is stop, length, positions or cancelled, and the counts are there. It is taken back
    when it is garbage. One thread at a time, but ``cancel()``."""

    def __init__(self, native: Any, timeout: float) -> None:
        self._native = native
        self._timeout = timeout
        self.reason: str | None = None
        self.prompt_tokens: int = 0
        self.cached_tokens: int = 0
        self.new_tokens: int = 0

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, whole characters. An error of the answer is raised."""
        return self

    def __next__(self) -> str:
        if self.reason is not None:
            raise StopIteration
        end, text, *counts = self._native.next(self._timeout)
        if not end:
            return str(text)
        self.reason = text
        self.prompt_tokens, self.cached_tokens, self.new_tokens = counts
        raise StopIteration

    def text(self) -> str:
        """All that is still to come."""
        return "".join(self)

    def cancel(self) -> None:
        """Takes the question back: the iteration ends, and ``reason`` is cancelled."""
        self._native.cancel()


class Model:
    """A base (an HF folder), alone or with adapters, that answers chats and continues texts.

    It is held by a process of its own (``tidegate-trainer answer``) behind walls: no network, no file
    but the model's. Any thread may use it, and answers advance together. It ends with ``close()``, at
    the end of a ``with``, or when it and its answers are garbage.

    >>> with tidegate.Model("smollm2", adapters={"harbour": "ft"}) as model:
    ...     for text in model.chat([{"role": "user", "content": "hello"}], model="harbour", stream=True):
    ...         print(text, end="", flush=True)
    """

    def __init__(self, base: Path, adapters: Mapping[str, Path] | Sequence[Path] = (), *,
                 name: str = "", device: str = "cpu", dtype: str = "auto", load_in_8bit: bool = False,
                 load_in_4bit: bool = False, threads: int = 0, max_new_tokens: int = 0,
                 walls: str = "", timeout: float = 600.0) -> None:
        """Loads it. ``adapters``: PEFT folders by name, or folders that are their own names; each is a
        model that may be asked for, as the base is by ``name`` (its folder's, if not given).
        ``max_new_tokens``: of an answer whose question does not say. ``threads``: 0 for all CPUs.
        ``device``: "cpu", or "cuda" for a GPU.
        ``walls``: those that must stand; all, if not given."""
        if load_in_8bit and load_in_4bit:
            raise Error("INVALID_ARGUMENT", "load_in_8bit and load_in_4bit: one of them")
        bits = 8 if load_in_8bit else 4 if load_in_4bit else 0
        if isinstance(adapters, Mapping):
            named = [f"{key}={os.path.abspath(folder)}" for key, folder in adapters.items()]
        else:
            named = [os.path.abspath(folder) for folder in adapters]
        self._native: Any = _native.open_model(os.path.abspath(base), named, name, device, dtype, bits, threads,
                                               max_new_tokens, walls, timeout)
        self.models: list[str] = self._native.names()

    @overload
    def chat(self, messages: Sequence[Mapping[str, str]], *, stream: Literal[False] = False,
             model: str = "", timeout: float = ANSWER_SECONDS, **sampling: Any) -> str: ...

    @overload
    def chat(self, messages: Sequence[Mapping[str, str]], *, stream: Literal[True],
             model: str = "", timeout: float = ANSWER_SECONDS, **sampling: Any) -> Answer: ...

    def chat(self, messages: Sequence[Mapping[str, str]], *, stream: bool = False, model: str = "",
             timeout: float = ANSWER_SECONDS, **sampling: Any) -> str | Answer:
        """The assistant's next turn of ``messages``: dicts with ``role`` and ``content``. With
        ``stream`` an iterator of text. ``model``: one of ``models``, the base if not given.
        ``sampling``: ``max_new_tokens``, ``temperature`` (0, the default: the likeliest token),
        ``top_p``, ``top_k``, ``repetition_penalty``, ``seed``, ``stop``. ``timeout``: seconds of
        silence; below 0 none."""
        turns = [(str(turn["role"]), str(turn["content"])) for turn in messages]
        if not turns:
            raise Error("INVALID_ARGUMENT", "a chat needs messages")
        answer = self._ask(turns, "", model, timeout, **sampling)
        return answer if stream else answer.text()

    @overload
    def complete(self, text: str, *, stream: Literal[False] = False, model: str = "",
                 timeout: float = ANSWER_SECONDS, **sampling: Any) -> str: ...

    @overload
    def complete(self, text: str, *, stream: Literal[True], model: str = "",
                 timeout: float = ANSWER_SECONDS, **sampling: Any) -> Answer: ...

    def complete(self, text: str, *, stream: bool = False, model: str = "",
                 timeout: float = ANSWER_SECONDS, **sampling: Any) -> str | Answer:
        """How ``text`` goes on, without a template; else as ``chat``."""
        answer = self._ask([], text, model, timeout, **sampling)
        return answer if stream else answer.text()

    def _ask(self, messages: list[tuple[str, str]], text: str, model: str, timeout: float, *,
             max_new_tokens: int = 0, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0,
             repetition_penalty: float = 1.0, seed: int = 0,
             stop: str | Sequence[str] = ()) -> Answer:
        if self._native is None:
            raise Error("FAILED_PRECONDITION", "the model is closed")
        stops = [stop] if isinstance(stop, str) else list(stop)
        return Answer(self._native.ask(messages, text, model, max_new_tokens, temperature, top_p, top_k,
                                       repetition_penalty, seed, stops), timeout)

    def close(self) -> None:
        """Ends its process without waiting for answers: those raise UNAVAILABLE."""
        self._native = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
