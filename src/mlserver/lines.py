"""Log lines: how a record becomes a line and how lines reach their file, pipe or terminal whole."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import time
import traceback
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

from mlserver.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    Render = Callable[[Mapping[str, Any]], bytes]

MAX_TEXT = 1024
"""Bytes of any one text in a line, so that lines stay below `ATOMIC_BYTES`."""
MAX_STACK = 2048
"""Bytes of a traceback in a line; its end is kept, where the cause is."""
ATOMIC_BYTES = 4096
"""What Linux writes to a pipe in one piece (PIPE_BUF, pipe(7)); above it two writers' lines may mix."""
_JSON = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


bound_fields: ContextVar[Mapping[str, Any]] = ContextVar("bound_fields", default=MappingProxyType({}))
"""Fields of every line that is logged in this context, such as the id of the request it is for."""


class LineWriter:
    """Writes whole lines to a descriptor, from any thread.

    Args:
        descriptor: where to; closed with the writer.
        on_drop: told how many lines could not be written.
    """

    def __init__(self, descriptor: int, *, on_drop: Callable[[int], None] | None = None) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._whole = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._torn = False
        self._pace = Pace()
        self.on_drop = on_drop

    @classmethod
    def to_file(cls, path: Path) -> LineWriter:
        """Appends to a file, which several processes may do at once."""
        return cls(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640))

    def write(self, lines: Sequence[bytes]) -> None:
        """Writes lines, each of which ends with a newline; what cannot be written is dropped and counted."""
        with self._lock:
            lost = sum(map(self._write, [b"".join(lines)] if self._whole else _chunks(lines)))
            if lost and self.on_drop is not None:
                self.on_drop(lost)

    def close(self) -> None:
        """Closes the descriptor; may be called twice."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _write(self, chunk: bytes) -> int:
        """Writes whole lines as far as it can; the number of those that were lost."""
        start = b"\n" if self._torn else b""  # what a full disk cut off must not swallow the next line
        data, written = start + chunk, 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            self._complain(error)
        if written:
            self._torn = data[written - 1 : written] != b"\n"
        # A line that lacks only its end is not lost: the next one brings it.
        return data.count(b"\n", max(written + self._torn, len(start)))

    def _complain(self, error: OSError) -> None:
        """Says on standard error that lines are lost, once a minute."""
        if self._pace.due():
            with contextlib.suppress(OSError):
                os.write(
                    2, f"mlserver: log lines cannot be written and are lost: {error.strerror}\n".encode()
                )


def _chunks(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Whole lines joined to at most `ATOMIC_BYTES`; a longer line stands alone."""
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        if chunk and size + len(line) > ATOMIC_BYTES:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(line)
        size += len(line)
    if chunk:
        yield b"".join(chunk)


def timestamp(seconds: float) -> str:
    """UTC with milliseconds and ``Z``, from seconds since 1970."""
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """A text of at most so many bytes of UTF-8, with a mark where something was left out."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode("utf-8")
    return data[:limit].decode("utf-8", "ignore") + f"…({len(data) - limit} bytes more)"


def cut_stack(text: str) -> str:
    """The last `MAX_STACK` bytes of a traceback, with a mark where something was left out."""
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_STACK:
        return data.decode("utf-8")
    return f"({len(data) - MAX_STACK} bytes more)…" + data[-MAX_STACK:].decode("utf-8", "ignore")


def render_json(record: Mapping[str, Any]) -> bytes:
    """A record as one JSON object and a newline, of at most `ATOMIC_BYTES` unless it has very many fields.

    What JSON does not know becomes its ``repr``; texts are cut until the line fits.
    """
    line, limit = _dumps(record), MAX_TEXT
    while len(line) > ATOMIC_BYTES and limit > 32:
        limit //= 2
        line = _dumps({key: _shortened(value, limit) for key, value in record.items()})
    return line


def _dumps(record: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(record, default=repr, option=_JSON)
    except TypeError:  # lone surrogates, cycles, a repr that raises
        return orjson.dumps(
            {cut(plain(key)): cut(plain(value)) for key, value in record.items()}, option=_JSON
        )


def _shortened(value: object, limit: int) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = plain(value)
    return value if len(text.encode("utf-8", "replace")) <= limit else cut(text, limit)


def render_text(record: Mapping[str, Any]) -> bytes:
    """A record for a terminal: time, level, message, then whatever else is set."""
    rest = dict(record)
    stack = rest.pop("exception", None)
    parts = [f"{rest.pop('timestamp')} {rest.pop('level'):<8} {plain(rest.pop('message'))}"]
    parts += [f"{key}={plain(value)}" for key, value in rest.items() if value is not None]
    text = " ".join(parts).replace("\r", "\\r").replace("\n", "\\n")
    if stack:
        text += "".join(f"\n    {line}" for line in str(stack).splitlines())
    return text.encode("utf-8", "replace") + b"\n"


def plain(value: object) -> str:
    """A value as text, whatever it is: a user's own ``str`` or ``repr`` may raise."""
    try:
        return str(value) if isinstance(value, str | BaseException) else repr(value)
    except Exception as error:  # noqa: BLE001  # as said
        return f"<{type(value).__name__} without text: {type(error).__name__}>"


def take_over_logging(writer: LineWriter, render: Render, *, level: int, worker: int | None = None) -> None:
    """Makes a line of all that this process logs through ``logging``, warnings among it."""
    root = logging.getLogger()
    root.handlers[:] = [_LineHandler(writer, render, worker)]
    root.setLevel(level)
    logging.captureWarnings(capture=True)


class _LineHandler(logging.Handler):
    def __init__(self, writer: LineWriter, render: Render, worker: int | None) -> None:
        super().__init__()
        self._writer = writer
        self._render = render
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write([self._render(self._fields(record))])
        except Exception:  # noqa: BLE001  # logging's own rule: never into the caller
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = {
            "timestamp": timestamp(record.created),
            "level": record.levelname,
            "message": cut(record.getMessage()),
            "logger": record.name,
            "worker": self._worker,
            **bound_fields.get(),
        }
        for name, value in _extra(record).items():
            fields.setdefault(name, cut(value) if isinstance(value, str) else value)
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = cut_stack("".join(traceback.format_exception(*record.exc_info)))
        return fields


_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "fields"}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What was logged beside the message: ``extra=`` of logging, key words of structlog."""
    given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return given | getattr(record, "fields", {})
