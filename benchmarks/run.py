"""``make bench``: all servers side by side, and the page of the documentation that shows them.

``make bench ARGS=micro`` runs the small ones instead, one part of MLServer each.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MICRO = (
    "codec.py",
    "metrics.py",
    "lines.py",
    "ids.py",
    "tracing.py",
    "scrape.py",
    "scrape_isolation.py",
    "footprint.py",
)


def run(script: str, *words: str) -> None:
    subprocess.run([sys.executable, Path(__file__).with_name(script), *words], check=True)


def main(words: list[str]) -> None:
    if words == ["micro"]:
        for script in MICRO:
            print(f"== {script}", flush=True)
            run(script)
    else:
        run("throughput.py", *words)
        run("report.py")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode) from None
