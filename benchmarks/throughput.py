"""Every server in turn: requests per second, latency, CPU and memory, and what MLServer must reach.

Run as ``make bench``; ``--help`` lists the options. One core has the server, the other the load; a server
that is not measured does not run. All servers of a model are measured one after the other, and that so many
times, so that what changes on the machine meets them alike. Writes ``results/throughput.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import memory
from contenders import CONTENDERS, PEERS
from environments import NotInstalled
from machine import RESULTS, facts, move_to, two_cores
from measure import NOISY, NotReady, measure, running, sink, warm_up
from works import ROWS, Work

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contenders import Contender
    from measure import Reading

RESULT = RESULTS / "throughput.json"
CONNECTIONS = (32, 1, 128)
REPEATS = 2
REPEAT_S = 60.0
"""For all repeats together."""


def works_of(name: str, model: str) -> list[Work]:
    """What a server is asked while it runs."""
    everyone = ("floor", "on", "off", *PEERS)
    if model != "regression":
        return [Work(model, 32)] if name in everyone else []
    works = [Work(model, connections) for connections in CONNECTIONS if name in everyone or connections == 32]
    return [*works, Work(model, 32, varied=True)] if name == "on" else works


class Bench:
    """The rows that have been measured, and the time that is left for repeats."""

    def __init__(self, cores: tuple[int, int], seconds: int) -> None:
        self._cores, self._seconds = cores, seconds
        self._repeat_s = REPEAT_S
        self.readings: dict[tuple[str, Work], list[Reading]] = {}
        self.titles: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def prepare(self, names: Iterable[str], models: Iterable[str]) -> list[tuple[str, str, Contender]]:
        """All that can be started here, by name and model; environments are made."""
        found = []
        for model in models:
            for name in names:
                if name in self.missing or not works_of(name, model):
                    continue
                try:
                    contender = CONTENDERS[name](model)
                except NotInstalled as error:
                    self._leave_out(name, error)
                    continue
                self.titles[name] = contender.title
                found.append((name, model, contender))
        return found

    def _leave_out(self, name: str, error: Exception) -> None:
        self.missing[name] = str(error)
        print(f"{name} is left out: {error}", flush=True)

    def visit(self, name: str, model: str, contender: Contender) -> None:
        """Starts a server, measures all that it is asked, and ends it; what does not start is left out."""
        if name in self.missing:
            return
        try:
            with running(contender, model, self._cores[:1]) as pid:
                works = works_of(name, model)
                warm_up(contender, model, works[0].connections)
                for work in works:
                    reading = self._quietest(contender, pid, work)
                    self.readings.setdefault((name, work), []).append(reading)
                    print(_line(contender.title, work, reading), flush=True)
        except NotReady as error:
            self._leave_out(name, error)

    def _quietest(self, contender: Contender, pid: int, work: Work) -> Reading:
        """A reading; where others disturbed it, the least disturbed of a few."""
        readings = [measure(contender, pid, work, self._seconds, self._cores)]
        while (
            readings[-1].disturbance > NOISY and len(readings) <= REPEATS and self._repeat_s >= self._seconds
        ):
            self._repeat_s -= self._seconds
            readings.append(measure(contender, pid, work, self._seconds, self._cores))
        return min(readings, key=lambda reading: reading.disturbance)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "server": name,
                **asdict(work),
                "median": median(readings),
                "rounds": list(map(asdict, readings)),
            }
            for (name, work), readings in self.readings.items()
        ]


def median(readings: list[Reading]) -> dict[str, float]:
    """The median of each figure; of errors the sum, and of what others took the most."""
    columns = {key: [asdict(reading)[key] for reading in readings] for key in asdict(readings[0])}
    middle = {key: statistics.median(values) for key, values in columns.items()}
    most = {key: max(columns[key]) for key in ("others", "others_beside")}
    return middle | most | {"errors": sum(columns["errors"])}


def _line(title: str, work: Work, reading: Reading) -> str:
    flags = f"  NOT VALID: {reading.errors} errors" if reading.errors else ""
    if reading.disturbance > NOISY:
        flags += f"  others took {reading.others:.0%} and {reading.others_beside:.0%} of the cores"
    return (
        f"{title:50.50} {work.model:10} {work.connections:>3} {'ids' if work.varied else '':3} "
        f"{reading.rate:8,.0f}/s  p50 {reading.p50_ms:7.2f}  p99 {reading.p99_ms:7.2f} ms  "
        f"{reading.cpu_us:7.1f} us  {reading.rss_mb:4.0f} MB{flags}"
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=2, help="for each load (2)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken (3)")
    parser.add_argument("--servers", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--models", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--no-memory", action="store_true", help="leave out the two million requests")
    given = parser.parse_args(words)
    started = time.monotonic()
    cores = two_cores()
    move_to(cores[1])
    bench = Bench(cores, given.seconds)
    all_of_them = bench.prepare(given.servers, given.models)
    print(f"Ready after {time.monotonic() - started:.0f} s.", flush=True)
    with sink():
        for model in given.models:
            for _ in range(given.rounds):
                for name, its_model, contender in all_of_them:
                    if its_model == model:
                        bench.visit(name, model, contender)
        grown = {} if given.no_memory else memory.growth(cores[0])
    took = time.monotonic() - started
    result = {
        "machine": facts(),
        "how": {"rounds": given.rounds, "seconds": given.seconds, "took_s": round(took)},
        "titles": bench.titles,
        "missing": bench.missing,
        "rows": bench.rows(),
        "memory_mb": grown,
    }
    RESULTS.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"Took {took:.0f} s.")


if __name__ == "__main__":
    main()
