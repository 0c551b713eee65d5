"""How log lines reach a file: whole, in order, in another one once it is moved away, and what is lost counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlserver.lines import LineWriter
from mlserver.lines.file import LOOK_EVERY_S


def tell(lost):
    return b"%d were lost\n" % lost


class Disk:
    """Stands in front of ``os.write``: a disk that has room for so many bytes."""

    def __init__(self):
        self.room = 0
        self._write = os.write

    def write(self, descriptor, data):
        if descriptor == 2:
            return len(data)
        if not self.room:
            raise OSError(28, "No space left on device")
        part = bytes(data[: self.room])
        assert self._write(descriptor, part) == len(part)
        self.room -= len(part)
        return len(part)


@pytest.fixture
def disk(monkeypatch):
    made = Disk()
    monkeypatch.setattr(os, "write", made.write)
    return made


def of_their_own(path, stack):
    """A descriptor as every process opens it that logs to a file."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)


def of_the_shell(path, stack):
    """Makes descriptors as processes inherit them, with one place for all."""
    return os.dup(stack.opened)


def never_opened_anew(path, stack):
    """A descriptor of a file that this user may not open."""
    real = os.open

    def opened(name, *rest):
        if str(name).startswith("/proc/self/fd/"):
            raise PermissionError(13, "Permission denied")
        return real(name, *rest)

    stack.patch.setattr(os, "open", opened)
    return of_their_own(path, stack)


@given(
    rooms=st.lists(st.integers(0, 60), max_size=6),
    turns=st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(1, 12), min_size=1, max_size=4)), max_size=8
    ),
    telling=st.booleans(),
    opening=st.sampled_from([of_their_own, of_the_shell]),
)
@example(rooms=[10, 60], turns=[(0, [12]), (1, [1]), (0, [1])], telling=True, opening=of_their_own)
def test_what_a_full_disk_cuts_off_swallows_no_line_of_any_process_and_every_lost_line_is_counted(
    tmp_path_factory, rooms, turns, telling, opening
):
    disk, dropped, sent = Disk(), [], []
    path = tmp_path_factory.getbasetemp() / "disk.log"
    path.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        stack.opened = os.open(path, os.O_WRONLY | os.O_CREAT)
        stack.callback(os.close, stack.opened)
        writers = [LineWriter(opening(path, stack), on_drop=dropped.append, path=path) for _ in range(3)]
        patch.setattr(os, "write", disk.write)
        for turn, (writer, sizes) in enumerate(turns):
            disk.room = rooms[turn % len(rooms)] if rooms else 0
            lines = [b"<%d.%d" % (turn, at) + b"x" * size + b">" for at, size in enumerate(sizes)]
            sent += lines
            writers[writer].tell = tell if telling else None
            writers[writer].write([line + b"\n" for line in lines])
        before = sum(dropped)
        disk.room = 1000
        for number, writer in enumerate(writers):
            writer.write([b"<again %d>\n" % number])
            writer.close()
    held = path.read_bytes().splitlines()
    assert {b"<again 0>", b"<again 1>", b"<again 2>"} <= set(held)
    assert len([line for line in held if line in sent]) + before == len(sent)
    assert sum(dropped) == before
    told = [int(line.split()[0]) for line in held if line.endswith(b"were lost")]
    assert sum(told) == (before if telling else 0)


@pytest.mark.parametrize("opening", [of_their_own, of_the_shell])
def test_whoever_meets_a_full_disk_ends_what_was_cut_off_for_all(tmp_path, disk, monkeypatch, opening):
    path = tmp_path / "server.log"
    with ExitStack() as stack:
        stack.opened = os.open(path, os.O_WRONLY | os.O_CREAT)
        stack.callback(os.close, stack.opened)
        met, idle = (LineWriter(opening(path, stack)) for _ in range(2))
        disk.room = 4
        met.write([b"<lost>\n"])
        disk.room = 1000
        idle.write([b"<idle>\n"])
        met.write([b"<met>\n"])
        met.close()
        idle.close()
    assert path.read_bytes() == b"<lo\n<idle>\n\n<met>\n"


def test_a_reader_that_has_read_a_part_of_a_line_before_it_was_ended_sees_the_next_line_whole(
    tmp_path, disk, monkeypatch
):
    path, seen = tmp_path / "server.log", []
    writer = LineWriter.to_file(path)
    with path.open("rb", buffering=0) as reader:
        seek = os.lseek
        monkeypatch.setattr(os, "lseek", lambda *args: seen.append(reader.read()) or seek(*args))
        disk.room = 4
        writer.write([b"<lost>\n"])
        disk.room = 1000
        writer.write([b"<next>\n"])
        seen.append(reader.read())
    writer.close()
    assert seen == [b"<los", b"\n<next>\n"]


def test_what_another_process_appended_to_a_part_of_a_line_is_whole_again(tmp_path, disk, monkeypatch):
    path = tmp_path / "server.log"
    writers = [LineWriter.to_file(path) for _ in range(2)]
    seek = os.lseek

    def late(*args):
        disk.room = 1000
        writers[1].write([b"<between>\n"])
        return seek(*args)

    monkeypatch.setattr(os, "lseek", late)
    disk.room = 4
    writers[0].write([b"<lost>\n"])
    for writer in writers:
        writer.close()
    assert path.read_bytes() == b"<lo\n<between>\n"


def test_a_place_that_another_process_has_moved_is_not_written_to(tmp_path, disk, monkeypatch):
    path = tmp_path / "server.log"
    opened = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = LineWriter(os.dup(opened))
    seek = os.lseek

    def late(*args):
        disk.room = 1000
        os.write(opened, b"<between>")
        return seek(*args)

    monkeypatch.setattr(os, "lseek", late)
    disk.room = 4
    writer.write([b"<lost>\n"])
    writer.close()
    os.close(opened)
    assert path.read_bytes() == b"<los<between>"


@pytest.mark.parametrize("first", [0, 1])
def test_where_a_part_cannot_be_ended_whoever_met_the_full_disk_begins_on_a_line_of_its_own(
    tmp_path, disk, monkeypatch, first
):
    path, dropped = tmp_path / "server.log", []
    writers = [LineWriter.to_file(path, on_drop=dropped.append) for _ in range(2)]
    monkeypatch.setattr(os, "pwrite", lambda *args: os.write(-1, b""))
    disk.room = 3
    for writer in writers:
        writer.write([b"<lost>\n"])
    disk.room = 1000
    for number in (first, 1 - first):
        writers[number].write([b"<%d>\n" % number])
        writers[number].close()
    assert path.read_bytes() == b"<lo\n<%d>\n<%d>\n" % (first, 1 - first)
    assert dropped == [1, 1]


@pytest.mark.parametrize("cut", [0, 1])
def test_a_part_of_a_file_that_may_not_be_opened_again_is_ended_by_the_next_line(tmp_path, disk, cut):
    path, dropped = tmp_path / "server.log", []
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        stack.patch = patch
        writer = LineWriter(never_opened_anew(path, stack), on_drop=dropped.append)
        disk.room = len(b"<one>\n<two>\n") - 1 - cut
        writer.write([b"<one>\n", b"<two>\n"])
        disk.room = 1000
        writer.write([b"<three>\n"])
        writer.close()
    assert path.read_bytes() == b"<one>\n<two>"[: 11 - cut] + b"\n<three>\n"
    assert dropped == [1] * cut


def test_after_a_full_disk_one_line_says_how_many_were_lost(tmp_path, disk):
    writer = LineWriter.to_file(tmp_path / "server.log")
    writer.tell = tell
    writer.write([b"one\n", b"two\n"])
    writer.write([b"three\n"])
    disk.room = 1000
    writer.write([b"four\n"])
    writer.write([b"five\n"])
    writer.close()
    assert (tmp_path / "server.log").read_bytes() == b"3 were lost\nfour\nfive\n"


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def followed(tmp_path):
    path, clock = tmp_path / "server.log", Clock()
    writer = LineWriter(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640), path=path, clock=clock)
    yield writer, path, clock
    writer.close()


def test_a_file_that_was_moved_away_and_made_anew_is_left_within_a_second(followed):
    writer, path, clock = followed
    writer.write([b"one\n"])
    moved = path.rename(path.with_suffix(".log.1"))
    path.touch()
    writer.write([b"two\n"])
    clock.now += LOOK_EVERY_S
    writer.write([b"three\n"])
    writer.write([b"four\n"])
    assert (moved.read_bytes(), path.read_bytes()) == (b"one\ntwo\n", b"three\nfour\n")


def test_a_file_that_was_moved_away_is_made_anew_a_second_after_that_was_seen(followed):
    writer, path, clock = followed
    moved = path.rename(path.with_suffix(".log.1"))
    clock.now += LOOK_EVERY_S
    writer.write([b"one\n"])
    clock.now += LOOK_EVERY_S - 0.01
    writer.write([b"two\n"])
    assert not path.exists()
    clock.now += 0.01
    writer.write([b"three\n"])
    assert (moved.read_bytes(), path.read_bytes()) == (b"one\ntwo\n", b"three\n")


def test_a_file_that_came_back_goes_on(followed):
    writer, path, clock = followed
    moved = path.rename(path.with_suffix(".log.1"))
    clock.now += LOOK_EVERY_S
    writer.write([b"one\n"])
    moved.rename(path)
    for line in (b"two\n", b"three\n"):
        clock.now += LOOK_EVERY_S
        writer.write([line])
    assert path.read_bytes() == b"one\ntwo\nthree\n"


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 0.7)), max_size=30), st.integers(0, 29))
def test_once_a_file_is_made_anew_nobody_who_keeps_writing_goes_on_in_the_old_one(
    tmp_path_factory, writes, rotate_at
):
    path, clock = tmp_path_factory.mktemp("rotated") / "server.log", Clock()
    writers = [
        LineWriter(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), path=path, clock=clock)
        for _ in range(3)
    ]
    moved, old = path.with_suffix(".log.1"), None
    for number, (writer, pause) in enumerate(writes):
        if number == rotate_at:
            path.rename(moved)
        clock.now += pause
        writers[writer].write([b"%d\n" % number])
        if moved.exists() and path.exists():
            old = moved.read_bytes() if old is None else old
            assert moved.read_bytes() == old
    for writer in writers:
        writer.close()
    kept = (moved.read_text() if moved.exists() else "") + (path.read_text() if path.exists() else "")
    assert kept.split() == [str(number) for number in range(len(writes))]


def test_a_file_that_was_removed_is_made_anew_and_only_its_owner_and_group_read_it(followed):
    writer, path, clock = followed
    path.unlink()
    for line in (b"lost\n", b"one\n"):
        clock.now += LOOK_EVERY_S
        writer.write([line])
    assert path.read_bytes() == b"one\n"
    assert path.stat().st_mode & 0o007 == 0


def test_what_has_taken_the_place_of_the_file_is_left_alone_unless_it_is_a_file(followed):
    writer, path, clock = followed
    moved = path.rename(path.with_suffix(".log.1"))
    os.mkfifo(path)
    clock.now += LOOK_EVERY_S
    writer.write([b"one\n"])
    assert moved.read_bytes() == b"one\n"


@pytest.mark.parametrize("block", [lambda path: path.mkdir(), lambda path: path.parent.rmdir()])
def test_a_file_that_cannot_be_opened_anew_goes_on_being_written(tmp_path, block, capfd):
    (tmp_path / "logs").mkdir()
    path, clock = tmp_path / "logs" / "server.log", Clock()
    writer = LineWriter(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), path=path, clock=clock)
    moved = path.rename(tmp_path / "moved.log")
    block(path)
    for _ in range(2):
        clock.now += LOOK_EVERY_S
        writer.write([b"line\n"])
    writer.close()
    assert moved.read_bytes() == b"line\nline\n"
    assert len(re.findall("cannot be opened anew", capfd.readouterr().err)) == 1


def test_a_file_is_looked_for_once_a_second_at_most(followed, monkeypatch):
    writer, _, clock = followed
    looks, real = [], os.path.samestat
    monkeypatch.setattr(os.path, "samestat", lambda *stats: looks.append(1) or real(*stats))
    for _ in range(100):
        writer.write([b"line\n"])
    clock.now += LOOK_EVERY_S
    for _ in range(100):
        writer.write([b"line\n"])
    assert len(looks) == 1


ROTATED = """
import os, sys
from pathlib import Path
from mlserver.lines import LineWriter
now = 0.0
path = Path(sys.argv[1])
writer = LineWriter(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), path=path, clock=lambda: now)
for number in range(3000):
    now += 0.1
    writer.write([b"%s %d\\n" % (sys.argv[2].encode(), number)] )
    if number in (100, 2000):
        print(number, flush=True)
        sys.stdin.readline()
writer.close()
"""


def test_no_line_is_lost_when_a_file_that_two_processes_write_is_rotated(tmp_path):
    path = tmp_path / "server.log"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", ROTATED, str(path), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in "ab"
    ]  # fmt: skip
    for turn in (1, 2):
        for writer in writers:
            writer.stdout.readline()
        path.rename(tmp_path / f"server.log.{turn}")
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    kept = [
        (tmp_path / name).read_text().splitlines() for name in ("server.log.1", "server.log.2", "server.log")
    ]
    assert all(kept)
    assert sorted(line for lines in kept for line in lines) == sorted(
        f"{name} {number}" for name in "ab" for number in range(3000)
    )
    for name in "ab":
        own = [int(line.split()[1]) for lines in kept for line in lines if line.startswith(name)]
        assert own == sorted(own)
