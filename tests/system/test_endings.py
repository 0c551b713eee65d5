"""What a server says when it starts, and when it or one of its workers comes to an unforeseen end."""

from __future__ import annotations

import os
import signal
from textwrap import dedent

import pytest


@pytest.fixture
def sabotage(tmp_path):
    """An environment in which a module of the server is changed once it is imported."""

    def sabotage(module, change):
        folder = tmp_path / "sabotage"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            dedent(f"""
            from wrapt import when_imported

            def fail(*_, **__):
                raise RuntimeError("sabotage\\nin two lines")

            @when_imported({module!r})
            def change(module):
                {change}
            """)
        )
        return os.environ | {"PYTHONPATH": str(folder)}

    return sabotage


def uncaught(server):
    return [line for line in server.lines if line["message"].startswith("Uncaught exception")]


@pytest.mark.parametrize(
    ("module", "change"),
    [("mlserver.app", "module.create_app = fail"), ("mlserver.server.scrapes", "module.Scrapes.send = fail")],
    ids=["before it listens", "while it serves"],
)
def test_what_ends_a_worker_is_a_line_in_the_log(server, sabotage, eventually, module, change):
    server.configure()
    server.launch(env=sabotage(module, change))
    line = eventually(lambda: uncaught(server))[0]
    assert (line["level"], line["worker"]) == ("ERROR", 0)
    assert "RuntimeError: sabotage" in line["exception"]
    assert "in two lines" in line["exception"]
    assert eventually(lambda: [line for line in server.lines if "died: exit code 1" in line["message"]])


def test_what_ends_the_supervisor_is_a_line_in_the_log(server, sabotage):
    server.configure()
    server.launch(env=sabotage("mlserver.server.fleet", "module.Fleet.start = fail"))
    assert server.wait() == 1
    (line,) = server.lines
    assert line["message"].startswith("Uncaught exception: RuntimeError: sabotage")
    assert (line["level"], line["worker"]) == ("ERROR", None)


def test_bodies_in_the_log_are_warned_of_once_for_all_workers(server, eventually):
    server.configure(
        workers=2,
        observability={"log_payloads": True, "payloads": {"redact": ["name"]}, "log_level": "WARNING"},
    )
    server.launch()
    eventually(lambda: server.url("management"))
    warnings = [line for line in server.err.splitlines() if "log_payloads" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("mlserver: warning: observability.log_payloads is on: ")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    (line,) = [line for line in server.lines if "log_payloads" in line["message"]]
    assert (line["level"], line["worker"]) == ("WARNING", None)


def test_without_bodies_in_the_log_nothing_is_warned_of(pair):
    assert "log_payloads" not in pair.out + pair.err
