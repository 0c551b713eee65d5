"""The same application behind a listener, with the fast way in and without it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from prometheus_client.parser import text_string_to_metric_families

from mlserver.app import create_app
from mlserver.server.limits import Limits
from mlserver.server.listener import Listener
from mlserver.serving.brevity import Brevity
from mlserver.serving.model import Model

from .raw import Raw

WAYS = ("listener", "fast")
ID = b"X-Request-ID: an-id"

PREDICTOR = """
import threading

gate = threading.Event()
runs = []


class Sum:
    feature_names = ["a", "b", "c"]

    def predict(self, X):
        runs.append(X[:, 0].tolist())
        if X[0, 0] == -1:
            raise ValueError("the secret reason")
        if X[0, 0] == -9:
            gate.wait(30)
        return X.sum(axis=1)
"""
"""Answers the sum of each row; fails for a first value of -1, and waits for the gate for one of -9."""


def rows(*firsts):
    """A body of rows that begin with these numbers; their sums are three more."""
    return json.dumps({"ndarray": [[first, 1, 2] for first in firsts]}).encode()


def predict(body, *headers, path=b"/predict", version=b"1.1"):
    """A request for a prediction, with a body of known length."""
    lines = (
        b"POST %b HTTP/%b" % (path, version),
        b"Host: a",
        ID,
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *headers,
    )
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*parts, trailers=b""):
    """A request for a prediction, with a body in chunks."""
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\n" + ID + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return head + chunks + b"0\r\n" + trailers + b"\r\n"


@dataclass
class Way:
    """An application that is served."""

    app: object
    listener: Listener
    address: tuple
    log: Path
    asked: list = field(default_factory=list)
    """Methods and paths of what went through the application."""
    seen: list = field(default_factory=list)
    """What observers are told of each request, but for times."""
    start_at: int = 0
    """Of the log, which other ways have written to."""

    @property
    def module(self):
        return sys.modules[self.app.config.predictor.module]

    @property
    def connections(self):
        return self.listener._connections()

    @property
    def pipeline(self):
        return self.app._pipeline

    async def connect(self, receive_buffer=None):
        return await Raw.connect(self.address, receive_buffer)

    def lines(self):
        """Log lines of requests, without what differs from run to run."""
        records = [json.loads(line) for line in self.log.read_text()[self.start_at :].splitlines()]
        varying = re.compile(
            r"timestamp|.*_ms$|.*_s$|duration.*|.*request_id|batch.*|.*port|pid|exception|stack.*"
        )
        return [
            {name: value for name, value in record.items() if not varying.fullmatch(name)}
            for record in records
            if "http_status" in record
        ]

    def counters(self):
        """All counters of requests that do not count time or runs."""
        body = self.app.metrics.exposition.render("").body.decode()
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
            if sample.value
            and sample.name.startswith("mlserver_")
            and sample.name.endswith(("_total", "_count"))
            and not re.search("seconds_total|batch|scrape|run", sample.name)
        }

    def note(self, calls, _batches):
        for call in calls:
            scope = call.scope
            self.seen.append(
                {
                    "call": (call.method, call.endpoint, call.operation, call.status, call.error_type),
                    "request_id": call.request_id == "an-id",
                    "headers": dict(call.headers),
                    "scope": {
                        name: scope.get(name)
                        for name in ("method", "path", "raw_path", "query_string", "http_version", "scheme")
                    },
                    "shapes": (call.input_shape, call.output_shape),
                    "times": [bool(moment) for moment in (call.decoded, call.started, call.predicted)],
                }
            )


@asynccontextmanager
async def serving(
    configured, name, source=PREDICTOR, *, start=True, short=False, send_buffer=None, limits=None, **sections
):
    """Serves a predictor one way.

    Args:
        configured: the fixture of that name.
        name: of the way.
        start: whether the model is loaded.
        short: whether runs are done on the event loop.
        send_buffer: bytes of each connection that the kernel holds.
        limits: those of the listener that are not from the configuration.
    """
    config = configured(source, **sections)
    app = create_app(config)
    way = Way(app, None, (), Path(config.observability.log_file))
    way.start_at = len(way.log.read_text())
    app._pipeline._observers = (*app._pipeline._observers, way.note)

    async def asked(scope, receive, send):
        way.asked.append((scope["method"], scope["path"]))
        await app._routes(scope, receive, send)

    if start:
        with mock.patch.object(
            Model, "brevity", lambda _, api: Brevity(api.batching.max_rows) if short else None
        ):
            await app.start()
        way.module.runs.clear()  # the warm-up
    way.listener = Listener(
        asked,
        limits=dataclasses.replace(Limits.of(config.server), **limits or {}),
        sink=app,
        entry=app.entry if name == "fast" else None,
    )
    listening = socket.create_server(("127.0.0.1", 0))
    if send_buffer:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    try:
        await way.listener.accept(listening, "only")
        way.address = listening.getsockname()
        yield way
    finally:
        if start:
            way.module.gate.set()
        await way.listener.close(0)
        listening.close()
        await app.close()


async def turns(count=20):
    """Lets the loop turn, so that what was sent is read and answered as far as it can be."""
    for _ in range(count):
        await asyncio.sleep(0)


async def talk(way, pieces, *, end=True):
    """All that comes back when these pieces are sent, each after the server has had the one before."""
    async with await way.connect() as client:
        for piece in pieces:
            try:
                await client.send(piece)
            except ConnectionError:
                break
            await turns()
        if end:
            client.end()
        received = await client.rest()
    while way.connections or way.pipeline._open:
        await asyncio.sleep(0)
    await turns()
    return scrubbed(received)


def scrubbed(received):
    """Responses without times, and without ids that the server made."""
    received = re.sub(rb"date: [^\r]+", b"date: now", received)
    received = re.sub(rb'"time_ms":[\d.]+', b'"time_ms":0', received)
    received = re.sub(rb"(request_id\":\"|x-request-id: )(?!an-id)[0-9A-Za-z-]+", rb"\1made", received)
    return re.sub(rb"content-length: \d+(?=\r\n\r\n\{\"predictions\")", b"content-length: n", received)


def statuses(received):
    """Of a stream of responses."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", received)]
