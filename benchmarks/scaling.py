"""What a second worker gives, with the load on the same machine.

Run as ``python benchmarks/scaling.py``. The server and `wrk` share two cores, so the load takes from the
second worker what it needs itself. That is the limit of what can be seen here; its share stands beside each
figure. One and two workers run in turn. Writes ``results/scaling.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import urllib.request
from dataclasses import replace

import load
import works
from contenders import CONTENDERS, MANAGEMENT
from machine import RESULTS, facts, two_cores
from measure import running, sink, warm_up
from processes import busy_s

RESULT = RESULTS / "scaling.json"
MODELS = ("regression", "forest")
WORKERS = (1, 2)
CONNECTIONS = 32


def measure(model: str, workers: int, seconds: int, cores: tuple[int, int]) -> dict[str, float]:
    """What clients saw, and how busy the cores were: shares of one core for the load, of both for all."""
    contender = CONTENDERS["on"](model)
    variables = contender.environment | {"MLSERVER_SERVER__WORKERS": str(workers)}
    contender = replace(contender, environment=variables)
    with running(contender, model, cores):
        _wait_for(workers)
        warm_up(contender, model, CONNECTIONS)
        busy, started = sum(map(busy_s, cores)), time.monotonic()
        seen = load.send(contender.url, contender.body(works.ROWS[model]), CONNECTIONS, seconds)
        took = time.monotonic() - started
        busy = sum(map(busy_s, cores)) - busy
    return {
        "rate": seen.requests / seen.seconds,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "errors": seen.errors,
        "load": seen.cpu_s / took,
        "busy": busy / took / len(cores),
    }


def _wait_for(workers: int) -> None:
    """Returns when so many are ready."""
    for _ in range(600):
        with urllib.request.urlopen(f"{MANAGEMENT}/metrics") as response:
            if b"\nmlserver_workers %d" % workers in response.read():
                return
        time.sleep(0.1)
    raise SystemExit(f"There were not {workers} workers within a minute.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="for each load (5)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken (3)")
    given = parser.parse_args()
    cores, rows = two_cores(), []
    with sink():
        for model in MODELS:
            taken: dict[int, list[dict[str, float]]] = {workers: [] for workers in WORKERS}
            for _ in range(given.rounds):
                for workers, rounds in taken.items():
                    rounds.append(measure(model, workers, given.seconds, cores))
            for workers, rounds in taken.items():
                middle = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
                rows.append({"model": model, "workers": workers} | middle)
                print(
                    f"{model:10} {workers} workers {middle['rate']:8,.0f}/s  p50 {middle['p50_ms']:.2f}  "
                    f"p99 {middle['p99_ms']:.2f} ms  load {middle['load']:.0%} of a core, "
                    f"both cores {middle['busy']:.0%} busy, {middle['errors']:.0f} errors",
                    flush=True,
                )
    how = {"rounds": given.rounds, "seconds": given.seconds}
    text = json.dumps({"machine": facts(), "how": how, "rows": rows}, indent=1)
    RESULT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
