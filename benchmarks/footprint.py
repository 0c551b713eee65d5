"""What the server takes before it does anything: disk, import time, memory.

Run as ``python benchmarks/footprint.py``. Prints three figures, each with how it was measured.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "examples" / "quickstart" / "mlserver.yaml"
PORTS = {"MLSERVER_SERVER__PORT": "18000", "MLSERVER_SERVER__MANAGEMENT__PORT": "18001"}


def base_install() -> float:
    """Megabytes that the package and what it needs add to an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        before = _size(Path(folder))
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True)
        return (_size(Path(folder)) - before) / 1e6


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file())


def import_time(module: str, rounds: int = 7) -> float:
    """Median seconds of ``import module`` in a new interpreter, less those of an empty one."""

    def run(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    pairs = [(run(f"import {module}"), run("pass")) for _ in range(rounds)]
    return statistics.median(full - empty for full, empty in pairs)


def idle_memory() -> dict[str, float]:
    """Resident megabytes of the supervisor and of each worker of the quickstart, ready and idle."""
    command = [sys.executable, "-m", "mlserver", "serve", str(QUICKSTART)]
    server = subprocess.Popen(command, env=os.environ | PORTS, stdout=subprocess.DEVNULL)
    try:
        wait_until_ready()
        workers = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="ascii").split()
        named = {"supervisor": server.pid} | {f"worker {n}": int(pid) for n, pid in enumerate(workers)}
        return {name: _resident(pid) for name, pid in named.items()}
    finally:
        server.terminate()
        server.wait()


def wait_until_ready() -> None:
    """Returns when the server at `PORTS` answers predictions."""
    for _ in range(600):
        try:
            with urllib.request.urlopen("http://127.0.0.1:18000/readyz"):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise SystemExit("The quickstart was not ready within a minute.")


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1000


if __name__ == "__main__":
    for name in ("mlserver", "mlserver.app", "mlserver.cli"):
        print(f"import {name}: {import_time(name):.3f} s (median of 7, above an empty interpreter)")
    memory = idle_memory()
    parts = ", ".join(f"{name} {size:.0f}" for name, size in memory.items())
    print(f"idle RSS with the quickstart: {sum(memory.values()):.0f} MB ({parts})")
    print(f"base install without extras: {base_install():.0f} MB (sum of file sizes)")
