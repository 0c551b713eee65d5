"""The environments of the peers, each its own, made by `uv` on first use and kept in ``.run/peers``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from machine import HERE, RUN

if TYPE_CHECKING:
    from collections.abc import Sequence

UV = Path(sys.executable).parent / "uv"


class NotInstalled(Exception):
    """What an environment needs cannot be installed here; says why."""


def environment(peer: str) -> Path:
    """The folder of a peer's commands.

    Raises:
        NotInstalled: as it says.
    """
    folder = RUN / "peers" / peer
    if not _is_fresh(peer, folder):
        _uv("venv", "--clear", "--python", sys.executable, str(folder))
        _uv("pip", "install", "--python", str(folder / "bin" / "python"), "--requirement", str(_pins(peer)))
        _keep(peer, folder)
    return folder / "bin"


def version(peer: str, package: str) -> str:
    """The version of a package that a peer is pinned to."""
    lines = _pins(peer).read_text("utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def _pins(peer: str) -> Path:
    return HERE / "peers" / peer / "requirements.txt"


def _is_fresh(peer: str, folder: Path) -> bool:
    """Whether it was made to the end, of these requirements."""
    kept = folder / "requirements.txt"
    return kept.exists() and kept.read_bytes() == _pins(peer).read_bytes()


def _keep(peer: str, folder: Path) -> None:
    (folder / "requirements.txt").write_bytes(_pins(peer).read_bytes())


def _uv(*words: str) -> None:
    command: Sequence[str] = (str(UV), *words, "--quiet")
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode:
        raise NotInstalled(f"uv {words[0]} failed: {run.stderr.strip()}")
