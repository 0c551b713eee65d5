"""The README's tour, run as it stands: what the commands print is what the README says they print."""

from __future__ import annotations

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
TOUR = re.findall(r"^```console\n\$ (curl .*)\n((?:.+\n)*?)```", README, re.MULTILINE)
LINE = re.search(r"^```json\n(\{.*\})\n```", README, re.MULTILINE)[1]
VARYING = r'("(?:request_id|timestamp)":)"[^"]+"|("(?:time_ms|duration_ms)":)[\d.]+'


def constant(text):
    """A text without what differs from run to run."""
    return re.sub(VARYING, r"\1\2…", text).strip()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The quickstart on free ports; gives the two ports and the path of its log."""
    quickstart = ROOT / "examples" / "quickstart"
    if not (quickstart / "model.skops").exists():
        subprocess.run([sys.executable, quickstart / "train.py"], check=True)
    folder = tmp_path_factory.mktemp("tour")
    environment = os.environ | {"MLSERVER_SERVER__PORT": "0", "MLSERVER_SERVER__MANAGEMENT__PORT": "0"}
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        command = [sys.executable, "-m", "mlserver", "serve", quickstart / "mlserver.yaml"]
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
        request = f"@{quickstart / 'request.json'}"  # the one that `make demo` sends itself
        subprocess.run(["curl", "-s", "--json", request, f"127.0.0.1:{port}/predict"], check=True)
        yield port, management, folder / "out"
    finally:
        server.terminate()
        assert server.wait() == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour needs curl")
def test_the_tour_prints_what_the_readme_shows(demo):
    port, management, log = demo
    assert len(TOUR) >= 4
    for command, shown in TOUR:
        here = command.replace("localhost:8000", f"127.0.0.1:{port}").replace(
            "localhost:8001", f"127.0.0.1:{management}"
        )
        printed = subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=True).stdout
        assert constant(printed) == constant(shown), command
    assert constant(LINE) in [constant(line) for line in log.read_text().splitlines()]


def test_every_page_that_is_linked_is_there():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    ]
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []
