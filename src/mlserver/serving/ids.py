"""Ids of requests and batches, and the trace that a caller says a request belongs to."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import TYPE_CHECKING

from mlserver.propagation import read_traceparent
from mlserver.serving.call import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_VALID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_BLOCK_US = 1000
"""How long one block of ids lasts: the time in an id is at most this old."""
_ENDINGS = [f"-{number:02x}" for number in range(256)]
_renewing = threading.Lock()


def new_id() -> str:
    """An id that sorts by time of creation and that no other process makes.

    Microseconds since 1970, 40 random bits of this process and a number, in hexadecimal. Ids come in blocks
    that share all but the number; a clock that is set back is waited for, as far as ids go.
    """
    if time.time() >= _until:
        _renew()
    while True:
        try:
            return _next()
        except StopIteration:  # all numbers of a block within its time
            _renew()


def _renew() -> None:
    """Begins a block, whose ids all come after those of the blocks before it."""
    global _next, _until, _last  # noqa: PLW0603
    with _renewing:
        _last = max(time.time_ns() // 1000, _last + 1)
        # An iterator that runs no Python, so that threads cannot get the same id from it.
        _next = map(f"{_last:014x}-{_process}".__add__, _ENDINGS).__next__
        _until = (_last + _BLOCK_US) / 1e6


def _begin() -> None:
    """Makes this process one whose ids differ from those of all others."""
    global _process, _renewing, _last
    _process, _renewing, _last = os.urandom(5).hex(), threading.Lock(), 0
    _renew()


_process: str
_last: int
_until: float
_next: Callable[[], str]
_begin()
os.register_at_fork(after_in_child=_begin)


def accept_id(value: bytes | None) -> str:
    """The id that a client sent in ``X-Request-ID``; a new one where it sent none or an unfit one.

    What is kept can stand in a header, a log line and JSON as it is.
    """
    if value is None or not _VALID.fullmatch(value):
        return new_id()
    return value.decode("ascii")


def caller_trace(headers: Mapping[bytes, bytes]) -> Trace | None:
    """The place of a request in its caller's trace, if the caller records it; for servers that do not."""
    if (value := headers.get(b"traceparent")) is None:
        return None
    parent = read_traceparent(value)
    return Trace(parent.trace_id, None, parent.span_id) if parent is not None and parent.sampled else None
