"""Servers as a user starts them: real processes on free ports, ended by their ids."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

DEADLINE_S = 30.0
"""How long anything may take before a test gives up."""
MLSERVER = str(Path(sys.executable).with_name("mlserver"))

PREDICTOR = """
import os, time
from pathlib import Path

HERE = Path(__file__).parent


def wait_for(name):
    while not (HERE / name).exists():
        time.sleep(0.005)


class Predictor:
    '''Answers who it is. A row that starts with -1 is answered once the file `gate` is there.'''

    def __init__(self, version="1", print_this=None, takes_s=0):
        self.version = version
        self.takes_s = takes_s
        if print_this:
            print(print_this, flush=True)
            os.system("echo " + print_this)

    def predict(self, X):
        if X[0][0] == -1:
            (HERE / "running").touch()
            wait_for("gate")
        time.sleep(self.takes_s)
        return [f"{self.version}/{os.getpid()}"] * len(X)
"""


@pytest.fixture(name="eventually", scope="session")
def eventually_():
    return eventually


def eventually(condition, what="the condition"):
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if answer := condition():
                return answer
        except (httpx.TransportError, psutil.NoSuchProcess):
            pass
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {DEADLINE_S:g} s")


class Server:
    """A running ``mlserver serve`` in a folder with its own mlserver.yaml and predictor."""

    def __init__(self, folder):
        self.folder = folder
        self.process = None
        self.workers = 1

    @property
    def out(self):
        return (self.folder / "stdout").read_text()

    @property
    def err(self):
        return (self.folder / "stderr").read_text()

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]

    def configure(self, *, predictor=PREDICTOR, init_kwargs=None, observability=None, api=None, **server):
        self.workers = server.get("workers", 1)
        (self.folder / "predictor_under_test.py").write_text(predictor)
        document = {
            "server": {"host": "127.0.0.1", "port": 0, "management": {"port": 0}} | server,
            "predictor": {
                "module": "predictor_under_test",
                "class_name": "Predictor",
                "init_kwargs": init_kwargs or {},
            },
            "observability": observability or {},
            "api": api or {},
        }
        (self.folder / "mlserver.yaml").write_text(yaml.safe_dump(document))

    def launch(self, **popen):
        """Starts the process and waits for nothing."""
        with (self.folder / "stdout").open("w") as out, (self.folder / "stderr").open("w") as err:
            self.process = subprocess.Popen(
                [MLSERVER, "serve", str(self.folder / "mlserver.yaml")],
                **({"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, "cwd": "/"} | popen),
                start_new_session=True,
            )
        return self

    def start(self, *, ready=True, **popen):
        """Starts the process and waits until it listens and, unless told otherwise, every worker is ready."""
        self.launch(**popen)
        eventually(lambda: self.url("management") or self.process.poll() is not None, "the start")
        assert self.process.poll() is None, self.err
        try:
            eventually(lambda: not ready or len(self.ready_lines) == self.workers, "readiness")
            eventually(lambda: not ready or self.get("/readyz").status_code == 200, "readiness")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.out}\n{self.err}") from None
        return self

    @property
    def ready_lines(self):
        return [line for line in self.lines if line["message"].endswith("is ready")]

    def url(self, what):
        found = re.search(rf"^{what} +(http://\S+)$", self.err, re.MULTILINE)
        return found and found[1].removesuffix("/predict")

    @property
    def port(self):
        return httpx.URL(self.url("predictions")).port

    def get(self, path, *, at="predictions", **options):
        return httpx.get(self.url(at) + path, timeout=DEADLINE_S, **options)

    def predict(self, first=0.0, client=httpx):
        return client.post(
            self.url("predictions") + "/predict", json={"ndarray": [[first, 2.0]]}, timeout=DEADLINE_S
        )

    def who(self):
        """Version and process id of the worker that answers a new connection."""
        response = self.predict()
        assert response.status_code == 200, response.text
        return named(response)

    def answered_by_another(self, pid):
        """Whether a prediction succeeds, and not in that process."""
        response = self.predict()
        return response.status_code == 200 and named(response)[1] != pid

    def reload(self, **options):
        return httpx.post(self.url("management") + "/reload", json={}, timeout=DEADLINE_S, **options)

    @property
    def worker_pids(self):
        """Process ids of the workers by slot; of two in a slot, of the later one."""
        titled = {}
        for child in psutil.Process(self.process.pid).children():
            if found := re.match(r"ml_server: worker (\d+)", " ".join(child.cmdline())):
                titled[int(found[1])] = child.pid
        return titled

    def signal(self, number):
        os.kill(self.process.pid, number)

    def wait(self):
        """The exit code."""
        return self.process.wait(DEADLINE_S)

    def end(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.wait()
            raise AssertionError("The server did not end when told to: " + self.err) from None


def named(response):
    version, pid = response.json()["predictions"][0].split("/")
    return version, int(pid)


@pytest.fixture
def server(tmp_path):
    """One that is configured and started by the test."""
    made = Server(tmp_path)
    yield made
    (tmp_path / "gate").touch()
    made.end()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two workers that the tests of a module share and leave as they are."""
    made = Server(tmp_path_factory.mktemp("pair"))
    made.configure(workers=2, init_kwargs={"print_this": "shouting"})
    try:
        yield made.start()
    finally:
        made.end()
