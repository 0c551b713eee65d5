"""What settings count on outside of their file, as far as it shows without serving.

It is no part of loading them: whoever reads a file need not be the user who serves it, and what is missing
now may be there by then.
"""

from __future__ import annotations

import importlib.util
import os
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from mlserver.config.wording import fault

if TYPE_CHECKING:
    from mlserver.config.settings import Config
    from mlserver.errors import Fault


def unwritable_log(config: Config) -> Fault | None:
    """The fault of a log file that this user cannot append to, found without making it."""
    path = config.observability.log_file
    if path is None or _writable(path):
        return None
    return fault("observability.log_file", f"{path}: expected a file that this user may append to")


def privacy_risk(config: Config) -> str | None:
    """What whoever starts the server has to know about the log; None if there is nothing to say."""
    settings = config.observability
    if not settings.log_payloads:
        return None
    payloads = settings.payloads
    redacted = list(payloads.redact)
    if count := len(payloads.redact_patterns):  # which may hold what they are to hide
        redacted.append(f"what matches {count} pattern{'s' if count > 1 else ''}")
    return (
        "observability.log_payloads is on: the log holds the bodies of requests and responses, which may be "
        f"personal data. Left out of them: {', '.join(redacted) or 'nothing'} "
        "(observability.payloads.redact and redact_patterns)."
    )


def missing_module(config: Config) -> Fault | None:
    """The fault of a predictor's module that is nowhere to be found, without importing anything."""
    module = config.predictor.module
    if module is None or _importable(module.partition(".")[0], config.folder):
        return None
    return fault("predictor.module", f"there is no module {module} in {config.folder}, nor is one installed")


def _writable(path: Path) -> bool:
    target = Path(os.path.realpath(path))
    if target.exists():
        return os.access(target, os.W_OK, effective_ids=True)
    return os.access(target.parent, os.W_OK | os.X_OK, effective_ids=True)


def _importable(name: str, folder: Path) -> bool:
    try:
        return bool(PathFinder.find_spec(name, [str(folder)]) or importlib.util.find_spec(name))
    except ValueError:  # a module without a spec, such as __main__
        return True
