"""What the system says of each process of the server: ``process_*``, from outside and without asking it."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mlserver import signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric as Family

CPU = "process_cpu_seconds_total"
METRICS = tuple(metric for metric in signals.PROCESSES if metric.name.startswith("process_"))
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class _Spent:
    """CPU time of the processes that one label has stood for."""

    started: float = 0.0
    """Start of the present one, by which it is known: a pid may come again."""
    last: float = 0.0
    before: float = 0.0
    """Of those before it, as far as it was seen."""

    def total(self, started: float, seconds: float) -> float:
        """Seconds of all of them, given the present one's; never less than before."""
        if started != self.started or seconds < self.last:
            self.before += self.last
        self.started, self.last = started, seconds
        return self.before + seconds


class Processes(Collector):
    """Families of `signals.PROCESSES` with label ``worker``.

    A process that is gone, or that this one may not look at, is left out. What a process spent between the
    last scrape and its end is not counted.

    Args:
        pids: the process behind each value of the label at this moment.
        proc: where the system tells.
    """

    def __init__(self, pids: Callable[[], Mapping[str, int]], *, proc: Path = Path("/proc")) -> None:
        self._pids = pids
        self._proc = proc
        self._booted: float | None = None
        self._spent: dict[str, _Spent] = defaultdict(_Spent)

    def collect(self) -> Iterator[Family]:
        """One family for every metric, without samples where nothing can be known."""
        seen = {worker: self._look(worker, pid) for worker, pid in self._pids().items()}
        for metric in METRICS:
            kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
            for worker, values in seen.items():
                if metric.name in values:
                    family.add_metric([worker], values[metric.name])
            yield family

    def _look(self, worker: str, pid: int) -> dict[str, float]:
        """Values by metric; empty for a process that is no more."""
        folder = self._proc / str(pid)
        values: dict[str, float] = {}
        try:
            values |= self._stat(worker, folder)
            values |= _descriptors(folder)
        except PermissionError:  # another user's: the system tells no more of it
            return values
        except (OSError, ValueError, LookupError):  # it ended, perhaps between two looks
            return {}
        return values

    def _stat(self, worker: str, folder: Path) -> dict[str, float]:
        # proc(5). The name, in brackets, may hold anything; behind it the third field is the first.
        state, *fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
        if state in b"ZX":
            raise ProcessLookupError
        user, system, started = (float(fields[index]) / _TICKS for index in (10, 11, 18))
        return {
            "process_virtual_memory_bytes": float(fields[19]),
            "process_resident_memory_bytes": float(fields[20]) * _PAGE_BYTES,
            "process_start_time_seconds": self._boot_time() + started,
            CPU: self._spent[worker].total(started, user + system),
        }

    def _boot_time(self) -> float:
        """Seconds since 1970; asked once, since the system corrects it as it corrects its clock."""
        if self._booted is None:
            stat = (self._proc / "stat").read_bytes()
            self._booted = float(stat.partition(b"\nbtime ")[2].split(maxsplit=1)[0])
        return self._booted


def _descriptors(folder: Path) -> dict[str, float]:
    limit = (folder / "limits").read_bytes().partition(b"Max open files")[2].split(maxsplit=1)[0]
    # Linux 6.2 and later have the number at hand; before, the size is 0.
    count = (folder / "fd").stat().st_size or len(os.listdir(folder / "fd"))  # noqa: PTH208  # much faster
    return {
        "process_max_fds": math.inf if limit == b"unlimited" else float(limit),
        "process_open_fds": float(count),
    }
