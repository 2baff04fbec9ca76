"""Keyword arguments as the flags of `tidegate finetune --config`: TOML."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, os.PathLike)):
        # A JSON text is a TOML text, but for DEL.
        return json.dumps(os.fspath(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_value(str(k))} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    raise TypeError(f"a flag cannot be {type(value).__name__}: {value!r}")


def to_toml(flags: Mapping[str, Any]) -> str:
    """The flags that are not None, a line each."""
    return "".join(f"{key} = {_value(value)}\n" for key, value in flags.items() if value is not None)
