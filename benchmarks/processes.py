"""What a server and all processes that came from it take: CPU time and memory."""

from __future__ import annotations

import os
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all that came from it and are still there."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text("ascii").split()]
    except OSError:  # it has just ended
        return []
    return [pid, *(each for child in children for each in family(child))]


def cpu_s(pids: list[int]) -> float:
    """Seconds of CPU that processes have used, in user mode and in the kernel."""
    return sum(_ticks(pid) for pid in pids) * TICK_S


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def resident_mb(pids: list[int]) -> float:
    """Megabytes of memory; pages that several share are counted in each."""
    return sum(_resident_kb(pid) for pid in pids) / 1000


def _resident_kb(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def busy_s(core: int) -> float:
    """Seconds for which a core was not idle since the machine started, whoever used it."""
    lines = Path("/proc/stat").read_text("ascii").splitlines()
    fields = next(line for line in lines if line.startswith(f"cpu{core} ")).split()[1:9]
    ticks = [int(field) for field in fields]
    return (sum(ticks) - ticks[3] - ticks[4]) * TICK_S
