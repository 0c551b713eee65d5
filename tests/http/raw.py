"""A client that sends what it likes, and a small application behind a real listener."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvloop

from mlserver.server.limits import Limits
from mlserver.server.listener import Listener
from mlserver.serving.call import Response

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(path=b"/echo", body=b"", *headers):
    """A request with a body of known length."""
    lines = [b"POST %b HTTP/1.1" % path, b"Host: a", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def padded(size, path=b"/"):
    """A request whose head has this many bytes."""
    head = b"GET %b HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n"
    return head % (path, b"x" * (size - len(head % (path, b""))))


def both_loops():
    """A fixture that runs a scenario on uvloop and on asyncio; what a loop itself had to catch is a failure."""

    @pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
    def run(request):
        caught = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: caught.append(context))
            yield lambda scenario: runner.run(asyncio.wait_for(scenario, 60))
        assert caught == []

    return run


@dataclass
class Reply:
    """One response; ``headers`` of lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def last(self):
        return self.headers.get("connection") == "close"

    @property
    def code(self):
        return json.loads(self.body)["code"]


class Raw:
    """A TCP client within the server's own event loop."""

    def __init__(self, sock):
        self.sock = sock
        self._read = b""

    @classmethod
    async def connect(cls, address, receive_buffer=None):
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
        return cls(sock)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.sock.close()

    async def send(self, data):
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def send_for_ever(self):
        while True:
            await self.send(b"x" * 65536)
            await asyncio.sleep(0)

    def end(self):
        """Sends no more, still reads."""
        self.sock.shutdown(socket.SHUT_WR)

    def hang_up(self):
        self.sock.close()

    def reset(self):
        """Breaks the connection off, as a crash of the client's machine's network does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def reply(self, method="GET"):
        """The next response; fails if the connection ends before it does."""
        head = await self._until(b"\r\n\r\n")
        start, *lines = head[:-4].decode("latin-1").split("\r\n")
        version, status, _ = start.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {}
        for line in lines:
            name, value = line.split(": ", 1)
            assert name.lower() not in headers
            headers[name.lower()] = value
        assert "transfer-encoding" not in headers
        bodiless = method == "HEAD" or int(status) < 200
        body = b"" if bodiless else await self._exactly(int(headers["content-length"]))
        return Reply(int(status), headers, body)

    async def rest(self):
        """All that still comes until the server closes."""
        while await self._more():
            pass
        rest, self._read = self._read, b""
        return rest

    async def ask(self, data, method="GET"):
        await self.send(data)
        return await self.reply(method)

    async def _until(self, end):
        while end not in self._read:
            assert await self._more(), f"closed after {self._read!r}"
        return await self._exactly(self._read.index(end) + len(end))

    async def _exactly(self, count):
        while len(self._read) < count:
            assert await self._more(), f"closed after {self._read!r}"
        taken, self._read = self._read[:count], self._read[count:]
        return taken

    async def _more(self):
        data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 18)
        self._read += data
        return data


@dataclass
class Recorder:
    """A sink that keeps what was rejected."""

    rejected: list = field(default_factory=list)
    late: bool = False
    """Whether it replies a turn of the loop later."""

    def reject(self, error, *, method, received, reply):
        assert received > 0
        self.rejected.append((error.status, method))
        body = json.dumps({"status": error.status, "code": error.code, "detail": str(error)}).encode()
        headers = ((b"x-request-id", b"an-id"), *error.headers)
        response = Response(error.status, body, b"application/problem+json", headers)
        if self.late:
            asyncio.get_running_loop().call_soon(reply, response)
        else:
            reply(response)


class Tiny:
    """An ASGI application that does what the path says.

    ``/wait`` answers when `go` is set, ``/deaf`` does not even read the body before, ``/unread`` answers without
    having read it, ``/big`` with many bytes, ``/raise`` not at all, ``/custom`` with what `custom` sends; every other path with what it got.
    """

    BIG = b"x" * 16_000_000

    def __init__(self):
        self.seen = []
        """Method and path of each request, when it came to its answer."""
        self.gone = asyncio.Event()
        """A client has gone before its answer."""
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.raising = ValueError("for a test")
        self.custom = None

    async def __call__(self, scope, receive, send):
        path = scope["path"]
        self.begun.set()
        if path == "/deaf":
            await self.go.wait()
        body = b"" if path == "/unread" else await self._body(receive)
        if body is None:
            self.gone.set()
            return
        if path == "/wait" and not await self._wait(receive):
            self.gone.set()
            return
        self.seen.append((scope["method"], path))
        if path == "/raise":
            raise self.raising
        if path == "/custom":
            await self.custom(send)
            return
        answer = self.BIG if path == "/big" else self._echo(scope, body)
        length = str(len(answer)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": answer})

    @staticmethod
    async def _body(receive):
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message["body"]
            if not message["more_body"]:
                return body

    async def _wait(self, receive):
        """Whether the client is still there when the time has come."""
        gone, go = asyncio.ensure_future(receive()), asyncio.ensure_future(self.go.wait())
        await asyncio.wait({gone, go}, return_when=asyncio.FIRST_COMPLETED)
        answered = go.done()
        gone.cancel()
        go.cancel()
        return answered

    @staticmethod
    def _echo(scope, body):
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
        return json.dumps(
            {
                "method": scope["method"],
                "path": scope["path"],
                "query": scope["query_string"].decode("latin-1"),
                "version": scope["http_version"],
                "headers": headers,
                "body": body.decode("latin-1"),
                "state": scope["state"],
            }
        ).encode()


@dataclass
class Served:
    """A listener that runs."""

    app: Tiny
    sink: Recorder
    listener: Listener
    address: tuple

    async def connect(self):
        return await Raw.connect(self.address)

    @property
    def connections(self):
        return self.listener._connections()


@asynccontextmanager
async def serving(*, sink=None, send_buffer=None, **limits):
    """Serves `Tiny` on a free port; limits that are not given are the default ones."""
    app, sink = Tiny(), sink or Recorder()
    listener = Listener(app, limits=Limits(**limits), sink=sink, app_state={"shared": 1})
    listening = socket.create_server(("127.0.0.1", 0))
    if send_buffer:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    try:
        await listener.accept(listening, "only")
        yield Served(app, sink, listener, listening.getsockname())
    finally:
        await listener.close(0)
        listening.close()
