"""Ids of requests and batches."""

from __future__ import annotations

import os
import re
import time
from itertools import count

_VALID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
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
