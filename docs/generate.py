# ruff: noqa: INP001 - a script, not a package
"""Write the pages of the reference that come from declarations in the code.

    python docs/generate.py            write them
    python docs/generate.py --check    exit 1 with a diff if one is not up to date

A further page is a function that returns its text, and a line in ``PAGES``. What the pages of signals say
between their tables is in ``reference/*.md.in``.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from mlserver.config.schema import KEYS, SECTIONS, Key, KeyPath
from mlserver.config.settings import SUFFIXES
from mlserver.paths import UNMATCHED
from mlserver.signals import (
    CATALOGUE,
    METHODS,
    METRICS,
    OTHER,
    OVERFLOW,
    PHASES,
    PROCESSES,
    REJECTIONS,
    Metric,
)
from mlserver.signals.lines import EVENT_FIELDS, REQUEST_FIELDS, LogField
from mlserver.signals.spans import SPANS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

DOCS = Path(__file__).parent

NOTICE = "<!-- Written by docs/generate.py: change what it reads, then run `make docs`. -->\n"

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
    """The template of this page, with the catalogue as tables."""
    prefix = KEYS["observability", "metrics_prefix"].default
    largest = [f"`{metric.full_name(prefix)}`" for metric in METRICS if metric.over_workers == "max"]
    return _filled(
        "reference/metrics.md.in",
        prefix=prefix,
        counted=_metric_table(METRICS, prefix),
        processes=_metric_table(PROCESSES, prefix),
        buckets=_bucket_table(prefix),
        questions="".join(_questions(metric, prefix) for metric in CATALOGUE),
        alerts="".join(_alerts(metric, prefix) for metric in CATALOGUE),
        largest=" and ".join(largest),
        methods=_codes(sorted(METHODS)),
        other=OTHER,
        unmatched=UNMATCHED,
        phases=_codes(PHASES),
        reasons=_codes(REJECTIONS),
        overflow=OVERFLOW,
        max_series=str(KEYS["observability", "max_series"].default),
    )


def logs_page() -> str:
    """The template of this page, with the fields of lines as tables."""
    return _filled("reference/logs.md.in", requests=_fields(REQUEST_FIELDS), events=_fields(EVENT_FIELDS))


def traces_page() -> str:
    """The template of this page, with the spans and their attributes as a table."""
    return _filled("reference/traces.md.in", spans="".join(_spans()))


def _filled(template: str, **values: str) -> str:
    return Template((DOCS / template).read_text("utf-8")).substitute(values)


def _fields(fields: Iterable[LogField]) -> str:
    return "".join(
        f"| `{field.name}` | {'always' if field.always else ''} | {field.help} | `{field.ecs}` |\n"
        for field in fields
    )


def _spans() -> Iterator[str]:
    for span in SPANS:
        attributes = "<br>".join(f"`{each.name}`: {each.help}" for each in span.attributes)
        yield f"| `{span.name}` | {span.help} | {attributes} |\n"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _metric_table(metrics: Iterable[Metric], prefix: str) -> str:
    rows = (
        (f"`{metric.full_name(prefix)}`", metric.type, _codes(metric.labels), metric.unit, metric.help)
        for metric in metrics
    )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _bucket_table(prefix: str) -> str:
    """The histograms by the bounds they share."""
    names: dict[tuple[float, ...], list[str]] = {}
    for metric in METRICS:
        if metric.buckets:
            names.setdefault(metric.buckets, []).append(metric.full_name(prefix))
    return "".join(
        f"| {_codes(sharing)} | {', '.join(f'{bound:g}' for bound in bounds)}, +Inf |\n"
        for bounds, sharing in names.items()
    )


def _questions(metric: Metric, prefix: str) -> str:
    """A row for each title; panels may show several expressions under one."""
    shown: dict[str, list[str]] = {}
    for panel in metric.panels:
        shown.setdefault(panel.title, []).append(_expression(panel.expr, metric, prefix))
    name = f"`{metric.full_name(prefix)}`"
    return "".join(f"| {title} | {name} | {'<br>'.join(found)} |\n" for title, found in shown.items())


def _alerts(metric: Metric, prefix: str) -> str:
    return "".join(
        f"| {alert.name} | {_expression(alert.expr, metric, prefix)} | {alert.after} | {alert.severity} |\n"
        for alert in metric.alerts
    )


def _expression(expr: str, metric: Metric, prefix: str) -> str:
    """An expression as code in a table."""
    return f"`{expr.replace('$metric', metric.full_name(prefix))}`".replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings_page,
    "reference/metrics.md": metrics_page,
    "reference/logs.md": logs_page,
    "reference/traces.md": traces_page,
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
