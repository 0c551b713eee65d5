"""What supervisor and worker say to each other: JSON lines over a Unix socket pair."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import pickle
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from mlserver.config import Config

LONGEST_LINE = 1 << 26
"""Bytes; a configuration, a snapshot or a scrape's answer travels in one line."""

CONGESTION = 1 << 20
"""Bytes written and not yet taken by the other end."""

_logger = logging.getLogger("mlserver.control")


@dataclass(frozen=True, slots=True)
class Launch:
    """Supervisor: what to be. The first message, sent once."""

    config: str
    """By `pack_config`."""
    slot: int
    sockets: list[int]
    """Descriptors of the listening sockets, by slot."""
    pages: list[int]
    """Descriptors of all metric pages."""
    page: int
    """Index in `pages` of the one to write."""
    log: int
    """Descriptor for log lines."""
    log_level: str
    """What to log from, whatever the configuration says."""


@dataclass(frozen=True, slots=True)
class Accept:
    """Supervisor: accept on these slots' sockets and on no other."""

    slots: list[int]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Supervisor: how all workers together are; the answer of every probe."""

    ready: bool
    draining: bool


@dataclass(frozen=True, slots=True)
class LogLevel:
    """Supervisor: log from this level."""

    level: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Supervisor: accept no more, answer what is there, exit."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Started:
    """Worker: the event loop runs, the model is being loaded."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Worker: the model is loaded."""

    healthy: bool
    """What the predictor's ``check_health`` said, if it has answered yet."""


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """Worker: the model cannot be loaded; the worker stays to say so."""

    reason: str


@dataclass(frozen=True, slots=True)
class Beat:
    """Worker: the event loop still runs. Sent once a second."""

    healthy: bool
    """What the predictor's ``check_health`` said last."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Worker: its user's own metrics as they are now."""

    families: list[Any]
    """As `pack` makes them."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """Worker: somebody scrapes it; what do all processes together say?"""

    number: int
    """Of this worker's scrape, for the answer."""
    accept: str
    accept_encoding: str


@dataclass(frozen=True, slots=True)
class Scraped:
    """Supervisor: the answer to a `Scrape`."""

    number: int
    body: str | None
    """In base 64; None if it is too large for the channel."""
    content_type: str
    encoding: str | None


@dataclass(frozen=True, slots=True)
class Drained:
    """Worker: what it accepted is answered, or cut off when its time was over; it exits now."""

    complete: bool


def pack_config(config: Config) -> str:
    """A configuration for the launch. The worker gets these very settings, not what the file says by then."""
    return base64.b64encode(pickle.dumps(config)).decode("ascii")


def unpack_config(packed: str) -> Config:
    """The configuration of a launch."""
    config: Config = pickle.loads(base64.b64decode(packed))  # noqa: S301  # from our own supervisor
    return config


Message = (
    Launch
    | Accept
    | Readiness
    | LogLevel
    | Drain
    | Started
    | Loaded
    | NotLoaded
    | Beat
    | Snapshot
    | Scrape
    | Scraped
    | Drained
)
_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    """A message as a line."""
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message that `encode` made the line from."""
    kind, fields = json.loads(line)
    return _KINDS[kind](**fields)


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """Takes over one end of the pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LONGEST_LINE))

    @property
    def congested(self) -> bool:
        """Whether the other end has not read for a while: what can be left out should be."""
        return self._writer.transport.get_write_buffer_size() > CONGESTION

    def send(self, message: Message) -> None:
        """Sends without waiting; to an end that is gone, nothing, nor what is too long for it."""
        line = encode(message)
        if len(line) > LONGEST_LINE:
            _logger.error("A %s of %d bytes is too long to be sent", type(message).__name__, len(line))
        elif not self._writer.is_closing():
            self._writer.write(line)

    async def messages(self) -> AsyncIterator[Message]:
        """What the other end sends, until it is gone."""
        while line := await self._read():
            yield decode(line)

    async def flush(self) -> None:
        """Waits until the other end has been handed everything, or is gone."""
        try:
            await self._writer.drain()
        except OSError:
            return

    def close(self) -> None:
        """Closes this end; may be called twice."""
        self._writer.close()

    async def _read(self) -> bytes:
        try:
            line = await self._reader.readline()
        except OSError:
            return b""
        return line if line.endswith(b"\n") else b""
