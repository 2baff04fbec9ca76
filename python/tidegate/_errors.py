"""Errors of Tidegate, with the codes of docs/exit-codes.md."""

from __future__ import annotations

from . import _native


class Error(Exception):
    """What went wrong: the thing, the limit and the remedy. ``code`` is one of the names of
    docs/exit-codes.md, such as ``"NOT_FOUND"``."""

    def __init__(self, code: int | str, message: str) -> None:
        name = _native.code_name(code) if isinstance(code, int) else code
        super().__init__(f"{name}: {message}")
        self.code: str = name
        self.message: str = message


_native.set_error_type(Error)
