"""Ids of requests, batches and the traces that requests belong to."""

from __future__ import annotations

import os
import re
import time
from itertools import count

_VALID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 0x01
_process = os.urandom(5).hex()
_counter = count(int.from_bytes(os.urandom(2)))


def new_id() -> str:
    """An id that sorts by time of creation and that no other process makes.

    Microseconds since 1970, 40 random bits of this process and a counter, in hexadecimal.
    """
    return f"{time.time_ns() // 1000:014x}-{_process}-{next(_counter) & 0xFFFFFF:06x}"


def accept_id(value: bytes | None) -> str:
    """The id that a client sent in ``X-Request-ID``; a new one where it sent none or an unfit one.

    What is kept can stand in a header, a log line and JSON as it is.
    """
    if value is not None and _VALID.fullmatch(value):
        return value.decode("ascii")
    return new_id()


def sampled_trace(value: bytes | None) -> str | None:
    """The id of the trace that a client's ``traceparent`` names, if the client records that trace.

    Follows W3C Trace Context: a version above 00 may have more fields, ids of zeros only and version ff are
    no ids, and what does not fit is as if it were not there.

    Returns:
        32 hexadecimal digits, or None.
    """
    if value is None or not (found := _TRACEPARENT.fullmatch(value)):
        return None
    version, trace, span, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or not int(trace, 16) or not int(span, 16):
        return None
    return trace.decode("ascii") if int(flags, 16) & _SAMPLED else None
