"""Where a request's body ends: what its headers say, and the body's bytes out of the stream.

llhttp parses the heads of requests, and is strict about them. What it lets through, and two servers in a row
might read differently, is refused here: that is what request smuggling is made of.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from mlserver.errors import HeadersTooLarge, MalformedRequest, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FIELDS = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
"""Headers that say where a request goes and how it comes: each may come once only."""
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t -~\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n")


def split_target(target: bytes) -> tuple[str, bytes, bytes]:
    """The path, the path as sent and the query of a request target.

    Raises:
        MalformedRequest: it is not a path with or without a query.
    """
    if not target.startswith(b"/"):
        raise MalformedRequest(
            f"The request target is {_shown(target)}; expected a path that starts with /. This is no proxy."
        )
    if b"#" in target:
        raise MalformedRequest(
            f"The request target {_shown(target)} has a fragment; leave out # and the rest."
        )
    raw, _, query = target.partition(b"?")
    if b"%" not in raw:
        return raw.decode("ascii"), raw, query
    try:
        return unquote_to_bytes(raw).decode(), raw, query
    except UnicodeDecodeError:
        reason = "is not UTF-8 behind its percent signs; encode the path as UTF-8 first"
        raise MalformedRequest(f"The path {_shown(raw)} {reason}.") from None


def body_of(fields: Mapping[bytes, bytes], *, old: bool) -> Body | None:
    """How the body that a request announces is delimited; None if there is no body.

    Args:
        fields: those of the request's headers that are in `FIELDS`.
        old: whether it is of HTTP/1.0.

    Raises:
        MalformedRequest: they do not say it, or do not say to whom it goes.
    """
    host = fields.get(b"host")
    if host is None and not old:
        raise MalformedRequest("The header Host is missing; HTTP/1.1 asks for it.")
    if host and not _HOST.fullmatch(host):
        raise MalformedRequest(f"The header Host is {_shown(host)}; expected a name or address, and a port.")
    coding = fields.get(b"transfer-encoding")
    if coding is None:
        length = int(fields.get(b"content-length", b"0"))
        return Sized(length) if length else None
    if old:
        raise MalformedRequest("HTTP/1.0 has no Transfer-Encoding; send Content-Length or speak HTTP/1.1.")
    if coding.lower() != b"chunked":
        raise MalformedRequest(f"The Transfer-Encoding is {_shown(coding)}; the only one taken is chunked.")
    return Chunked()


def _shown(given: bytes) -> str:
    return repr(given[:64].decode("latin-1") + ("…" if len(given) > 64 else ""))


class Sized:
    """A body of a length that is known."""

    fault: RequestError | None = None

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = False

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """The part of ``data`` that is body, and what is behind it."""
        body = data[: self._left]
        self._left -= len(body)
        self.done = not self._left
        return body, data[len(body) :]


class Chunked:
    """A body in chunks. What says how long they are is dropped, and so are trailers.

    Args:
        max_line: bytes of a chunk's size and extensions, and of all trailers.
    """

    def __init__(self, max_line: int = 8192) -> None:
        self._max_line = max_line
        self._left = 0
        self._trailers = 0
        self._read: Callable[[bytes, int], int | None] = self._size
        self._parts: list[bytes] = []
        self.done = False
        self.fault: RequestError | None = None
        """Why it cannot be read on: these are no chunks, or they have too many bytes that are not body."""

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """The part of ``data`` that is body, and what is behind it or has to be completed first."""
        position = 0
        try:
            while not self.done and (after := self._read(data, position)) is not None:
                position = after
        except RequestError as fault:
            self.fault = fault
        body, self._parts = b"".join(self._parts), []
        return body, data[position:]

    # States: each reads on from a position, and returns the one it got to or None if it needs more.

    def _size(self, data: bytes, position: int) -> int | None:
        end = self._line(data, position)
        if end is None:
            return None
        match = _SIZE.fullmatch(data, position, end)
        if match is None:
            given = _shown(data[position:end])
            raise MalformedRequest(f"A chunk begins with {given}; expected its size as a hexadecimal number.")
        self._left = int(match[1], 16)
        self._read = self._data if self._left else self._trailer
        return end

    def _data(self, data: bytes, position: int) -> int | None:
        part = data[position : position + self._left]
        if not part:
            return None
        self._parts.append(part)
        self._left -= len(part)
        if not self._left:
            self._read = self._end
        return position + len(part)

    def _end(self, data: bytes, position: int) -> int | None:
        found = data[position : position + 2]
        if not b"\r\n".startswith(found):
            raise MalformedRequest("A chunk is longer than its size says; expected CR LF behind it.")
        self._read = self._size if len(found) == 2 else self._end
        return position + 2 if len(found) == 2 else None

    def _trailer(self, data: bytes, position: int) -> int | None:
        end = self._line(data, position)
        if end is None:
            return None
        self.done = data[position:end] == b"\r\n"
        if not self.done and not _TRAILER.fullmatch(data, position, end):
            raise MalformedRequest(f"The trailer {_shown(data[position:end])} is not a header.")
        self._trailers += end - position
        return end

    def _line(self, data: bytes, position: int) -> int | None:
        """Where the line ends, if it does."""
        end = data.find(b"\n", position) + 1
        if self._trailers + (end or len(data)) - position > self._max_line:
            raise HeadersTooLarge(
                f"The chunked body has a line, or trailers, of more than {self._max_line} bytes."
            )
        return end or None


Body = Sized | Chunked
