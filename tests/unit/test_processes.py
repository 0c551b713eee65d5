"""What the system says of the server's processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver import signals
from mlserver.exposition.processes import Processes

TICKS = os.sysconf("SC_CLK_TCK")
ALL = {metric.name for metric in signals.PROCESSES if metric.name.startswith("process_")}


def values(processes, name=None):
    """By metric and worker, or by worker alone."""
    found = {
        (sample.name, sample.labels["worker"]): sample.value
        for family in processes.collect()
        for sample in family.samples
    }
    return found if name is None else {worker: value for (key, worker), value in found.items() if key == name}


@pytest.fixture
def child():
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()  # from now on it waits
    yield process
    process.kill()
    process.communicate()


class Proc:
    """A /proc of our own making."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text("cpu  1 2 3\nintr 4\nbtime 1700000000\nprocesses 5\n")

    def put(self, pid, *, started=100, user=0, system=0, state="S", name="python", files=3, limit="1024"):
        folder = self.folder / str(pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        for number in range(files):
            (folder / "fd" / str(number)).touch()
        fields = [state, *["0"] * 10, str(user), str(system), *["0"] * 6, str(started), "4096000", "250"]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)} 0 0\n")
        (folder / "limits").write_text(
            f"Limit                     Soft Limit           Hard Limit           Units     \n"
            f"Max open files            {limit}                 4096                 files     \n"
        )


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path / "proc")


def test_every_process_has_every_metric_as_psutil_sees_it(child):
    pids = {"supervisor": os.getpid(), "0": child.pid}
    found = values(Processes(lambda: pids))
    assert set(found) == {(name, worker) for name in ALL for worker in pids}
    for worker, pid in pids.items():
        known = psutil.Process(pid)
        with known.oneshot():
            memory, cpu = known.memory_info(), known.cpu_times()
        assert found["process_resident_memory_bytes", worker] == pytest.approx(memory.rss, rel=0.5)
        assert found["process_virtual_memory_bytes", worker] == pytest.approx(memory.vms, rel=0.5)
        assert found["process_start_time_seconds", worker] == pytest.approx(known.create_time(), abs=2)
        assert found["process_cpu_seconds_total", worker] == pytest.approx(cpu.user + cpu.system, abs=1)
        assert found["process_open_fds", worker] == pytest.approx(known.num_fds(), abs=5)
        assert found["process_max_fds", worker] == known.rlimit(psutil.RLIMIT_NOFILE)[0]
    assert found["process_start_time_seconds", "0"] <= time.time() + 1


def test_names_and_helps_are_those_of_the_signals():
    declared = {
        metric.name.removesuffix("_total"): metric for metric in signals.PROCESSES if metric.name in ALL
    }
    families = {family.name: family for family in Processes(dict).collect()}
    assert list(families) == list(declared)
    for name, metric in declared.items():
        shown = families[name]
        assert (shown.type, shown.documentation, shown.unit) == (metric.type, metric.help, metric.unit)
        assert shown.samples == []


def test_a_process_that_has_ended_is_left_out_and_the_others_are_not(child):
    processes = Processes(lambda: {"0": child.pid, "1": os.getpid()})
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    assert {worker for _, worker in values(processes)} == {"1"}
    child.wait()
    assert {worker for _, worker in values(processes)} == {"1"}


def test_the_process_of_another_user_does_not_raise():
    processes = Processes(lambda: {"0": 1, "1": os.getpid()})
    assert {name for name, worker in values(processes) if worker == "1"} == ALL
    assert "0" in values(processes, "process_cpu_seconds_total")


def test_what_one_may_not_see_is_left_out(proc, monkeypatch):
    proc.put(7)
    listdir = os.listdir

    def refuse(path):
        if str(path).endswith("7/fd"):
            raise PermissionError
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr("pathlib.Path.stat", lambda self: os.stat_result([0] * 10))
    found = values(Processes(lambda: {"0": 7}, proc=proc.folder))
    assert {name for name, _ in found} == ALL - {"process_open_fds", "process_max_fds"}


def test_what_is_read_of_proc(proc, monkeypatch):
    proc.put(7, started=5 * TICKS, user=3 * TICKS, system=TICKS, name="a ) b) S 1 2", limit="unlimited")
    monkeypatch.setattr("pathlib.Path.stat", lambda self: os.stat_result([0] * 10))
    assert values(Processes(lambda: {"0": 7}, proc=proc.folder)) == {
        ("process_virtual_memory_bytes", "0"): 4096000,
        ("process_resident_memory_bytes", "0"): 250 * os.sysconf("SC_PAGE_SIZE"),
        ("process_start_time_seconds", "0"): 1700000005,
        ("process_cpu_seconds_total", "0"): 4,
        ("process_max_fds", "0"): float("inf"),
        ("process_open_fds", "0"): 3,
    }


@pytest.mark.parametrize("text", ["", "7", "7 (python) S", "7 (python) S " + "x " * 30])
def test_a_stat_that_is_none_is_a_process_that_is_gone(proc, text):
    proc.put(7)
    (proc.folder / "7" / "stat").write_text(text)
    assert values(Processes(lambda: {"0": 7}, proc=proc.folder)) == {}


def test_without_proc_there_are_no_samples(tmp_path):
    assert values(Processes(lambda: {"0": os.getpid()}, proc=tmp_path / "none")) == {}


steps = st.lists(
    st.tuples(st.sampled_from(["work", "respawn", "same pid", "back", "gone"]), st.integers(0, 50)),
    max_size=20,
)


@given(steps)
def test_cpu_time_of_a_label_is_that_of_all_its_processes_and_never_falls(tmp_path_factory, steps):
    proc = Proc(tmp_path_factory.mktemp("proc"))
    pids = {}
    processes = Processes(lambda: pids, proc=proc.folder)
    pid, started, ticks, before, seen, last = 10, 100, 0, 0, 0, 0.0
    for step, more in steps:
        if step == "gone":
            pids = {}
            assert values(processes) == {}
            continue
        if step == "work":
            ticks += more
        elif step == "back":  # as the system corrects itself
            ticks = max(0, ticks - more)
        else:
            pid, started, ticks = pid + (step == "respawn"), started + 1, more
        if step in ("respawn", "same pid") or ticks < seen:
            before += seen
        proc.put(pid, started=started, user=ticks)
        pids = {"0": pid}
        found = values(processes, "process_cpu_seconds_total")["0"]
        assert found == pytest.approx((before + ticks) / TICKS)
        assert found >= last
        last, seen = found, ticks
