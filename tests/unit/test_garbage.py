"""What becomes of the garbage collector when the model is loaded: in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mlserver.server.garbage import THRESHOLDS


def settled(before=""):
    """What the collector says after it was settled, in a process that did something before."""
    code = f"""
import gc, json
from mlserver.server import garbage
kept = [[number] for number in range(1000)]
{before}
counts = []
for _ in range(2):
    garbage.settle()
    counts.append(gc.get_freeze_count())
kept[0].append(kept)
print(json.dumps(dict(
    frozen=counts,
    thresholds=gc.get_threshold(),
    enabled=gc.isenabled(),
    looked_at=any(each is kept for each in gc.get_objects()),
)))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return json.loads(shown.stdout)


def test_what_is_there_is_not_looked_at_again():
    state = settled()
    assert state["frozen"][0] > 1000
    assert not state["looked_at"]
    assert state["thresholds"] == list(THRESHOLDS)
    assert state["enabled"]


def test_it_is_settled_once():
    first, second = settled()["frozen"]
    assert first == second


def test_garbage_that_is_there_already_is_not_kept():
    code = """
import gc, weakref
from mlserver.server import garbage
class Node: pass
node = Node()
node.itself = node
gone = weakref.ref(node)
gc.collect()
gc.disable()
del node
gc.enable()
garbage.settle()
print(gone())
"""
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
        == "None\n"
    )


def test_garbage_that_comes_later_is_still_found():
    code = f"""
import gc, weakref
from mlserver.server import garbage
garbage.settle()
class Node: pass
node = Node()
node.itself = node
gone = weakref.ref(node)
del node
made = [[] for _ in range({THRESHOLDS[0]} + 1000)]
print(gone())
"""
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
        == "None\n"
    )


@pytest.mark.parametrize(
    ("before", "thresholds", "enabled"),
    [("gc.set_threshold(1234, 5, 6)", [1234, 5, 6], True), ("gc.disable()", None, False)],
)
def test_a_predictors_own_settings_are_kept(before, thresholds, enabled):
    state = settled(before)
    assert state["frozen"] == [0, 0]
    assert state["enabled"] is enabled
    assert thresholds is None or state["thresholds"] == thresholds
    assert state["looked_at"]
