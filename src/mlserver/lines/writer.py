"""Lines from any thread to one file, pipe, terminal or socket."""

from __future__ import annotations

import atexit
import os
import stat
import threading
import weakref
from typing import TYPE_CHECKING

from mlserver.lines.file import MAX_LINE, File, open_file
from mlserver.lines.losses import Losses
from mlserver.lines.stream import ATOMIC_BYTES, CLOSE_S, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self


class LineWriter:
    """Writes whole lines to a descriptor, from any thread, and never waits for a reader.

    What cannot be written is lost and counted, and a line says how many once lines can be written again.

    Args:
        descriptor: where to; it becomes the writer's own, and is closed with it.
        on_drop: told how many lines were lost. It must not log.
        path: of the file that the descriptor is of, so that another is made there once it is moved away.
        clock: seconds, never going back; by default ``time.monotonic``.

    Raises:
        OSError: there is no such descriptor.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        on_drop: Callable[[int], None] | None = None,
        path: Path | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self.longest = MAX_LINE if regular else ATOMIC_BYTES
        """Most bytes of a line."""
        self.colours = os.isatty(descriptor) and _shows_colours()
        """Whether people see it on a terminal that shows colours."""
        self._losses = Losses(on_drop)
        self._lock = threading.RLock()  # a finalizer may log while this thread holds it
        self._closed = False
        self._sink: File | Stream
        if regular:
            self._sink = File(descriptor, self._losses, path=path, clock=clock)
        else:
            self._sink = Stream(descriptor, self._losses, self._lock)
        _writers.add(self)

    @classmethod
    def to_file(cls, path: Path, *, on_drop: Callable[[int], None] | None = None) -> Self:
        """Appends to a file, which several processes may do at once.

        Raises:
            OSError: it cannot be opened.
        """
        return cls(open_file(path), on_drop=on_drop, path=path)

    @property
    def on_drop(self) -> Callable[[int], None] | None:
        """Told how many lines were lost, as soon as they are."""
        return self._losses.on_drop

    @on_drop.setter
    def on_drop(self, on_drop: Callable[[int], None] | None) -> None:
        self._losses.on_drop = on_drop

    @property
    def tell(self) -> Callable[[int], bytes] | None:
        """Renders the line that says how many lines were lost; without, there is none."""
        return self._losses.tell

    @tell.setter
    def tell(self, tell: Callable[[int], bytes] | None) -> None:
        self._losses.tell = tell

    @property
    def closed(self) -> bool:
        """Whether all that is written is lost."""
        return self._closed

    def write(self, lines: Sequence[bytes]) -> None:
        """Writes lines, each of which ends with a newline."""
        with self._lock:
            if self._closed:
                self.lose(len(lines), "the server has ended")
            else:
                self._sink.write(lines)

    def lose(self, lines: int, reason: str) -> None:
        """Counts lines that never came to be written."""
        with self._lock:
            self._losses.add(lines, reason)

    def close(self) -> None:
        """Closes the descriptor; a reader that is behind has half a second left. May be called twice."""
        self.drain()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._sink.close()

    def drain(self) -> None:
        """Gives a reader that is behind half a second."""
        with self._lock:
            thread = self._sink.thread
        if thread is not None:
            thread.join(CLOSE_S)

    def _forked(self) -> None:
        self._lock = threading.RLock()  # another thread of the parent's may have held it
        self._losses.untold = 0  # the parent tells them
        self._sink.forget(self._lock)


def _shows_colours() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


_writers: weakref.WeakSet[LineWriter] = weakref.WeakSet()


def _forked() -> None:
    for writer in list(_writers):
        writer._forked()  # noqa: SLF001


def _drain() -> None:
    for writer in list(_writers):
        writer.drain()


atexit.register(_drain)
os.register_at_fork(after_in_child=_forked)
