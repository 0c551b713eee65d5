"""Metric pages: the numbers of one writer in memory that other processes read without asking it.

A page is an append-only row of series over 8-byte words:

    word 0   layout of this file
    word 1   words in use: everything below is complete and is never moved or removed
    then, for each series:
             words of the key (16 bits) | words of values (16 bits) | CRC-32 of the key's bytes (32 bits)
             the key, JSON padded with blanks: [kind, name, [label values], [bucket bounds]]
             the values, float64

A series is written whole before word 1 makes it visible. One process writes a page at a time; a value is
one aligned 8-byte store, so a reader never sees half of it and a killed writer leaves nothing torn. Some
processors show stores to others in another order than they were made: the check sum tells a key that is not
whole yet, and a reader that meets one stops there and looks again next time. A successor goes on in its
predecessor's page, which is why a counter never falls.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from mlserver.errors import MLServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE_BYTES = 4 << 20
"""Size of a page. Only what was written takes memory."""
SPARE_BYTES = 16 << 10
"""Room that is kept for series without which others could not be told of."""
LAYOUT = 0x4D4C5347_00000002
"""Identity of the format above; to be raised with every change of it."""
EXEMPLAR_AGE_S = 60.0
"""Seconds after which any newer exemplar replaces one."""
_FIRST = 2
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_EXEMPLAR_WORDS = 5
_WORDS = Struct(f"={_EXEMPLAR_WORDS}Q")
_VALUES = Struct("=dd")
_CHECK = 0x4558454D_504C4152
"""So that a place where nothing was written does not check."""


class PageFull(MLServerError):
    """There is no room for another series."""


class Key(NamedTuple):
    """What a series is of. Its texts are such that UTF-8 can encode."""

    kind: str
    """``counter``, ``gauge``, ``histogram``, or ``exemplars`` of the histogram that is else the same."""
    name: str
    """Name of the record, without the prefix of metrics."""
    labels: tuple[str, ...] = ()
    """Values in the order of the record's declaration."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without +Inf."""

    @property
    def size(self) -> int:
        """Values of such a series: a histogram has its buckets, +Inf among them, and the sum."""
        if self.kind == "histogram":
            return len(self.bounds) + 2
        return (len(self.bounds) + 1) * _EXEMPLAR_WORDS if self.kind == "exemplars" else 1


class Exemplar(NamedTuple):
    """One observation of a bucket, with the trace it belongs to."""

    trace_id: str
    """32 hexadecimal digits."""
    value: float
    at: float
    """Seconds since 1970."""


def create_memory() -> int:
    """A new page's memory, as a descriptor. It is sealed: nobody can shrink it under a reader."""
    descriptor = os.memfd_create("mlserver-metrics", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
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
        return cls(mmap.mmap(-1, PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    @classmethod
    def shared(cls, descriptor: int) -> Page:
        """The page behind an inherited descriptor of `create_memory`."""
        return cls(mmap.mmap(descriptor, PAGE_BYTES))

    # For the writer, in one thread.

    def series(self, key: Key, *, spare: bool = False) -> memoryview[float]:
        """The values of a series, which is added with zeros where it is new.

        Args:
            key: what it is of; no ``exemplars``.
            spare: whether it may take of the last `SPARE_BYTES`.

        Returns:
            a writable view of ``key.size`` float64 values, valid for as long as the page.

        Raises:
            PageFull: there is no room for it.
        """
        at = self._place(key, spare=spare)
        return self._values[at : at + key.size]

    def reset_gauges(self) -> None:
        """Puts NaN in place of what was true of the last writer only, and ends what it left half done."""
        self._refresh()
        for key, at in list(self._index.items()):
            if key.kind == "gauge":
                self._values[at] = math.nan
        at = self._words[1]
        while at < len(self._words) and (self._words[at] or at == self._words[1]):  # a key has no zero word
            self._words[at] = 0
            at += 1

    def put_exemplar(self, key: Key, bucket: int, trace_id: str, value: float, at: float) -> None:
        """Keeps an observation as its bucket's exemplar, unless there is a recent one of a higher value.

        Args:
            key: the histogram's.
            bucket: index of the bucket; that of +Inf is last.
            trace_id: 32 hexadecimal digits.
            value: what was observed.
            at: when, in seconds since 1970.

        Raises:
            PageFull: there is no room for exemplars of this histogram.
        """
        place = self._place(key._replace(kind="exemplars"), spare=False) + bucket * _EXEMPLAR_WORDS
        before = self._exemplar(place)
        if before is not None and before.value > value and abs(at - before.at) < EXEMPLAR_AGE_S:
            return
        number = int(trace_id, 16)
        words = self._words[place : place + _EXEMPLAR_WORDS]
        words[0], words[1] = number >> 64, number & 0xFFFFFFFF_FFFFFFFF
        self._values[place + 2], self._values[place + 3] = value, at
        words[4] = _check(words)

    # For readers, in any process, at any time.

    def read(self) -> Iterator[tuple[Key, tuple[float, ...]]]:
        """Every counter, gauge and histogram with its present values; a gauge that nobody writes is NaN."""
        self._refresh()
        for key, at in list(self._index.items()):
            if key.kind != "exemplars":
                yield key, tuple(self._values[at : at + key.size])

    def read_exemplars(self) -> Iterator[tuple[Key, list[Exemplar | None]]]:
        """Every histogram that has exemplars, by its own key, with one entry for every bucket."""
        self._refresh()
        for key, at in list(self._index.items()):
            if key.kind == "exemplars":
                places = range(at, at + key.size, _EXEMPLAR_WORDS)
                yield key._replace(kind="histogram"), [self._exemplar(place) for place in places]

    def keys(self, name: str) -> set[tuple[str, ...]]:
        """The label sets that a record has already, whoever added them."""
        self._refresh()
        return {key.labels for key in list(self._index) if key.name == name}

    # What both need.

    def _place(self, key: Key, *, spare: bool) -> int:
        self._refresh()
        at = self._index.get(key)
        return self._append(key, 0 if spare else SPARE_BYTES // 8) if at is None else at

    def _append(self, key: Key, reserve: int) -> int:
        text = json.dumps(key, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        size, start = len(text) // 8, self._words[1]
        at = start + 1 + size
        end = at + key.size
        if end + reserve > len(self._words) or max(size, key.size) > 0xFFFF:
            raise PageFull(
                f"The metric page of {len(self._memory)} bytes has no room for {key.name} {key.labels}."
            )
        memoryview(self._memory)[(start + 1) * 8 : end * 8] = text + bytes(key.size * 8)
        self._words[start] = size | key.size << 16 | crc32(text) << 32
        self._words[1] = end
        self._index[key] = at
        return at

    def _refresh(self) -> None:
        """Takes in what the writer has added since the last look, as far as it can be seen."""
        end = min(self._words[1], len(self._words))
        while self._end < end:
            found = self._parse(self._end, end)
            if found is None:
                return
            key, at = found
            self._index[key] = at
            self._end = at + key.size

    def _parse(self, start: int, end: int) -> tuple[Key, int] | None:
        """The key of the series at a word, and where its values are; None where it is not whole yet."""
        head = self._words[start]
        size, values, check = head & 0xFFFF, head >> 16 & 0xFFFF, head >> 32
        at = start + 1 + size
        if not size or at + values > end:
            return None
        text = bytes(self._memory[(start + 1) * 8 : at * 8])
        if crc32(text) != check:
            return None
        kind, name, labels, bounds = json.loads(text)
        key = Key(kind, name, tuple(labels), tuple(bounds))
        return (key, at) if key.size == values else None

    def _exemplar(self, place: int) -> Exemplar | None:
        """What is at a place; None where there is nothing, or something half-written."""
        words = _WORDS.unpack_from(self._memory, place * 8)
        if words[4] != _check(words):
            return None
        value, at = _VALUES.unpack_from(_WORDS.pack(*words), 16)
        return Exemplar(f"{words[0]:016x}{words[1]:016x}", value, at)


def _check(words: Sequence[int]) -> int:
    """What the last word of an exemplar is. No order of stores is needed to tell one that is torn."""
    return words[0] ^ words[1] ^ words[2] ^ words[3] ^ _CHECK
