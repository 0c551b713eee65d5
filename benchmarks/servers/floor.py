"""What one core can do at all: uvloop, httptools and a shared run of the model, without a framework.

Run as ``python floor.py PORT [MODEL.skops]``; without a file the model does nothing. There are no signals, no
limits and no look at what came in: whatever a server does on top of this costs something. Requests that
arrive in one turn of the event loop share a run. Bodies are decoded in the fastest way known.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import httptools
import models
import numpy as np
import orjson
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

    Rows = np.ndarray[Any, Any]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
WIDTH = 30


def decode_few(body: bytes) -> Rows:
    return np.array(orjson.loads(body)["ndarray"], dtype=np.float64)


def decode_many() -> Callable[[bytes], Rows]:
    """The decoder of large bodies: straight to numbers where pysimdjson is there."""
    try:
        import simdjson  # noqa: PLC0415
    except ImportError:
        print("pysimdjson is not installed: large bodies are decoded by orjson.", file=sys.stderr)
        return decode_few
    parse = simdjson.Parser().parse

    def decode(body: bytes) -> Rows:
        return np.frombuffer(parse(body)["ndarray"].as_buffer(of_type="d")).reshape(-1, WIDTH)

    return decode


class Turn:
    """The requests of one turn of the loop."""

    def __init__(self, predict: Callable[[Rows], Rows], decode: Callable[[bytes], Rows]) -> None:
        self._predict, self._decode = predict, decode
        self._call_soon = asyncio.get_running_loop().call_soon
        self._waiting: list[tuple[asyncio.Transport, Rows]] = []

    def add(self, transport: asyncio.Transport, body: bytes) -> None:
        if not self._waiting:
            self._call_soon(self._run)
        self._waiting.append((transport, self._decode(body)))

    def _run(self) -> None:
        waiting, self._waiting = self._waiting, []
        rows = waiting[0][1] if len(waiting) == 1 else np.concatenate([rows for _, rows in waiting])
        output = self._predict(rows)
        at = 0
        for transport, part in waiting:
            answer = {"predictions": output[at : at + len(part)]}
            body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
            at += len(part)
            transport.write(HEAD % len(body) + body)


class Protocol(asyncio.Protocol):
    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._turn.add(self._transport, body)


async def serve(port: int, file: str | None) -> None:
    if file is None:
        predict, decode = models.zeros, decode_many()
    else:
        import skops.io  # noqa: PLC0415

        trusted = ["sklearn.tree._tree.Tree"]  # the forest's, from a file of our own
        predict, decode = skops.io.load(file, trusted=trusted).predict, decode_few
    turn = Turn(predict, decode)
    await asyncio.get_running_loop().create_server(lambda: Protocol(turn), "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
