"""Memory of the server after some requests and after many."""

from __future__ import annotations

import math
import re
import time
import urllib.request

import load
import works
from contenders import CONTENDERS, LOG, MANAGEMENT
from measure import running
from processes import family, resident_mb

FEW, MANY = 100_000, 2_000_000
CONNECTIONS = 32
BURST_S = 10
LIMIT_S = 120
"""So that a slow machine does not make of this the whole benchmark."""
_COUNT = re.compile(
    r'^mlserver_requests_total\{endpoint="/predict",method="POST",status="200"\} (\S+)', re.MULTILINE
)


def growth(core: int) -> dict[int, float]:
    """Megabytes of all processes of the server by how many requests it had answered, as it counts them."""
    contender, found = CONTENDERS["on"]("regression"), {}
    deadline = time.monotonic() + LIMIT_S
    with running(contender, "regression", [core]) as pid:
        body = contender.body(works.ROWS["regression"])
        for wanted in (FEW, MANY):
            rate = 10_000.0
            while (answered := _answered()) < wanted and time.monotonic() < deadline:
                seconds = min(BURST_S, math.ceil((wanted - answered) / rate))
                seen = load.send(contender.url, body, CONNECTIONS, seconds)
                rate = seen.requests / seen.seconds
                LOG.unlink(missing_ok=True)  # it would be hundreds of megabytes; the server opens another
            time.sleep(1)
            found[_answered()] = resident_mb(family(pid))
    return found


def _answered() -> int:
    with urllib.request.urlopen(f"{MANAGEMENT}/metrics") as response:
        found = _COUNT.search(response.read().decode())
    return int(float(found[1])) if found else 0
