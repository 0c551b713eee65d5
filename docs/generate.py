# ruff: noqa: INP001 - a script, not a package
"""Write the pages of the reference that come from declarations in the code.

    python docs/generate.py            write them
    python docs/generate.py --check    exit 1 with a diff if one is not up to date

A further page is a function that returns its text, and a line in ``PAGES``.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserver.config.schema import KEYS, SECTIONS, Key, KeyPath
from mlserver.config.settings import SUFFIXES
from mlserver.signals import METRICS, Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DOCS = Path(__file__).parent

NOTICE = "<!-- Written by docs/generate.py: change the declarations it reads, then run `make docs`. -->\n"

SETTINGS = """
# Settings

All keys of `mlserver.yaml`. Only `predictor` is required. `mlserver validate` prints the settings in effect,
or every fault on a line of its own: the key, the value given, what was expected and, for a misspelt key, the
nearest known one.

**Where a value comes from.** The options of `mlserver serve` come before environment variables, these before
the file, and the file before the defaults below.

**Environment variables.** The variable of a key is `MLSERVER_`, the section and the key in capitals, with two
underscores between: `MLSERVER_SERVER__PORT=9000`, `MLSERVER_SERVER__MANAGEMENT__PORT=9001`. A value is read
as in the file (`true`, `null`, `[age, income]`); where only text is taken, it is that text as it is, or
`null` for none. A section below another can be set as a whole: `MLSERVER_API__BATCHING='{max_rows: 8}'`. An
unknown variable with two underscores together is a fault; others that start with `MLSERVER_` are left alone.

**Paths.** A relative path starts at the folder of the YAML file, wherever it was given and wherever the
server was started. The predictor's module is looked for in that folder, too.

**Text.** A key that takes text takes what is written: `version: 1.10` is the text 1.10 and `name: no` the
text no, without quotes.

**Strictness.** The file is UTF-8 of at most 1 MiB. An unknown key, a key given twice, a value of the wrong
type (`port: "8000"` is text, not a number) and a missing file are faults, and the server does not start.

**Secrets.** `server.management.token` is never shown: not by `validate`, in a fault or in a log line. In what
`validate` prints, a value in `init_kwargs` is masked as well, but only by its key: where that speaks of a
secret, such as `api_key`.
"""

METRICS_INTRO = """
# Metrics

All metrics that `/metrics` gives, on the data port and on the management listener.
`observability.metrics_endpoint` names the path, `observability.metrics: false` leaves them out. The names
begin with `observability.metrics_prefix`, which is `{prefix}` unless it is set.

Every scrape gives the numbers of all workers together, whichever answers it. A client that holds a response
finds it counted, also if the worker was killed the moment after. Counters go on where a worker is replaced;
they begin anew where the whole server is restarted.

| metric | type | labels | unit | meaning |
|---|---|---|---|---|
"""

METRICS_END = """
Buckets of the histograms, by their upper bounds in seconds: {buckets}, +Inf.

The numbers of several workers are added up; of {largest} it is the largest that counts.

**Labels.** `endpoint` is a path that the server has, otherwise `unmatched`; `method` is one of HTTP's,
otherwise `OTHER`; `status` is the HTTP status, 499 where the client had gone. `error_type` is the class of
the exception, `signal` one of `logs` and `metrics`. One metric has at most 1000 sets of labels in a worker;
what comes later is counted together as `__overflow__`.

Traffic of the management listener is not counted.
"""


def _code(value: Any) -> str:
    """A default as it would be written in the file."""
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _row(key: Key, section: KeyPath) -> str:
    cells = (f"`{'.'.join(key.path[len(section) :])}`", key.expected, _code(key.default), key.description)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def settings_page() -> str:
    """The table of every section that is directly in the file."""
    text = SETTINGS
    for section in (path for path in SECTIONS if len(path) == 1):
        rows = (_row(key, section) for path, key in KEYS.items() if path[:1] == section)
        text += f"\n## {section[0]}\n\n{SECTIONS[section].__doc__}\n\n"
        text += "| key | takes | default | meaning |\n|---|---|---|---|\n" + "".join(rows)
    suffixes = ", ".join(f"`{suffix}` {name}" for suffix, name in SUFFIXES.items())
    return f"{text}\nFormats of model files by suffix: {suffixes}.\n"


def metrics_page() -> str:
    """The table of the catalogue."""
    prefix = KEYS["observability", "metrics_prefix"].default
    bounds = {metric.buckets for metric in METRICS if metric.buckets}
    (shared,) = bounds  # a second set of buckets would need a column
    largest = ", ".join(f"`{prefix}{metric.name}`" for metric in METRICS if metric.over_workers == "max")
    return (
        METRICS_INTRO.format(prefix=prefix)
        + "".join(_metric_row(metric, prefix) for metric in METRICS)
        + METRICS_END.format(buckets=", ".join(f"{bound:g}" for bound in shared), largest=largest)
    )


def _metric_row(metric: Metric, prefix: str) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{prefix}{metric.name}` | {metric.type} | {labels} | {metric.unit} | {metric.help} |\n"


PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings_page,
    "reference/metrics.md": metrics_page,
}
"""Path in this folder: what makes the page."""


def stale(folder: Path) -> list[str]:
    """The lines of a diff from the pages in a folder to what they should be; none if all are up to date."""
    lines: list[str] = []
    for name, page in PAGES.items():
        path = folder / name
        old = path.read_text("utf-8") if path.exists() else ""
        lines += difflib.unified_diff(
            old.splitlines(keepends=True),
            (NOTICE + page()).splitlines(keepends=True),
            name,
            f"{name} (generated)",
        )
    return lines


def write(folder: Path) -> None:
    for name, page in PAGES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOTICE + page(), "utf-8")


def main(argv: Sequence[str] | None = None, folder: Path = DOCS) -> int:
    parser = argparse.ArgumentParser(description="Write the generated pages of the reference.")
    parser.add_argument(
        "--check", action="store_true", help="only compare; exit 1 with a diff if one is stale"
    )
    if not parser.parse_args(argv).check:
        write(folder)
        return 0
    diff = stale(folder)
    sys.stdout.writelines(diff)
    return 1 if diff else 0


if __name__ == "__main__":
    sys.exit(main())
