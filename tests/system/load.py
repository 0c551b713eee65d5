"""Mixed load over raw connections: many requests a second, and each of them accounted for."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from typing import NamedTuple

from .conftest import DEADLINE_S

MAX_BODY_BYTES = 2000
MAX_HEADER_BYTES = 4000

PREDICTOR = """
import numpy as np


class Predictor:
    feature_names = ["a", "b"]

    def predict(self, X):
        if X[0][0] == -3:
            raise ValueError("it was told to")
        return X.sum(axis=1)

    def predict_proba(self, X):
        return np.stack([X[:, 0], 1 - X[:, 0]], axis=1)
"""


class Kind(NamedTuple):
    """One sort of request and what it is owed."""

    sent: bytes
    endpoint: str
    method: str
    status: int
    rows: int = 0

    @property
    def key(self):
        """Labels of ``requests_total``."""
        return self.endpoint, self.method, self.status


def sent(method, path, body=b"", headers=b"Content-Type: application/json\r\n"):
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return b"%b %b HTTP/1.1\r\nHost: a\r\n%b%b\r\n%b" % (
        method.encode(),
        path.encode(),
        headers,
        length,
        body,
    )


def predicts(path, rows):
    body = b'{"ndarray": [%b]}' % b", ".join([b"[0.25, 2]"] * rows)
    return Kind(sent("POST", path, body), path, "POST", 200, rows)


def refused(status, body, headers=b"Content-Type: application/json\r\n"):
    return Kind(sent("POST", "/predict", body, headers), "/predict", "POST", status)


def reads(method, path, status, endpoint=None):
    label = method if method in ("GET", "HEAD", "PUT", "POST") else "OTHER"
    return Kind(sent(method, path), endpoint or path, label, status)


KINDS = {
    predicts("/predict", 1): 40,
    predicts("/predict", 3): 10,
    predicts("/predict_proba", 2): 10,
    refused(400, b'{"ndarray": [[1,'): 4,
    refused(413, b" " * (MAX_BODY_BYTES + 1)): 1,
    refused(415, b"1, 2", b"Content-Type: text/csv\r\n"): 4,
    refused(422, b'{"ndarray": [[1, 2, 3]]}'): 4,
    refused(422, b'{"ndarray": [[1, 2], [1]]}'): 2,
    refused(500, b'{"ndarray": [[-3, 2]]}'): 4,
    reads("GET", "/predict", 405): 3,
    reads("PUT", "/predict_proba", 405): 1,
    reads("PROPFIND", "/predict", 405): 1,
    reads("GET", "/nowhere", 404, "unmatched"): 4,
    reads("POST", "/no/where", 404, "unmatched"): 2,
    reads("GET", "/healthz", 200): 4,
    reads("HEAD", "/healthz", 200): 1,
    reads("GET", "/readyz", 200): 2,
    reads("GET", "/startupz", 200): 1,
    reads("GET", "/info", 200): 1,
    # What never became a request.
    Kind(b"NONSENSE\r\n\r\n", "unmatched", "OTHER", 400): 1,
    Kind(sent("GET", "/", headers=b"X: %b\r\n" % (b"x" * MAX_HEADER_BYTES)), "unmatched", "GET", 431): 1,
}
"""Each with its weight."""


def mixed(count, seed=7):
    """So many requests, in an order of their own."""
    return random.Random(seed).choices(list(KINDS), list(KINDS.values()), k=count)


class Answer(NamedTuple):
    """One response that a client holds."""

    kind: Kind
    status: int
    headers: dict
    """Values by names in lower case."""
    body: bytes

    @property
    def request_id(self):
        return self.headers["x-request-id"]


class Client(threading.Thread):
    """Sends one request after the other over one connection, which is made anew where it breaks or ends.

    Args:
        requests: an iterator of kinds that several clients share.
        ids: an iterator of ``X-Request-ID`` for those that have headers, shared likewise.
        keep: whether to keep every response.
    """

    def __init__(self, port, requests, *, ids=None, keep=False):
        super().__init__(daemon=True)
        self.answers = []
        """What was kept."""
        self.answered = Counter()
        """Responses by the labels of ``requests_total``."""
        self.lost = Counter()
        """Requests whose response never came, by the labels that they would have had."""
        self.rows = Counter()
        """Of predictions: ``answered`` and ``lost``."""
        self.wrong = []
        """Responses of another status than was owed."""
        self._address = ("127.0.0.1", port)
        self._requests = requests
        self._ids = ids
        self._keep = keep
        self._connection = None

    def run(self):
        for kind in self._requests:
            try:
                status = self._exchange(kind)
            except OSError:
                self.lost[kind.key] += 1
                self.rows["lost"] += kind.rows
                self._close()
            else:
                self.answered[kind.endpoint, kind.method, status] += 1
                self.rows["answered"] += kind.rows
                if status != kind.status:
                    self.wrong.append((kind.sent[:60], kind.status, status))
        self._close()

    def _exchange(self, kind):
        if self._connection is None:
            self._connection = socket.create_connection(self._address, timeout=DEADLINE_S)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.sendall(self._identified(kind.sent))
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        sent_head, _, body = data.partition(b"\r\n\r\n")
        head = sent_head.lower()
        size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        while kind.method != "HEAD" and len(body) < size:
            body += self._receive()
        if b"connection: close" in head:
            self._close()
        status = int(head.split(b" ", 2)[1])
        if self._keep:
            self.answers.append(Answer(kind, status, _headers(sent_head), body))
        return status

    def _identified(self, request):
        if self._ids is None:
            return request
        return request.replace(
            b"\r\nHost: a\r\n", b"\r\nHost: a\r\nX-Request-ID: %b\r\n" % next(self._ids).encode(), 1
        )

    def _receive(self):
        if not (data := self._connection.recv(65536)):
            raise ConnectionResetError
        return data

    def _close(self):
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _headers(head):
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def joined(clients, name):
    """One of the clients' counters, all clients together."""
    return sum((getattr(client, name) for client in clients), Counter())
