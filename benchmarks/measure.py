"""A server on its core, from start to end, and what one load on it shows."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import load
import works
from contenders import LOG, PORT, SERVERS, SINK_PORT
from processes import busy_s, cpu_s, family, resident_mb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from contenders import Contender
    from works import Work

START_S = 60
END_S = 15
NOISY = 0.05
"""Share of a core from which on others disturbed a measurement."""


class NotReady(Exception):
    """A server that cannot be measured; says why."""


@dataclass(frozen=True)
class Reading:
    """What one load on one server showed.

    Args:
        rate: requests answered in a second.
        errors: as in `Load`; with any of them the reading is not valid.
        cpu_us: what the server and all its processes used for a request, in microseconds.
        rss_mb: their memory at the end, in megabytes.
        load: share of its own core that the load used.
        others: share of the server's core that others used.
        others_beside: the same of the load's core.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us: float
    rss_mb: float
    load: float
    others: float
    others_beside: float

    @property
    def disturbance(self) -> float:
        return max(self.others, self.others_beside)


@contextmanager
def running(contender: Contender, model: str, cores: Sequence[int]) -> Iterator[int]:
    """The process id of a server that answers right; all its processes are gone afterwards.

    Args:
        cores: where it may run.

    Raises:
        NotReady: it ended, was not ready in a minute or answered wrong.
    """
    _see_that_the_port_is_free()
    LOG.unlink(missing_ok=True)
    said = LOG.with_name("server.out")
    with said.open("wb") as out:
        server = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), *contender.command],
            cwd=contender.folder,
            env=contender.surroundings(),
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for this process, which ends the server
        )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(contender, model):
            if server.poll() is not None or time.monotonic() > deadline:
                end = said.read_text("utf-8", "replace")[-2000:]
                raise NotReady(f"{contender.title} did not become ready with model {model}:\n{end}")
            time.sleep(0.05)
        yield server.pid
    finally:
        _end(server, contender.stop)


def _see_that_the_port_is_free() -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            raise SystemExit(f"Something listens on port {PORT} already; the benchmark needs it.")


def _answers(contender: Contender, model: str) -> bool:
    """Whether predictions are answered yet.

    Raises:
        NotReady: they are, with something else than the model says.
    """
    body = contender.body(works.ROWS[model]).encode()
    request = urllib.request.Request(contender.url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            answer = json.load(response)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError):
        return False
    if works.predictions(answer) != works.ANSWERS[model]:
        raise NotReady(f"{contender.title} gave a wrong answer with model {model}: {str(answer)[:200]}")
    return True


def _end(server: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    """Asks a server to end, and ends what is left of its processes."""
    pids = family(server.pid) or [server.pid]
    server.send_signal(stop)
    deadline = time.monotonic() + END_S
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(END_S)
    while (left := [pid for pid in pids if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.wait()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def measure(contender: Contender, pid: int, work: Work, seconds: int, cores: tuple[int, int]) -> Reading:
    """Loads a server for so long.

    Args:
        cores: of the server and of the load.
    """
    pids = family(pid)
    beside = [each for each in family(os.getpid()) if each not in pids]
    body = contender.body(works.ROWS[work.model])
    before = _Usage.now(pids, beside, cores)
    seen = load.send(contender.url, body, work.connections, seconds, varied=work.varied)
    used = _Usage.now(pids, beside, cores).since(before)
    return Reading(
        rate=seen.requests / seen.seconds,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
        errors=seen.errors,
        cpu_us=used.server / max(1, seen.requests) * 1e6,
        rss_mb=resident_mb(pids),
        load=seen.cpu_s / used.time,
        others=max(0.0, used.core - used.server) / used.time,
        others_beside=max(0.0, used.core_beside - used.beside - seen.cpu_s) / used.time,
    )


@dataclass(frozen=True)
class _Usage:
    """Seconds: the time, what the server and the benchmark used, and for which the two cores were busy."""

    time: float
    server: float
    beside: float
    core: float
    core_beside: float

    @classmethod
    def now(cls, pids: list[int], beside: list[int], cores: tuple[int, int]) -> _Usage:
        return cls(time.monotonic(), cpu_s(pids), cpu_s(beside), *map(busy_s, cores))

    def since(self, before: _Usage) -> _Usage:
        return _Usage(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


def warm_up(contender: Contender, model: str, connections: int) -> None:
    load.send(contender.url, contender.body(works.ROWS[model]), connections, 1)


@contextmanager
def sink() -> Iterator[None]:
    """A collector of traces, beside the load."""
    process = subprocess.Popen([sys.executable, str(SERVERS / "sink.py"), str(SINK_PORT)])
    try:
        yield
    finally:
        process.terminate()
        process.wait()
