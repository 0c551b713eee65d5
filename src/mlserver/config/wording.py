"""How places and values are written in faults: on one line, short, and never a secret."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlserver.errors import Fault

MASK = "********"
MAX_SHOWN = 60
"""Characters of a text that are shown."""
LARGE = 10**MAX_SHOWN


def fault(path: str, message: str) -> Fault:
    """A fault of one line, whatever is in the names and values that it cites."""
    return Fault(one_line(path), one_line(message))


def one_line(text: str) -> str:
    """A text with what cannot be printed escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def dotted(path: Sequence[str | int]) -> str:
    """``server.port``, ``api.feature_order[2]``; an odd key is in quotes."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_name(part)}" for part in path).removeprefix(
        "."
    )


def _name(key: str) -> str:
    return key if re.fullmatch(r"[\w-]{1,60}", key) else quoted(key)


def quoted(text: str) -> str:
    shown = text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
    return f'"{one_line(shown)}"'


def given(value: Any, *, secret: bool) -> str:
    """A value as it is shown in a fault."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if secret:
        return MASK
    if isinstance(value, int | float):
        return str(value) if abs(value) < LARGE or isinstance(value, float) else "a very large number"
    return quoted(str(value))
