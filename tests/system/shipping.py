"""A real rsyslog that ships a log file, and a receiver that speaks what Elasticsearch does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .conftest import DEADLINE_S


def _installation():
    """Where rsyslog is: its program, its modules and, where it was only unpacked, its libraries."""
    if not (program := shutil.which("rsyslogd")):
        return None
    root = Path(program).resolve().parents[2]
    found = sorted(root.glob("usr/lib/*/rsyslog/omelasticsearch.so"))
    return (program, found[0].parent) if found else None


RSYSLOG = _installation()
needs_rsyslog = pytest.mark.skipif(
    RSYSLOG is None,
    reason="rsyslogd or its omelasticsearch is not there: Debian's packages `rsyslog` and `rsyslog-elasticsearch`",
)


class Elasticsearch:
    """Takes documents by the bulk interface, and keeps them.

    Attributes:
        documents: by id; those of several ids with the same text are several.
        refuse_every: of so many documents one is refused for now, unless it has been refused before.
        refused: ids of those.
        conflicts: how often a document came that is there.
        faults: requests that Elasticsearch would not take, with the reason.
    """

    def __init__(self, refuse_every=0):
        self.documents = {}
        self.refuse_every = refuse_every
        self.refused = set()
        self.conflicts = Counter()
        self.faults = []
        self._seen = 0
        self._started = False
        self._lock = threading.Lock()
        self._server = _Server(self)
        self.port = self._server.server_port

    def start(self):
        """Until then connections are refused."""
        self._started = True
        self._server.server_activate()
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def stop(self):
        if self._started:
            self._server.shutdown()
        self._server.server_close()

    def has(self, document):
        with self._lock:
            return document in self.documents.values()

    def bulk(self, data):
        """The status and the answer to one request."""
        with self._lock:
            try:
                return 200, self._take(data)
            except ValueError as error:
                self.faults.append((str(error), data[:500]))
                return 400, {
                    "error": {"type": "illegal_argument_exception", "reason": str(error)},
                    "status": 400,
                }

    def _take(self, data):
        if not data.endswith(b"\n"):
            raise ValueError("The bulk request must be terminated by a newline")
        lines = data[:-1].split(b"\n")
        items = []
        for action, line in zip(lines[::2], lines[1::2], strict=True):
            ((verb, target),) = json.loads(action).items()
            document = json.loads(line)
            if verb != "create" or not isinstance(document, dict):
                raise ValueError(f"{verb} {line[:100]}")
            status, reason = self._create(target["_id"], document)
            error = {"error": {"type": reason, "reason": reason}} if reason else {}
            items.append({verb: {"_index": target["_index"], "_id": target["_id"], "status": status} | error})
        return {"took": 1, "errors": any("error" in item["create"] for item in items), "items": items}

    def _create(self, key, document):
        """Status and reason."""
        if key in self.documents:
            self.conflicts[key] += 1
            return 409, "version_conflict_engine_exception"
        if self.refuse_every and key not in self.refused:
            self._seen += 1
            if self._seen % self.refuse_every == 0:
                self.refused.add(key)
                return 429, "es_rejected_execution_exception"
        self.documents[key] = document
        return 201, None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, elasticsearch):
        self.elasticsearch = elasticsearch
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.server_bind()

    def handle_error(self, request, client_address):
        """A client that has gone is none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/_bulk" and self.headers["Content-Type"].startswith("application/json"):
            status, answer = self.server.elasticsearch.bulk(data)
        else:
            status, answer = 404, {}
        self._answer(status, answer)

    def do_HEAD(self):
        self._answer(200, {})

    def _answer(self, status, answer):
        body = b"" if self.command == "HEAD" else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Nothing."""


class Rsyslog:
    """A child process that runs a configuration.

    Args:
        folder: for its files.
        configuration: the text of `rsyslog.conf`.
    """

    def __init__(self, folder, configuration):
        self._folder = folder
        self._process = None
        (folder / "rsyslog.conf").write_text(configuration)

    @property
    def said(self):
        return (self._folder / "rsyslog.out").read_text()

    def start(self):
        program, modules = RSYSLOG
        with (self._folder / "rsyslog.out").open("a") as out:
            self._process = subprocess.Popen(
                [
                    program,
                    "-n",
                    "-f", self._folder / "rsyslog.conf",
                    "-i", self._folder / "rsyslog.pid",
                    "-M", modules,
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self._folder,
                env=os.environ | {"LD_LIBRARY_PATH": str(modules.parent)},
                start_new_session=True,
            )  # fmt: skip
        return self

    def stop(self):
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(DEADLINE_S)
