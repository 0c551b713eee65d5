"""What pydantic found wrong, in the words of mlserver.yaml."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from mlserver.config.schema import KEYS, SECTIONS, KeyPath, children, is_secret
from mlserver.config.wording import dotted, fault, given

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError

    from mlserver.errors import Fault

Place = tuple[str | int, ...]


def faults_of(error: ValidationError, sources: Mapping[KeyPath, str]) -> list[Fault]:
    """One fault for everything that is wrong, each place once.

    ``sources`` says where the settings that are not from the file were given.
    """
    found: dict[tuple[Place, str], Fault] = {}
    for detail in error.errors(include_url=False):
        place = _place(detail["loc"])
        for below, message in _messages(detail, place):
            at = (*place, *below)
            key = (at, message)
            found.setdefault(key, fault(_where(at, sources), message))
    return list(found.values())


def _known(loc: Place) -> KeyPath:
    """The longest start of a place that is a key or a section."""
    path: KeyPath = ()
    for part in loc:
        if not isinstance(part, str) or (*path, part) not in (*KEYS, *SECTIONS):
            break
        path = (*path, part)
    return path


def _place(loc: Place) -> Place:
    """Where in the file: without pydantic's names for the alternatives of a type."""
    path = _known(loc)
    rest = loc[len(path) :]
    return (*path, *rest) if path in SECTIONS else (*path, *(part for part in rest if isinstance(part, int)))


def _messages(detail: Any, place: Place) -> list[tuple[Place, str]]:
    if detail["type"] == "refused":
        return [(tuple(at.split(".")) if at else (), reason) for at, reason in detail["ctx"]["faults"]]
    if detail["type"] == "extra_forbidden":
        return [((), unknown(place, detail["input"]))]
    path = _known(place)
    if detail["type"] == "missing":
        return [((), f"missing; expected {_expected(path, place)}")]
    shown = given(detail["input"], secret=is_secret(path))
    return [((), f"got {shown}, expected {_expected(path, place)}")]


def _expected(path: KeyPath, place: Place) -> str:
    if path == ("predictor",):
        return "a mapping with a class (module and class_name) or a model file (artifact)"
    if path in SECTIONS:
        return f"a mapping with the keys {', '.join(children(path))}"
    return KEYS[path].item if len(place) > len(path) and KEYS[path].item else KEYS[path].expected


def unknown(place: Place, value: Any) -> str:
    """The message for a key that there is none of, with the known ones that may be meant."""
    *section, name = map(str, place)
    siblings = children(tuple(section)) if tuple(section) in SECTIONS else []
    near = [(*section, key) for key in difflib.get_close_matches(name.lower(), siblings, n=1)]
    same = [path for path in (*KEYS, *SECTIONS) if path and path[-1] == name and path not in near]
    meant = [*near, *same]
    secret = is_secret((*section, name)) or any(path in KEYS and KEYS[path].secret for path in meant)
    shown = given(value, secret=secret)
    if meant:
        return f"unknown key, got {shown}; did you mean {' or '.join(map(dotted, meant))}?"
    return f"unknown key, got {shown}" + (f"; known here: {', '.join(siblings)}" if siblings else "")


def _where(place: Place, sources: Mapping[KeyPath, str]) -> str:
    source = next((name for path, name in sources.items() if place[: len(path)] == path), None)
    return f"{dotted(place)} ({source})" if source else dotted(place)
