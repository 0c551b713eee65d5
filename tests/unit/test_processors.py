"""How many processors there are for the process, and who is told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mlserver import processors as module
from mlserver.processors import THREADS, processors, shared_threads


@pytest.fixture
def eight(monkeypatch):
    """A process that may use eight processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def v2(folder, text):
    (folder / "cpu.max").write_text(text)
    return folder


def v1(folder, quota, period="100000"):
    (folder / "cpu").mkdir()
    (folder / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    return folder


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("400000 50000\n", 8),
        ("9900000 100000\n", 8),
        ("25000 50000\n", 1),
        ("", 8),
        ("nonsense", 8),
        ("a b", 8),
    ],
)
def test_a_control_group_of_version_2_limits_them(eight, tmp_path, text, count):
    assert processors(v2(tmp_path, text)) == count


@pytest.mark.parametrize(("quota", "count"), [("-1", 8), ("300000", 3), ("250000", 3), ("5000", 1), ("x", 8)])
def test_a_control_group_of_version_1_limits_them(eight, tmp_path, quota, count):
    assert processors(v1(tmp_path, quota)) == count


def test_where_there_is_no_control_group_affinity_says_it(eight, tmp_path):
    assert processors(tmp_path / "missing") == 8


def test_affinity_is_that_of_this_process(tmp_path):
    allowed = os.sched_getaffinity(0)
    code = (
        "import os; from pathlib import Path; from mlserver.processors import processors;"
        f"os.sched_setaffinity(0, {{{min(allowed)}}}); print(processors(Path({str(tmp_path)!r})))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert shown.stdout == "1\n"


@pytest.mark.parametrize(("workers", "share"), [(1, "8"), (2, "4"), (3, "2"), (8, "1"), (20, "1")])
def test_each_worker_starts_its_share_of_threads(monkeypatch, workers, share):
    monkeypatch.setattr(module, "processors", lambda: 8)
    assert shared_threads(workers, {"PATH": "/bin"}) == dict.fromkeys(THREADS, share)


@pytest.mark.parametrize("name", THREADS)
def test_a_users_own_variable_is_left_alone_and_so_are_its_likes(name):
    # A library that reads two of them would otherwise take ours first.
    assert shared_threads(2, {name: "3"}) == {}
