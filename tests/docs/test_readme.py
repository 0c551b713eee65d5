"""Commands of the documents, run as they stand: what they print is what the documents say they print."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
COMMAND = re.compile(r"^```console\n\$ (curl .*)\n((?:.+\n)*?)```", re.MULTILINE)
TOUR = COMMAND.findall(README)
LINE = re.search(r"^```json\n(\{.*\})\n```", README, re.MULTILINE)[1]
VARYING = r'("(?:request_id|timestamp)":)"[^"]+"|("(?:time_ms|duration_ms)":)[\d.]+'


def constant(text):
    """A text without what differs from run to run."""
    return re.sub(VARYING, r"\1\2…", text).strip()


@contextlib.contextmanager
def served(settings, folder):
    """`mlserver serve` on free ports, from when a model is ready; gives the two ports and the path of its log."""
    environment = os.environ | {"MLSERVER_SERVER__PORT": "0", "MLSERVER_SERVER__MANAGEMENT__PORT": "0"}
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        command = [sys.executable, "-m", "mlserver", "serve", settings]
        server = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
    try:
        deadline = time.monotonic() + 60
        while "is ready" not in (folder / "out").read_text():
            assert server.poll() is None, (folder / "err").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        said = (folder / "err").read_text()
        port = re.search(r"predictions +http://\S+?:(\d+)/", said)[1]
        management = re.search(r"management +http://\S+?:(\d+)", said)[1]
        yield port, management, folder / "out"
    finally:
        server.terminate()
        assert server.wait() == 0


def printed(command, port, management):
    """What a command prints that was written for the ports of the documents."""
    here = command.replace("localhost:8000", f"127.0.0.1:{port}").replace(
        "localhost:8001", f"127.0.0.1:{management}"
    )
    return subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    quickstart = ROOT / "examples" / "quickstart"
    if not (quickstart / "model.skops").exists():
        subprocess.run([sys.executable, quickstart / "train.py"], check=True)
    with served(quickstart / "mlserver.yaml", tmp_path_factory.mktemp("tour")) as (port, management, log):
        request = f"@{quickstart / 'request.json'}"  # the one that `make demo` sends itself
        subprocess.run(["curl", "-s", "--json", request, f"127.0.0.1:{port}/predict"], check=True)
        yield port, management, log


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour needs curl")
def test_the_tour_prints_what_the_readme_shows(demo):
    port, management, log = demo
    assert len(TOUR) >= 4
    for command, shown in TOUR:
        assert constant(printed(command, port, management)) == constant(shown), command
    assert constant(LINE) in [constant(line) for line in log.read_text().splitlines()]


@pytest.mark.skipif(shutil.which("curl") is None, reason="it asks with curl")
def test_the_metrics_of_ones_own_are_shown_as_the_how_to_says(tmp_path):
    text = (ROOT / "docs/how-to/add-your-own-metrics.md").read_text("utf-8")
    for name in ("my_predictor.py", "mlserver.yaml"):
        block = re.search(rf"^```\w+\n(# {name}\n.+?)^```", text, re.MULTILINE | re.DOTALL)
        (tmp_path / name).write_text(block[1], "utf-8")
    (asking, answer), (scraping, metrics) = COMMAND.findall(text)
    with served(tmp_path / "mlserver.yaml", tmp_path) as (port, management, _):
        assert constant(printed(asking, port, management)) == constant(answer)
        deadline = time.monotonic() + 60
        while (now := printed(scraping, port, management)) != metrics:
            assert time.monotonic() < deadline, now
            time.sleep(0.05)


def test_every_page_that_is_linked_is_there():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    ]
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []
