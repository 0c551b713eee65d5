"""A file that lines are appended to, by several processes at once."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlserver.lines.losses import Losses

LOOK_EVERY_S = 1.0
"""How often a file is compared with what its path names.

Once it is moved away, so long no other is made in its place: by then all that write have seen it, and none
goes on in the old file when the new one is there, at which whoever ships the lines may leave the old one."""
MAX_LINE = 2**20
"""Bytes of a line."""
_COMPARED = 256
"""Bytes by which a part of a line is known again."""


def open_file(path: Path) -> int:
    """A descriptor that appends to a file. A FIFO need not have a reader yet.

    Raises:
        OSError: it cannot be opened.
    """
    fifo = path.exists() and stat.S_ISFIFO(path.stat().st_mode)
    access = os.O_RDWR if fifo else os.O_WRONLY
    return os.open(path, access | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)


class File:
    """A regular file. Lines are written with one call of the system for each turn.

    Args:
        path: where it was opened; another file is made there once this one is moved away or removed.
        clock: seconds, never going back.
    """

    def __init__(
        self, descriptor: int, losses: Losses, *, path: Path | None, clock: Callable[[], float] | None
    ) -> None:
        self._descriptor = descriptor
        self._losses = losses
        self._path = path
        self._clock = clock or time.monotonic
        self._look_at = self._clock() + LOOK_EVERY_S
        self._moved_at: float | None = None
        self._torn = self._failed = self._ended = False
        self._reason = ""
        self._writing = False
        self._later: list[bytes] = []

    thread = None
    """Writes what waits: nothing ever does."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Writes lines; those that cannot be written are lost."""
        if self._writing:  # a finalizer logs in the middle of a write
            self._later.extend(lines)
            return
        self._writing = True
        try:
            self._write(lines)
            while self._later:
                lines, self._later = self._later, []
                self._write(lines)
        finally:
            self._writing = False

    def _write(self, lines: Sequence[bytes]) -> None:
        if self._path is not None and self._clock() >= self._look_at:
            self._follow(self._path)
        if self._failed and not self._ended:  # nor could others, one of whom may have left a part of a line
            self._torn = self._ends_torn()
        if self._losses.untold and (notice := self._losses.notice()):
            if self._append([notice]):
                self._losses.add(len(lines), self._reason)
                return
            self._losses.untold = 0
        if lost := self._append(lines):
            self._losses.add(lost, self._reason)

    def close(self) -> None:
        """May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def forget(self, lock: object) -> None:  # noqa: ARG002
        """In a forked process: what another thread was about to write is its parent's."""
        self._writing = False
        self._later.clear()

    def _append(self, lines: Sequence[bytes]) -> int:
        """Writes as far as it can; the number of lines that were lost."""
        # What was cut off must not swallow the next line. Even if it was ended in place: whoever follows the
        # file may have read it before that.
        data, written = b"\n" * self._torn + b"".join(lines), 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:] if written else data)
        except OSError as error:
            self._reason = error.strerror or "unknown error"
        whole = written - self._torn
        if written:
            self._torn = data[written - 1 : written] != b"\n"
            self._ended = self._torn and self._end_in_place(data[:written])
        self._failed = written < len(data)
        if not self._failed:
            return 0
        lost = 0
        for line in lines:
            whole -= len(line)
            # One that lacks only its end is not lost if the next line brings it.
            lost += whole < (-1 if self._torn and not self._ended else 0)
        return lost

    def _end_in_place(self, written: bytes) -> bool:
        """Makes the last byte of what a full disk cut off the end of its line: so it takes no room.

        At once, since any other process may be the next to write. What one has written by then
        is whole again.
        """
        part = written[-_COMPARED:]
        try:
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            opened = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # Standard output's place is shared: another process may have moved it.
            ours = os.pread(opened, len(part), end - len(part)) == part
            return ours and os.pwrite(opened, b"\n", end - 1) == 1
        except OSError:
            return False
        finally:
            os.close(opened)

    def _ends_torn(self) -> bool:
        """Whether a line, of any process, was cut off at the end of the file; as far as it can be read."""
        try:
            reader = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return self._torn
        try:
            found = os.fstat(reader)
            if not stat.S_ISREG(found.st_mode):
                return self._torn
            return found.st_size > 0 and os.pread(reader, 1, found.st_size - 1) != b"\n"
        except OSError:
            return self._torn
        finally:
            os.close(reader)

    def _follow(self, path: Path) -> None:
        """Goes on in another file if the path no longer names this one, and has not for a while."""
        now = self._clock()
        self._look_at = now + LOOK_EVERY_S
        if self._descriptor < 0:
            return
        try:
            if os.path.samestat(path.stat(), os.fstat(self._descriptor)):
                self._moved_at = None
                return
        except OSError:
            if self._moved_at is None:
                self._moved_at = now
            if now < self._moved_at + LOOK_EVERY_S:
                self._look_at = now  # another process may make it first
                return
        self._moved_at = None
        try:
            descriptor = open_file(path)
        except OSError as error:
            self._losses.complain(f"{path} cannot be opened anew, lines go to the old file: {error.strerror}")
            return
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._torn = self._failed = self._ended = False
