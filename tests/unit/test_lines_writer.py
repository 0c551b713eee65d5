"""How log lines reach a file, a pipe or a socket: whole, in order, without waiting, and what is lost counted."""

from __future__ import annotations

import fcntl
import gc
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlserver.lines import ATOMIC_BYTES, LineWriter
from mlserver.lines.file import MAX_LINE
from mlserver.lines.stream import MAX_WAITING, _Way

FILL = 1 << 16
"""Bytes of a pipe, as Linux makes it."""
DEADLINE_S = 30.0


def tell(lost):
    return b"%d were lost\n" % lost


@pytest.fixture
def piped():
    """A writer to a pipe, with what it counted as lost and the end to read."""
    read, write = os.pipe()
    lost = []
    writer = LineWriter(write, on_drop=lost.append)
    writer.tell = tell
    with os.fdopen(read, "rb", buffering=0) as reader:
        yield writer, reader, lost
        writer.close()


def read_lines(reader, until=lambda lines: False):
    """Reads until that is true of the lines, or the writers are gone."""
    data = b""
    deadline = time.monotonic() + DEADLINE_S
    while not until(data.splitlines()):
        ready, _, _ = select.select([reader], [], [], max(0, deadline - time.monotonic()))
        assert ready, data[-1000:]
        if not (part := os.read(reader.fileno(), FILL)):
            break
        data += part
    assert data.endswith(b"\n")
    return data.splitlines()


def numbered(count, size=500, start=0):
    return [b"%06d%s\n" % (number, b"x" * (size - 7)) for number in range(start, start + count)]


def numbers(lines):
    return [int(line[:6]) for line in lines]


def test_threads_share_a_writer(tmp_path):
    writer = LineWriter.to_file(tmp_path / "server.log")
    threads = [
        threading.Thread(target=lambda: [writer.write([b"x" * 99 + b"\n"]) for _ in range(200)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    writer.close()
    assert (tmp_path / "server.log").read_bytes() == (b"x" * 99 + b"\n") * 800


def test_the_lines_of_a_turn_are_written_to_a_file_at_once(tmp_path, monkeypatch):
    writer, sizes = LineWriter.to_file(tmp_path / "server.log"), []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or real(fd, data))
    writer.write([b"x" * 999 + b"\n"] * 10)
    writer.close()
    assert sizes == [10_000]


def test_chunks_for_a_pipe_hold_whole_lines_of_at_most_an_atomic_write(piped, monkeypatch):
    writer, _, _ = piped
    sizes, real = [], os.write
    monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or real(fd, data))
    writer.write([b"x" * 999 + b"\n"] * 10)
    assert sizes == [4000, 4000, 2000]
    assert max(sizes) <= ATOMIC_BYTES


def test_how_long_a_line_may_be_and_whether_it_has_colours_depends_on_where_it_goes(
    tmp_path, piped, monkeypatch
):
    assert LineWriter.to_file(tmp_path / "server.log").longest == MAX_LINE
    assert (piped[0].longest, piped[0].colours) == (ATOMIC_BYTES, False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    on_terminal = LineWriter(os.dup(theirs))
    assert (on_terminal.longest, on_terminal.colours) == (ATOMIC_BYTES, True)
    on_terminal.close()
    monkeypatch.setenv("NO_COLOR", "1")
    without = LineWriter(theirs)
    assert without.colours is False
    without.close()
    os.close(ours)


def test_lines_that_cannot_be_written_are_counted_and_nothing_is_raised(capfd):
    dropped = []
    writer = LineWriter(os.open("/dev/full", os.O_WRONLY), on_drop=dropped.append)
    writer.write([b"one\n", b"two\n"])
    writer.write([b"three\n"])
    writer.close()
    writer.write([b"after the end\n"])
    assert dropped == [2, 1, 1]
    said = capfd.readouterr().err.splitlines()
    assert said == ["mlserver: log lines cannot be written and are lost: No space left on device"]


def test_a_listener_to_losses_that_raises_does_no_harm():
    def broken(lost):
        raise OSError(lost)

    writer = LineWriter(os.open("/dev/full", os.O_WRONLY), on_drop=broken)
    writer.tell = broken
    writer.write([b"one\n"])
    writer.write([b"two\n"])
    writer.close()


def test_a_reader_that_does_not_read_is_not_waited_for_and_gets_all_in_order_once_it_reads(piped):
    writer, reader, lost = piped
    lines = numbered(1500)
    for line in lines:
        writer.write([line])
    assert lost == []
    got = read_lines(reader, lambda got: len(got) == len(lines))
    assert got == [line[:-1] for line in lines]


def test_a_thread_lives_only_while_something_waits(piped):
    writer, reader, _ = piped
    assert threads() == []
    writer.write(numbered(500))
    (thread,) = threads()
    read_lines(reader, lambda got: len(got) == 500)
    thread.join(DEADLINE_S)
    assert threads() == []
    writer.write([b"000500\n"])
    assert threads() == []
    assert os.read(reader.fileno(), FILL) == b"000500\n"


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "log lines"]


def test_what_a_reader_does_not_take_is_bounded_and_lost_lines_are_counted_and_told_once(piped):
    writer, reader, lost = piped
    count = 4000
    for number in range(count):
        writer.write(numbered(1, start=number))
    waiting = sum(map(len, writer._sink._waiting))
    assert MAX_WAITING - 500 <= waiting <= MAX_WAITING
    assert 0 < sum(lost) < count
    got = read_lines(reader, lambda got: got and got[-1].endswith(b"were lost"))
    assert got[-1] == b"%d were lost" % sum(lost)
    assert numbers(got[:-1]) == list(range(count - sum(lost)))
    writer.write(numbered(1))
    assert read_lines(reader, len) == [numbered(1)[0][:-1]]
    assert writer._sink._waiting.maxlen is None
    assert not writer._sink._waiting


def test_lines_are_taken_again_once_half_of_what_waits_is_read(piped):
    writer, reader, lost = piped
    writer.write(numbered(4000))
    before = sum(lost)
    (thread,) = threads()
    read = read_lines(reader, lambda got: len(got) >= 1500)
    got = len(read)
    writer.write([b"900000\n"])
    rest = read_lines(reader, lambda lines: lines and lines[-1] == b"900000")
    assert rest[-2] == b"%d were lost" % before
    assert sum(lost) == before
    assert numbers(read + rest[:-2]) == list(range(got + len(rest) - 2))
    thread.join(DEADLINE_S)


class Way:
    """Stands for a pipe that takes so many bytes, or is broken."""

    def __init__(self, rooms, breaks):
        self.rooms, self.breaks = rooms, breaks
        self.held, self.asked = b"", 0

    def send(self, data):
        self.asked += 1
        if self.asked in self.breaks:
            raise BrokenPipeError(32, "Broken pipe")
        taken = data[: self.rooms[self.asked % len(self.rooms)]] if self.rooms else data
        self.held += taken
        return len(taken)

    def forget(self):
        pass

    def close(self):
        pass


@pytest.fixture(scope="module")
def on_way():
    """Makes a writer to a `Way`, which nothing writes to but the test."""

    def make(way, lost):
        read, write = os.pipe()
        os.close(read)
        writer = LineWriter(write, on_drop=lost.append)
        writer._sink._way.close()
        writer._sink._way = way
        writer._sink.thread = threading.current_thread()
        return writer

    return make


@given(
    rooms=st.lists(st.integers(0, 30), max_size=12),
    turns=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4), max_size=8),
    breaks=st.sets(st.integers(1, 12)),
)
@example(rooms=[2, 5], turns=[[0]], breaks={2})
@example(rooms=[40, 8], turns=[[3, 3], [3]], breaks={2, 3, 4})
def test_whatever_a_pipe_takes_no_line_is_torn_by_another_and_all_that_is_lost_is_counted_and_told(
    on_way, rooms, turns, breaks
):
    way, lost, sent = Way(rooms, breaks), [], []
    writer = on_way(way, lost)
    writer.tell = tell
    for number, sizes in enumerate(turns):
        lines = [b"<%d.%d" % (number, at) + b"x" * size + b">\n" for at, size in enumerate(sizes)]
        sent += lines
        writer.write(lines)
        writer._sink._write_waiting()
    way.rooms = []
    writer._sink._write_waiting()
    way.breaks = ()
    before = sum(lost)
    writer.write([b"<again>\n"])
    writer._sink._write_waiting()
    lines = way.held.split(b"\n")
    whole = [line + b"\n" for line in lines if line + b"\n" in sent]
    assert sum(lost) == before
    assert len(whole) + before == len(sent)
    assert whole == [line for line in sent if line in whole]
    assert sum(int(line.split()[0]) for line in lines if line.endswith(b"were lost")) == before
    assert b"<again>" in lines


def test_a_line_that_lacks_only_its_end_when_the_pipe_breaks_is_not_lost(on_way):
    way, lost = Way([4, 4], {2}), []
    writer = on_way(way, lost)
    writer.write([b"four\n"])
    assert writer._sink._write_waiting() is False
    assert writer._sink._write_waiting() is True
    way.rooms = []
    writer.write([b"next\n"])
    writer._sink._write_waiting()
    assert (way.held, lost) == (b"four\nnext\n", [])


def test_a_reader_that_has_gone_costs_only_the_lines(piped):
    writer, reader, lost = piped
    reader.close()
    writer.write([b"one\n"])
    writer.write([b"two\n", b"three\n"])
    assert lost == [1, 2]
    assert threads() == []


def test_what_waits_when_a_reader_goes_is_lost(piped):
    writer, reader, lost = piped
    writer.write(numbered(1000))
    (thread,) = threads()
    reader.close()
    thread.join(DEADLINE_S)
    assert 0 < sum(lost) < 1000


def test_a_writer_that_is_closed_gives_a_slow_reader_time_and_counts_what_it_does_not_take(
    piped, monkeypatch
):
    monkeypatch.setattr("mlserver.lines.writer.CLOSE_S", 0.01)
    writer, reader, lost = piped
    writer.write(numbered(1000))
    writer.close()
    got = read_lines(reader)
    assert numbers(got) == list(range(1000 - sum(lost)))
    assert len(got) < 1000


def test_a_reader_that_is_behind_gets_all_before_the_end(piped):
    writer, reader, lost = piped
    writer.write(numbered(1000))
    got = []
    reading = threading.Thread(target=lambda: got.extend(read_lines(reader)))
    reading.start()
    writer.close()
    reading.join()
    assert (len(got), lost) == (1000, [])


def test_the_flags_of_a_descriptor_that_others_have_too_stay_as_they_are(piped):
    read, write = os.pipe()
    before = fcntl.fcntl(write, fcntl.F_GETFL)
    writer = LineWriter(os.dup(write))
    writer.write(numbered(1000))
    assert fcntl.fcntl(write, fcntl.F_GETFL) == before
    assert os.get_blocking(write)
    os.close(read)
    writer.close()
    os.close(write)


@contextmanager
def no_way_of_its_own(monkeypatch):
    real = os.open

    def refused(path, *args, **kwargs):
        if str(path).startswith("/proc/self/fd"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        yield


def test_a_pipe_of_another_user_is_not_waited_for_either(monkeypatch):
    read, write = os.pipe()
    lost = []
    with no_way_of_its_own(monkeypatch):
        writer = LineWriter(write, on_drop=lost.append)
    writer.write(numbered(1000))
    assert lost == []
    assert os.get_blocking(write)
    with os.fdopen(read, "rb", buffering=0) as reader:
        assert numbers(read_lines(reader, lambda got: len(got) == 1000)) == list(range(1000))
    writer.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_socket_is_not_waited_for(kind):
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    lost = []
    writer = LineWriter(theirs.detach(), on_drop=lost.append)
    writer.write(numbered(2000))
    assert lost == []
    with ours:
        got = read_lines(ours, lambda got: len(got) == 2000)
    assert numbers(got) == list(range(2000))
    writer.write([b"one\n"])
    assert sum(lost) == 1
    writer.close()


def test_a_terminal_that_is_held_is_not_waited_for():
    ours, theirs = pty.openpty()
    lost = []
    writer = LineWriter(theirs, on_drop=lost.append)
    writer.write(numbered(200, size=80))
    with os.fdopen(ours, "rb", buffering=0) as reader:
        got = read_lines(reader, lambda got: len(got) == 200)
        assert numbers(got) == list(range(200))
        assert lost == []
        writer.close()


def test_a_named_pipe_need_not_have_a_reader_yet(tmp_path):
    path = tmp_path / "server.log"
    os.mkfifo(path)
    writer = LineWriter.to_file(path)
    writer.write([b"one\n"])
    with path.open("rb", buffering=0) as reader:
        assert reader.read(4) == b"one\n"
    writer.close()


def test_where_no_thread_can_be_made_the_next_line_tries_again(piped, monkeypatch):
    writer, reader, lost = piped

    def refused(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        writer.write(numbered(500))
        got = read_lines(reader, lambda got: len(got) * 500 >= FILL - ATOMIC_BYTES)
    writer.write(numbered(1, start=500))
    got += read_lines(reader, lambda rest: len(got) + len(rest) == 501)
    assert numbers(got) == list(range(501))
    assert lost == []


class Loud:
    """Logs when it is collected."""

    def __init__(self, writer):
        self.writer = writer
        self.itself = self

    def __del__(self):
        self.writer.write([b"from a finalizer\n"])


@pytest.mark.parametrize("to", ["file", "pipe"])
def test_a_finalizer_that_logs_in_the_middle_of_a_write_neither_hangs_nor_tears_it(to, tmp_path, monkeypatch):
    read, write = os.pipe()
    writer = LineWriter.to_file(tmp_path / "server.log") if to == "file" else LineWriter(write)
    real = os.write

    def write_and_collect(descriptor, data):
        if b"first" in data:
            gc.collect()
        return real(descriptor, data)

    Loud(writer)
    monkeypatch.setattr(os, "write", write_and_collect)
    writer.write([b"first\n", b"second\n"])
    writer.close()
    data = (tmp_path / "server.log").read_bytes() if to == "file" else os.read(read, FILL)
    assert data == b"first\nsecond\nfrom a finalizer\n"
    os.close(read)
    if to == "file":
        os.close(write)


FORKED = """
import os, threading
from mlserver.lines import LineWriter
writer = LineWriter(os.dup(1))
inside, go_on = threading.Event(), threading.Event()

class Slow(bytes):
    def __len__(self):
        inside.set()
        go_on.wait()
        return 9

thread = threading.Thread(target=writer.write, args=([Slow(b"of parent\\n")],))
thread.start()
inside.wait()
if os.fork() == 0:
    writer.write([b"of child\\n"])
    os._exit(0)
os.wait()
go_on.set()
thread.join()
"""


def test_a_forked_process_logs_though_another_thread_was_writing():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, check=True, timeout=DEADLINE_S
    )
    assert done.stdout.splitlines()[0] == b"of child"


SHARED = """
import os, sys
from mlserver.lines import LineWriter
lost = []
writer = LineWriter(os.dup(1), on_drop=lost.append)
line = (sys.argv[1] * 1200).encode() + b"\\n"
for number in range(300):
    writer.write([line] * 5)
    if number % 50 == 0:
        print(sys.argv[1] * 1200, flush=True)
sys.stderr.write(f" {sum(lost)}")
"""


def test_two_processes_on_one_pipe_never_tear_a_line_nor_a_print():
    read, write = os.pipe()
    writers = [
        subprocess.Popen([sys.executable, "-I", "-c", SHARED, name], stdout=write, stderr=subprocess.PIPE)
        for name in "ab"
    ]
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        lines = pipe.read().splitlines()
    lost = sum(int(writer.communicate()[1].split()[-1]) for writer in writers)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(lines) + lost == 2 * (300 * 5 + 6)
    assert set(lines) == {b"a" * 1200, b"b" * 1200}


def test_what_waits_at_the_end_of_a_process_is_still_written():
    script = (
        "import os\nfrom mlserver.lines import LineWriter\nwriter = LineWriter(os.dup(1))\n"
        "writer.write([b'x' * 499 + b'\\n'] * 2000)\nos.write(2, b'written')\nos.close(2)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr.read() == b"written"
        assert process.stdout.read() == (b"x" * 499 + b"\n") * 2000


def test_standard_error_that_nobody_reads_blocks_nothing():
    """The pipe of the lines is mostly that of standard error, too."""
    script = (
        "import os\nfrom mlserver.lines import LineWriter\nwriter = LineWriter(os.dup(2))\n"
        "for _ in range(3000): writer.write([b'x' * 511 + b'\\n'])\n"
        "os.write(1, b'done')\nos._exit(0)"
    )
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=write) as process:
        os.close(write)
        try:
            out, _ = process.communicate(timeout=DEADLINE_S)
        finally:
            with suppress(OSError):
                os.close(read)
            process.kill()
    assert out == b"done"


OTHER_USER = """
import os, sys
from mlserver.lines import LineWriter
for change, value in ((os.setgroups, []), (os.setgid, 65534), (os.setuid, 65534)):
    change(value)
try:
    os.open("/proc/self/fd/1", os.O_WRONLY)
    sys.exit("it may open it")
except PermissionError:
    pass
name, lost, number = sys.argv[1], [], 0
writer = LineWriter(os.dup(1), on_drop=lost.append)
while count := sys.stdin.readline():
    for _ in range(int(count)):
        writer.write([f"{name} {number:06} ".encode() + b"x" * (number * 37 % 3900) + b"\\n"])
        number += 1
    print(sum(lost), file=sys.stderr, flush=True)
"""


class OtherUser:
    """A process of a user that may not open what it writes to; it writes as many lines as it is asked for."""

    def __init__(self, name, stdout, **popen):
        self.asked, self.lost = 0, 0
        command = [sys.executable, "-c", OTHER_USER, name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, bufsize=0, **popen
        )

    def ask(self, count):
        self.asked += count
        self.process.stdin.write(b"%d\n" % count)

    def answer(self):
        """Waits until all of them are written, wait or are lost."""
        ready, _, _ = select.select([self.process.stderr], [], [], DEADLINE_S)
        assert ready, "it waits for the reader"
        self.lost = int(self.process.stderr.readline())

    def end(self):
        with self.process:
            self.process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_several_who_may_not_open_their_pipe_never_wait_for_its_reader_nor_tear_a_line():
    read, write = os.pipe()
    others = {name: OtherUser(name, write) for name in "abc"}
    os.close(write)
    data = b""
    try:
        for _ in range(500):
            for other in others.values():
                other.ask(1)
            for other in others.values():
                other.answer()
            # The room that this makes is what all of them wait for.
            data += os.read(read, ATOMIC_BYTES)
        for other in others.values():
            other.process.stdin.close()
        while part := os.read(read, FILL):
            data += part
    finally:
        os.close(read)
        for other in others.values():
            other.end()
    lines = data.decode().splitlines()
    for name, other in others.items():
        own = [line.split(" ") for line in lines if line.startswith(name)]
        assert [int(number) for _, number, _ in own] == list(range(other.asked))
        assert all(text == "x" * (int(number) * 37 % 3900) for _, number, text in own)
        assert other.lost == 0
    assert len(lines) == sum(other.asked for other in others.values())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_terminal_of_a_session_is_not_waited_for_by_another_user_either():
    ours, theirs = pty.openpty()
    other = OtherUser(
        "a", theirs, preexec_fn=lambda: (os.setsid(), fcntl.ioctl(theirs, termios.TIOCSCTTY, 0))
    )
    try:
        other.ask(200)
        other.answer()
        with os.fdopen(ours, "rb", buffering=0) as reader:
            lines = read_lines(reader, lambda got: len(got) == 200 and got[-1].count(b"x") == 199 * 37 % 3900)
    finally:
        other.end()
        os.close(theirs)
    assert [int(line.split()[1]) for line in lines] == list(range(200))


def test_a_pipe_that_may_not_be_opened_takes_a_line_whole_or_not_at_all(monkeypatch):
    read, write = os.pipe()
    with no_way_of_its_own(monkeypatch):
        way = _Way(os.dup(write))
    pages, taken = FILL // ATOMIC_BYTES, []

    def fill():
        taken.extend(way.send(line) for line in [b"x" * 2999 + b"\n"] * (pages + 1) + [b"y\n"])

    filling = threading.Thread(target=fill, daemon=True)
    filling.start()
    filling.join(DEADLINE_S)
    assert taken == [3000] * pages + [0, 0]
    assert os.read(read, FILL) == (b"x" * 2999 + b"\n") * pages
    assert way.send(b"z" * (2 * ATOMIC_BYTES)) == ATOMIC_BYTES
    assert os.read(read, FILL) == b"z" * ATOMIC_BYTES
    os.close(read)
    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            way.send(b"y\n")
    way.close()
    os.close(write)


def in_a_fork(work):
    if not (child := os.fork()):
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def test_a_forked_process_has_a_pipe_of_its_own_to_move_lines_from(monkeypatch):
    read, write = os.pipe()
    with no_way_of_its_own(monkeypatch):
        writer = LineWriter(write)
    writer.write([b"first\n"])
    way = writer._sink._way
    os.write(way._ours[1], b"under way\n")  # as if another thread were in the middle of it
    in_a_fork(lambda: writer.write([b"of child\n"]))
    assert os.read(read, FILL) == b"first\nof child\n"
    assert os.read(way._ours[0], FILL) == b"under way\n"
    writer.close()
    os.close(read)


def test_lines_that_were_lost_before_a_fork_are_told_by_the_parent_alone(piped):
    writer, reader, _ = piped
    writer.lose(3, "for the sake of it")
    in_a_fork(lambda: writer.write([b"of child\n"]))
    writer.write([b"of parent\n"])
    assert os.read(reader.fileno(), FILL) == b"of child\n3 were lost\nof parent\n"


def test_a_line_that_was_begun_before_a_fork_is_for_the_parent_to_end(on_way):
    way, lost = Way([0, 2], {3}), []
    writer = on_way(way, lost)
    writer.write([b"of parent\n"])
    assert writer._sink._write_waiting() is False
    assert (way.held, way.asked) == (b"of", 1)
    assert writer._sink._write_waiting() is False
    writer._forked()  # as in the child
    writer._sink.thread = threading.current_thread()
    writer.write([b"lost\n"])
    assert writer._sink._write_waiting() is True
    assert lost == [1]
    way.rooms = []
    writer.write([b"of child\n"])
    assert writer._sink._write_waiting() is True
    assert way.held == b"ofof child\n"
