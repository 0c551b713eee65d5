"""The machine that a benchmark runs on: its two cores, its facts, and the folder for what is made."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
RUN = ROOT / ".run"
RESULTS = HERE / "results"
PACKAGES = ("uvicorn", "uvloop", "httptools", "orjson", "numpy", "scikit-learn")


def two_cores() -> tuple[int, int]:
    """The server's core and the load's.

    Raises:
        SystemExit: there are not two, or no `wrk`.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit(f"This process may use {len(cores)} core: the server and the load need one each.")
    if shutil.which("wrk") is None:
        raise SystemExit("wrk makes the load and is not installed (Debian: apt-get install wrk).")
    return cores[0], cores[1]


def move_to(core: int) -> None:
    """Keeps this process, and what it starts, on one core."""
    os.sched_setaffinity(0, (core,))


def facts() -> dict[str, str]:
    """What a reader of results has to know of the machine and the versions."""
    found = re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": _commit(),
        "CPU": found[1] if found else platform.processor(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if changed else "")
