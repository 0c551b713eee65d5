"""The log file on its way through a real rsyslog, by the configuration of the how-to page, while it is moved away."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from datetime import datetime
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import pytest

from mlserver.signals.lines import EVENT_FIELDS, REQUEST_FIELDS

from . import load
from .conftest import Server, eventually
from .shipping import Elasticsearch, Rsyslog, needs_rsyslog

pytestmark = needs_rsyslog

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "ship-logs.md"
FOLDER = "/var/log/mlserver"
REQUESTS = 8000
DEADLINE_S = 30.0
CLIENTS = 6
WORKERS = 3

PREDICTOR = load.PREDICTOR.replace(
    "class Predictor:",
    """
import logging
import time

log = logging.getLogger("model")


class Predictor:""",
).replace(
    "        if X[0][0] == -3:",
    """        time.sleep(0.002)
        if len(X) == 3:
            log.info('it was "three"\\n\\tof\\x7f\\u2028 them', extra={"rows": len(X), "mean": X.mean(), "é": None})
        if X[0][0] == -3:""",
)


def configuration(folder, port):
    """That of the page, for files of this folder and an Elasticsearch at this port."""
    (block,) = re.findall(
        r"^```conf\n# /etc/rsyslog.d/mlserver.conf\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    for told, is_here in {
        FOLDER: str(folder),
        "elasticsearch.example.com": "127.0.0.1",
        '"9200"': f'"{port}"',
    }.items():
        assert told in block
        block = block.replace(told, is_here)
    # Debian's own rsyslog.conf names one.
    return f'global(workDirectory="{folder}")\n' + block


class Logged(Server):
    """A server whose lines go to files: one, and those that were moved away from its place."""

    def __init__(self, folder):
        super().__init__(folder)
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.log = self.logs / "mlserver.log"

    @property
    def lines(self):
        return [json.loads(line) for lines in self.texts for line in lines]

    @property
    def texts(self):
        """The whole lines of each file, the oldest file first."""
        return [path.read_text().split("\n")[:-1] for path in self.files]

    @property
    def files(self):
        return sorted(self.logs.glob("mlserver.log*"), reverse=True)

    def rotate(self):
        """As logrotate does it."""
        for number in range(len(self.files) - 1, 0, -1):
            (self.logs / f"mlserver.log.{number}").rename(self.logs / f"mlserver.log.{number + 1}")
        self.log.rename(self.logs / "mlserver.log.1")


class Load:
    """Clients that send what they are given, and wait for more."""

    def __init__(self, port):
        self._given = 0
        self._kinds = SimpleQueue()
        ids = map("r-{}".format, count())
        self._clients = [
            load.Client(port, iter(self._kinds.get, None), ids=ids, keep=True) for _ in range(CLIENTS)
        ]
        for client in self._clients:
            client.start()

    def give(self, requests):
        """So many more; returns when a third of them is answered."""
        before = self._given
        for kind in load.mixed(requests, seed=before):
            self._kinds.put(kind)
        self._given += requests
        eventually(
            lambda: load.joined(self._clients, "answered").total() > before + requests / 3,
            "a part of the load",
        )

    def give_until(self, condition):
        """More and more."""
        until = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < until
            self.give(300)

    def end(self):
        """All responses."""
        for _ in self._clients:
            self._kinds.put(None)
        for client in self._clients:
            client.join()
        return [answer for client in self._clients for answer in client.answers]


class Shipped(NamedTuple):
    """What clients were answered, what the files hold and what arrived."""

    answers: list
    texts: list
    """The lines of each file."""
    lines: list
    elasticsearch: Elasticsearch
    refused: bool

    @property
    def documents(self):
        return list(self.elasticsearch.documents.values())


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """On the way the file is moved away twice and a worker is killed.

    Elasticsearch comes up late and is then too busy for some documents.
    """
    server = Logged(tmp_path_factory.mktemp("shipped"))
    server.configure(
        predictor=PREDICTOR,
        workers=WORKERS,
        max_body_bytes=load.MAX_BODY_BYTES,
        max_header_bytes=load.MAX_HEADER_BYTES,
        observability={"log_file": str(server.log), "log_level": "DEBUG"},
    )
    elasticsearch = Elasticsearch(refuse_every=50)
    rsyslog = Rsyslog(server.folder, configuration(server.logs, elasticsearch.port))
    try:
        server.log.touch()
        rsyslog.start()
        requests = Load(server.start().port)
        requests.give(2000)
        elasticsearch.start()
        eventually(lambda: elasticsearch.documents, "the first lines")
        requests.give(3000)
        server.rotate()
        # A file that lives for less than two looks of rsyslog is not seen; so it is with no real one.
        requests.give_until(server.log.exists)
        os.kill(server.worker_pids[0], signal.SIGKILL)
        first = server.texts[-1][0]
        eventually(lambda: elasticsearch.has(json.loads(first)), "a line of the second file")
        requests.give(3000)
        server.rotate()
        requests.give_until(server.log.exists)
        requests.give(2000)
        answers = requests.end()
        server.end()
        eventually(lambda: len(elasticsearch.documents) >= len(server.lines), "the last lines")
        rsyslog.stop()
        refused = (server.logs / "refused.log").exists()
        yield Shipped(answers, server.texts, server.lines, elasticsearch, refused)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{rsyslog.said}\n{server.err}") from None
    finally:
        server.end()
        rsyslog.stop()
        elasticsearch.stop()


def test_every_line_of_the_files_arrives_once(shipped):
    assert len(shipped.texts) == 3
    assert all(len(lines) > REQUESTS / 10 for lines in shipped.texts)
    assert Counter(map(canonical, shipped.documents)) == Counter(map(canonical, shipped.lines))
    assert shipped.elasticsearch.faults == []
    assert shipped.elasticsearch.conflicts.total() == 0
    assert not shipped.refused


def test_documents_that_were_refused_for_a_time_came_again(shipped):
    assert len(shipped.elasticsearch.refused) > 100
    assert shipped.elasticsearch.refused <= shipped.elasticsearch.documents.keys()


def test_every_response_has_one_document_with_its_id_and_status(shipped):
    documents = {}
    for document in shipped.documents:
        if "http_status" in document:
            documents.setdefault(document["request_id"], []).append(document)
    assert len(shipped.answers) > REQUESTS - 2 * CLIENTS
    for answer in shipped.answers:
        (document,) = documents[answer.request_id]
        assert (document["http_status"], document["endpoint"]) == (answer.status, answer.kind.endpoint)


TYPES = {
    "date": lambda value: bool(datetime.fromisoformat(value)),
    "keyword": lambda value: isinstance(value, str),
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, float),
}


def test_values_arrive_with_the_types_that_are_declared(shipped):
    seen = set()
    for document in shipped.documents:
        for field in REQUEST_FIELDS if "http_status" in document else EVENT_FIELDS:
            value = document.get(field.name)
            if value is not None:
                values = value if isinstance(value, list) else [value]
                assert all(map(TYPES[field.type], values)), (field, value)
                seen.add(field.name)
    assert seen >= {field.name for field in REQUEST_FIELDS if field.always} | {"error", "exception", "logger"}


def test_what_a_predictor_logs_arrives_as_it_was_logged(shipped):
    logged = [document for document in shipped.documents if document.get("logger") == "model"]
    assert len(logged) > REQUESTS / 50
    for document in logged:
        assert document["message"] == 'it was "three"\n\tof\x7f\u2028 them'
        assert (document["rows"], document["mean"], document["é"]) == (3, 1.125, None)


def canonical(document):
    return json.dumps(document, sort_keys=True)
