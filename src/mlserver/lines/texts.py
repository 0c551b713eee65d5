"""Texts of a line: made of anything, cut with a mark, free of what is to be hidden."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Hide = Callable[[str], str]

MAX_TEXT = 1024
"""Bytes of any one text in a line, so that lines stay below `ATOMIC_BYTES`."""
MAX_STACK = 2048
"""Bytes of a traceback in a line; its end is kept, where the cause is."""
MAX_WORK = 2**20
"""Characters of a text that are looked at; what is beyond is left out unseen."""
UNHIDDEN = "[not shown: what must be hidden could not be found in it]"

hidden: ContextVar[Hide | None] = ContextVar("hidden", default=None)
"""Applied to all texts that are logged in this context: hides what a client sent and nobody may read."""


def timestamp(seconds: float) -> str:
    """UTC with milliseconds and ``Z``, from seconds since 1970."""
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"


def cut(text: str, limit: int = MAX_TEXT, *, beyond: int = 0) -> str:
    """A text of at most so many bytes of UTF-8, with a mark where something was left out.

    ``beyond`` more bytes have been left out before.
    """
    if len(text) <= limit and not beyond and text.isascii():
        return text
    data = text[:MAX_WORK].encode("utf-8", "backslashreplace")
    more = max(len(data) - limit, 0) + max(len(text) - MAX_WORK, 0) + beyond
    shown = data[:limit].decode("utf-8", "ignore")
    return f"{shown}…({more} bytes more)" if more else shown


def cut_stack(text: str, limit: int = MAX_STACK) -> str:
    """The last bytes of a traceback, with a mark where something was left out."""
    data = text[-MAX_WORK:].encode("utf-8", "backslashreplace")
    more = max(len(data) - limit, 0) + max(len(text) - MAX_WORK, 0)
    shown = data[max(len(data) - limit, 0) :].decode("utf-8", "ignore")
    return f"({more} bytes more)…{shown}" if more else shown


def plain(value: object) -> str:
    """A value as text, whatever it is: a user's own ``str`` or ``repr`` may raise."""
    try:
        return str(value) if isinstance(value, str | BaseException) else repr(value)
    except Exception as error:  # noqa: BLE001  # as said
        return f"<{type(value).__name__} without text: {type(error).__name__}>"


def without(text: str, hide: Hide | None, *, end: bool = False) -> str:
    """A text without what must be hidden, of at most `MAX_WORK` characters: its beginning, or its end.

    To be done before a text is cut, which could leave a part of what must be hidden.
    """
    if hide is None:
        return text
    seen = text if len(text) <= MAX_WORK else text[-MAX_WORK:] if end else text[:MAX_WORK]
    try:
        shown = hide(seen)
    except Exception:  # noqa: BLE001  # a text that may hold it is not shown
        return UNHIDDEN
    if len(seen) < len(text) and len(shown) < MAX_WORK // 2:
        return UNHIDDEN  # what was cut off in the middle of a secret could come to the front
    return shown
