"""The server's own numbers, held against what clients were answered, while workers are killed or do not answer."""

from __future__ import annotations

import gzip
import os
import re
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from . import load
from .conftest import DEADLINE_S, Server
from .prometheus import PORTS, samples, total

# Mixed load and two deaths

REQUESTS = 20_000
CLIENTS = 6
KILLS = 2
COUNTS = re.compile(r"mlserver_\w+_(total|bucket|count|sum)\b")
"""What may never fall nor go."""


class Scraper(threading.Thread):
    """Scrapes the management port every 100 ms, and at every tenth time the data port, too."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.scrapes = []
        self.failed = []
        self.answered, self.lost = 0, 0
        """Scrapes of the data port, which are requests that count."""
        self._server = server
        self._finished = threading.Event()

    def run(self):
        with httpx.Client(timeout=DEADLINE_S) as management, httpx.Client(timeout=DEADLINE_S) as data:
            while not self._finished.wait(0.1):
                self._take(management.get(self._server.url("management") + "/metrics"))
                if len(self.scrapes) % 10 == 0:
                    self._scrape_data(data)

    def finish(self):
        self._finished.set()
        self.join()

    def _scrape_data(self, client):
        try:
            self._take(client.get(self._server.url("predictions") + "/metrics"))
            self.answered += 1
        except httpx.TransportError:  # of the worker that was killed
            self.lost += 1

    def _take(self, response):
        if response.status_code != 200:
            self.failed.append(response.text)
        self.scrapes.append(response.text)


class Outcome:
    """What the clients saw of the load, and what the server says of it."""

    def __init__(self, server, scraper, clients, before):
        self.scraper = scraper
        self.wrong = [wrong for client in clients for wrong in client.wrong]
        self.answered, self.lost = load.joined(clients, "answered"), load.joined(clients, "lost")
        self.answered["/metrics", "GET", 200] += scraper.answered
        self.lost["/metrics", "GET", 200] += scraper.lost
        self.rows = load.joined(clients, "rows")
        self.text = server.get("/metrics", at="management").text
        self.said = samples(self.text)
        self.counted = requests(self.text) - requests(before)

    def total(self, name, **labels):
        return total(self.text, name, **labels)


def requests(text):
    """``requests_total`` by endpoint, method and status."""
    return Counter(
        {
            (sample.labels["endpoint"], sample.labels["method"], int(sample.labels["status"])): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "mlserver_requests_total"
        }
    )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, eventually):
    """20,000 requests to 4 workers, two of which are killed on the way."""
    server = Server(tmp_path_factory.mktemp("load"))
    server.configure(
        predictor=load.PREDICTOR,
        workers=4,
        max_body_bytes=load.MAX_BODY_BYTES,
        max_header_bytes=load.MAX_HEADER_BYTES,
    )
    try:
        server.start()
        before = server.get("/metrics", at="management").text
        kinds = iter(load.mixed(REQUESTS))
        clients = [load.Client(server.port, kinds) for _ in range(CLIENTS)]
        scraper = Scraper(server)
        for thread in (scraper, *clients):
            thread.start()
        for number in range(KILLS):
            share = REQUESTS * (number + 1) / (KILLS + 1)
            eventually(
                lambda share=share: load.joined(clients, "answered").total() > share, "a part of the load"
            )
            os.kill(server.worker_pids[number], signal.SIGKILL)
        for client in clients:
            client.join()
        scraper.finish()
        yield Outcome(server, scraper, clients, before)
    finally:
        server.end()


def test_every_response_is_the_one_that_was_owed(outcome):
    assert outcome.wrong == []
    assert (
        outcome.answered.total() + outcome.lost.total()
        == REQUESTS + outcome.scraper.answered + outcome.scraper.lost
    )


def test_a_kill_loses_no_more_than_one_request_of_each_connection(outcome):
    """The bound: a client has one request on its way at a time, and so has the scraper."""
    assert outcome.lost.total() <= KILLS * (CLIENTS + 1)


def test_requests_total_equals_the_responses_but_for_those_that_never_arrived(outcome):
    """A request without a response counts or not, under the labels that its response would have had."""
    assert outcome.counted.keys() >= outcome.answered.keys()
    for key in outcome.counted.keys() | outcome.lost.keys():
        least = outcome.answered[key]
        assert least <= outcome.counted[key] <= least + outcome.lost[key], key


def test_no_count_that_was_scraped_is_ever_below_its_predecessor_and_none_goes(outcome):
    assert outcome.scraper.failed == []
    assert len(outcome.scraper.scrapes) > 20
    faults, last = [], {}
    for number, text in enumerate(outcome.scraper.scrapes):
        said = {series: value for series, value in samples(text).items() if COUNTS.match(series)}
        faults += [(number, series) for series in last.keys() - said.keys()]
        faults += [
            (number, series, last[series], said[series])
            for series in last
            if said.get(series, 0) < last[series]
        ]
        last = said
    assert last
    assert faults == []


def test_cpu_time_of_a_worker_never_falls_although_its_process_is_another_one(outcome):
    faults, last = [], {}
    for number, text in enumerate(outcome.scraper.scrapes):
        for series, value in samples(text).items():
            if series.startswith("process_cpu_seconds_total"):
                if value < last.get(series, 0):
                    faults.append((number, series, last[series], value))
                last[series] = value
    assert len(last) >= 5  # four workers and the supervisor
    assert faults == []


def test_histograms_have_as_many_observations_as_there_were_requests(outcome):
    by_route = Counter()
    for (endpoint, method, _), count in requests(outcome.text).items():
        by_route[endpoint, method] += count
    for (endpoint, method), count in by_route.items():
        labels = {"endpoint": endpoint, "method": method}
        assert outcome.total("mlserver_request_duration_seconds_count", **labels) == count
        assert outcome.total("mlserver_request_duration_seconds_bucket", le="+Inf", **labels) == count


def test_runs_and_phases_agree_with_requests_but_for_one_of_each_death(outcome):
    """A worker that is killed between two stores has made the one and not the other."""
    ends = {
        status: sum(
            count for key, count in outcome.counted.items() if key[2] == status and "/predict" in key[0]
        )
        for status in (200, 500)
    }
    runs = ends[200] + ends[500]
    for phase, count in {"queue": runs, "predict": runs, "encode": ends[200]}.items():
        said = outcome.total("mlserver_request_phase_duration_seconds_count", phase=phase)
        assert count <= said + KILLS, phase
    assert outcome.total("mlserver_request_phase_duration_seconds_count", phase="predict") == pytest.approx(
        runs, abs=KILLS
    )
    assert outcome.total("mlserver_prediction_duration_seconds_count") == pytest.approx(runs, abs=KILLS)
    assert outcome.total("mlserver_batch_rows_count") == pytest.approx(runs, abs=KILLS)
    assert outcome.total("mlserver_prediction_errors_total", error_type="ValueError") == pytest.approx(
        ends[500], abs=KILLS
    )


def test_predictions_total_equals_the_rows_of_the_answers(outcome):
    least = outcome.rows["answered"]
    assert least <= outcome.total("mlserver_predictions_total") <= least + outcome.rows["lost"]


def test_the_deaths_are_counted_and_nothing_was_dropped(outcome):
    assert outcome.total("mlserver_worker_restarts_total") == KILLS
    assert outcome.total("mlserver_signals_dropped_total") == 0
    assert outcome.total("mlserver_active_requests") == 0
    assert outcome.total("mlserver_queue_depth") == 0


# Many deaths

SLOTS = 10
"""More than is sensible, so that 50 workers can die before the pauses between their successors grow long."""
TRIVIAL = """
class Predictor:
    def predict(self, X):
        return [0] * len(X)
"""
PAGE_LIMIT_BYTES = 64 << 10


class Footprint:
    """What a server holds of the system."""

    def __init__(self, server):
        supervisor = psutil.Process(server.process.pid)
        workers = [psutil.Process(pid) for pid in server.worker_pids.values()]
        memories = [
            link.stat()
            for link in Path(f"/proc/{supervisor.pid}/fd").iterdir()
            if "memfd:mlserver-metrics" in str(link.readlink())
        ]
        self.held = {
            "descriptors of the supervisor": supervisor.num_fds(),
            # One may have the client's connection beside what it inherited.
            "descriptors of a worker": min(worker.num_fds() for worker in workers),
            "pages": len({status.st_ino for status in memories}),
            "mappings of pages": [mappings(process) for process in (supervisor, *workers)],
            "children": len(supervisor.children(recursive=True)),
            "files": sorted(str(path) for path in server.folder.rglob("*") if path.suffix != ".pyc"),
        }
        self.page_bytes = {status.st_ino: status.st_blocks * 512 for status in memories}


def mappings(process):
    return Path(f"/proc/{process.pid}/maps").read_text().count("memfd:mlserver-metrics")


class Slaughter:
    """Kills workers of a server, and has the others predict in between."""

    def __init__(self, server, client, eventually):
        self.deaths, self.predictions = 0, 0
        self._server, self._client, self._eventually = server, client, eventually

    def kill(self, slots):
        """Kills the workers of these slots, and waits until they have successors."""
        pids = self._server.worker_pids
        for slot in slots:
            os.kill(pids[slot], signal.SIGKILL)
        self.deaths += len(slots)
        self._await_all()
        self.predict()

    def predict(self):
        """Over new connections, so that all workers come to have some."""
        self._await_all()
        for _ in range(SLOTS):
            client = load.Client(self._server.port, iter([load.predicts("/predict", 1)] * 3))
            client.run()
            assert (client.answered.total(), client.wrong) == (3, [])
            self.predictions += 3

    def _await_all(self):
        expected = {"mlserver_worker_restarts_total": self.deaths, "mlserver_workers": SLOTS}
        self._eventually(lambda: expected.items() <= self.scrape().items(), "as many workers as slots")

    def scrape(self):
        return samples(self._client.get(self._server.url("management") + "/metrics").text)


def test_fifty_deaths_leave_no_more_behind_than_five(server, eventually):
    server.configure(predictor=TRIVIAL, workers=SLOTS, observability={"log_level": "ERROR"})
    (server.folder / "tmp").mkdir()
    server.start(ready=False, env=os.environ | {"TMPDIR": str(server.folder / "tmp")})
    with httpx.Client(timeout=DEADLINE_S) as client:
        slaughter = Slaughter(server, client, eventually)
        slaughter.predict()
        slaughter.kill(range(5))
        after_5 = Footprint(server)
        for slots in (range(SLOTS),) * 4 + (range(5, SLOTS),):
            slaughter.kill(slots)
        assert slaughter.deaths == 50
        counted = 'mlserver_requests_total{endpoint="/predict",method="POST",status="200"}'
        assert slaughter.scrape()[counted] == slaughter.predictions
        eventually(
            lambda: Footprint(server).held == after_5.held, f"{Footprint(server).held} == {after_5.held}"
        )
    after_50 = Footprint(server)
    assert after_50.page_bytes.keys() == after_5.page_bytes.keys()
    # Both pages of a slot may come to be written; none grows with the number of those that wrote it.
    assert max(after_50.page_bytes.values()) <= PAGE_LIMIT_BYTES
    assert sum(after_50.page_bytes.values()) <= sum(after_5.page_bytes.values()) + 4096 * SLOTS


# Workers that do not answer

LOCKED_S = 2
BUSY = f"""
import ctypes, os, time
from pathlib import Path
from prometheus_client import Counter

HERE = Path(__file__).parent
begun = Counter("begun_total", "Calls that have begun.")


class Predictor:
    def predict(self, X):
        begun.inc()
        if X[0][0] == -1:
            (HERE / f"waits-{{os.getpid()}}").touch()
            while not (HERE / "gate").exists():
                time.sleep(0.005)
        if X[0][0] == -2:
            (HERE / f"locked-{{os.getpid()}}").touch()
            ctypes.PyDLL(None).sleep({LOCKED_S})  # unlike CDLL it keeps the interpreter lock
        return [os.getpid()] * len(X)
"""


@pytest.fixture
def busy(server):
    """Two workers whose predictors do as they are told."""
    server.configure(predictor=BUSY, workers=2)
    return server.start()


@pytest.fixture
def occupy(busy, eventually):
    """Has each worker's predictor run a row; gives the responses to come once it does."""
    clients = {}
    with ThreadPoolExecutor(2) as threads:

        def start(row, mark):
            while len(clients) < 2:
                client = httpx.Client()
                pid = busy.predict(client=client).json()["predictions"][0]
                if clients.setdefault(pid, client) is not client:
                    client.close()
            futures = [threads.submit(busy.predict, row, client) for client in clients.values()]
            eventually(lambda: len(list(busy.folder.glob(f"{mark}-*"))) == 2, "the runs")
            return futures

        yield start
        (busy.folder / "gate").touch()
    for client in clients.values():
        client.close()


def test_management_answers_while_every_predictor_holds_the_interpreter_lock(busy, occupy):
    futures = occupy(-2.0, "locked")
    with ThreadPoolExecutor(1) as threads:
        of_a_worker = threads.submit(busy.get, "/healthz")
        scrape = busy.get("/metrics", at="management")
        health = busy.get("/healthz", at="management")
        # The last of them shows that the lock is indeed held.
        assert [future.done() for future in (*futures, of_a_worker)] == [False, False, False]
    assert (scrape.status_code, health.status_code) == (200, 200)
    assert total(scrape.text, "mlserver_active_requests") == 2
    assert {future.result().status_code for future in futures} == {200}


def test_the_data_port_answers_while_every_predictor_waits_and_knows_the_users_metrics(
    busy, occupy, eventually
):
    futures = occupy(-1.0, "waits")
    for _ in range(8):  # new connections: both workers get some
        scrape = busy.get("/metrics")
        assert scrape.status_code == 200
        assert busy.get("/healthz").status_code == 200
    begun = total(scrape.text, "mlserver_predictions_total") + 2  # what found the two workers, and what waits
    eventually(lambda: total(busy.get("/metrics").text, "begun_total") == begun, "what both workers count")
    assert [future.done() for future in futures] == [False, False]
    (busy.folder / "gate").touch()
    assert {future.result().status_code for future in futures} == {200}


# Processes and formats


@pytest.fixture
def told(pair, eventually):
    """Two workers that have told the supervisor what only they can know of themselves."""
    eventually(lambda: pair.get("/metrics", at="management").text.count("\npython_info{") == 3, "snapshots")
    return pair


@pytest.mark.parametrize("port", PORTS)
def test_every_process_says_what_it_takes(told, port):
    pids = {str(slot): pid for slot, pid in told.worker_pids.items()} | {"supervisor": told.process.pid}
    text = told.get("/metrics", at=port).text
    for worker, pid in pids.items():
        said = partial(total, text, worker=worker)
        process = psutil.Process(pid)
        memory, cpu = process.memory_info(), process.cpu_times()
        assert said("process_resident_memory_bytes") == pytest.approx(memory.rss, rel=0.2)
        assert said("process_virtual_memory_bytes") == pytest.approx(memory.vms, rel=0.2)
        assert said("process_start_time_seconds") == pytest.approx(process.create_time(), abs=2)
        assert said("process_open_fds") == pytest.approx(process.num_fds(), abs=5)
        assert said("process_max_fds") == process.rlimit(psutil.RLIMIT_NOFILE)[0]
        assert 0 < said("process_cpu_seconds_total") <= cpu.user + cpu.system + 0.02
        assert said("python_gc_collections_total", generation="0") > 0
        assert said("python_info", implementation="CPython") == 1
    workers = {
        sample.labels["worker"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("process_", "python_"))
    }
    assert workers == pids.keys()


OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.mark.parametrize("port", PORTS)
def test_openmetrics_is_given_to_whom_it_is_acceptable_and_holds_what_the_text_does(told, port):
    text = told.get("/metrics", at=port)
    openmetrics = told.get("/metrics", at=port, headers={"accept": OPENMETRICS})
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.count("# EOF\n") == 1
    families = list(openmetrics_families(openmetrics.text))
    assert {sample.name for family in families for sample in family.samples} == {
        re.split(r"[{ ]", series)[0] for series in samples(text.text)
    }
    assert "_created" not in text.text + openmetrics.text


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
def test_a_scrape_is_compressed_where_the_client_can_take_it(told, port, accept):
    """By hand, since httpx would undo it."""
    with httpx.stream(
        "GET", told.url(port) + "/metrics", headers={"accept": accept, "accept-encoding": "gzip"}
    ) as response:
        body = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert int(response.headers["content-length"]) == len(body)
    plain = told.get("/metrics", at=port, headers={"accept": accept, "accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    names = re.compile(rb"^# TYPE .*$", re.MULTILINE)
    assert names.findall(gzip.decompress(body)) == names.findall(plain.content)
    assert len(body) < len(plain.content) / 4


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
def test_head_has_the_headers_of_get_and_no_body(told, port, accept):
    headers = {"accept": accept, "accept-encoding": "identity"}
    get = told.get("/metrics", at=port, headers=headers)
    head = httpx.head(told.url(port) + "/metrics", headers=headers)
    assert (head.status_code, head.content) == (200, b"")
    variable = {"content-length", "date", "x-request-id"}
    assert {**head.headers}.keys() == {**get.headers}.keys()
    assert {key: value for key, value in head.headers.items() if key not in variable} == {
        key: value for key, value in get.headers.items() if key not in variable
    }
    assert int(head.headers["content-length"]) > 1000


# Reloads


def test_while_a_reload_waits_for_a_request_the_worker_that_leaves_is_none_that_is_ready(server, eventually):
    """And each of the two processes of the slot has its own name, under which nothing falls."""
    server.configure(observability={"metrics": True})
    server.start()
    cpu = "process_cpu_seconds_total"

    def scrape():
        found = samples(server.get("/metrics", at="management").text)
        of_workers = {series: value for series, value in found.items() if series.startswith(cpu)}
        workers = {re.search('worker="(.*)"', series)[1]: value for series, value in of_workers.items()}
        return found["mlserver_workers"], workers

    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(server.predict, -1.0)
        eventually((server.folder / "running").exists, "the run")
        before = scrape()
        reloaded = pool.submit(server.reload)
        eventually(lambda: "0 (next)" in scrape()[1], "the successor")
        eventually(lambda: len(server.ready_lines) == 2, "its model")
        during = [scrape() for _ in range(3)]
        (server.folder / "gate").touch()
        assert held.result().status_code == reloaded.result().status_code == 200
    after = eventually(lambda: (found := scrape()) and "0 (next)" not in found[1] and found, "the end")
    assert [workers for workers, _ in (before, *during, after)] == [1] * 5
    assert set(during[0][1]) == {"0", "0 (next)", "supervisor"}
    times = [its["0"] for _, its in (before, *during, after)]
    assert times == sorted(times)
    assert times[-1] >= during[-1][1]["0"] + during[-1][1]["0 (next)"]


def test_metrics_that_a_reload_turns_on_are_whole_while_it_goes_on(server, eventually):
    server.configure(observability={"metrics": False}, workers=1)
    server.start()
    assert server.get("/metrics").status_code == 404
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(server.predict, -1.0)
        eventually((server.folder / "running").exists, "the run")
        server.configure()
        reloaded = pool.submit(server.reload)
        response = eventually(lambda: (found := server.get("/metrics")).status_code == 200 and found)
        (server.folder / "gate").touch()
        assert held.result().status_code == reloaded.result().status_code == 200
    assert "process_resident_memory_bytes" in response.text
    assert not [line for line in server.lines if "Scrapes have" in line["message"]]


HELD = """
import time
from pathlib import Path

from prometheus_client import Counter

HERE = Path(__file__).parent
rows = Counter("held_rows", "Rows answered after the gate was opened.")


class Predictor:
    def predict(self, X):
        if X[0][0] == -1:
            (HERE / "running").touch()
            while not (HERE / "gate").exists():
                time.sleep(0.005)
            rows.inc(len(X))
        return [0] * len(X)
"""


def test_what_a_worker_counts_with_the_last_request_it_answers_is_told(server, eventually):
    server.configure(predictor=HELD, graceful_timeout_s=DEADLINE_S)
    server.start()
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(server.predict, -1.0)
        eventually((server.folder / "running").exists, "the run")
        reloaded = pool.submit(server.reload)
        eventually(lambda: len(server.ready_lines) == 2, "the successor")
        (server.folder / "gate").touch()
        assert held.result().status_code == reloaded.result().status_code == 200
    assert samples(server.get("/metrics", at="management").text)["held_rows_total"] == 1
