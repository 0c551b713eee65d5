"""What `make demo` runs: trains the quickstart's model, serves it, asks it once and stays until Ctrl-C.

The ports are the server's own settings, MLSERVER_SERVER__PORT and MLSERVER_SERVER__MANAGEMENT__PORT.
"""

# It runs this project's own programs and asks its own server, nothing from outside.
# ruff: noqa: S310, S603

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

QUICKSTART = Path(__file__).parent / "quickstart"
START_TIMEOUT_S = 60


def port_of(variable: str, name: str, default: str) -> int:
    """The port in an environment variable, which `make demo` calls `name`."""
    given = os.environ.get(variable, default)
    if not (given.isascii() and given.isdigit() and 1 <= int(given) <= 65535):
        sys.exit(f"{name} is {given!r}; expected a port from 1 to 65535: make demo {name}={default}")
    return int(given)


PORT = port_of("MLSERVER_SERVER__PORT", "PORT", "8000")
MANAGEMENT_PORT = port_of("MLSERVER_SERVER__MANAGEMENT__PORT", "MANAGEMENT_PORT", "8001")
URL = f"http://127.0.0.1:{PORT}"


def taken(port: int) -> bool:
    """Whether something on this machine already answers on `port`."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def train() -> None:
    if not (QUICKSTART / "model.skops").exists():
        print("Training the model of examples/quickstart ...", flush=True)
        subprocess.run([sys.executable, QUICKSTART / "train.py"], check=True)


def start() -> subprocess.Popen[bytes]:
    """Starts the server out of reach of the terminal's Ctrl-C, so that it is told to end exactly once."""
    command = [sys.executable, "-m", "mlserver", "serve", QUICKSTART / "mlserver.yaml"]
    return subprocess.Popen(command, start_new_session=True)


def ready() -> bool:
    try:
        with urllib.request.urlopen(f"{URL}/readyz", timeout=1) as response:
            return response.status == 200
    except OSError:
        return False


def wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if server.poll() is not None:
            sys.exit("The server ended before it was ready; what it says above tells why.")
        if time.monotonic() > deadline:
            sys.exit(f"The server was not ready within {START_TIMEOUT_S} s; see its log above.")
        time.sleep(0.1)


def predict() -> None:
    """Prints one request, as a command to copy, and its answer."""
    body = (QUICKSTART / "request.json").read_text("utf-8").strip()
    headers = {"Content-Type": "application/json"}
    command = ["curl", "-sS", f"{URL}/predict", "-H", "Content-Type: application/json", "-d", body]
    print("\n$", shlex.join(command), flush=True)
    if shutil.which("curl"):
        subprocess.run(command, check=True)
        print()
    else:
        request = urllib.request.Request(f"{URL}/predict", body.encode(), headers)
        with urllib.request.urlopen(request) as response:
            print(response.read().decode())


def stop(server: subprocess.Popen[bytes]) -> int:
    """Lets the server answer what it has and end; its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server.terminate()
    return server.wait()


def main() -> None:
    for variable, port in {"PORT": PORT, "MANAGEMENT_PORT": MANAGEMENT_PORT}.items():
        if taken(port):
            sys.exit(f"Port {port} is taken; choose another: make demo {variable}={port + 1000}")
    train()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    server = start()
    try:
        wait_until_ready(server)
        predict()
        print(f"\nDocs     {URL}/docs\nMetrics  {URL}/metrics\nCtrl-C ends the server.\n", flush=True)
        server.wait()
    except KeyboardInterrupt:
        print("\nEnding the server ...", flush=True)
    finally:
        code = stop(server)
    sys.exit(code)


if __name__ == "__main__":
    main()
