"""Supervisor and workers as processes: how they start, share the work, die, drain and reload."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import threading
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from textwrap import dedent

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mlserver.config import load_config
from mlserver.errors import RequestError
from mlserver.server import fleet, sockets
from mlserver.server.fleet import Fleet
from mlserver.server.metrics import FleetMetrics
from mlserver.server.reload import Reload

SLOW_START = """
class Predictor(Predictor):
    def __init__(self, wait=None, **options):
        super().__init__(**options)
        if wait:
            (HERE / "loading").touch()
            wait_for(wait)
"""
ONLY_ONE = """
class Predictor(Predictor):
    def __init__(self, version):
        super().__init__(version)
        if version == "2" and (HERE / "one").exists():
            raise RuntimeError("there is one already")
        if version == "2":
            (HERE / "one").touch()
"""
LOCKED = """
import ctypes

class Predictor(Predictor):
    def predict(self, X):
        if X[0][0] == -2:
            (HERE / f"locked-{os.getpid()}").touch()
            ctypes.PyDLL(None).sleep(100)  # unlike CDLL it keeps the interpreter lock
        return super().predict(X)
"""
BROKEN = """
class Predictor:
    def __init__(self):
        raise RuntimeError("no weights at hand")
"""
DEADLY = """
import os
os._exit(7)
"""


@pytest.fixture
def extended(server):
    """The predictor under test with something added."""

    def configure(addition, **options):
        server.configure(**options)
        module = server.folder / "predictor_under_test.py"
        module.write_text(module.read_text() + dedent(addition))
        return server

    return configure


@pytest.fixture
def background():
    """Runs functions in threads; the test ends when they have."""
    threads = []

    def run(function):
        threads.append(threading.Thread(target=function))
        threads[-1].start()
        return threads[-1]

    yield run
    for thread in threads:
        thread.join(60)


class Later:
    """The result of a call that is made in a thread."""

    def __init__(self, background, function):
        def call():
            try:
                self.value = function()
            except httpx.TransportError as error:
                self.value = error

        self._thread = background(call)

    def get(self):
        self._thread.join(60)
        return self.value


def named(response):
    """Version and process id of the worker that answered a prediction."""
    version, pid = response.json()["predictions"][0].split("/")
    return version, int(pid)


def metric(server, name, at="predictions"):
    families = text_string_to_metric_families(server.get("/metrics", at=at).text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


# Running


def test_both_workers_answer(pair, eventually):
    seen = set()
    eventually(lambda: seen.add(pair.who()[1]) or len(seen) == 2)
    assert seen == set(pair.worker_pids.values())


def test_processes_are_titled(pair):
    assert psutil.Process(pair.process.pid).cmdline()[0] == "ml_server: supervisor"
    assert set(pair.worker_pids) == {0, 1}


def test_what_a_predictor_prints_does_not_get_between_the_log_lines(pair):
    assert "shouting" not in pair.out
    assert pair.err.count("shouting") == 4  # by print and by a child process, in two workers
    assert all("timestamp" in line for line in pair.lines)


def test_the_supervisor_runs_no_model_and_loads_no_numerical_library(pair):
    maps = psutil.Process(pair.process.pid).memory_maps()
    assert not [region.path for region in maps if "numpy" in region.path or "sklearn" in region.path]


def test_the_start_says_where_everything_is(pair):
    assert pair.get("", at="docs").status_code == 200
    assert pair.get("", at="metrics").status_code == 200
    assert pair.get("/healthz", at="management").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/startupz"])
def test_probes_say_the_same_on_both_ports(pair, path):
    ours, theirs = pair.get(path), pair.get(path, at="management")
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
    assert ours.status_code == 200


def test_either_port_counts_the_requests_of_all_workers(pair):
    before = metric(pair, "mlserver_predictions_total") or metric(pair, "mlserver_requests_total")
    for _ in range(20):
        pair.who()
    after = metric(pair, "mlserver_requests_total", at="management")
    assert after - before >= 20
    # the scrape itself is counted, the management listener's is not
    assert metric(pair, "mlserver_requests_total", at="management") == after


def test_metrics_come_as_openmetrics_when_asked_for(pair):
    response = pair.get("/metrics", at="management", headers={"accept": "application/openmetrics-text"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


# The management listener


def test_a_page_of_another_site_cannot_reach_the_management_listener(pair):
    response = pair.get("/healthz", at="management", headers={"host": "evil.example"})
    assert (response.status_code, response.json()["code"]) == (421, "wrong_host")


def test_a_write_from_a_browser_is_refused(pair):
    assert pair.reload(headers={"origin": "http://localhost"}).status_code == 403
    url = pair.url("management") + "/reload"
    assert httpx.post(url, content="{}", headers={"content-type": "text/plain"}).status_code == 415
    assert httpx.get(url).status_code == 405
    large = httpx.post(url, content=" " * 70_000, headers={"content-type": "application/json"})
    assert large.status_code == 413


def test_the_management_listener_answers_unknown_paths_and_broken_requests_with_problems(pair):
    unknown = pair.get("/nothing", at="management", headers={"x-request-id": "abc"})
    assert unknown.headers["content-type"] == "application/problem+json"
    assert unknown.json()["code"] == "not_found"
    assert unknown.json()["request_id"] == unknown.headers["x-request-id"] == "abc"
    with socket.create_connection(("127.0.0.1", httpx.URL(pair.url("management")).port)) as broken:
        broken.sendall(b"NONSENSE\r\n\r\n")
        assert b" 400 " in broken.makefile("rb").readline()


def test_off_loopback_only_probes_and_metrics_are_there(server):
    server.configure(management={"host": "0.0.0.0", "port": 0})
    server.start()
    foreign = {"host": "10.1.2.3:8001"}
    for path in ("/healthz", "/readyz", "/startupz", "/metrics"):
        assert server.get(path, at="management", headers=foreign).status_code == 200
    assert server.reload().status_code == 404


def test_with_a_token_all_but_probes_and_metrics_ask_for_it(server):
    server.configure(management={"port": 0, "token": "s3cret"})
    server.start()
    assert server.get("/metrics", at="management").status_code == 200
    assert server.reload().status_code == 401
    assert server.reload(headers={"authorization": "Bearer s3cret"}).status_code == 200
    assert "s3cret" not in server.out + server.err


def test_without_metrics_their_path_is_not_there(server):
    server.configure(observability={"metrics": False})
    server.start()
    assert server.get("/metrics", at="management").status_code == 404
    assert server.get("/readyz", at="management").status_code == 200


def lock_all_workers(server, eventually, background):
    """Has every worker run native code that holds its interpreter lock."""
    clients = {}

    def lock(client):
        with closing(client), suppress(httpx.TransportError):
            server.predict(-2.0, client=client)

    while len(clients) < server.workers:
        client = httpx.Client()
        _, pid = named(server.predict(client=client))
        clients.setdefault(pid, client)
        if clients[pid] is not client:
            client.close()
    for client in clients.values():
        background(partial(lock, client))
    eventually(lambda: len(list(server.folder.glob("locked-*"))) == server.workers)
    return list(clients)


def test_management_answers_while_every_worker_holds_its_interpreter_lock(extended, eventually, background):
    server = extended(LOCKED, workers=2).start()
    pids = lock_all_workers(server, eventually, background)
    for path in ("/healthz", "/readyz", "/startupz", "/metrics"):
        assert server.get(path, at="management").status_code == 200
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_files_in_the_current_folder_do_not_take_the_place_of_libraries(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("json", "numpy", "uvicorn"):
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    server.configure()
    server.start(cwd=folder)
    assert server.predict().status_code == 200


# Starting badly


@pytest.mark.parametrize("which", ["data", "management"])
def test_a_port_in_use_ends_the_start_with_one_line(server, pair, which):
    taken = pair.port if which == "data" else httpx.URL(pair.url("management")).port
    server.configure(**({"port": taken} if which == "data" else {"management": {"port": taken}}))
    server.launch()
    assert server.wait() == 1
    assert server.err.startswith(f"mlserver: Cannot listen on 127.0.0.1:{taken} ")
    assert server.err.count("\n") == 1


def test_a_crash_loop_ends_the_server_with_one_clear_line(server):
    server.configure(predictor=DEADLY)
    server.launch()
    assert server.wait() == 1
    (line,) = [line for line in server.err.splitlines() if line.startswith("mlserver: ")]
    assert "Worker 0 died 5 times in a row before its model was loaded; the last time: exit code 7." in line
    assert len([line for line in server.lines if "died: exit code 7" in line["message"]]) == 5


def test_a_model_that_does_not_load_leaves_the_server_up_to_say_so(server, eventually):
    server.configure(predictor=BROKEN)
    server.start(ready=False)
    eventually(lambda: "RuntimeError while the model was loaded" in server.get("/readyz").text)
    pids = server.worker_pids
    for at in ("predictions", "management"):
        assert server.get("/healthz", at=at).status_code == 200
        ready = server.get("/readyz", at=at)
        assert (ready.status_code, ready.json()["detail"]) == (503, "Model not loaded")
        started = server.get("/startupz", at=at)
        assert started.status_code == 503
        assert started.json()["checks"]["config_loaded"] is True
        assert started.json()["checks"]["model_loaded"] is False
    assert server.predict().status_code == 503
    assert any("raise RuntimeError" in line.get("exception", "") for line in server.lines)
    assert server.worker_pids == pids


def test_while_the_model_loads_the_process_is_healthy_but_not_ready(extended, eventually):
    server = extended(SLOW_START, init_kwargs={"wait": "gate"}).start(ready=False)
    eventually((server.folder / "loading").exists)
    for at in ("predictions", "management"):
        assert server.get("/healthz", at=at).status_code == 200
        assert server.get("/readyz", at=at).status_code == 503
    (server.folder / "gate").touch()
    eventually(lambda: server.get("/readyz").status_code == 200)


# Dying


class Client:
    """Predicts over one connection after another, several requests on each, until told to stop."""

    def __init__(self, server, stop):
        self.answered = Counter()
        self.failed = []
        self._server = server
        self._stop = stop

    def run(self):
        while not self._stop.is_set():
            with httpx.Client() as client:
                self._converse(client)

    def _converse(self, client):
        pid = None
        for _ in range(20):
            try:
                response = self._server.predict(client=client)
            except httpx.TransportError:
                self.failed.append(pid)
                return
            if response.status_code != 200:
                self.failed.append(response.text)
                return
            _, pid = named(response)
            self.answered[pid] += 1


@pytest.fixture
def load(background):
    """Starts clients; the function that it gives stops them and returns them."""
    stop = threading.Event()

    def start(server, count=4):
        clients = [Client(server, stop) for _ in range(count)]
        threads = [background(client.run) for client in clients]

        def finish():
            stop.set()
            for thread in threads:
                thread.join(60)
            return clients

        return finish

    yield start
    stop.set()


def test_a_killed_worker_takes_only_its_own_requests_along_and_is_replaced(server, eventually, load):
    server.configure(workers=2)
    server.start()
    before = server.worker_pids
    finish = load(server)
    eventually(lambda: metric(server, "mlserver_requests_total", at="management") > 100)
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: server.worker_pids.get(0, before[0]) != before[0])
    after = server.worker_pids
    seen = set()
    eventually(lambda: seen.add(server.who()[1]) or seen == set(after.values()))
    clients = finish()
    assert after[1] == before[1]
    # None: its connection was accepted by the worker that was killed, and had no answer yet
    assert {pid for client in clients for pid in client.failed} <= {before[0], None}
    assert sum(len(client.failed) for client in clients) <= len(clients)
    assert any("killed by SIGKILL" in line["message"] for line in server.lines)


def test_counts_outlive_the_worker_that_counted_them(server, eventually):
    server.configure()
    server.start()
    for _ in range(30):
        server.who()
    total = metric(server, "mlserver_requests_total", at="management")
    assert total >= 30
    (pid,) = server.worker_pids.values()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server.answered_by_another(pid))
    assert metric(server, "mlserver_requests_total", at="management") >= total + 1


def test_gauges_of_a_killed_worker_fall_to_zero_even_if_nobody_goes_on_in_its_page(
    extended, eventually, background
):
    server = extended(LOCKED, graceful_timeout_s=0.2).start()
    lock_all_workers(server, eventually, background)
    assert metric(server, "mlserver_active_requests", at="management") == 1
    assert server.reload().status_code == 200  # kills the old worker, which cannot hear that it is to drain
    assert metric(server, "mlserver_active_requests", at="management") == 0
    assert any("killed by SIGKILL" in line["message"] for line in server.lines)


def test_while_a_successor_loads_its_sibling_answers_everything(extended, eventually):
    server = extended(SLOW_START, workers=2).start()
    # The successor waits for the gate: this predictor's file is read anew by each worker.
    module = server.folder / "predictor_under_test.py"
    module.write_text(module.read_text().replace("wait=None", "wait='gate'"))
    before = server.worker_pids
    os.kill(before[0], signal.SIGKILL)
    eventually((server.folder / "loading").exists)
    assert {server.who()[1] for _ in range(30)} == {before[1]}
    (server.folder / "gate").touch()
    eventually(lambda: server.who()[1] != before[1])


def test_a_successor_gets_the_configuration_that_is_in_effect_not_what_the_file_says_by_then(
    server, eventually
):
    server.configure(init_kwargs={"version": "7"})
    server.start()
    (server.folder / "mlserver.yaml").write_text("nonsense: true\n")
    (pid,) = server.worker_pids.values()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server.answered_by_another(pid))
    assert server.who()[0] == "7"


def test_workers_do_not_outlive_a_killed_supervisor_even_with_the_interpreter_lock_held(
    extended, eventually, background
):
    server = extended(LOCKED, workers=2).start()
    pids = lock_all_workers(server, eventually, background)
    server.signal(signal.SIGKILL)
    server.wait()
    eventually(lambda: not any(map(running, pids)))


def running(pid):
    """Whether a process is there and more than a zombie that nobody has reaped."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_a_predictor_starts_does_not_keep_the_port_and_can_be_ended(extended, server, eventually):
    addition = """
        class Predictor(Predictor):
            def __init__(self):
                super().__init__()
                import subprocess
                child = subprocess.Popen(["sleep", "1000"], close_fds=False)
                (HERE / "child").write_text(str(child.pid))
    """
    extended(addition).start()
    port = server.port
    server.end()
    child = int((server.folder / "child").read_text())
    try:
        assert running(child)
        with socket.create_server(("127.0.0.1", port), reuse_port=False):
            pass
        os.kill(child, signal.SIGTERM)
        eventually(lambda: not running(child))
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


# Draining


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_lets_running_requests_end_and_the_server_exit_0(
    server, eventually, background, number
):
    server.configure(workers=2)
    server.start()
    slow = Later(background, lambda: server.predict(-1.0))
    eventually((server.folder / "running").exists)
    os.killpg(server.process.pid, number)  # as a terminal and systemd do
    eventually(lambda: server.get("/readyz", at="management").json() == {"detail": "Draining"})
    (server.folder / "gate").touch()
    assert slow.get().status_code == 200
    assert server.wait() == 0
    assert "mlserver: " not in server.err


def test_during_the_drain_delay_requests_are_answered_while_probes_say_draining(server, eventually):
    server.configure(drain_delay_s=600)
    server.start()
    server.signal(signal.SIGTERM)
    eventually(lambda: server.get("/readyz").status_code == 503)
    for at in ("predictions", "management"):
        response = server.get("/readyz", at=at)
        assert (response.status_code, response.json()) == (503, {"detail": "Draining"})
        assert server.get("/healthz", at=at).status_code == 200
    response = server.predict()
    assert response.status_code == 200
    assert response.headers["connection"] == "close"
    server.signal(signal.SIGTERM)  # the second one ends it at once
    assert server.wait() == 1
    assert "second signal" in server.err


def test_a_request_that_outlasts_the_graceful_timeout_is_cut_off_and_the_exit_code_says_so(
    server, eventually, background
):
    server.configure(graceful_timeout_s=0.2)
    server.start()
    slow = Later(background, lambda: server.predict(-1.0))
    eventually((server.folder / "running").exists)
    server.signal(signal.SIGTERM)
    assert server.wait() == 1
    assert (slow.get().status_code, slow.get().json()["code"]) == (503, "cut_off")
    assert "Worker 0" in server.err


def test_an_interrupt_during_the_start_ends_it_quietly(server, eventually):
    server.configure(workers=2)
    server.launch()
    eventually(lambda: server.url("management"))
    eventually(lambda: len(psutil.Process(server.process.pid).children()) == 2)
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.wait() == 0
    assert "Traceback" not in server.err


def test_a_server_whose_model_is_still_loading_ends_at_once_with_exit_code_0(extended, eventually):
    server = extended(SLOW_START, init_kwargs={"wait": "never"}).start(ready=False)
    eventually((server.folder / "loading").exists)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_closing_the_terminal_ends_the_server(server, eventually):
    server.configure()
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        server.launch(stdin=terminal, preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)))
    eventually(lambda: server.url("management") and server.get("/readyz").status_code == 200)
    os.close(ours)
    assert server.wait() == 0


# Reloading


def set_version(server, version, *, takes_s=0, **options):
    server.configure(init_kwargs={"version": version, "takes_s": takes_s}, **options)


@pytest.mark.parametrize("way", ["post", "signal", "command"])
def test_a_reload_swaps_the_model(server, eventually, way):
    set_version(server, "1", workers=2)
    server.start()
    old = server.worker_pids
    set_version(server, "2", workers=2)
    if way == "post":
        response = server.reload()
        assert (response.status_code, response.json()["status"]) == (200, "reloaded")
    elif way == "signal":
        server.signal(signal.SIGHUP)
        eventually(lambda: any(line["message"] == "Reloaded" for line in server.lines))
    else:
        port = httpx.URL(server.url("management")).port
        environment = os.environ | {"MLSERVER_SERVER__MANAGEMENT__PORT": str(port)}
        command = [server.process.args[0], "reload", str(server.folder / "mlserver.yaml")]
        subprocess.run(command, check=True, env=environment, timeout=60)
    assert {server.who()[0] for _ in range(20)} == {"2"}
    assert not set(old.values()) & set(server.worker_pids.values())
    assert not any(map(running, old.values()))


class Users:
    """Send requests until told to stop, and hold every answer against the server."""

    def __init__(self, server):
        self.stop = threading.Event()
        self.versions = Counter()
        self.failed = []
        self._server = server

    def on_new_connections(self):
        while not self.stop.is_set():
            try:
                self._take(self._server.predict())
            except httpx.TransportError as error:
                self.failed.append(error)

    def on_one_connection(self):
        with httpx.Client() as client:
            while not self.stop.is_set():
                try:
                    self._take(self._server.predict(client=client))
                except httpx.TransportError:
                    # It was closed while idle: the request may be sent once more (RFC 9112, 9.3.1).
                    self._take(self._server.predict(client=client))

    def _take(self, response):
        if response.status_code == 200:
            self.versions[named(response)[0]] += 1
        else:
            self.failed.append(response.text)


def test_no_request_fails_during_a_reload(server, background):
    set_version(server, "1", workers=2, takes_s=0.01)
    server.start()
    users = Users(server)
    threads = [
        background(use) for use in (users.on_new_connections, users.on_one_connection) for _ in range(3)
    ]
    for version in ("2", "3"):
        set_version(server, version, workers=2, takes_s=0.01)
        assert server.reload().status_code == 200
    users.stop.set()
    for thread in threads:
        thread.join(60)
    assert users.failed == []
    assert users.versions["1"] > 0
    assert users.versions["2"] > 0
    assert {server.who()[0] for _ in range(10)} == {"3"}


def test_a_request_that_runs_during_a_reload_is_answered_by_the_old_model(server, eventually, background):
    two_at_once = {"concurrency": 2}
    set_version(server, "1", api=two_at_once)
    server.start()
    slow = Later(background, lambda: server.predict(-1.0))
    eventually((server.folder / "running").exists)
    set_version(server, "2", api=two_at_once)
    reload = Later(background, server.reload)
    eventually(lambda: server.who()[0] == "2")
    assert server.get("/readyz").status_code == 200
    (server.folder / "gate").touch()
    assert slow.get().json()["predictions"][0].startswith("1/")
    assert reload.get().status_code == 200


def test_a_faulty_configuration_is_refused_with_its_faults_and_the_model_stays(server):
    set_version(server, "1")
    server.start()
    old = server.worker_pids
    set_version(server, "2", portt=1)
    response = server.reload()
    assert (response.status_code, response.json()["code"]) == (422, "config_refused")
    (fault,) = response.json()["faults"]
    assert fault["path"] == "server.portt"
    assert (server.who()[0], server.worker_pids) == ("1", old)


@pytest.mark.parametrize(("predictor", "reason"), [(BROKEN, "RuntimeError"), (DEADLY, "exit code 7")])
def test_a_successor_that_does_not_get_ready_leaves_the_old_model_in_place(
    server, eventually, predictor, reason
):
    set_version(server, "1", workers=2)
    server.start()
    old = server.worker_pids
    server.configure(predictor=predictor, workers=2)
    response = server.reload()
    assert (response.status_code, response.json()["code"]) == (502, "reload_failed")
    assert reason in response.json()["detail"]
    assert predictor is DEADLY or "no weights at hand" in server.out
    assert {server.who()[0] for _ in range(10)} == {"1"}
    assert server.worker_pids == old
    assert server.get("/readyz").status_code == 200


def test_slots_that_were_replaced_already_are_put_back_when_a_later_one_fails(extended):
    server = extended(ONLY_ONE, workers=2, init_kwargs={"version": "1"}).start()
    write = (server.folder / "mlserver.yaml").read_text().replace("version: '1'", "version: '2'")
    (server.folder / "mlserver.yaml").write_text(write)
    response = server.reload()
    assert response.status_code == 502
    assert "RuntimeError" in response.json()["detail"]
    assert "there is one already" in server.out
    assert {server.who()[0] for _ in range(20)} == {"1"}
    assert set(server.worker_pids) == {0, 1}


def test_a_model_that_did_not_load_can_be_put_right_by_a_reload(server, eventually):
    server.configure(predictor=BROKEN)
    server.start(ready=False)
    eventually(lambda: "RuntimeError while the model was loaded" in server.get("/readyz").text)
    set_version(server, "2")
    assert server.reload().status_code == 200
    assert server.who()[0] == "2"


def hang(server, gate="never", **options):
    """Has the next reload wait for a file while it loads; that it does shows in `loading`."""
    (server.folder / "loading").unlink(missing_ok=True)
    rewrite(server, init_kwargs={"wait": gate, "version": "hangs"}, **options)


def rewrite(server, *, init_kwargs, **observability):
    file = server.folder / "mlserver.yaml"
    document = yaml.safe_load(file.read_text())
    document["predictor"]["init_kwargs"] = init_kwargs
    document["observability"] = observability
    file.write_text(yaml.safe_dump(document))


def test_a_later_reload_takes_the_place_of_one_that_hangs(extended, eventually, background):
    server = extended(SLOW_START, workers=2).start()
    old = set(server.worker_pids.values())
    hang(server)
    first = Later(background, server.reload)
    eventually((server.folder / "loading").exists)
    (hanging,) = set(server.worker_pids.values()) - old
    line = f"Worker 0: successor (pid {hanging}) loads its model"
    assert line in [line["message"] for line in server.lines]
    rewrite(server, init_kwargs={"version": "2"})
    assert server.reload().status_code == 200
    assert (first.get().status_code, first.get().json()["code"]) == (409, "reload_replaced")
    assert {server.who()[0] for _ in range(10)} == {"2"}
    assert not running(hanging)


def test_a_reload_that_is_refused_leaves_the_one_that_runs_alone(extended, eventually, background):
    server = extended(SLOW_START).start()
    hang(server, "gate")
    first = Later(background, server.reload)
    eventually((server.folder / "loading").exists)
    (server.folder / "mlserver.yaml").write_text("nonsense: true\n")
    assert server.reload().status_code == 422
    (server.folder / "gate").touch()
    assert first.get().status_code == 200
    assert server.who()[0] == "hangs"


HANGS_IN_SLOT_1 = """
class Predictor(Predictor):
    def __init__(self, version="1"):
        super().__init__(version)
        if version == "2" and (HERE / "one").exists():
            (HERE / "loading").touch()
            wait_for("never")
        if version == "2":
            (HERE / "one").touch()
        if version == "3":
            raise RuntimeError("no third one")
"""


def test_what_a_replaced_reload_has_changed_is_put_back_if_the_later_one_fails(
    extended, eventually, background
):
    server = extended(HANGS_IN_SLOT_1, workers=2).start()
    rewrite(server, init_kwargs={"version": "2"})
    first = Later(background, server.reload)
    eventually((server.folder / "loading").exists)
    rewrite(server, init_kwargs={"version": "3"})
    response = server.reload()
    assert response.status_code == 502
    assert "no third one" in server.out
    assert first.get().status_code == 409
    assert {server.who()[0] for _ in range(20)} == {"1"}


def test_a_worker_that_dies_while_its_successor_hangs_is_replaced_all_the_same(
    extended, eventually, background
):
    server = extended(SLOW_START).start()
    (pid,) = server.worker_pids.values()
    hang(server, "gate")
    first = Later(background, server.reload)
    eventually((server.folder / "loading").exists)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server.answered_by_another(pid))
    assert server.who()[0] == "1"
    (server.folder / "gate").touch()
    assert first.get().status_code == 200
    assert server.who()[0] == "hangs"


def test_a_successor_that_does_not_load_in_time_is_ended(server, monkeypatch):
    """With a fleet in this process, whose patience can be set."""
    server.configure()
    module = server.folder / "predictor_under_test.py"
    module.write_text(module.read_text() + dedent(SLOW_START))
    config = load_config(server.folder / "mlserver.yaml", environ={})
    hang(server)
    monkeypatch.setattr(fleet, "LOAD_S", 0.5)

    async def run():
        (listening,) = sockets.bind("127.0.0.1", 0, count=1, what="server")
        metrics = FleetMetrics(config, slots=1)
        workers = Fleet(config, sockets=[listening], metrics=metrics, log=2)
        reload = Reload(
            config,
            workers,
            load=lambda: load_config(server.folder / "mlserver.yaml", environ={}),
            adopt=lambda _: None,
        )
        before = psutil.Process().children()
        with pytest.raises(RequestError) as caught:
            await reload.result(reload.begin())
        left = set(psutil.Process().children()) - set(before)
        await workers.stop(delay_s=0, timeout_s=0)
        return caught.value, left

    error, left = asyncio.run(run())
    assert error.status == 502
    assert "It did not load its model within 0.5 s and was ended." in str(error)
    assert left == set()


def test_a_server_that_stops_takes_no_reload(server):
    server.configure(drain_delay_s=600)
    server.start()
    server.signal(signal.SIGTERM)
    while server.get("/readyz", at="management").status_code == 200:
        pass
    response = server.reload()
    assert (response.status_code, response.json()["code"]) == (503, "server_stops")
    server.signal(signal.SIGTERM)


def test_a_log_file_that_cannot_be_written_is_a_fault_of_the_configuration(server):
    lost = server.folder / "server.log"
    lost.symlink_to(server.folder / "none" / "server.log")
    server.configure(observability={"log_file": str(lost)})
    server.launch()
    assert server.wait() == 2
    assert server.err == (
        f"mlserver: observability.log_file: {lost}: No such file or directory; "
        "expected a file that this user may append to\n"
    )


def test_a_reload_with_a_log_file_that_cannot_be_written_is_refused(server):
    set_version(server, "1")
    server.start()
    old = server.worker_pids
    lost = server.folder / "server.log"
    lost.symlink_to(server.folder / "none" / "server.log")
    rewrite(server, init_kwargs={"version": "2"}, log_file=str(lost))
    response = server.reload()
    assert response.status_code == 422
    assert response.json()["faults"][0]["path"] == "observability.log_file"
    assert (server.who()[0], server.worker_pids) == ("1", old)


def test_sigterm_ends_a_reload_that_waits_for_its_model(extended, eventually, background):
    server = extended(SLOW_START).start()
    document = yaml.safe_load((server.folder / "mlserver.yaml").read_text())
    document["predictor"]["init_kwargs"] = {"wait": "never"}
    (server.folder / "mlserver.yaml").write_text(yaml.safe_dump(document))
    reload = Later(background, server.reload)
    eventually((server.folder / "loading").exists)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert reload.get().status_code == 503


def test_what_needs_a_restart_is_named_and_left_alone(server):
    set_version(server, "1")
    server.start()
    set_version(server, "2", workers=3, max_body_bytes=1000)
    response = server.reload()
    assert response.json()["restart_needed"] == ["server.workers"]
    assert set(server.worker_pids) == {0}
    assert server.who()[0] == "2"
    large = httpx.post(server.url("predictions") + "/predict", content=json.dumps({"ndarray": [[0.0] * 500]}))
    assert large.status_code == 413


def test_reloads_go_on_counting_where_the_workers_before_left_off(server):
    set_version(server, "1")
    server.start()
    for _ in range(10):
        server.who()
    for _ in range(3):
        total = metric(server, "mlserver_requests_total", at="management")
        assert server.reload().status_code == 200
        assert metric(server, "mlserver_requests_total", at="management") >= total >= 10
