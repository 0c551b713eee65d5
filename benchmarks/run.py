"""All benchmarks, one after the other: ``make bench``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "codec.py",
    "metrics.py",
    "lines.py",
    "ids.py",
    "tracing.py",
    "scrape.py",
    "scrape_isolation.py",
    "footprint.py",
    "throughput.py",
)

if __name__ == "__main__":
    for script in SCRIPTS:
        print(f"== {script}", flush=True)
        subprocess.run([sys.executable, Path(__file__).with_name(script)], check=True)
