"""What `make demo` runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def free_ports():
    """Two ports that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def start(port, management_port, **environment):
    ports = {"MLSERVER_SERVER__PORT": str(port), "MLSERVER_SERVER__MANAGEMENT__PORT": str(management_port)}
    return subprocess.Popen(
        [sys.executable, DEMO],
        env=os.environ | ports | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("environment", [{}, {"PATH": "/nowhere"}], ids=["curl", "no curl"])
def test_the_demo_shows_a_prediction_and_ends_cleanly_on_ctrl_c(environment):
    port, management_port = free_ports()
    with start(port, management_port, **environment) as demo:
        shown = ""
        for line in demo.stdout:
            shown += line
            if line.startswith("Ctrl-C"):
                demo.send_signal(signal.SIGINT)
    assert demo.returncode == 0, shown
    assert '"predictions":["setosa"]' in shown
    assert f"http://127.0.0.1:{port}/docs\n" in shown
    assert f"http://127.0.0.1:{port}/metrics\n" in shown


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", "", "٣"])
def test_the_demo_refuses_what_is_no_port(port):
    with start(port, 8001) as demo:
        shown = demo.stdout.read()
    assert demo.returncode == 1
    assert shown == f"PORT is {port!r}; expected a port from 1 to 65535: make demo PORT=8000\n"


@pytest.mark.parametrize("variable", ["PORT", "MANAGEMENT_PORT"])
def test_the_demo_names_the_port_that_is_taken_and_how_to_choose_another(variable):
    port, management_port = free_ports()
    busy = {"PORT": port, "MANAGEMENT_PORT": management_port}[variable]
    with socket.create_server(("127.0.0.1", busy)), start(port, management_port) as demo:
        shown = demo.stdout.read()
    assert demo.returncode == 1
    assert shown == f"Port {busy} is taken; choose another: make demo {variable}={busy + 1000}\n"
