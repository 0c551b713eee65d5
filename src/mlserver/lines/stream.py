"""A pipe, terminal or socket that lines go to: never waited for by those who write."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
import threading
from collections import deque
from typing import TYPE_CHECKING

from mlserver.lines.losses import Notice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from mlserver.lines.losses import Losses

    Lock = AbstractContextManager[object]

ATOMIC_BYTES = 4096
"""What Linux writes to a pipe in one piece (PIPE_BUF, pipe(7)); above it two writers' lines may mix."""
MAX_WAITING = 2**20
"""Bytes of lines that wait for a reader."""
CLOSE_S = 0.5
"""What is left for a reader to take when the writer is closed."""
_POLL_MS = 1000
_OPEN = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Stream:
    """Takes lines in order, in pieces of at most `ATOMIC_BYTES` unless one line is longer.

    What does not go in at once waits, and a thread that lives as long as something does writes it. When
    `MAX_WAITING` bytes wait, lines are lost until half of them have been read.

    Args:
        descriptor: closed with the stream, or at once where there is another way to the same.
        lock: held by whoever calls a method.

    Raises:
        OSError: there is no such descriptor.
    """

    def __init__(self, descriptor: int, losses: Losses, lock: Lock) -> None:
        self.lock = lock
        self.thread: threading.Thread | None = None
        """Writes what waits, if anything does."""
        self._losses = losses
        self._way = _Way(descriptor)
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._writing = False
        self._losing = False
        self._begun = False  # of the first that waits, a part is written
        self._torn = False  # the same, and the rest of it is lost

    def write(self, lines: Sequence[bytes]) -> None:
        """Writes lines or lets them wait; what there is no room for is lost."""
        if self._losses.untold or self._torn:
            self._resume()
        size = sum(map(len, lines))
        if self._losing or self._size + size > MAX_WAITING:
            lines = self._accepted(lines)
            size = sum(map(len, lines))
        self._waiting.extend(lines)
        self._size += size
        # Otherwise the thread goes on with them, or this one: a finalizer may log in the middle of a write.
        if self.thread is None and not self._writing:
            self._go_on()

    def close(self) -> None:
        """What still waits is lost."""
        if not self._write_waiting():
            self._lose_waiting("their reader did not take them before the end")
        self._way.close()

    def forget(self, lock: Lock) -> None:
        """In a forked process: what waits is its parent's to write."""
        self.lock, self.thread, self._writing = lock, None, False
        self._way.forget()
        self._waiting.clear()
        self._size, self._losing, self._begun = 0, False, False

    def _resume(self) -> None:
        """Repairs a torn line, and says how many were lost once there is room again."""
        if self._torn:
            self._queue(Notice(b"\n"))
            self._torn = False
        self._losing = self._losing and self._size > MAX_WAITING // 2
        if not self._losing and (notice := self._losses.notice()):
            self._queue(notice)
            self._losses.untold = 0

    def _queue(self, notice: Notice) -> None:
        self._waiting.append(notice)
        self._size += len(notice)

    def _accepted(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        """Those that there is room for; the others are lost."""
        room, taken = MAX_WAITING - self._size, 0
        while not self._losing and taken < len(lines) and len(lines[taken]) <= room:
            room -= len(lines[taken])
            taken += 1
        self._losing = True
        self._losses.add(len(lines) - taken, "their reader does not keep up")
        return lines[:taken]

    def _go_on(self) -> None:
        """Writes what goes in at once, and leaves the rest to a thread."""
        if not self._write_waiting():
            self.thread = threading.Thread(target=self._follow_reader, name="log lines", daemon=True)
            try:
                self.thread.start()
            except RuntimeError:  # no more threads: the next line tries again
                self.thread = None

    def _follow_reader(self) -> None:
        """Writes what waits as it is read: the body of the thread."""
        room = self._way.poll()
        while True:
            room.poll(_POLL_MS)
            with self.lock:
                if self._write_waiting():
                    self.thread = None
                    return

    def _write_waiting(self) -> bool:
        """Writes until nothing waits any more or nothing more goes in; whether nothing waits."""
        self._writing = True
        try:
            while True:
                while self._waiting:
                    if not self._write_piece():
                        return False
                if not self._losses.untold:
                    return True
                self._resume()
                if not self._waiting:
                    return True
        except OSError as error:
            self._lose_waiting(error.strerror or "unknown error")
            return True
        finally:
            self._writing = False

    def _write_piece(self) -> bool:
        """Writes as many lines as go in whole; whether they did.

        Raises:
            OSError: the other end is broken.
        """
        lines, size = [self._waiting.popleft()], 0
        size = len(lines[0])
        while self._waiting and size + len(self._waiting[0]) <= ATOMIC_BYTES:
            lines.append(self._waiting.popleft())
            size += len(lines[-1])
        taken = 0
        try:
            taken = self._way.send(lines[0] if len(lines) == 1 else b"".join(lines))
        finally:
            self._size -= taken
            if taken:
                self._begun = False
            if taken < size:
                self._put_back(lines, taken)
        return taken == size

    def _put_back(self, lines: list[bytes], taken: int) -> None:
        """Lets lines wait again, without as many bytes as have been written of them."""
        while taken >= len(lines[0]):
            taken -= len(lines.pop(0))
        if taken:
            lines[0] = _rest(lines[0], taken)
            self._begun = True
        self._waiting.extendleft(reversed(lines))

    def _lose_waiting(self, reason: str) -> None:
        waiting = self._waiting
        if waiting and (self._begun or waiting[0] == b"\n"):
            self._torn = True
            if waiting[0] == b"\n":  # lacks only its end, which the next line brings
                waiting.popleft()
        notices = [line for line in waiting if isinstance(line, Notice)]
        lost = len(waiting) - len(notices)
        waiting.clear()
        self._size, self._begun, self._losing = 0, False, False
        self._losses.untold += sum(notice.lost for notice in notices)
        self._losses.add(lost, reason)


def _rest(line: bytes, start: int) -> bytes:
    if not isinstance(line, Notice):
        return line[start:]
    rest = Notice(line[start:])
    rest.lost = line.lost
    return rest


class _Way:
    """A descriptor that is written without waiting, whatever other processes make of it.

    A pipe or terminal is opened anew: the flag that says whether writers wait is shared by all who inherited
    the same opening, such as the shell. Into a pipe that may not be opened, lines are moved from one of ours.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket: socket.socket | None = None
        self._moves = False
        self._ours: tuple[int, int] | None = None  # what lines are moved from: empty between two calls
        self._polled: select.poll | None = None
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=descriptor)
        elif (own := _opened_anew(descriptor)) is not None:
            os.close(descriptor)
            descriptor = own
        elif stat.S_ISFIFO(mode):
            self._moves = True
        else:  # another user's terminal, and not that of this session: nothing can write to it but by waiting
            self._polled = _poll(descriptor)
        self._descriptor = descriptor

    def send(self, data: bytes) -> int:
        """The number of bytes that went in, 0 if it has no room.

        Raises:
            OSError: it is broken.
        """
        try:
            if self._socket is not None:
                return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if self._moves:
                return self._move(data[:ATOMIC_BYTES])
            if self._polled is None:
                return os.write(self._descriptor, data)
            return os.write(self._descriptor, data[:ATOMIC_BYTES]) if self._polled.poll(0) else 0
        except BlockingIOError:
            return 0

    def poll(self) -> select.poll:
        """Tells when there is room."""
        return _poll(self._descriptor)

    def forget(self) -> None:
        """In a forked process: the pipe that lines are moved from is its parent's, too."""
        for end in self._ours or ():
            os.close(end)
        self._ours = None

    def close(self) -> None:
        self.forget()
        if self._socket is not None:
            self._socket.close()
        elif self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _move(self, data: bytes) -> int:
        """Puts in all or nothing: at most a page, which goes from one pipe to the other as it is.

        A write with RWF_NOWAIT would be one call less, but named pipes do not take it.
        """
        if self._ours is None:
            self._ours = os.pipe()
        source, target = self._ours
        moved, written = 0, os.write(target, data)
        try:
            moved = os.splice(source, self._descriptor, written, flags=os.SPLICE_F_NONBLOCK)
        finally:
            if moved < written:
                os.read(source, written)
        return moved


def _opened_anew(descriptor: int) -> int | None:
    """The same pipe or terminal; None if it may not be opened, or has no reader."""
    access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    with contextlib.suppress(OSError):
        return os.open(f"/proc/self/fd/{descriptor}", access | _OPEN)
    with contextlib.suppress(OSError):
        os.tcgetpgrp(descriptor)  # fails unless it is this session's terminal, which any user may open
        return os.open("/dev/tty", access | _OPEN)
    return None


def _poll(descriptor: int) -> select.poll:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll
