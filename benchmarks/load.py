"""Load from `wrk`, and what it says of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '%s'
"""
IDS = """
local sent = 0
request = function()
  sent = sent + 1
  wrk.headers["X-Request-ID"] = string.format("client-%012d", sent)
  local flags = sent % 100 == 0 and "01" or "00"
  wrk.headers["traceparent"] = string.format("00-%032x-%016x-%s", sent, sent, flags)
  return wrk.format()
end
"""
REPORT = """
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "errors": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What clients saw.

    Args:
        errors: answers that were no success, and failures and timeouts of sockets.
        cpu_s: what the load itself used.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_s: float


def send(url: str, body: str, connections: int, seconds: int, *, varied: bool = False) -> Load:
    """Keeps so many connections asking for so long, each for the next thing once it has its answer.

    Raises:
        SystemExit: wrk failed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="utf-8") as script:
        script.write(SCRIPT % body + (IDS if varied else "") + REPORT)
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, url]
        before = os.times()
        run = subprocess.run(command, check=False, capture_output=True, text=True)
        after = os.times()
    found = re.search(r"^RESULT (.+)", run.stdout, re.MULTILINE)
    if run.returncode or found is None:
        raise SystemExit(f"wrk failed: {run.stderr or run.stdout}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Load(**json.loads(found[1]), cpu_s=used)
