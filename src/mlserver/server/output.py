"""What a worker prints, passed on in whole lines where it goes the same way as log lines."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from mlserver.lines import ATOMIC_BYTES

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from mlserver.lines import LineWriter

LONGEST = ATOMIC_BYTES - 1
"""Bytes of a line without its end; one that has more becomes several."""
READ_BYTES = 1 << 12
"""Taken in one turn of the event loop."""


def go_the_same_way(first: int | Path, second: int | Path) -> bool:
    """Whether two descriptors, or paths, are of one pipe, socket or file.

    Terminals are not meant: people look at them, and want to see a line grow.
    """
    try:
        found = os.stat(first), os.stat(second)  # noqa: PTH116  # a descriptor has no Path
    except OSError:
        return False
    return os.path.samestat(*found) and not stat.S_ISCHR(found[0].st_mode)


class Output:
    """Standard output and error of one worker: a pipe that is read whenever something is in it.

    While it is entered it gives the descriptor that the worker is to be started with. From then on it looks
    after itself, until the worker and all that the worker started have closed their ends.

    Args:
        writer: takes the lines.
    """

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._ours = self._theirs = -1
        self._rest = b""  # of a line whose end is still to come

    def __enter__(self) -> int:
        self._ours, self._theirs = os.pipe()
        os.set_blocking(self._ours, False)
        self._loop.add_reader(self._ours, self._take)
        return self._theirs

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._theirs)  # what nobody was started with ends here

    def take_rest(self) -> None:
        """Passes on all that the worker left when it ended; what it started may go on printing."""
        if self._ours < 0:
            return
        left = fcntl.fcntl(self._ours, fcntl.F_GETPIPE_SZ)  # no more than what a process that goes on adds
        while left > 0 and (taken := self._take()):
            left -= taken
        self._pass_on_rest()

    def _take(self) -> int:
        """Passes on what there is; the number of bytes."""
        try:
            data = os.read(self._ours, READ_BYTES)
        except BlockingIOError:
            return 0
        if data:
            *lines, self._rest = (self._rest + data).split(b"\n")
            pieces = [piece for line in lines for piece in _cut(line)]
            *more, self._rest = _cut(self._rest)
            if pieces or more:
                self._writer.write([piece + b"\n" for piece in (*pieces, *more)])
        else:
            self._pass_on_rest()
            self._loop.remove_reader(self._ours)
            os.close(self._ours)
            self._ours = -1
        return len(data)

    def _pass_on_rest(self) -> None:
        if self._rest:
            self._writer.write([self._rest + b"\n"])
            self._rest = b""


def _cut(line: bytes) -> list[bytes]:
    """A line in as many as it takes; none ends within a character of UTF-8."""
    pieces = []
    while len(line) > LONGEST:
        end = LONGEST
        while end > LONGEST - 3 and line[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]
