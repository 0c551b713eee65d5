"""Requests per second of the quickstart, with every signal on and with all off, side by side.

Run as ``python benchmarks/throughput.py``. The server has one core and ``wrk`` the other; both variants run
in turn, A/B/A/B, each server stopped while the other is measured; medians of three.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from footprint import PORTS, QUICKSTART, wait_until_ready

ROUNDS = 3
SECONDS = 5
VARIANTS = {
    "all signals on": {},
    "all signals off": {
        "MLSERVER_OBSERVABILITY__METRICS": "false",
        "MLSERVER_OBSERVABILITY__LOG_LEVEL": "ERROR",
        "MLSERVER_OBSERVABILITY__CORRELATION_IDS": "false",
    },
}
REQUEST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"ndarray": [[5.1, 3.5, 1.4, 0.2]]}'
"""


def measure(variant: dict[str, str], connections: int, script: Path, log: Path) -> tuple[float, float]:
    """Requests per second and the 99th percentile in milliseconds."""
    environment = os.environ | PORTS | {"MLSERVER_OBSERVABILITY__LOG_FILE": str(log)} | variant
    command = ["taskset", "-c", "0", sys.executable, "-m", "mlserver", "serve", str(QUICKSTART)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until_ready()
        url = f"http://127.0.0.1:{PORTS['MLSERVER_SERVER__PORT']}/predict"
        load = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", "--latency", "-s", str(script)]
        subprocess.run([*load, "-d1s", url], check=True, capture_output=True)
        out = subprocess.run([*load, f"-d{SECONDS}s", url], check=True, capture_output=True, text=True).stdout
    finally:
        server.terminate()
        server.wait()
    if "Non-2xx" in out:
        raise SystemExit(f"Some requests failed:\n{out}")
    return _number(r"Requests/sec:\s+([\d.]+)", out), _milliseconds(out)


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"wrk said something unexpected:\n{text}")
    return float(found[1])


def _milliseconds(text: str) -> float:
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    found = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", text)
    if found is None:
        raise SystemExit(f"wrk said something unexpected:\n{text}")
    return float(found[1]) * units[found[2]]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "request.lua"
        script.write_text(REQUEST, encoding="ascii")
        for connections in (1, 32):
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
            for _ in range(ROUNDS):
                for name, variant in VARIANTS.items():
                    results[name].append(measure(variant, connections, script, Path(folder) / "server.log"))
            for name, rounds in results.items():
                rate, p99 = (statistics.median(column) for column in zip(*rounds, strict=True))
                print(f"{connections:>3} connections, {name}: {rate:,.0f} requests/s, p99 {p99:.1f} ms")
