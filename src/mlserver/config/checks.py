"""What a value must be beyond its type: checks and conversions that the settings name.

A check raises a bare `ValueError`, answered with what the setting expects, or says itself what is wrong.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from mlserver import paths, signals
from mlserver.config.wording import given

if TYPE_CHECKING:
    from pydantic import SecretStr, ValidationInfo

FIXED_PATHS = frozenset({*paths.PREDICTIONS, *paths.PROBES, *paths.PAGES, *paths.MANAGEMENT, "/debug"})
"""Paths that the server answers itself; the metrics cannot be there."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
MAX_NAMES_BYTES = 16 * 2**20
HISTOGRAMS = tuple(metric.name for metric in signals.METRICS if metric.type == "histogram")
MAX_BUCKETS = 100


@dataclass(frozen=True)
class Expected:
    """What a setting takes, in plain words, where its type does not say it."""

    words: str


def refused(*faults: tuple[str, str]) -> PydanticCustomError:
    """The error of a section: pairs of a key in it (or nothing: itself) and the reason."""
    return PydanticCustomError("refused", "refused", {"faults": faults})


def wrong(reason: str) -> PydanticCustomError:
    """The error of a value that is refused for a reason of its own."""
    return refused(("", reason))


def _folder(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", Path.cwd()))


def is_file(path: Path) -> bool:
    """Whether there is such a file; False where the path cannot even be looked up."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def absolute(value: Any, info: ValidationInfo) -> Any:
    """A path made absolute, from the YAML file's folder."""
    return _folder(info) / value if isinstance(value, str | Path) and str(value) else value


def sequence(value: Any) -> Any:
    """YAML knows lists only; the settings are frozen."""
    return tuple(value) if isinstance(value, list) else value


def level(value: Any) -> Any:
    """A log level in any case of letters; anything else stays, to be shown as it was given."""
    return value.upper() if isinstance(value, str) and value.upper() in LEVELS else value


def words(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError
    return value


def label_text(value: str) -> str:
    if len(value) > 200:
        raise ValueError
    return words(value)


def host(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        # the digits-and-dots form is an address that ip_address refused
        if not re.fullmatch(r"(?![\d.]+$)[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})", value):
            raise ValueError from None
    return value


def header_token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
        raise ValueError
    return value


def identifier(value: str) -> str:
    if not value.isidentifier():
        raise ValueError
    return value


def dotted_name(value: str) -> str:
    if value.endswith(".py") or not all(part.isidentifier() for part in value.split(".")):
        raise ValueError
    return value


def metric_prefix(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", value):
        raise ValueError
    return value


def endpoint(value: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
        raise ValueError
    if value in FIXED_PATHS or value.startswith("/debug/"):
        raise wrong(f"{value} is a path of the server itself; expected another one, such as /metrics")
    return value


def patterns(chosen: tuple[str, ...]) -> tuple[str, ...]:
    """Regular expressions, none of which matches nothing at all."""
    for pattern in chosen:
        try:
            matches_nothing = re.compile(pattern).search("") is not None
        except re.error as error:
            raise wrong(f"{given(pattern, secret=False)} is no regular expression: {error}") from None
        if matches_nothing:
            raise wrong(
                f"{given(pattern, secret=False)} matches the empty text; expected one that needs a character"
            )
    return chosen


def collector_url(value: str) -> str:
    parts = urlsplit(value)
    _ = parts.port  # ValueError if it is none
    if parts.username is not None or parts.query:  # not shown: it may be a secret
        raise wrong(
            "holds a user, a password or a query; expected an address such as http://localhost:4318, and "
            "what authenticates in the variable OTEL_EXPORTER_OTLP_HEADERS"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or " " in value:
        raise ValueError
    return value


def buckets(chosen: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """Upper bounds by name of a histogram, without the prefix and without +Inf."""
    if faults := [
        fault
        for name, bounds in chosen.items()
        for fault in (_name_fault(name) or _bounds_faults(name, bounds))
    ]:
        raise refused(*faults)
    return {name: tuple(map(float, bounds)) for name, bounds in chosen.items()}


def _name_fault(name: str) -> list[tuple[str, str]]:
    if name in HISTOGRAMS:
        return []
    near = difflib.get_close_matches(name, HISTOGRAMS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(HISTOGRAMS)}"
    return [(name, f"no histogram of the server has this name, without the prefix; {hint}")]


def _bounds_faults(name: str, bounds: Any) -> list[tuple[str, str]]:
    expected = (
        f"expected 1 to {MAX_BUCKETS} numbers above 0, each larger than the one before; +Inf is implied"
    )
    if not isinstance(bounds, list | tuple) or not 1 <= len(bounds) <= MAX_BUCKETS:
        size = f" of {len(bounds)}" if isinstance(bounds, list | tuple) else ""
        return [(name, f"got {given(bounds, secret=False)}{size}, {expected}")]
    last = 0.0
    for bound in bounds:
        number = isinstance(bound, int | float) and not isinstance(bound, bool)
        if not number or not last < bound <= sys.float_info.max:
            return [(name, f"got {given(bound, secret=False)} in the list, {expected}")]
        last = float(bound)
    return []


_DESCRIPTORS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/")


def log_target(value: Path) -> Path:
    if not value.name.isprintable():
        raise ValueError
    if _is_folder(value):
        raise wrong(f"{value} is a folder; expected the path of a file")
    if str(value).startswith(_DESCRIPTORS):
        raise wrong(
            f"{value} is another place in each process; leave log_file out, and lines go to standard output"
        )
    if not _is_folder(value.parent):
        raise wrong(f"there is no folder {value.parent}; make it, or name a file in another one")
    return value


def unique(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of columns: at least one, none twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise wrong(f"has {', '.join(twice)} more than once; expected each name once")
    if not names:
        raise ValueError
    return names


def names_or_file(value: Any, info: ValidationInfo) -> Any:
    """A list of names, read from a JSON file where its path is given."""
    if not isinstance(value, str | Path):
        return sequence(value)
    path = _folder(info) / value
    if not is_file(path):
        raise wrong(
            f"no such file: {path}; expected a list of names, or the path of a JSON file that holds one"
        )
    names = _read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise wrong(f'{path} is no JSON list of names; expected one such as ["age", "income"]')
    return tuple(names)


def _read_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_NAMES_BYTES + 1)
        if len(content) > MAX_NAMES_BYTES:
            raise wrong(f"{path} has more than {MAX_NAMES_BYTES} bytes; expected a JSON list of names")
        return json.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise wrong(f"cannot read {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise wrong(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError):
        raise wrong(f"{path} is not JSON in UTF-8; expected a list of names") from None
