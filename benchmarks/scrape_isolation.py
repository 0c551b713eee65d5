"""How long scrapes and probes take while predictors are busy, in milliseconds.

Run as ``python benchmarks/scrape_isolation.py``. Two workers whose predictors are both inside a call of 2 s
that holds the interpreter lock (only the management port is promised to answer) or releases it (both are);
then four workers under as much load as ``wrk`` makes. Every time is that of a new connection.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 5
LIMIT_MS = 100.0
LOAD_S = 8
PATHS = ("/metrics", "/healthz")
PREDICTOR = """
import ctypes, os, time
from pathlib import Path
from prometheus_client import Counter

calls = Counter("calls_total", "Calls.", ["way"])


class Predictor:
    def predict(self, X):
        way = {-1: "released", -2: "locked"}.get(X[0][0], "quick")
        calls.labels(way).inc()
        if way != "quick":
            Path(__file__).with_name(f"{way}-{os.getpid()}").touch()
        if way == "released":
            time.sleep(2)
        if way == "locked":
            ctypes.PyDLL(None).sleep(2)  # unlike CDLL it keeps the interpreter lock
        return [os.getpid()] * len(X)
"""
REQUEST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"ndarray": [[5.1, 3.5]]}'
"""


class Server:
    """A running server and its addresses."""

    def __init__(self, folder: Path, errors: Path) -> None:
        self.folder = folder
        self._errors = errors

    def url(self, name: str) -> str:
        """The address of a port, or "" before it is known."""
        found = re.search(
            rf"^{name} +(http://[^/\s]+)", self._errors.read_text(encoding="utf-8"), re.MULTILINE
        )
        return found[1] if found else ""

    def time_ms(self, port: str, path: str) -> float:
        url = self.url(port) + path
        start = time.perf_counter()
        with urllib.request.urlopen(url) as response:
            response.read()
        return (time.perf_counter() - start) * 1000


@contextmanager
def serving(workers: int) -> Iterator[Server]:
    """A ready server with so many workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "busy_predictor.py").write_text(PREDICTOR, encoding="ascii")
        (folder / "mlserver.yaml").write_text(
            f"server: {{host: 127.0.0.1, port: 0, workers: {workers}, management: {{port: 0}}}}\n"
            "predictor: {module: busy_predictor, class_name: Predictor}\n"
            f"observability: {{log_file: {folder / 'log'}}}\n",
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "mlserver", "serve", str(folder / "mlserver.yaml")]
        with (folder / "errors").open("w") as errors:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            server = Server(folder, folder / "errors")
            _wait_until_ready(server, workers)
            yield server
        finally:
            process.terminate()
            process.wait()


def _wait_until_ready(server: Server, workers: int) -> None:
    for _ in range(600):
        time.sleep(0.1)
        if url := server.url("management"):
            with urllib.request.urlopen(url + "/metrics") as response:
                if re.search(rb"^mlserver_workers %d" % workers, response.read(), re.MULTILINE):
                    return
    raise SystemExit("The server was not ready within a minute.")


def while_busy(server: Server, way: str, first: int, port: str) -> dict[str, list[float]]:
    """Times for which the predictors of both workers were inside a call from beginning to end."""
    times: dict[str, list[float]] = {path: [] for path in PATHS}
    connections = _connection_to_each(server)
    with ThreadPoolExecutor(2) as threads:
        for _ in range(ROUNDS):
            for mark in server.folder.glob(f"{way}-*"):
                mark.unlink()
            calls = [threads.submit(_predict, connection, first) for connection in connections]
            while len(list(server.folder.glob(f"{way}-*"))) < 2:
                time.sleep(0.01)
            while True:
                taken = {path: server.time_ms(port, path) for path in PATHS}
                if any(call.done() for call in calls):
                    break
                for path in PATHS:
                    times[path].append(taken[path])
            wait(calls)
    for connection in connections:
        connection.close()
    return times


def _connection_to_each(server: Server) -> list[HTTPConnection]:
    """An open connection to each of the two workers."""
    found: dict[bytes, HTTPConnection] = {}
    while len(found) < 2:
        connection = HTTPConnection(urlsplit(server.url("predictions")).netloc)
        who = _predict(connection, 0)
        if found.setdefault(who, connection) is not connection:
            connection.close()
    return list(found.values())


def _predict(connection: HTTPConnection, first: int) -> bytes:
    """Process id of the worker that answered."""
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/predict", b'{"ndarray": [[%d, 0]]}' % first, headers)
    body = connection.getresponse().read()
    found = re.search(rb'"predictions":\[(\d+)\]', body)
    if found is None:
        raise SystemExit(f"The server answered {body!r}.")
    return found[1]


def under_load(port: str) -> dict[str, list[float]]:
    """Times while `wrk` keeps four workers busy."""
    times: dict[str, list[float]] = {path: [] for path in PATHS}
    with serving(4) as server:
        script = server.folder / "request.lua"
        script.write_text(REQUEST, encoding="ascii")
        url = server.url("predictions") + "/predict"
        wrk = subprocess.Popen(
            ["wrk", "-t1", "-c32", f"-d{LOAD_S}s", "-s", str(script), url], stdout=subprocess.DEVNULL
        )
        time.sleep(1)
        while wrk.poll() is None:
            for path in PATHS:
                times[path].append(server.time_ms(port, path))
            time.sleep(0.05)
    return times


def show(title: str, times: dict[str, list[float]]) -> bool:
    """Prints a line for every path; whether all medians are below the limit."""
    for path, taken in times.items():
        print(f"{title + ' ' + path:62} {statistics.median(taken):8.1f} {max(taken):8.1f} {len(taken):6}")
    return all(statistics.median(taken) < LIMIT_MS for taken in times.values())


def main() -> None:
    print(f"{'milliseconds':62} {'median':>8} {'max':>8} {'times':>6}")
    good = True
    with serving(2) as server:
        good &= show("interpreter lock held, management port", while_busy(server, "locked", -2, "management"))
        for port in ("management", "predictions"):
            good &= show(f"lock released, {port} port", while_busy(server, "released", -1, port))
    for port in ("management", "predictions"):
        show(f"4 workers under load of wrk, {port} port", under_load(port))
    if not good:
        raise SystemExit(f"While predictors were busy, a median was above {LIMIT_MS:g} ms.")


if __name__ == "__main__":
    main()
