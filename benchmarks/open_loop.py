"""Latency at several rates of arrival, where clients do not wait for each other.

Run as ``python benchmarks/open_loop.py``. First `wrk` finds the most that the server answers; then requests
arrive by chance at shares of that. A latency counts from when its request was to be sent. Two settings are
compared, in turn, by what the second is given beside the first:

    python benchmarks/open_loop.py --env MLSERVER_API__BATCHING__MAX_WAIT_MS=2

The client needs its core for itself; how late it was of its own stands beside each figure. Writes
``results/open_loop.json``, unless settings are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace

import load
import works
from contenders import CONTENDERS, PORT, Contender
from machine import HERE, RESULTS, facts, move_to, two_cores
from measure import running, sink, warm_up

RESULT = RESULTS / "open_loop.json"
SHARES = (0.1, 0.3, 0.6, 0.8)
CONNECTIONS = 32
PLAIN = "all signals on"


def most(contender: Contender, model: str, core: int, seconds: int) -> float:
    """Requests per second where clients wait for their answers."""
    with running(contender, model, [core]):
        warm_up(contender, model, CONNECTIONS)
        seen = load.send(contender.url, contender.body(works.ROWS[model]), CONNECTIONS, seconds)
    return seen.requests / seen.seconds


def arrive(body: str, rate: float, seconds: int, seed: int) -> dict[str, float]:
    """What a client saw whose requests came at this rate."""
    command = [sys.executable, str(HERE / "arrivals.py"), str(PORT), str(rate), str(seconds), str(seed)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, input=body)
    if run.returncode:
        raise SystemExit(f"The client failed: {run.stderr}")
    seen: dict[str, float] = json.loads(run.stdout)
    return seen


def variants(model: str, given: list[str]) -> dict[str, Contender]:
    """The server as it is and, if there are any, with the settings that are given."""
    plain = CONTENDERS["on"](model)
    found = {PLAIN: plain}
    if given:
        changed = dict(pair.split("=", 1) for pair in given)
        found["with " + " ".join(given)] = replace(plain, environment=plain.environment | changed)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", nargs="+", default=[], metavar="KEY=VALUE", help="settings to compare with")
    parser.add_argument("--seconds", type=int, default=4, help="for each rate (4)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken (3)")
    parser.add_argument("--models", nargs="+", choices=works.ROWS, default=["regression", "forest"])
    given = parser.parse_args()
    if wrong := [pair for pair in given.env if "=" not in pair]:
        parser.error(f"--env takes KEY=VALUE, not {wrong[0]!r}")
    cores, rows = two_cores(), []
    move_to(cores[1])
    with sink():
        for model in given.models:
            settings = variants(model, given.env)
            rate = most(settings[PLAIN], model, cores[0], given.seconds)
            print(f"{model}: at most {rate:,.0f} requests/s where clients wait", flush=True)
            taken: dict[tuple[str, float], list[dict[str, float]]] = {}
            for seed in range(given.rounds):
                for name, contender in settings.items():
                    body = contender.body(works.ROWS[model])
                    with running(contender, model, cores[:1]):
                        warm_up(contender, model, CONNECTIONS)
                        for share in SHARES:
                            seen = arrive(body, share * rate, given.seconds, seed)
                            taken.setdefault((name, share), []).append(seen)
            for (name, share), rounds in sorted(taken.items(), key=lambda item: item[0][1]):
                middle = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
                rows.append({"model": model, "variant": name, "share": share, "asked": share * rate} | middle)
                print(
                    f"{share:4.0%} {share * rate:8,.0f}/s  p50 {middle['p50_ms']:7.2f}  "
                    f"p99 {middle['p99_ms']:7.2f} ms  "
                    f"client late {middle['late_p99_ms']:.2f} ms  {middle['errors']:.0f} errors  {name}",
                    flush=True,
                )
    if not given.env:
        how = {"rounds": given.rounds, "seconds": given.seconds}
        text = json.dumps({"machine": facts(), "how": how, "rows": rows}, indent=1)
        RESULT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
