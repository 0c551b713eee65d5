"""Metric pages: the numbers of one writer in memory that other processes read without asking it.

A page is an append-only row of series over 8-byte words:

    word 0   layout of this file
    word 1   words in use: everything below is complete and is never moved or removed
    then, for each series:
             words of the key | words of values << 32
             the key, JSON padded with blanks: [kind, name, [label values], [bucket bounds]]
             the values, float64

A series is written whole before word 1 makes it visible. One process writes a page at a time; a value is
one aligned 8-byte store, so a reader never sees half of it and a killed writer leaves nothing torn. A
successor goes on in its predecessor's page, which is why a counter never falls.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from typing import TYPE_CHECKING, NamedTuple

from mlserver.errors import MLServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_BYTES = 1 << 20
"""Size of a page. Only what was written takes memory."""
LAYOUT = 0x4D4C5347_00000001
"""Identity of the format above; to be raised with every change of it."""
_FIRST = 2
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class PageFull(MLServerError):
    """There is no room for another series."""


class Key(NamedTuple):
    """What a series is of."""

    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    name: str
    """Name of the metric without the prefix."""
    labels: tuple[str, ...] = ()
    """Values in the order of the metric's declaration."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without +Inf."""

    @property
    def size(self) -> int:
        """Values of such a series: a histogram has its buckets, +Inf among them, and the sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


def create_memory() -> int:
    """A new page's memory, as a descriptor. It is sealed: nobody can shrink it under a reader."""
    descriptor = os.memfd_create("mlserver-metrics", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, PAGE_BYTES)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


class Page:
    """One page, over shared memory or, without a supervisor, over memory of this process.

    Args:
        memory: a writable buffer, zeroed when new; its length is a multiple of 8.

    Raises:
        MLServerError: the memory holds another layout, or none.
    """

    def __init__(self, memory: bytearray | mmap.mmap) -> None:
        self._memory = memory
        self._words: memoryview[int] = memoryview(memory).cast("Q")
        self._values: memoryview[float] = memoryview(memory).cast("d")
        self._index: dict[Key, int] = {}
        self._end = _FIRST
        if self._words[0] == 0:
            self._words[1] = _FIRST
            self._words[0] = LAYOUT
        if self._words[0] != LAYOUT:
            raise MLServerError(
                f"The metric page has layout {self._words[0]:#x}, this version reads {LAYOUT:#x}. "
                "The package was changed under a running server: restart it."
            )

    @classmethod
    def private(cls) -> Page:
        """A page that only this process sees."""
        return cls(bytearray(PAGE_BYTES))

    @classmethod
    def shared(cls, descriptor: int) -> Page:
        """The page behind an inherited descriptor of `create_memory`."""
        return cls(mmap.mmap(descriptor, PAGE_BYTES))

    def series(self, key: Key) -> memoryview[float]:
        """The values of a series, which is added with zeros where it is new.

        Returns:
            a writable view of ``key.size`` float64 values, valid for as long as the page.

        Raises:
            PageFull: there is no room for it.
        """
        self._refresh()
        at = self._index.get(key)
        if at is None:
            self._append(key)
            self._refresh()
            at = self._index[key]
        return self._values[at : at + key.size]

    def read(self) -> Iterator[tuple[Key, tuple[float, ...]]]:
        """Every series and its present values."""
        self._refresh()
        for key, at in list(self._index.items()):
            yield key, tuple(self._values[at : at + key.size])

    def reset_gauges(self) -> None:
        """Zeroes what was true of the last writer only."""
        self._refresh()
        for key, at in self._index.items():
            if key.kind == "gauge":
                self._values[at] = 0.0

    def _append(self, key: Key) -> None:
        text = json.dumps(key, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        start = self._words[1]
        at = start + 1 + len(text) // 8
        if at + key.size > len(self._words):
            raise PageFull(f"The metric page of {PAGE_BYTES} bytes has no room for {key.name} {key.labels}.")
        memoryview(self._memory)[(start + 1) * 8 : at * 8] = text
        self._words[start] = len(text) // 8 | key.size << 32
        self._words[1] = at + key.size

    def _refresh(self) -> None:
        """Takes in what the writer has added since the last look."""
        end = self._words[1]
        while self._end < end:
            head = self._words[self._end]
            at = self._end + 1 + (head & 0xFFFFFFFF)
            kind, name, labels, bounds = json.loads(bytes(self._memory[(self._end + 1) * 8 : at * 8]))
            self._index[Key(kind, name, tuple(labels), tuple(bounds))] = at
            self._end = at + (head >> 32)
