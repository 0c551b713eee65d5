"""The processors that there are for this process, and how its libraries are told to share them."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CGROUP = Path("/sys/fs/cgroup")
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What libraries for numbers read: each would start a thread for every processor of the machine."""


def processors(cgroup: Path = CGROUP) -> int:
    """How many this process may use: by its affinity and, in a container, by the limit of that.

    Args:
        cgroup: where the control group is that the process sees, of version 2 or 1 of them.
    """
    allowed = len(os.sched_getaffinity(0))
    limit = _limit(cgroup)
    return allowed if limit is None else min(allowed, math.ceil(limit))


def shared_threads(workers: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which each of so many workers starts its share of threads; what is set stays as it is."""
    if any(name in environment for name in THREADS):
        return {}
    return dict.fromkeys(THREADS, str(max(1, processors() // workers)))


def _limit(cgroup: Path) -> float | None:
    """The limit of a control group in processors, if it has one."""
    with suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    return None
