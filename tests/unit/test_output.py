"""What a worker prints on its way to where log lines go."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlserver.lines import ATOMIC_BYTES, LineWriter
from mlserver.server.output import LONGEST, Output, go_the_same_way

DEADLINE_S = 30.0


class Lines:
    """Keeps what it is given."""

    def __init__(self):
        self.data, self.calls = b"", []

    def write(self, lines):
        assert lines
        assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
        assert max(map(len, lines)) <= ATOMIC_BYTES
        self.calls.append(lines)
        self.data += b"".join(lines)


async def until(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


def passed_on(chunks):
    """What becomes of what a worker prints before it ends."""

    async def print_all():
        faults, lines = [], Lines()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        output = Output(lines)
        with output as descriptor:
            for chunk in chunks:
                os.write(descriptor, chunk)
                await asyncio.sleep(0)
                assert len(output._rest) <= LONGEST
        await until(lambda: output._ours < 0)
        output.take_rest()
        assert faults == []
        return lines.data

    return asyncio.run(print_all())


@given(st.lists(st.binary(max_size=9) | st.integers(LONGEST - 2, 2 * LONGEST + 2).map(lambda n: b"x" * n)))
@example([b"x" * LONGEST, b"\n"])
@example([b"x" * LONGEST, b"y\n"])
@example([b"\n", b"\n"])
def test_however_it_is_printed_lines_come_out_whole_and_long_ones_cut(chunks):
    printed = b"".join(chunks)
    expected = b""
    for line in printed.split(b"\n"):
        rest = line
        while len(rest) > LONGEST:
            end = LONGEST
            while end > LONGEST - 3 and 0x80 <= rest[end] < 0xC0:
                end -= 1
            expected += rest[:end] + b"\n"
            rest = rest[end:]
        expected += rest + b"\n"
    ended = not printed or printed.endswith(b"\n")
    assert passed_on(chunks) == (expected[:-1] if ended else expected)


@given(st.text(st.sampled_from("aüβ€😀"), min_size=600, max_size=800), st.integers(0, 3))
def test_no_line_ends_within_a_character(text, shift):
    printed = "x" * shift + text * 8
    lines = passed_on([printed.encode()]).split(b"\n")
    assert "".join(line.decode() for line in lines) == printed


def test_what_is_printed_is_passed_on_at_the_end_of_its_line():
    async def print_both():
        lines = Lines()
        with Output(lines) as descriptor:
            os.write(descriptor, b"one\ntw")
            await until(lambda: lines.data)
            assert lines.data == b"one\n"
            os.write(descriptor, b"o\n")
            await until(lambda: lines.data == b"one\ntwo\n")

    asyncio.run(print_both())


def test_what_a_worker_left_is_passed_on_though_another_process_keeps_the_pipe():
    async def end():
        lines = Lines()
        output = Output(lines)
        with output as descriptor:
            other = os.dup(descriptor)
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 1 << 18)
            os.write(descriptor, b"x" * 99 + b"\n")
            os.write(descriptor, (b"y" * 99 + b"\n") * 2000)
            os.write(descriptor, b"no end")
        output.take_rest()
        assert lines.data == b"x" * 99 + b"\n" + (b"y" * 99 + b"\n") * 2000 + b"no end\n"
        os.write(other, b"later\n")
        await until(lambda: lines.data.endswith(b"no end\nlater\n"))
        os.close(other)
        await until(lambda: output._ours < 0)

    asyncio.run(end())


def test_a_process_that_goes_on_printing_does_not_hold_up_the_end_of_its_worker(monkeypatch):
    async def end():
        output = Output(Lines())
        with output:
            asked = []
            with monkeypatch.context() as patch:
                patch.setattr(
                    os, "read", lambda _, size: asked.append(size) or b"x" * (size if len(asked) < 99 else 0)
                )
                output.take_rest()
            assert sum(asked) == fcntl.fcntl(output._ours, fcntl.F_GETPIPE_SZ)
        await until(lambda: output._ours < 0)

    asyncio.run(end())


def descriptors():
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_a_worker_that_could_not_be_started_leaves_nothing_open():
    async def fail():
        before = descriptors()
        lines = Lines()
        with pytest.raises(FileNotFoundError), Output(lines) as descriptor:
            await asyncio.create_subprocess_exec("/no/such/program", stdout=descriptor)
        await until(lambda: descriptors() == before)
        assert lines.calls == []

    asyncio.run(fail())


def test_a_worker_waits_only_until_what_it_printed_is_read_and_what_nobody_takes_is_lost_and_counted():
    count, size = 60_000, 50
    script = f"for number in range({count}): print(str(number).rjust({size - 1}))"

    async def print_much(writer):
        output = Output(writer)
        with output as descriptor:
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=descriptor)
        assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
        output.take_rest()

    read, write = os.pipe()
    lost = []
    writer = LineWriter(write, on_drop=lost.append)
    asyncio.run(print_much(writer))
    assert 0 < sum(lost) < count
    reader = subprocess.Popen(["cat"], stdin=read, stdout=subprocess.PIPE)
    os.close(read)
    writer.close()
    lines = reader.communicate()[0].splitlines()
    assert list(map(int, lines)) == list(range(count - sum(lost)))


def test_descriptors_go_the_same_way_if_they_are_of_one_file_however_they_came_about(tmp_path):
    read, write = os.pipe()
    other_read, other = os.pipe()
    copy = os.dup(write)
    first = os.open(tmp_path / "server.log", os.O_WRONLY | os.O_CREAT)
    second = os.open(tmp_path / "server.log", os.O_WRONLY | os.O_APPEND)
    assert go_the_same_way(write, copy)
    assert go_the_same_way(first, second)
    assert not go_the_same_way(write, other)
    assert not go_the_same_way(write, first)
    for descriptor in (read, write, other_read, other, copy, first, second):
        os.close(descriptor)
    assert not go_the_same_way(write, copy)


def test_a_pipe_that_takes_the_number_of_one_that_has_ended_is_read_like_it():
    async def print_twice():
        lines, numbers = Lines(), []
        for text in (b"one\n", b"two\n"):
            output = Output(lines)
            with output as descriptor:
                numbers.append(output._ours)
                os.write(descriptor, text)
            await until(lambda ended=output: ended._ours < 0)
        return lines.data, numbers

    data, (first, second) = asyncio.run(print_twice())
    assert first == second
    assert data == b"one\ntwo\n"


def test_terminals_are_left_to_people():
    ours, theirs = os.openpty()
    assert not go_the_same_way(theirs, theirs)
    os.close(ours)
    os.close(theirs)
