"""A real Prometheus that watches a server, and what one scrape says."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import DEADLINE_S, eventually

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL),
    reason="prometheus and promtool are not there: Debian's package `prometheus`",
)
EVERY_S = 0.5
"""Between two scrapes of a target; one may take as long."""
PORTS = ("management", "predictions")


def samples(text):
    """Every sample of a scrape in the text format: value by name and labels as they are written."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, _, value in lines}


def total(text, name, **labels):
    """The sum of the samples of a name that have these labels; None if there are none."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else None


class Prometheus:
    """It scrapes both ports of a server, as jobs of their names, and keeps what it says in a folder."""

    def __init__(self, folder):
        self._folder = folder
        self._process = None
        self.url = None

    @property
    def said(self):
        return (self._folder / "prometheus.log").read_text()

    def start(self, server):
        """Starts it and waits until it has scraped each port."""
        jobs = [
            {
                "job_name": port,
                "static_configs": [{"targets": [httpx.URL(server.url(port)).netloc.decode()]}],
            }
            for port in PORTS
        ]
        interval = f"{EVERY_S * 1000:.0f}ms"
        document = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval},
            "scrape_configs": jobs,
        }
        (self._folder / "prometheus.yml").write_text(json.dumps(document))  # JSON is YAML
        with (self._folder / "prometheus.log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    PROMETHEUS,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                    "--enable-feature=exemplar-storage",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )
        try:
            self.url = f"http://{eventually(self._address, 'the start of Prometheus')}"
            eventually(lambda: httpx.get(self.url + "/-/ready").status_code == 200, "readiness of Prometheus")
            eventually(lambda: self.values("up") == [1.0, 1.0], "a scrape of each port")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said}") from None
        return self

    def end(self):
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(DEADLINE_S)

    def query(self, expr, at=None):
        """The result of an expression at a time in seconds since 1970, by default now."""
        return self._ask("query", query=expr, **({} if at is None else {"time": at}))["result"]

    def values(self, expr, at=None):
        """The numbers of an instant vector; not-a-number is no data and is left out."""
        numbers = [float(sample["value"][1]) for sample in self.query(expr, at)]
        return [number for number in numbers if number == number]

    def value(self, expr, at=None):
        """The only number."""
        (number,) = self.values(expr, at)
        return number

    def exemplars(self, name):
        """All exemplars of a metric's series, as Prometheus keeps them."""
        found = self._ask("query_exemplars", query=name, start=0, end=2**33)
        return [
            exemplar | {"of": series["seriesLabels"]} for series in found for exemplar in series["exemplars"]
        ]

    def _ask(self, what, **parameters):
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=parameters, timeout=DEADLINE_S).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def _address(self):
        assert self._process.poll() is None, self.said
        found = re.search(r'msg="Listening on" address=(\S+)', self.said)
        return found and found[1]
