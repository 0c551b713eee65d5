"""The page of the documentation that shows the results, from ``results/*.json``.

Run as ``python benchmarks/report.py``; ``make bench`` does so at its end. The words of the page are in
``docs/reference/performance.md.in``.
"""

from __future__ import annotations

import json
from string import Template
from typing import TYPE_CHECKING, Any

from contenders import PEERS
from machine import RESULTS, ROOT
from measure import NOISY
from plot import Bar, bars
from targets import targets
from works import ROWS, TITLES, Work

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = ROOT / "docs" / "reference" / "performance.md"
PICTURE = PAGE.with_suffix(".svg")
SHOWN = ("floor", "off", "on", *PEERS)
NOTICE = "<!-- Written by benchmarks/report.py from benchmarks/results: `make bench` measures anew. -->\n\n"
VERDICTS = {True: "reached", False: "**missed**", None: "not known"}


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Markdown; all columns but the first are numbers."""
    titles = list(head)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def targets_table(result: dict[str, Any]) -> str:
    rows = ((each.work, each.limit, each.measured, VERDICTS[each.reached]) for each in targets(result))
    return table(("what", "to reach", "measured", ""), rows)


def results_table(result: dict[str, Any]) -> str:
    """One table for each kind of work."""
    head = ("server", "requests/s", "p50, ms", "p99, ms", "CPU a request, µs", "memory, MB", "errors")
    works = sorted(
        {Work(row["model"], row["connections"], row["varied"]) for row in result["rows"]},
        key=lambda work: (list(ROWS).index(work.model), work.varied, work.connections),
    )
    text = ""
    for work in works:
        rows = [
            _cells(result["titles"][row["server"]], row["median"])
            for row in result["rows"]
            if Work(row["model"], row["connections"], row["varied"]) == work
        ]
        text += f"**{str(work)[0].upper()}{str(work)[1:]}**\n\n{table(head, rows)}\n"
    return text.rstrip("\n")


def _cells(title: str, found: dict[str, float]) -> list[str]:
    rate = f"{found['rate']:,.0f}"
    if found["errors"]:
        rate = f"not valid ({rate})"
    if _is_disturbed(found):
        rate += " ~"
    figures = (
        f"{found[key]:{form}}" for key, form in (("p50_ms", ".2f"), ("p99_ms", ".2f"), ("cpu_us", ".0f"))
    )
    return [title, rate, *figures, f"{found['rss_mb']:.0f}", f"{found['errors']:.0f}"]


def _is_disturbed(found: dict[str, float]) -> bool:
    return max(found["others"], found["others_beside"]) > NOISY


def warning(result: dict[str, Any]) -> str:
    """What is said of a run during which others used the machine; nothing of one that was quiet."""
    disturbed = sum(_is_disturbed(row["median"]) for row in result["rows"])
    if not disturbed:
        return ""
    rows = f"{disturbed} of {len(result['rows'])} rows"
    return f"**Others used the machine during this run: do not rely on what is said here of {rows}.**\n\n"


def picture(result: dict[str, Any]) -> str:
    """The throughput at 32 connections, of servers that answered without errors."""
    panels = []
    for model in ROWS:
        found = {
            row["server"]: row["median"]["rate"]
            for row in result["rows"]
            if (row["model"], row["connections"], row["varied"]) == (model, 32, False)
            and not row["median"]["errors"]
        }
        panel = [Bar(result["titles"][name], found[name], _kind(name)) for name in SHOWN if name in found]
        title = f"{TITLES[model][0].upper()}{TITLES[model][1:]}, 32 connections: requests per second"
        panels.append((title, panel))
    return bars(panels, "Requests per second of each server, for three models")


def _kind(name: str) -> str:
    return name if name == "floor" else "peer" if name in PEERS else "ours"


def machine_line(machine: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def scaling_table(result: dict[str, Any]) -> str:
    head = (
        "model",
        "workers",
        "requests/s",
        "p50, ms",
        "p99, ms",
        "load's share of a core",
        "all cores busy",
    )
    rows = [
        (
            TITLES[row["model"]],
            row["workers"],
            f"{row['rate']:,.0f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['load']:.0%}",
            f"{row['busy']:.0%}",
        )
        for row in result["rows"]
    ]
    return table(head, rows)


def open_loop_table(result: dict[str, Any]) -> str:
    head = ("model", "settings", "asked for, /s", "of the most", "p50, ms", "p99, ms", "client late, p99, ms")
    rows = [
        (
            TITLES[row["model"]],
            row["variant"],
            f"{row['asked']:,.0f}",
            f"{row['share']:.0%}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['late_p99_ms']:.2f}",
        )
        for row in result["rows"]
    ]
    return table(head, rows)


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return found


def page() -> str:
    """The text of the page."""
    main, scaling, open_loop = map(read, ("throughput", "scaling", "open_loop"))
    missing = "".join(
        f"- {name} was not measured: {why.splitlines()[0]}\n" for name, why in main["missing"].items()
    )
    template = Template(PAGE.with_suffix(".md.in").read_text("utf-8"))
    return NOTICE + template.substitute(
        warning=warning(main),
        targets=targets_table(main),
        results=results_table(main),
        missing=missing,
        machine=machine_line(main["machine"]),
        rounds=main["how"]["rounds"],
        seconds=main["how"]["seconds"],
        minutes=f"{main['how']['took_s'] / 60:.1f}",
        scaling=scaling_table(scaling),
        scaling_machine=machine_line(scaling["machine"]),
        scaling_rounds=scaling["how"]["rounds"],
        scaling_seconds=scaling["how"]["seconds"],
        open_loop=open_loop_table(open_loop),
        open_loop_machine=machine_line(open_loop["machine"]),
        open_loop_seconds=open_loop["how"]["seconds"],
        open_loop_rounds=open_loop["how"]["rounds"],
    )


def main() -> None:
    PICTURE.write_text(picture(read("throughput")), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    print(targets_table(read("throughput")))
    print(f"Written: {PAGE.relative_to(ROOT)} and its picture.")


if __name__ == "__main__":
    main()
