"""How long a scrape takes the process that answers it, in milliseconds.

    python benchmarks/scrape.py

Four workers: their eight pages and the supervisor's, with traffic on every route, and five live processes.
Medians of a scrape from the pages to the response's body, to be compared with 20 ms: as such a server is,
with an exemplar in every bucket of every series of every page, and with 1,000 label sets more.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mlserver import signals
from mlserver.config import make_config
from mlserver.exposition import Exposition
from mlserver.exposition.known import known
from mlserver.exposition.processes import Processes
from mlserver.pages import Key, Page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlserver.config import Config

RUNS = 101
LIMIT_MS = 20.0
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
ANSWERS = {
    "text": ("", ""),
    "OpenMetrics": (OPENMETRICS, ""),
    "text, gzip": ("", "gzip"),
    "OpenMetrics, gzip": (OPENMETRICS, "gzip"),
}


def write(page: Page, record: str, label_sets: Iterable[tuple[str, ...]], *, traced: bool) -> None:
    """A histogram for each label set, with a thousand observations and, if traced, exemplars."""
    for labels in label_sets:
        key = Key("histogram", record, labels, signals.LATENCY_BUCKETS)
        values = page.series(key)
        for _ in range(1000):
            values[random.randrange(len(signals.LATENCY_BUCKETS) + 1)] += 1.0
        values[-1] = random.random() * 1e4
        for bucket, bound in enumerate(signals.LATENCY_BUCKETS):
            if traced:
                page.put_exemplar(key, bucket, f"{random.getrandbits(128):032x}", bound, time.time())


def busy_page(config: Config, *, all_traced: bool) -> Page:
    """What a worker has counted on every route, with exemplars of its answered predictions at least."""
    page, model = Page.private(), config.model.name
    requests = sorted(known(config)[signals.REQUESTS.name])
    write(page, "calls", requests, traced=all_traced)
    write(page, "calls", [("/predict", "POST", "200")], traced=True)
    write(page, "runs_alone", [(model,)], traced=True)
    write(page, "runs_shared", [(model,)], traced=True)
    write(page, signals.REQUEST_PHASES.name, [(phase,) for phase in signals.PHASES], traced=True)
    for metric in (signals.ACTIVE_REQUESTS, signals.QUEUE_DEPTH):
        page.series(Key("gauge", metric.name))[0] = 1.0
    page.series(Key("gauge", signals.MODEL_LOADED.name, (model, config.model.version)))[0] = 1.0
    page.series(Key("gauge", signals.BUILD_INFO.name, ("0.1.0", "3.11.7")))[0] = 1.0
    page.series(Key("counter", signals.PREDICTIONS.name, (model,)))[0] = 1e6
    return page


def scrape_ms(exposition: Exposition, accept: str, accept_encoding: str) -> tuple[float, int, int]:
    """The median, lines and bytes of one answer."""
    took = []
    for _ in range(RUNS):
        start = time.perf_counter()
        rendered = exposition.render(accept, accept_encoding)
        took.append((time.perf_counter() - start) * 1000)
    return statistics.median(took), exposition.render(accept).body.count(b"\n"), len(rendered.body)


def table(title: str, exposition: Exposition) -> None:
    """One line for each kind of answer."""
    print(f"{title:38}{'ms':>8}{'lines':>9}{'bytes':>11}")
    for name, (accept, accept_encoding) in ANSWERS.items():
        took, lines, size = scrape_ms(exposition, accept, accept_encoding)
        print(f"  {name:36}{took:8.2f}{lines:9}{size:11}{'' if took <= LIMIT_MS else '  above 20 ms'}")


def main() -> None:
    random.seed(1)
    config = make_config({"predictor": {"module": "model", "class_name": "Model"}}, Path.cwd())
    with ExitStack() as stack:
        waiting = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        others = [subprocess.Popen(waiting, stdin=subprocess.PIPE) for _ in range(5)]
        for process in others:
            stack.enter_context(process)
        processes = Processes(lambda: {str(slot): process.pid for slot, process in enumerate(others)})
        pages = [*(busy_page(config, all_traced=False) for _ in range(8)), Page.private()]
        traced = [*(busy_page(config, all_traced=True) for _ in range(8)), Page.private()]
        table("4 workers", Exposition(config, pages, [processes]))
        table("an exemplar in every bucket", Exposition(config, traced, [processes]))
        for page in pages[:8]:
            write(page, "calls", [(f"/{n}", "GET", "200") for n in range(1000)], traced=False)
        table("1,000 label sets more", Exposition(config, pages, [processes]))


if __name__ == "__main__":
    main()
