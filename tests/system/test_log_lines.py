"""Where the lines of a whole server go: readers that do not read, full disks, files that are moved away."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psutil
import pytest

NOISY = """
import logging

class Predictor:
    def predict(self, X):
        for _ in range(3):
            logging.getLogger("noise").info("x" * 1000)
        return [1.0] * len(X)
"""
NOISE = 3


def lost(server):
    """How many lines the server says it could not write."""
    text = server.get("/metrics", at="management").text
    found = re.search(r'^mlserver_signals_dropped_total\{signal="logs"\} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


class Reader:
    """The other end of a server's standard output, which is read only once told to."""

    def __init__(self):
        self.end, self.server_end = os.pipe()
        self.data = b""
        self._thread = threading.Thread(target=self._read)

    def start(self):
        self._thread.start()

    def _read(self):
        while part := os.read(self.end, 1 << 16):
            self.data += part

    def finish(self):
        self._thread.join()
        os.close(self.end)
        assert self.data.endswith(b"\n")
        return [json.loads(line) for line in self.data.splitlines()]


def test_a_reader_that_does_not_read_holds_up_no_request_and_is_told_what_it_missed(server, eventually):
    server.configure(predictor=NOISY)
    reader = Reader()
    server.start(ready=False, stdout=reader.server_end)
    os.close(reader.server_end)
    eventually(lambda: server.get("/readyz").status_code == 200, "readiness")
    answered = 0
    with httpx.Client() as client:
        while not (missed := lost(server)):
            for _ in range(20):
                assert server.predict(client=client).status_code == 200
            answered += 20
        for _ in range(10):
            assert server.predict(client=client).status_code == 200
        answered += 10
        assert lost(server) > missed
        reader.start()
        # It is behind, and what comes now may still be lost.
        eventually(lambda: b" log lines before this one were lost" in reader.data, "the line about the loss")
        assert server.predict(client=client).status_code == 200
        answered += 1
    missed = lost(server)
    server.end()
    records = reader.finish()
    predictions = [
        record for record in records if record.get("message") in ("Prediction completed", "x" * 1000)
    ]
    assert len(predictions) + missed == answered * (1 + NOISE)
    assert sum(record.get("lost", 0) for record in records) == missed
    assert records[-1]["message"] == "Stopped"


@contextmanager
def full_disk(server, size):
    """No process of the server can make a file larger than that."""
    processes = [psutil.Process(pid) for pid in (server.process.pid, *server.worker_pids.values())]
    for process in processes:
        process.rlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    yield
    for process in processes:
        process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_full_disk_costs_lines_and_no_request_and_is_told_when_it_has_room_again(server, eventually):
    path = server.folder / "server.log"
    server.configure(observability={"log_file": str(path)}, workers=2)
    server.start(ready=False)
    eventually(lambda: path.read_text().count("is ready") == 2, "readiness")
    before = sum(line.count('"http_status"') for line in path.read_text().splitlines())
    with full_disk(server, path.stat().st_size + 1000):
        for number in range(60):
            assert server.predict(number).status_code == 200
        missed = lost(server)
        assert missed >= 50
    assert path.stat().st_size > 1000
    told = set()

    def answered_by_both():
        told.add(server.who()[1])
        return len(told) == 2

    more = 0
    while not answered_by_both():
        more += 1
    more += 1
    records, torn = [], 0
    for line in filter(None, path.read_text().splitlines()):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            torn += 1
    assert torn <= 1
    assert sum(record.get("lost", 0) for record in records) == missed == lost(server)
    whole = sum("http_status" in record for record in records)
    assert whole - before == 60 + more - missed
    assert all(
        re.fullmatch(r"\d+ log lines before this one were lost", record["message"])
        for record in records
        if "lost" in record
    )


def test_a_log_that_is_moved_away_goes_on_in_a_new_file_and_no_line_is_lost(server, eventually):
    path = server.folder / "server.log"
    server.configure(observability={"log_file": str(path)}, workers=2)
    server.start(ready=False)
    eventually(lambda: path.read_text().count("is ready") == 2, "readiness")
    sent = []

    def asked():
        sent.append(f"rotated-{len(sent)}")
        response = httpx.post(
            server.url("predictions") + "/predict",
            json={"ndarray": [[1.0]]},
            headers={"X-Request-ID": sent[-1]},
        )
        assert response.status_code == 200

    def workers_in(file):
        return (
            {json.loads(line)["worker"] for line in file.read_text().splitlines()} if file.exists() else set()
        )

    parts = []
    for turn in range(2):
        eventually(lambda: asked() or workers_in(path) >= {0, 1}, "lines of both workers")
        parts.append(path.rename(path.with_suffix(f".log.{turn}")))
    eventually(lambda: asked() or workers_in(path) >= {0, 1}, "lines of both workers")
    server.end()
    records = [json.loads(line) for part in (*parts, path) for line in part.read_text().splitlines()]
    assert sorted(record["request_id"] for record in records if record.get("http_status")) == sorted(sent)
    assert records[-1]["message"] == "Stopped"
    assert json.loads(path.read_text().splitlines()[-1])["message"] == "Stopped"


def test_lines_under_the_elastic_common_schema_are_of_one_form_whoever_writes_them(server):
    server.configure(predictor=NOISY, observability={"log_format": "ecs"})
    server.start()
    server.predict()
    server.end()
    events = [line for line in server.lines if "http.response.status_code" not in line]
    (request,) = [line for line in server.lines if "http.response.status_code" in line]
    for line in server.lines:
        assert list(line)[:4] == ["@timestamp", "log.level", "message", "ecs.version"]
        assert line["log.level"] == "info"
        assert not {"timestamp", "level", "worker", "logger"} & set(line)
    assert (request["event.outcome"], request["mlserver.worker"]) == ("success", 0)
    assert {line["log.logger"] for line in events} == {"mlserver.supervisor", "noise"}
    assert {line.get("http.request.id") for line in events if line["log.logger"] == "noise"} == {
        request["http.request.id"]
    }


FORGED = "\\x1b[2J\\n2026-01-01T00:00:00.000Z INFO forged"


def test_lines_for_people_cannot_be_forged(server, eventually):
    predictor = NOISY.replace('"x" * 1000', f'"{FORGED}"').replace("[1.0]", "raise_() or [1.0]") + (
        f'\ndef raise_():\n    raise ValueError("{FORGED}")\n'
    )
    server.configure(predictor=predictor, observability={"structured_logging": False})
    server.start(ready=False)
    eventually(lambda: server.get("/readyz").status_code == 200, "readiness")
    assert server.predict().status_code == 500
    server.end()
    lines = server.out.splitlines()
    assert not re.search("[^\\x20-\\x7e\\n]", server.out)
    assert sum("forged" in line for line in lines) >= NOISE + 1
    assert not [line for line in lines if line.startswith("2026-01-01")]
    assert [line for line in lines if line.startswith("    ValueError: ")]


@contextmanager
def one_way(kind, path):
    """A descriptor for standard output and error alike; what comes out of it is in a file, as it is read."""
    if kind == "file":
        with path.open("a") as file:
            yield file
        return
    make = {
        "pipe": os.pipe,
        "socket": lambda: tuple(map(socket.socket.detach, socket.socketpair())),
    }
    ours, theirs = make[kind]()

    def read():
        with path.open("ab", buffering=0) as file:
            while part := os.read(ours, 1 << 16):
                file.write(part)

    reading = threading.Thread(target=read)
    reading.start()
    try:
        yield theirs
    finally:
        os.close(theirs)
        reading.join()
        os.close(ours)


PRINTING = """
import os
from pathlib import Path

class Predictor:
    def __init__(self, size):
        self.size = size
        names = [Path(__file__).with_name(name) for name in "ab"]
        self.name = next(name for name in names if self.take(name)).name

    def take(self, path):
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def predict(self, X):
        print(self.name, end="", flush=True)
        print(self.name * self.size, end="", flush=True)
        os.write(2, self.name.encode() * 4)
        os.system(f"printf {self.name}")
        if X[0][0] == 1:
            print(self.name * self.size * 3)
        return [1.0] * len(X)
"""


@pytest.mark.parametrize(
    ("kind", "count", "size", "structured"),
    [
        ("file", 200, 3500, True),
        ("pipe", 200, 3500, True),
        ("pipe", 200, 3500, False),
        ("socket", 200, 3500, True),
    ],
    ids=["file", "pipe", "pipe for people", "socket"],
)
def test_where_prints_and_log_lines_go_the_same_way_neither_tears_the_other(
    server, eventually, kind, count, size, structured
):
    server.configure(
        predictor=PRINTING,
        init_kwargs={"size": size},
        workers=2,
        observability={"structured_logging": structured},
    )
    path = server.folder / "stderr"
    path.touch()
    with one_way(kind, path) as end:
        server.start(ready=False, stdout=end, stderr=end)
        eventually(lambda: path.read_bytes().count(b" is ready") == 2, "readiness")

        def ask(number):
            assert server.predict(number % 5).status_code == 200

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(count)))
        server.end()
    lines = path.read_bytes().splitlines()
    printed = [line for line in lines if set(line) in ({ord("a")}, {ord("b")})]
    assert sum(map(len, printed)) == count * (size + 6) + count // 5 * size * 3
    assert max(map(len, printed)) < 4096
    announced = b"(predictions|docs|metrics|management)  +http"
    logged = [line for line in lines if line not in printed and not re.match(announced, line)]
    messages = [json.loads(line)["message"] if structured else line.decode() for line in logged]
    assert sum("Prediction completed" in message for message in messages) == count
    if not structured:
        assert [line for line in messages if not re.match(r"\S+Z +(INFO|WARNING|ERROR) ", line)] == []


DYING = """
import os, subprocess, sys
from pathlib import Path

HERE = Path(__file__).parent

class Predictor:
    def predict(self, X):
        other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        (HERE / "other").write_text(str(other.pid))
        os.write(2, b"last words")
        os._exit(3)
"""


def test_the_last_words_of_a_worker_are_passed_on_and_what_it_started_does_not_keep_the_server(
    server, eventually
):
    server.configure(predictor=DYING)
    path = server.folder / "stderr"
    path.touch()
    try:
        with path.open("a") as end:
            server.start(ready=False, stdout=end, stderr=end)
        eventually(lambda: path.read_bytes().count(b" is ready") == 1, "readiness")
        with pytest.raises(httpx.TransportError):
            server.predict()
        eventually(lambda: b" died: exit code 3" in path.read_bytes(), "the end of the worker")
        eventually(lambda: path.read_bytes().count(b" is ready") == 2, "its successor")
        server.end()
        other = psutil.Process(int((server.folder / "other").read_text()))
        assert other.is_running()
    finally:
        if (server.folder / "other").exists():
            os.kill(int((server.folder / "other").read_text()), 9)
    lines = path.read_bytes().splitlines()
    assert lines.count(b"last words") == 1
    words = lines.index(b"last words")
    assert [line for line in lines[:words] if b" died: " in line] == []
    assert json.loads(lines[-1])["message"] == "Stopped"


BUFFERED = """
class Predictor:
    def predict(self, X):
        print("printed", len(X))
        return [1.0] * len(X)
"""


@pytest.mark.parametrize("apart", [True, False], ids=["apart from the log", "the way of the log"])
def test_a_print_is_seen_when_its_line_is_complete(server, eventually, apart):
    server.configure(predictor=BUFFERED)
    path = server.folder / "stderr"
    path.touch()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with path.open("a") as end:
        server.start(ready=False, env=env, **({} if apart else {"stdout": end, "stderr": end}))
    eventually(lambda: server.get("/readyz").status_code == 200, "readiness")
    assert server.predict().status_code == 200
    eventually(lambda: b"printed 1\n" in path.read_bytes(), "the print")
